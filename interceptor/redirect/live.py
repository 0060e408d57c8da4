"""The kernel's rules as they were read back, foreign ones included, and what they do with one connection.

A match is known to hold, known not to hold, or not understood: then the answer says so instead of guessing. Only what
decides about a connection's first packet is modelled.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

from interceptor.model.connection import Direction
from interceptor.model.record import Record, replace
from interceptor.redirect.rules import read_comment
from interceptor.redirect.simulate import Explanation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from interceptor.redirect.rules import Family
    from interceptor.redirect.simulate import Connection, Outcome

_HOOKS: Final = ("OUTPUT", "PREROUTING", "INPUT", "FORWARD")  # in the order in which a packet may meet them
DEPTH: Final = 16  # NFT_JUMP_STACK_SIZE; iptables refuses loops


class Action(Enum):
    """What a rule does with a packet that it fits."""

    ACCEPT = "accept"  # leaves this base chain; others may still refuse
    DROP = "drop"
    REJECT = "reject"
    RETURN = "return"
    JUMP = "jump"
    GOTO = "goto"
    REDIRECT = "redirect"  # to a port of this host
    DNAT = "dnat"  # to somewhere else
    TPROXY = "tproxy"
    MARK = "mark"
    MARK_CONNECTION = "mark connection"
    UNTRACK = "untrack"  # no connection tracking, and so no nat
    NOTHING = "nothing"  # counts, logs, labels
    UNKNOWN = "unknown"


LABELS: Final = frozenset((Action.MARK, Action.MARK_CONNECTION, Action.UNTRACK))


class Packet(Record):
    """A connection's first packet on its way: a rule before may have marked or redirected it."""

    connection: Connection
    mark: int
    port: int
    destination: str
    rewritten: bool = False
    tracked: bool = True
    looped: bool = False  # it left, and came in again by loopback
    connection_mark: int = 0


class LiveRule(Record):
    """One rule: its text, what it looks at, what it does. ``argument`` is a chain, a port or a mark, by the action."""

    text: str
    conditions: Sequence[Callable[[Packet], bool | None]]
    action: Action
    argument: str = ""
    comment: str = ""

    def fits(self, packet: Packet) -> bool | None:
        """Whether the packet is what the rule describes; None: that cannot be told."""
        held = [condition(packet) for condition in self.conditions]
        return False if False in held else None if None in held else True


class LiveTable(Record):
    """Chains that may jump to each other. ``name`` says where, for a person: 'legacy nat'."""

    name: str
    families: tuple[Family, ...]
    chains: Mapping[str, Sequence[LiveRule]]


class Base(Record):
    """A chain that the kernel calls: at which hook, in which order, and what becomes of what passes through."""

    table: LiveTable
    chain: str
    hook: str  # PREROUTING, INPUT, FORWARD, OUTPUT; others see no first packet before its verdict has fallen
    priority: int
    nat: bool
    drops: bool = False  # its policy


@dataclass(slots=True)
class _Walk:
    """What has been met so far; ``passed`` is the rule to name for a connection that nobody captures: ours, if any."""

    packet: Packet
    unread: list[str] = field(default_factory=list)
    passed: tuple[LiveRule, Base] | None = None
    captured: tuple[LiveRule, Base] | None = None
    met: bool = False  # any chain at all

    def let_pass(self, rule: LiveRule, base: Base) -> None:
        """Note a rule that ends the walk through a chain without deciding."""
        if self.passed is None or (read_comment(rule.comment) and not read_comment(self.passed[0].comment)):
            self.passed = rule, base


def explain(bases: Sequence[Base], connection: Connection, ports: Mapping[int, Direction]) -> Explanation:
    """What the rules do with a connection; ``ports`` are the proxy's listeners."""
    packet = Packet(connection, connection.mark, connection.port, str(connection.destination))
    walk = _Walk(packet)
    order = sorted(
        (base for base in bases if connection.family in base.table.families), key=lambda base: base.priority
    )
    for hook in _HOOKS:
        if _passes(hook, connection, walk.captured):
            refused = _at(hook, order, walk)
            if refused is not None:
                return refused
    if walk.captured is not None:
        return _led(*walk.captured, walk, ports)
    if walk.passed is not None:
        return _answer("direct", *walk.passed, walk)
    why = "no rule captures it" if walk.met else "there are no rules in its way"
    return Explanation("direct", None, _honest(why, walk), None)


def dropping(bases: Sequence[Base], family: Family) -> list[str]:
    """The chains on the way in that drop what none of their rules accepts."""
    return [
        f"{base.table.name} {base.chain}"
        for base in bases
        if base.drops and base.hook == "INPUT" and family in base.table.families
    ]


def _at(hook: str, order: Sequence[Base], walk: _Walk) -> Explanation | None:
    """Walk the chains of a hook; an answer where one refuses the packet."""
    if hook != "OUTPUT" and walk.packet.connection.direction is Direction.EGRESS:
        walk.packet = _looped(walk.packet)
    for base in (base for base in order if base.hook == hook):
        # The kernel rewrites a connection once, never when it comes in by loopback, and none that it does not track.
        if base.nat and (walk.packet.looped or walk.captured or not walk.packet.tracked):
            continue
        walk.met = True
        end = _through(walk, base, base.chain, 0)
        if end is None:
            if base.drops:
                why = f"it is the policy of {base.table.name} {base.chain} to drop"
                return Explanation("rejected", None, _honest(why, walk), None)
        elif end.action in {Action.DROP, Action.REJECT}:
            return _answer("rejected", end, base, walk)
        elif end.action is Action.ACCEPT:
            walk.let_pass(end, base)
        else:
            walk.captured = end, base
            walk.packet = _rewritten(walk.packet, end)
    return None


def _passes(hook: str, connection: Connection, captured: tuple[LiveRule, Base] | None) -> bool:
    """Whether a packet comes by a hook. What ends on this host after it left goes through loopback and comes in again."""
    stays = connection.local if captured is None else captured[0].argument.isdigit()
    leaves = connection.direction is Direction.EGRESS
    return {
        "OUTPUT": leaves,
        "PREROUTING": stays or not leaves,
        "INPUT": stays,
        "FORWARD": not stays and not leaves,
    }[hook]


def _looped(packet: Packet) -> Packet:
    """The same packet as it comes in by loopback; whose it is, is no longer seen."""
    arrived = replace(
        packet.connection, direction=Direction.INGRESS, interface="lo", local=True, uid=None, gid=None
    )
    return replace(packet, connection=arrived, looped=True)


def _through(walk: _Walk, base: Base, chain: str, depth: int) -> LiveRule | None:
    """Walk a chain; None when the packet comes out at its end or by a return."""
    for rule in base.table.chains.get(chain, ()) if depth < DEPTH else ():
        fits = rule.fits(walk.packet)
        if fits is False or rule.action is Action.NOTHING:
            continue
        if fits is None or rule.action is Action.UNKNOWN:
            walk.unread.append(f"{base.table.name} {chain}: {rule.text}")
        elif rule.action in LABELS:
            walk.packet = _labelled(walk.packet, rule)
        elif rule.action is Action.RETURN:
            walk.let_pass(rule, base)
            return None
        elif rule.action in {Action.JUMP, Action.GOTO}:
            end = _through(walk, base, rule.argument, depth + 1)
            if end is not None or rule.action is Action.GOTO:
                return end
        else:
            return rule
    return None


def _labelled(packet: Packet, rule: LiveRule) -> Packet:
    match rule.action:
        case Action.MARK:
            return replace(packet, mark=_marked(packet.mark, rule.argument))
        case Action.MARK_CONNECTION:
            return replace(packet, connection_mark=_marked(packet.connection_mark, rule.argument))
        case _:
            return replace(packet, tracked=False)


def _marked(mark: int, argument: str) -> int:
    """``value/mask``: clear the mask's bits, then flip the value's (xt_mark's set-xmark)."""
    value, _, mask = argument.partition("/")
    return (mark & ~int(mask or "0xffffffff", 0)) ^ int(value, 0)


def _rewritten(packet: Packet, rule: LiveRule) -> Packet:
    """The packet after a redirection, as the tables behind it see it; TPROXY leaves it as it is."""
    if rule.action is Action.TPROXY:
        return packet
    if not rule.argument.isdigit():
        return replace(packet, rewritten=True)
    outwards = packet.connection.direction is Direction.EGRESS
    loopback = "127.0.0.1" if packet.connection.family == 4 else "::1"
    return replace(
        packet,
        port=int(rule.argument),
        destination=loopback if outwards else packet.destination,
        rewritten=True,
    )


def _led(rule: LiveRule, base: Base, walk: _Walk, ports: Mapping[int, Direction]) -> Explanation:
    """Where a redirected connection ends up: with the proxy, or elsewhere, which is not captured."""
    direction = ports.get(int(rule.argument)) if rule.argument.isdigit() else None
    if direction is not None:
        return _answer("egress" if direction is Direction.EGRESS else "ingress", rule, base, walk)
    why = f"{base.table.name} leads it elsewhere, not to the proxy: {rule.text}"
    return Explanation("direct", _name(rule), _honest(why, walk), None)


def _answer(verdict: Outcome, rule: LiveRule, base: Base, walk: _Walk) -> Explanation:
    tag = read_comment(rule.comment)
    whose = f"rule of configuration {tag.hash}" if tag else "foreign rule"
    why = f"a {whose} in the kernel ({base.table.name} {base.hook}) says so"
    return Explanation(verdict, _name(rule), _honest(why, walk), None)


def _name(rule: LiveRule) -> str:
    tag = read_comment(rule.comment)
    return tag.rule if tag else rule.text


def _honest(why: str, walk: _Walk) -> str:
    """The reason, and what could change it that was not understood."""
    if not walk.unread:
        return why
    return f"{why}; but a rule that I cannot read stands before: {'; '.join(walk.unread)}"
