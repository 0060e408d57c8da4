"""What the ruleset does with one described connection: the verdict, the rule that gave it, and why.

The kernel's walk in miniature. Held against real connects in a real namespace by a property test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, assert_never

from interceptor.model.record import Record
from interceptor.redirect.rules import (
    Family,
    Hook,
    Jump,
    MarkConnection,
    MarkPacket,
    Match,
    Protocol,
    Redirect,
    Reject,
    Return,
    Rule,
    Table,
    Tproxy,
    Zone,
)

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from interceptor.model.connection import Direction
    from interceptor.redirect.rules import Ruleset

Outcome = Literal["egress", "ingress", "direct", "rejected"]


class Connection(Record, kw_only=True):
    """The first packet of a connection, as the rules see it.

    ``interface`` is the one it leaves by (egress: ``lo`` also towards this host's own addresses) or arrives on.
    ``local`` says whether the destination is one of this host's own addresses. Ingress packets have no owner.
    """

    direction: Direction
    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    port: int
    interface: str
    local: bool
    protocol: Protocol = Protocol.TCP
    uid: int | None = None
    gid: int | None = None
    groups: frozenset[int] = frozenset()  # supplementary ones
    mark: int = 0

    @property
    def family(self) -> Family:
        """4 or 6."""
        return 4 if self.destination.version == 4 else 6


class Explanation(Record):
    """The verdict for a connection; without a rule, no rule of ours concerns it."""

    verdict: Outcome
    rule: str | None
    because: str
    flag: str | None


def explain(ruleset: Ruleset, connection: Connection) -> Explanation:
    """Walk the ruleset as the kernel does and say what becomes of a connection."""
    decided: Rule | None = None
    for table, hook in _walk(connection):
        for chain in ruleset.chains_in(connection.family, table):
            if chain.hook is not hook or not matches(chain.jump.match, connection):
                continue
            rule = next((rule for rule in chain.rules if _decides(rule, connection)), None)
            if rule is not None and not isinstance(rule.verdict, Return):
                return _explanation(rule, connection)
            decided = decided or rule
    if decided is None:
        return Explanation("direct", None, "no rule captures it", None)
    return _explanation(decided, connection)


def _walk(connection: Connection) -> tuple[tuple[Table, Hook], ...]:
    """Where a verdict can fall, in the order in which netfilter's hooks run; raw and mangle's OUTPUT only label."""
    if connection.direction.value == "egress":
        return (Table.NAT, Hook.OUTPUT), (Table.FILTER, Hook.OUTPUT)
    passed_to = Hook.INPUT if connection.local else Hook.FORWARD
    return (Table.MANGLE, Hook.PREROUTING), (Table.NAT, Hook.PREROUTING), (Table.FILTER, passed_to)


def _decides(rule: Rule, connection: Connection) -> bool:
    label = isinstance(rule.verdict, MarkPacket | MarkConnection | Zone)
    return not label and matches(rule.match, connection)


def _explanation(rule: Rule, connection: Connection) -> Explanation:
    return Explanation(_outcome(rule, connection), rule.id, rule.because, rule.flag)


def _outcome(rule: Rule, connection: Connection) -> Outcome:
    match rule.verdict:
        case Redirect():
            leaves = connection.direction.value == "egress" or not connection.local
            return (
                "egress" if leaves or rule.flag == "--dns" else "ingress"
            )  # a guest asks for names to go out
        case Tproxy():
            return "ingress"
        case Reject():
            return "rejected"
        case Return() | Jump() | MarkPacket() | MarkConnection() | Zone():
            return "direct"
        case _:
            assert_never(rule.verdict)


def matches(match: Match, connection: Connection) -> bool:
    """Whether a connection's first packet is what a rule describes."""
    leaves, arrives = (
        (connection.interface, None)
        if connection.direction.value == "egress"
        else (None, connection.interface)
    )
    return (
        match.protocol in {None, connection.protocol}
        and through(match.out_interface, leaves)
        and through(match.in_interface, arrives)
        and (match.source is None or connection.source in match.source)
        and (match.destination is None or connection.destination in match.destination)
        and (not match.ports or any(first <= connection.port <= last for first, last in match.ports))
        and match.uid in {None, connection.uid}
        and _in_group(match, connection)
        and (match.mark is None or connection.mark & match.mark.mask == match.mark.value)
        and (connection.local or not match.local_destination)
        and not (connection.local and match.remote_destination)
        and _is_first(match)
    )


def _in_group(match: Match, connection: Connection) -> bool:
    return match.gid in {None, connection.gid} or (match.supplementary and match.gid in connection.groups)


def _is_first(match: Match) -> bool:
    """Whether a match fits a connection's first packet before any rule has changed it; nobody forges a source."""
    return not (match.connection_mark or match.reply or match.rewritten or match.remote_source)


def through(wanted: str | None, interface: str | None) -> bool:
    """A packet on its way out has come in by no interface, and the other way round; a last ``+`` is any ending."""
    if wanted is None:
        return True
    if interface is None:
        return False
    return interface.startswith(wanted[:-1]) if wanted.endswith("+") else interface == wanted
