"""The kernel's rules as they were read back, foreign ones included, and what they do with one connection.

A match is known to hold, known not to hold, or not understood: then the answer says so instead of guessing. Only what
decides about a connection's first packet is modelled.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Final

from interceptor.model.connection import Direction
from interceptor.redirect.rules import read_comment
from interceptor.redirect.simulate import Explanation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from interceptor.redirect.rules import Family
    from interceptor.redirect.simulate import Connection, Outcome

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
    NOTHING = "nothing"  # counts, logs, labels
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Packet:
    """A connection's first packet on its way: a rule before may have marked or redirected it."""

    connection: Connection
    mark: int
    port: int
    destination: str
    rewritten: bool = False


@dataclass(frozen=True, slots=True)
class LiveRule:
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


@dataclass(frozen=True, slots=True)
class LiveTable:
    """Chains that may jump to each other. ``name`` says where, for a person: 'legacy nat'."""

    name: str
    families: tuple[Family, ...]
    chains: Mapping[str, Sequence[LiveRule]]


@dataclass(frozen=True, slots=True)
class Base:
    """A chain that the kernel calls: at which hook, in which order, and what becomes of what passes through."""

    table: LiveTable
    chain: str
    hook: str  # PREROUTING, INPUT, OUTPUT
    priority: int
    nat: bool
    drops: bool = False  # its policy


@dataclass(slots=True)
class _Walk:
    """What has been met so far; ``passed`` is the rule to name for a connection that nobody captures: ours, if any."""

    packet: Packet
    base: Base
    unread: list[str] = field(default_factory=list)
    passed: tuple[LiveRule, Base] | None = None

    def let_pass(self, rule: LiveRule) -> None:
        """Note a rule that ends the walk through a chain without deciding."""
        if self.passed is None or (read_comment(rule.comment) and not read_comment(self.passed[0].comment)):
            self.passed = rule, self.base


def explain(bases: Sequence[Base], connection: Connection, ports: Mapping[int, Direction]) -> Explanation:
    """What the rules do with a connection; ``ports`` are the proxy's listeners."""
    packet = Packet(connection, connection.mark, connection.port, str(connection.destination))
    hooks = ("OUTPUT",) if connection.direction is Direction.EGRESS else ("PREROUTING", "INPUT")
    order = [
        base
        for hook in hooks
        for base in sorted(bases, key=lambda each: each.priority)
        if base.hook == hook and connection.family in base.table.families
    ]
    if not order:
        return Explanation("direct", None, "there are no rules in its way", None)
    walk = _Walk(packet, order[0])
    captured: tuple[LiveRule, Base] | None = None
    for walk.base in order:
        if walk.base.nat and captured is not None:
            continue  # the kernel rewrites a connection once
        end = _through(walk, walk.base.chain, 0)
        if end is None:
            if walk.base.drops:
                why = f"it is the policy of {walk.base.table.name} {walk.base.chain} to drop"
                return Explanation("rejected", None, _honest(why, walk), None)
        elif end.action in {Action.DROP, Action.REJECT}:
            return _answer("rejected", end, walk.base, walk)
        elif end.action is Action.ACCEPT:
            walk.let_pass(end)
        else:
            captured = end, walk.base
            walk.packet = _rewritten(walk.packet, end)
    if captured is not None:
        return _led(*captured, walk, ports)
    if walk.passed is not None:
        return _answer("direct", *walk.passed, walk)
    return Explanation("direct", None, _honest("no rule captures it", walk), None)


def _through(walk: _Walk, chain: str, depth: int) -> LiveRule | None:
    """Walk a chain; None when the packet comes out at its end or by a return."""
    for rule in walk.base.table.chains.get(chain, ()) if depth < DEPTH else ():
        fits = rule.fits(walk.packet)
        if fits is False or rule.action is Action.NOTHING:
            continue
        if fits is None or rule.action is Action.UNKNOWN:
            walk.unread.append(f"{walk.base.table.name} {chain}: {rule.text}")
        elif rule.action is Action.MARK:
            walk.packet = replace(walk.packet, mark=_marked(walk.packet.mark, rule.argument))
        elif rule.action is Action.RETURN:
            walk.let_pass(rule)
            return None
        elif rule.action in {Action.JUMP, Action.GOTO}:
            end = _through(walk, rule.argument, depth + 1)
            if end is not None or rule.action is Action.GOTO:
                return end
        else:
            return rule
    return None


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
