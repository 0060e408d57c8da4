"""Name queries: UDP and TCP port 53 lead to the proxy's DNS port, also those to a resolver on this host.

Captured UDP queries are tracked in a conntrack zone of their own. Without it a query from a port that the proxy, or an
exempt program, had just used towards the same resolver would be taken for the same flow, and nat rules see first
packets only: it would slip past, or the proxy's own query would come back to it. The zone holds for the opening
direction alone: answers and ICMP errors find the flow without rules of their own, and Docker's resolver, whose rules
and answers know no zones, works for exempt programs as before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from interceptor.redirect import guests
from interceptor.redirect.parts import DNS, Part, Protocols, chain, egress_exemptions, jump, returns, rule
from interceptor.redirect.rules import EGRESS_CHAIN, INGRESS_CHAIN, Hook, Match, Protocol, Table, Zone

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from interceptor.config.redirect import RedirectSettings
    from interceptor.redirect.rules import Chain, Family, Rule, Verdict

ZONE: Final = 15053  # any number but 0, the zone of all that has none
SELECTION: Final = Part(
    "dns", Match(ports=DNS), "--dns", "name queries go to the proxy, also those to a resolver on this host"
)
_QUERY: Final = Match(protocol=Protocol.UDP, ports=DNS)
_UDP: Final = Protocols((Protocol.UDP,), Protocol.UDP)


def both(prefix: str, parts: Iterable[Part], verdict: Verdict) -> Iterator[Rule]:
    """Parts as rules for queries over UDP and over TCP."""
    for part in parts:
        for protocol in (Protocol.UDP, Protocol.TCP):
            yield rule(f"{prefix}-{part.id}-{protocol.value}", part, protocol, verdict)


def zones(settings: RedirectSettings, families: tuple[Family, ...]) -> Iterator[Chain]:
    """The raw chains: the exemptions of capture again, then the zone."""
    because = "every name query of a program here is looked at"
    rules = (
        *returns("zone-egress", egress_exemptions(settings), _UDP),
        rule("zone-egress-dns", SELECTION, Protocol.UDP, Zone(ZONE)),
    )
    hook = jump("zone-egress", _QUERY, EGRESS_CHAIN, because)
    yield chain(Table.RAW, EGRESS_CHAIN, Hook.OUTPUT, hook, rules, families)
    if settings.virtual_interfaces:
        queries = guests.dns_selection(settings)
        rules = (
            *returns("zone-guest", guests.excluded_interfaces(settings), _UDP),
            *returns("zone-guest", guests.dns_exemptions(settings), _UDP),
            *(rule(f"zone-guest-{part.id}", part, Protocol.UDP, Zone(ZONE)) for part in queries),
        )
        hook = jump("zone-guest", _QUERY, INGRESS_CHAIN, "every name query that arrives is looked at")
        yield chain(Table.RAW, INGRESS_CHAIN, Hook.PREROUTING, hook, rules, families)
