"""Settings become the ruleset here: which connections are brought to the proxy, in which order that is decided, and why.

Both directions have one shape: exemptions first (exclude always wins), then what is captured. Where IPv6 is blocked the
same exemptions stand in the filter table, and what would have been captured is rejected, whatever the protocol.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.redirect.ipv6 import Ipv6
from interceptor.redirect.rules import (
    EGRESS_CHAIN,
    INGRESS_CHAIN,
    Chain,
    Family,
    Hook,
    Jump,
    Match,
    Protocol,
    Redirect,
    Reject,
    Return,
    Rule,
    Ruleset,
    Table,
    Verdict,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from interceptor.config.redirect import PortRange, RedirectSettings

PORTS_IN_A_RULE: Final = 15  # XT_MULTI_PORTS, linux/netfilter/xt_multiport.h; a range takes two


_TCP: Final = Match(protocol=Protocol.TCP)
_NEW: Final = Match(new=True)


class _Protocols(NamedTuple):
    """The protocols an exemption must cover: those that have ports, and the one (None: all) of any other rule."""

    with_ports: tuple[Protocol, ...]
    otherwise: Protocol | None


_CAPTURED: Final = _Protocols((Protocol.TCP,), Protocol.TCP)
_BLOCKED: Final = _Protocols((Protocol.TCP, Protocol.UDP), None)


class _Part(NamedTuple):
    """One exemption or one selection, before it is known which protocols it is for."""

    id: str
    match: Match
    flag: str
    because: str


def plan(settings: RedirectSettings, ipv6: Ipv6 = Ipv6.CAPTURE) -> Ruleset:
    """The rules that settings ask for, given what becomes of IPv6."""
    families: tuple[Family, ...] = (4, 6) if ipv6 is Ipv6.CAPTURE else (4,)
    chains = _capturing(settings, families)
    if ipv6 is Ipv6.BLOCK:
        chains += _blocking(settings)
    return Ruleset(settings.hash, chains)


def _capturing(settings: RedirectSettings, families: tuple[Family, ...]) -> tuple[Chain, ...]:
    """The nat chains: TCP only, redirected to the proxy's listeners."""
    ingress = (
        *_returns("ingress", _ingress_exemptions(settings), _CAPTURED),
        *_redirects("ingress", _ingress_selection(settings), Redirect(settings.ingress_port)),
    )
    egress = (
        *_returns("egress", _egress_exemptions(settings), _CAPTURED),
        *_redirects("egress", _egress_selection(settings), Redirect(settings.egress_port)),
    )
    arrives = _jump("ingress", _TCP, INGRESS_CHAIN, "every TCP connection that arrives is looked at")
    leaves = _jump("egress", _TCP, EGRESS_CHAIN, "every TCP connection opened here is looked at")
    return (
        _chain(Table.NAT, INGRESS_CHAIN, Hook.PREROUTING, arrives, ingress, families),
        _chain(Table.NAT, EGRESS_CHAIN, Hook.OUTPUT, leaves, egress, families),
    )


def _blocking(settings: RedirectSettings) -> tuple[Chain, ...]:
    """The IPv6 filter chains: any protocol but ICMPv6, first packets only, rejected."""
    discovery = _Part(
        "icmpv6",
        Match(protocol=Protocol.ICMPV6),
        "always",
        "IPv6 does not work without ICMPv6: neighbour discovery, path MTU",
    )
    loopback = _Part(
        "loopback", Match(in_interface="lo"), "always", "traffic of this host with itself is direct"
    )
    ingress = (
        *_returns("block-ingress", (discovery, loopback, *_ingress_exemptions(settings)), _BLOCKED),
        *_rejects("block-ingress", _ingress_selection(settings)),
    )
    egress = (
        *_returns("block-egress", (discovery, *_egress_exemptions(settings)), _BLOCKED),
        *_rejects("block-egress", _egress_selection(settings)),
    )
    arrives = _jump("block-ingress", _NEW, INGRESS_CHAIN, "every IPv6 connection that arrives is looked at")
    leaves = _jump("block-egress", _NEW, EGRESS_CHAIN, "every IPv6 connection opened here is looked at")
    return (
        _chain(Table.FILTER, INGRESS_CHAIN, Hook.INPUT, arrives, ingress, (6,)),
        _chain(Table.FILTER, EGRESS_CHAIN, Hook.OUTPUT, leaves, egress, (6,)),
    )


def _egress_exemptions(settings: RedirectSettings) -> Iterator[_Part]:
    own = "the proxy's own traffic must never come back to it"
    if settings.proxy_mark is not None:
        yield _Part("proxy-mark", Match(mark=settings.proxy_mark), "--proxy-mark", own)
    for uid in settings.proxy_uids:
        yield _Part(f"proxy-uid-{uid}", Match(uid=uid), "--proxy-uid", own)
    for gid in settings.proxy_gids:
        yield _Part(f"proxy-gid-{gid}", Match(gid=gid), "--proxy-gid", own)
    yield _Part(
        "loopback",
        Match(out_interface="lo"),
        "always",
        "traffic of this host with itself, by 127.0.0.0/8, ::1 or its own addresses, is direct",
    )
    for uid in settings.exclude_uids:
        yield _Part(f"exclude-uid-{uid}", Match(uid=uid), "--exclude-uids", "this user is excluded")
    for gid in settings.exclude_gids:
        yield _Part(f"exclude-gid-{gid}", Match(gid=gid), "--exclude-gids", "this group is excluded")
    for name in settings.exclude_interfaces:
        match = Match(out_interface=name)
        yield _Part(f"exclude-interface-{name}", match, "--exclude-interfaces", "this interface is excluded")
    yield from _port_parts(
        "exclude-ports", settings.exclude_egress_ports, "--exclude-egress-ports", "these ports are excluded"
    )
    for network in settings.exclude_egress_cidrs:
        match = Match(destination=network)
        yield _Part(
            f"exclude-cidr-{network}", match, "--exclude-egress-cidrs", "these addresses are excluded"
        )


def _egress_selection(settings: RedirectSettings) -> Iterator[_Part]:
    if not settings.include_egress_ports and not settings.include_egress_cidrs:
        yield _Part(
            "everything", Match(), "always", "no include narrows it down: everything else is captured"
        )
    yield from _port_parts(
        "include-ports",
        settings.include_egress_ports,
        "--include-egress-ports",
        "these ports are captured, wherever the connection goes",
    )
    for network in settings.include_egress_cidrs:
        match = Match(destination=network)
        yield _Part(
            f"include-cidr-{network}", match, "--include-egress-cidrs", "these addresses are captured"
        )


def _ingress_exemptions(settings: RedirectSettings) -> Iterator[_Part]:
    own = "the proxy's own listeners, metrics and health are reached directly"
    yield from _port_parts("own-ports", settings.own_ports, "always", own)
    for name in settings.exclude_interfaces:
        match = Match(in_interface=name)
        yield _Part(f"exclude-interface-{name}", match, "--exclude-interfaces", "this interface is excluded")
    for network in settings.exclude_ingress_cidrs:
        match = Match(source=network)
        yield _Part(
            f"exclude-cidr-{network}",
            match,
            "--exclude-ingress-cidrs",
            "peers at these addresses are excluded",
        )
    yield from _port_parts(
        "exclude-ports", settings.exclude_ingress_ports, "--exclude-ingress-ports", "these ports are excluded"
    )


def _ingress_selection(settings: RedirectSettings) -> Iterator[_Part]:
    """Only what is meant for this host: what it forwards (containers, virtual machines) is not the app's."""
    local = Match(local_destination=True)
    if not settings.include_ingress_ports:
        because = "no include narrows it down: everything else for this host's addresses is captured"
        yield _Part("everything", local, "always", because)
    yield from _port_parts(
        "include-ports",
        settings.include_ingress_ports,
        "--include-ingress-ports",
        "these ports of this host's addresses are captured",
        local=True,
    )


def _port_parts(
    name: str, ranges: Sequence[PortRange], flag: str, because: str, *, local: bool = False
) -> Iterator[_Part]:
    """As few parts as the kernel's limit of ports in a rule allows."""
    groups: list[list[PortRange]] = []
    room = 0
    for port_range in ranges:
        needed = 1 if port_range.first == port_range.last else 2
        if needed > room:
            groups.append([])
            room = PORTS_IN_A_RULE
        groups[-1].append(port_range)
        room -= needed
    for number, group in enumerate(groups, start=1):
        match = Match(ports=tuple(group), local_destination=local)
        yield _Part(f"{name}-{number}", match, flag, because)


def _returns(prefix: str, parts: Iterable[_Part], protocols: _Protocols) -> Iterator[Rule]:
    """Exemptions; one that names ports exists once for each protocol."""
    for part in parts:
        if not part.match.ports:
            yield _rule(f"{prefix}-{part.id}", part, part.match.protocol or protocols.otherwise, Return())
            continue
        for protocol in protocols.with_ports:
            suffix = "" if protocol is Protocol.TCP else f"-{protocol.value}"
            yield _rule(f"{prefix}-{part.id}{suffix}", part, protocol, Return())


def _redirects(prefix: str, parts: Iterable[_Part], verdict: Redirect) -> Iterator[Rule]:
    for part in parts:
        yield _rule(f"{prefix}-{part.id}", part, Protocol.TCP, verdict)


def _rejects(prefix: str, parts: Iterable[_Part]) -> Iterator[Rule]:
    """TCP by a reset, so that a client gives up at once; the rest by ICMPv6."""
    for selected in parts:
        because = "it would have been captured, and IPv6 is blocked"
        part = selected._replace(flag="--ipv6", because=because)
        yield _rule(f"{prefix}-{part.id}", part, Protocol.TCP, Reject("tcp-reset"))
        other = Protocol.UDP if part.match.ports else None
        yield _rule(f"{prefix}-{part.id}-other", part, other, Reject("icmp6-port-unreachable"))


def _chain(
    table: Table, name: str, hook: Hook, jump: Rule, rules: Iterable[Rule], families: tuple[Family, ...]
) -> Chain:
    """A chain without the rules that can match nothing in its families."""
    fitting = tuple(rule for rule in rules if any(rule.applies_to(family) for family in families))
    return Chain(table, name, hook, jump, fitting, families)


def _rule(name: str, part: _Part, protocol: Protocol | None, verdict: Verdict) -> Rule:
    return Rule(name, replace(part.match, protocol=protocol), verdict, part.flag, part.because)


def _jump(prefix: str, match: Match, chain: str, because: str) -> Rule:
    return Rule(f"{prefix}-hook", match, Jump(chain), "always", because)
