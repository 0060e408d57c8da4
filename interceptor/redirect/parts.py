"""What is exempt and what is selected, in which order, before it is known in which tables it stands and for which protocols.

Capturing, tracking and refusing read the same parts, so that what one leaves alone the others leave alone too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.config.redirect import PortRange
from interceptor.model.record import replace
from interceptor.redirect.rules import Chain, Jump, Match, Protocol, Return, Rule

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from interceptor.config.redirect import RedirectSettings
    from interceptor.redirect.rules import Family, Hook, Table, Verdict

PORTS_IN_A_RULE: Final = 15  # XT_MULTI_PORTS, linux/netfilter/xt_multiport.h; a range takes two
DNS: Final = (PortRange(53, 53),)


class Protocols(NamedTuple):
    """The protocols an exemption must cover: those that have ports, and the one (None: all) of any other rule."""

    with_ports: tuple[Protocol, ...]
    otherwise: Protocol | None


class Part(NamedTuple):
    """One exemption or one selection, before it is known which protocols it is for."""

    id: str
    match: Match
    flag: str
    because: str


OUTWARD_LOOPBACK: Final = Part(
    "loopback",
    Match(out_interface="lo"),
    "always",
    "traffic of this host with itself, by 127.0.0.0/8, ::1 or its own addresses, is direct",
)
INWARD_LOOPBACK: Final = Part(
    "loopback", Match(in_interface="lo"), "always", "traffic of this host with itself is direct"
)


def egress_exemptions(settings: RedirectSettings) -> Iterator[Part]:
    """All but loopback, which is last: name queries to a resolver on this host come before it."""
    own = "the proxy's own traffic must never come back to it"
    also = settings.supplementary_groups
    if settings.proxy_mark is not None:
        yield Part("proxy-mark", Match(mark=settings.proxy_mark), "--proxy-mark", own)
    for uid in settings.proxy_uids:
        yield Part(f"proxy-uid-{uid}", Match(uid=uid), "--proxy-uid", own)
    for gid in settings.proxy_gids:
        yield Part(f"proxy-gid-{gid}", Match(gid=gid, supplementary=also), "--proxy-gid", own)
    for uid in settings.exclude_uids:
        yield Part(f"exclude-uid-{uid}", Match(uid=uid), "--exclude-uids", "this user is excluded")
    for gid in settings.exclude_gids:
        match = Match(gid=gid, supplementary=also)
        yield Part(f"exclude-gid-{gid}", match, "--exclude-gids", "this group is excluded")
    for uid, ranges in settings.exclude_egress_ports_for_uids:
        yield from port_parts(
            f"exclude-ports-for-uid-{uid}",
            ranges,
            "--exclude-egress-ports-for-uids",
            "these ports are excluded for this user",
            Match(uid=uid),
        )
    for name in settings.exclude_interfaces:
        match = Match(out_interface=name)
        yield Part(f"exclude-interface-{name}", match, "--exclude-interfaces", "this interface is excluded")
    yield from egress_places(settings)


def egress_places(settings: RedirectSettings) -> Iterator[Part]:
    """The exemptions that look at where a connection goes, and not at who opens it."""
    yield from port_parts(
        "exclude-ports", settings.exclude_egress_ports, "--exclude-egress-ports", "these ports are excluded"
    )
    for network in settings.exclude_egress_cidrs:
        match = Match(destination=network)
        yield Part(f"exclude-cidr-{network}", match, "--exclude-egress-cidrs", "these addresses are excluded")


def egress_selection(settings: RedirectSettings) -> Iterator[Part]:
    """What is captured of that which is not exempt."""
    if not settings.include_egress_ports and not settings.include_egress_cidrs:
        yield Part("everything", Match(), "always", "no include narrows it down: everything else is captured")
    yield from port_parts(
        "include-ports",
        settings.include_egress_ports,
        "--include-egress-ports",
        "these ports are captured, wherever the connection goes",
    )
    for network in settings.include_egress_cidrs:
        match = Match(destination=network)
        yield Part(f"include-cidr-{network}", match, "--include-egress-cidrs", "these addresses are captured")


def ingress_exemptions(settings: RedirectSettings) -> Iterator[Part]:
    """What peers reach directly."""
    own = "the proxy's own listeners, metrics and health are reached directly"
    yield from port_parts("own-ports", settings.own_ports, "always", own)
    for name in settings.exclude_interfaces:
        match = Match(in_interface=name)
        yield Part(f"exclude-interface-{name}", match, "--exclude-interfaces", "this interface is excluded")
    for network in settings.exclude_ingress_cidrs:
        match = Match(source=network)
        yield Part(
            f"exclude-cidr-{network}",
            match,
            "--exclude-ingress-cidrs",
            "peers at these addresses are excluded",
        )
    yield from port_parts(
        "exclude-ports", settings.exclude_ingress_ports, "--exclude-ingress-ports", "these ports are excluded"
    )


def ingress_selection(settings: RedirectSettings) -> Iterator[Part]:
    """Only what is meant for this host: what it forwards (containers, virtual machines) is not the app's."""
    local = Match(local_destination=True)
    if not settings.include_ingress_ports:
        because = "no include narrows it down: everything else for this host's addresses is captured"
        yield Part("everything", local, "always", because)
    yield from port_parts(
        "include-ports",
        settings.include_ingress_ports,
        "--include-ingress-ports",
        "these ports of this host's addresses are captured",
        local,
    )


def port_parts(
    name: str, ranges: Sequence[PortRange], flag: str, because: str, match: Match | None = None
) -> Iterator[Part]:
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
        yield Part(f"{name}-{number}", replace(match or Match(), ports=tuple(group)), flag, because)


def covers(ranges: Iterable[PortRange], port: int) -> bool:
    """Whether a port is in one of the ranges."""
    return any(first <= port <= last for first, last in ranges)


def returns(prefix: str, parts: Iterable[Part], protocols: Protocols) -> Iterator[Rule]:
    """Exemptions; one that names ports exists once for each protocol."""
    for part in parts:
        if not part.match.ports:
            yield rule(f"{prefix}-{part.id}", part, part.match.protocol or protocols.otherwise, Return())
            continue
        for protocol in protocols.with_ports:
            suffix = f"-{protocol.value}" if protocol is not protocols.with_ports[0] else ""
            yield rule(f"{prefix}-{part.id}{suffix}", part, protocol, Return())


def rule(name: str, part: Part, protocol: Protocol | None, verdict: Verdict) -> Rule:
    """A part as a rule."""
    return Rule(name, replace(part.match, protocol=protocol), verdict, part.flag, part.because)


def chain(
    table: Table, name: str, hook: Hook, jump: Rule, rules: Iterable[Rule], families: tuple[Family, ...]
) -> Chain:
    """A chain without the rules that can match nothing in its families."""
    fitting = tuple(rule for rule in rules if any(rule.applies_to(family) for family in families))
    return Chain(table, name, hook, jump, fitting, families)


def jump(prefix: str, match: Match, to: str, because: str) -> Rule:
    """The rule of a built-in chain that leads to one of ours."""
    return Rule(f"{prefix}-hook", match, Jump(to), "always", because)
