"""What the ruleset does with one described connection: the verdict, the rule that gave it, and why.

The kernel's walk in miniature. Held against real connects in a real namespace by a property test.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from interceptor.redirect.rules import Family, Hook, Match, Protocol, Redirect, Reject, Return, Rule, Table

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from interceptor.model.connection import Direction
    from interceptor.redirect.rules import Ruleset

_WALKS: Final[dict[str, tuple[tuple[Table, Hook], ...]]] = {  # the order in which netfilter's hooks run
    "egress": ((Table.NAT, Hook.OUTPUT), (Table.FILTER, Hook.OUTPUT)),
    "ingress": ((Table.NAT, Hook.PREROUTING), (Table.FILTER, Hook.INPUT)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
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
    mark: int = 0

    @property
    def family(self) -> Family:
        """4 or 6."""
        return 4 if self.destination.version == 4 else 6


@dataclass(frozen=True, slots=True)
class Explanation:
    """The verdict for a connection; without a rule, no rule of ours concerns it."""

    verdict: Literal["egress", "ingress", "direct", "rejected"]
    rule: str | None
    because: str
    flag: str | None


def explain(ruleset: Ruleset, connection: Connection) -> Explanation:
    """Walk the ruleset as the kernel does and say what becomes of a connection."""
    decided: Rule | None = None
    for table, hook in _WALKS[connection.direction.value]:
        for chain in ruleset.chains_in(connection.family, table):
            if chain.hook is not hook or not matches(chain.jump.match, connection):
                continue
            rule = next((rule for rule in chain.rules if matches(rule.match, connection)), None)
            if rule is not None and not isinstance(rule.verdict, Return):
                return _explanation(rule, connection)
            decided = decided or rule
    if decided is None:
        return Explanation("direct", None, "no rule captures it", None)
    return _explanation(decided, connection)


def _explanation(rule: Rule, connection: Connection) -> Explanation:
    verdict: Literal["egress", "ingress", "direct", "rejected"] = "direct"
    if isinstance(rule.verdict, Reject):
        verdict = "rejected"
    elif isinstance(rule.verdict, Redirect):
        verdict = "egress" if connection.direction.value == "egress" else "ingress"
    return Explanation(verdict, rule.id, rule.because, rule.flag)


def matches(match: Match, connection: Connection) -> bool:
    """Whether a connection's first packet is what a rule describes."""
    leaves, arrives = (
        (connection.interface, None)
        if connection.direction.value == "egress"
        else (None, connection.interface)
    )
    return (
        match.protocol in {None, connection.protocol}
        and _through(match.out_interface, leaves)
        and _through(match.in_interface, arrives)
        and (match.source is None or connection.source in match.source)
        and (match.destination is None or connection.destination in match.destination)
        and (not match.ports or any(first <= connection.port <= last for first, last in match.ports))
        and match.uid in {None, connection.uid}
        and match.gid in {None, connection.gid}
        and (match.mark is None or connection.mark & match.mark.mask == match.mark.value)
        and (connection.local or not match.local_destination)
    )


def _through(wanted: str | None, interface: str | None) -> bool:
    """A packet on its way out has come in by no interface, and the other way round; a last ``+`` is any ending."""
    if wanted is None:
        return True
    if interface is None:
        return False
    return interface.startswith(wanted[:-1]) if wanted.endswith("+") else interface == wanted
