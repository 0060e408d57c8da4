"""Settings become the ruleset here: which connections are brought to the proxy, in which order that is decided, and why.

Both directions have one shape: exemptions first (exclude always wins), then what is captured. The same exemptions stand
wherever else a connection is judged: in the zones of name queries (dns) and in the filter rules (guard).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from interceptor.config.redirect import Dns, Mode
from interceptor.redirect import dns, guard, guests, tproxy
from interceptor.redirect.ipv6 import Ipv6
from interceptor.redirect.parts import (
    OUTWARD_LOOPBACK,
    Protocols,
    chain,
    egress_exemptions,
    egress_selection,
    ingress_exemptions,
    ingress_selection,
    jump,
    returns,
    rule,
)
from interceptor.redirect.rules import (
    EGRESS_CHAIN,
    INGRESS_CHAIN,
    Hook,
    Match,
    Protocol,
    Redirect,
    Ruleset,
    Table,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from interceptor.config.redirect import RedirectSettings
    from interceptor.redirect.parts import Part
    from interceptor.redirect.rules import Chain, Family, Rule

_TCP: Final = Protocols((Protocol.TCP,), Protocol.TCP)
_TCP_AND_QUERIES: Final = Protocols((Protocol.TCP, Protocol.UDP), None)


def plan(settings: RedirectSettings, ipv6: Ipv6 = Ipv6.CAPTURE) -> Ruleset:
    """The rules that settings ask for, given what becomes of IPv6."""
    families: tuple[Family, ...] = (4, 6) if ipv6 is Ipv6.CAPTURE else (4,)
    chains = (*_ingress(settings, families), _egress(settings, families))
    if settings.dns is Dns.CAPTURE:
        chains += tuple(dns.zones(settings, families))
    chains += tuple(guard.chains(settings, families, blocked=False))
    if ipv6 is Ipv6.BLOCK:
        chains += tuple(guard.chains(settings, (6,), blocked=True))
    detour = tproxy.detour(settings, families) if settings.mode is Mode.TPROXY else None
    return Ruleset(settings.hash, chains, detour)


def _ingress(settings: RedirectSettings, families: tuple[Family, ...]) -> Iterator[Chain]:
    """What arrives: in nat, or where addresses are kept in mangle; of guests, always in nat."""
    rules = list(_guests(settings))
    if settings.mode is Mode.TPROXY:
        yield from tproxy.chains(settings, families)
    else:
        rules += returns("ingress", ingress_exemptions(settings), _TCP)
        rules += _redirects("ingress", ingress_selection(settings), settings.ingress_port)
    if rules:
        udp = settings.dns is Dns.CAPTURE and settings.virtual_interfaces
        match = Match(protocol=None if udp else Protocol.TCP)
        because = (
            "everything that arrives is looked at"
            if udp
            else "every TCP connection that arrives is looked at"
        )
        arrives = jump("ingress", match, INGRESS_CHAIN, because)
        yield chain(Table.NAT, INGRESS_CHAIN, Hook.PREROUTING, arrives, rules, families)


def _guests(settings: RedirectSettings) -> Iterator[Rule]:
    """What guests behind virtual interfaces open to other hosts, and their name queries."""
    captures_dns = settings.dns is Dns.CAPTURE
    protocols = _TCP_AND_QUERIES if captures_dns else _TCP
    yield from returns("guest", guests.excluded_interfaces(settings), protocols)
    if captures_dns:
        yield from returns("guest", guests.dns_exemptions(settings), protocols)
        yield from dns.both("guest", guests.dns_selection(settings), Redirect(settings.dns_port))
    yield from returns("guest", guests.exemptions(settings), _TCP)
    yield from _redirects("guest", guests.selection(settings), settings.egress_port)


def _egress(settings: RedirectSettings, families: tuple[Family, ...]) -> Chain:
    """What programs here open: TCP, and name queries where they are captured."""
    captures_dns = settings.dns is Dns.CAPTURE
    protocols = _TCP_AND_QUERIES if captures_dns else _TCP
    rules = (
        *returns("egress", egress_exemptions(settings), protocols),
        *(dns.both("egress", [dns.SELECTION], Redirect(settings.dns_port)) if captures_dns else ()),
        *returns("egress", [OUTWARD_LOOPBACK], protocols),
        *_redirects("egress", egress_selection(settings), settings.egress_port),
    )
    because = (
        "everything opened here is looked at"
        if captures_dns
        else "every TCP connection opened here is looked at"
    )
    leaves = jump("egress", Match(protocol=protocols.otherwise), EGRESS_CHAIN, because)
    return chain(Table.NAT, EGRESS_CHAIN, Hook.OUTPUT, leaves, rules, families)


def _redirects(prefix: str, parts: Iterable[Part], port: int) -> Iterator[Rule]:
    return (rule(f"{prefix}-{part.id}", part, Protocol.TCP, Redirect(port)) for part in parts)
