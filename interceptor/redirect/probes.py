"""Which connections to try, to prove that the kernel does what the ruleset says, and what the answers mean.

What is expected of each comes from the simulator, so that every set of excludes and includes can be proved that captures
anything at all. Addresses are documentation ones (RFC 5737, RFC 3849) unless only others are captured or excluded.
"""

from __future__ import annotations

from ipaddress import ip_address
from itertools import product
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from interceptor.config.redirect import Dns, Quic
from interceptor.model.connection import Direction
from interceptor.model.record import Record, replace
from interceptor.redirect.parts import DNS
from interceptor.redirect.rules import FAMILIES
from interceptor.redirect.simulate import Connection, Explanation, explain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from interceptor.config.redirect import PortRange, RedirectSettings
    from interceptor.redirect.rules import Family, Network, Ruleset

INTERFACE: Final = "icp-probe"
NEAR: Final[dict[Family, str]] = {4: "192.0.2.1", 6: "2001:db8::1"}  # our end of the veth pair
FAR: Final[dict[Family, str]] = {4: "192.0.2.2", 6: "2001:db8::2"}
NOBODY: Final = 65534
PORT: Final = 4  # unassigned by IANA, below the ephemeral range: nothing listens there
OF_A_KIND: Final = 16  # exemptions of one flag that are tried; a list of a thousand CIDRs is sampled

Result = Literal["captured", "direct", "refused", "misdirected", "lost", "untried"]


class Probe(Record, kw_only=True):
    """One connection to try, and what must become of it.

    Egress goes to ``host`` beyond the link, or to our own end of it; ingress comes from ``source`` to ``host``, our end.
    """

    path: str  # what it tries, for a person: 'egress', 'proxy uid 1337'
    direction: Direction
    family: Family
    source: str
    host: str
    port: int
    uid: int
    gid: int
    mark: int = 0
    expected: Result = "captured"
    rule: str | None = None  # the one that decides

    @property
    def inside(self) -> bool:
        """Whether the connection never leaves this host."""
        return self.direction is Direction.EGRESS and self.host == NEAR[self.family]


class Answer(NamedTuple):
    """What whoever accepted a probe said: in which role, from which port it saw us come, and where we had meant to go."""

    role: Literal["proxy", "end"]
    source_port: int
    original: str | None


class Judged(NamedTuple):
    """A result, and a remark where the result alone does not say enough."""

    result: Result
    note: str = ""


def judge(probe: Probe, answer: Answer, source_port: int) -> Judged:
    """What an answer proves. ``source_port`` is the port that the client came from.

    The far end sees that very port unless a proxy stands between: it cannot use the same one, which is taken.
    """
    if answer.role == "end":
        return Judged("direct") if answer.source_port == source_port else Judged("captured", "by the proxy")
    meant = f"{probe.host}:{probe.port}" if probe.family == 4 else f"[{probe.host}]:{probe.port}"
    if answer.original != meant:
        return Judged("misdirected", f"the original destination came out as {answer.original}")
    return Judged("captured", "with its original destination")


class Matrix(NamedTuple):
    """Every path to try, and sentences about those that no probe can try."""

    probes: tuple[Probe, ...]
    untried: tuple[str, ...]


def choose(ruleset: Ruleset, settings: RedirectSettings) -> tuple[Probe, ...]:
    """One captured connection for each direction and family; none where nothing is captured."""
    found = (_main(ruleset, settings, direction, family) for direction in Direction for family in FAMILIES)
    return tuple(probe for probe in found if probe is not None and probe.expected == "captured")


def matrix(ruleset: Ruleset, settings: RedirectSettings) -> Matrix:
    """Every path there is: captured, and exempt for each of the reasons the settings give."""
    probes: list[Probe] = []
    untried = list(_never_tried(settings))
    for family in FAMILIES:
        for direction in Direction:
            main = _main(ruleset, settings, direction, family)
            if main is None:
                untried.append(f"{direction.value} over IPv{family}: nothing is captured that could be tried")
                continue
            more = (
                [*_egress(settings, main)] if direction is Direction.EGRESS else [*_ingress(settings, main)]
            )
            if settings.dns is Dns.CAPTURE and direction is Direction.EGRESS:
                more.append(replace(main, path="name query over TCP", port=DNS[0].first))
            probes += (main, *(_expecting(ruleset, probe) for probe in more))
    untried += [
        f"all but {OF_A_KIND} of {flag}"
        for flag, number in (
            ("--exclude-egress-cidrs", len(settings.exclude_egress_cidrs)),
            ("--exclude-ingress-cidrs", len(settings.exclude_ingress_cidrs)),
            ("--exclude-uids", len(settings.exclude_uids)),
            ("--exclude-gids", len(settings.exclude_gids)),
            ("--exclude-egress-ports", len(settings.exclude_egress_ports)),
            ("--exclude-egress-ports-for-uids", len(_ports_of_users(settings))),
            ("--exclude-ingress-ports", len(settings.exclude_ingress_ports)),
        )
        if number > OF_A_KIND
    ]
    return Matrix(tuple(probes), tuple(untried))


def _never_tried(settings: RedirectSettings) -> Iterator[str]:
    """What the flags ask for and a TCP connection over the probe's link cannot show."""
    for name in settings.exclude_interfaces:
        yield f"the excluded interface {name}: the probe's link cannot have its name"
    for name in settings.virtual_interfaces:
        yield f"guests behind {name}: there is none here to connect from"
    if settings.supplementary_groups:
        yield "supplementary groups: the probe's user has one group only"
    if settings.dns is Dns.CAPTURE:
        yield "name queries over UDP: only TCP is tried, which the same flag captures by a rule of its own"
    if settings.quic is Quic.BLOCK:
        yield "QUIC: only TCP is tried"


def _egress(settings: RedirectSettings, main: Probe) -> Iterator[Probe]:
    """The ways of not being captured on the way out."""
    for uid in settings.proxy_uids:
        yield replace(main, path=f"proxy uid {uid}", uid=uid)
    for gid in settings.proxy_gids:
        yield replace(main, path=f"proxy gid {gid}", gid=gid)
    if settings.proxy_mark is not None:
        yield replace(main, path=f"proxy mark {settings.proxy_mark}", mark=settings.proxy_mark.value)
    for uid in settings.exclude_uids[:OF_A_KIND]:
        yield replace(main, path=f"excluded uid {uid}", uid=uid)
    for gid in settings.exclude_gids[:OF_A_KIND]:
        yield replace(main, path=f"excluded gid {gid}", gid=gid)
    for ports in settings.exclude_egress_ports[:OF_A_KIND]:
        yield replace(main, path=f"excluded port {ports}", port=ports.first)
    for uid, ports in _ports_of_users(settings)[:OF_A_KIND]:
        yield replace(main, path=f"excluded port {ports} for uid {uid}", port=ports.first, uid=uid)
    for network in _usable(settings.exclude_egress_cidrs, main.family):
        yield replace(main, path=f"excluded CIDR {network}", host=_inside(network))
    yield replace(main, path="own address", host=NEAR[main.family])


def _ports_of_users(settings: RedirectSettings) -> list[tuple[int, PortRange]]:
    return [(uid, ports) for uid, ranges in settings.exclude_egress_ports_for_uids for ports in ranges]


def _ingress(settings: RedirectSettings, main: Probe) -> Iterator[Probe]:
    """The ways of not being captured on the way in."""
    for ports in settings.exclude_ingress_ports[:OF_A_KIND]:
        yield replace(main, path=f"excluded port {ports}", port=ports.first)
    for network in _usable(settings.exclude_ingress_cidrs, main.family):
        yield replace(main, path=f"excluded CIDR {network}", source=_inside(network))


def _usable(networks: Sequence[Network], family: Family) -> list[Network]:
    """Networks of one family with an address that a host can have on a link."""
    return [
        network
        for network in networks[:OF_A_KIND]
        if network.version == family
        and not (
            network.is_loopback
            or network.is_multicast
            or network.is_link_local
            or network.is_reserved
            or network.network_address.is_unspecified
        )
    ]


def _inside(network: Network) -> str:
    """An address of a network that is nobody's name for all of it."""
    return str(network[-2 if network.num_addresses > 1 else 0])


def _main(ruleset: Ruleset, settings: RedirectSettings, direction: Direction, family: Family) -> Probe | None:
    """The likeliest connection that is captured or, where its family is blocked, refused."""
    candidates = (_expecting(ruleset, probe) for probe in _candidates(direction, family, settings))
    return next((probe for probe in candidates if probe.expected != "direct"), None)


def _candidates(direction: Direction, family: Family, settings: RedirectSettings) -> Iterator[Probe]:
    """The likeliest first; the ports beside excluded ones last, for excludes that leave almost nothing."""
    if direction is Direction.INGRESS:
        source, hosts, included = FAR[family], [NEAR[family]], settings.include_ingress_ports
        excluded = settings.exclude_ingress_ports
    else:
        source = NEAR[family]
        hosts = [FAR[family], *map(_inside, _usable(settings.include_egress_cidrs, family))]
        included, excluded = settings.include_egress_ports, settings.exclude_egress_ports
    taken = {*settings.proxy_uids, *settings.exclude_uids, *settings.proxy_gids, *settings.exclude_gids}
    nobody = next(number for number in (NOBODY, *range(len(taken) + 1)) if number not in taken)
    beside = {port for each in excluded for port in (each.first - 1, each.last + 1)}
    ports = [PORT, *(each.first for each in included), *sorted(beside & set(range(1, 65536)))]
    for host, port in product(hosts, ports):
        yield Probe(
            path=direction.value,
            direction=direction,
            family=family,
            source=source,
            host=host,
            port=port,
            uid=nobody,
            gid=nobody,
        )


def connection(probe: Probe) -> Connection:
    """A probe as the rules see it."""
    inward = probe.direction is Direction.INGRESS
    return Connection(
        direction=probe.direction,
        source=ip_address(probe.source),
        destination=ip_address(probe.host),
        port=probe.port,
        interface="lo" if probe.inside else INTERFACE,
        local=inward or probe.inside,
        uid=None if inward else probe.uid,
        gid=None if inward else probe.gid,
        mark=probe.mark,
    )


def _expecting(ruleset: Ruleset, probe: Probe) -> Probe:
    """The probe with what the simulator says of it."""
    found = explain(ruleset, connection(probe))
    return replace(probe, expected=_result(probe, found), rule=found.rule)


def _result(probe: Probe, found: Explanation) -> Result:
    if found.verdict == "rejected":
        return "refused"
    return "captured" if found.verdict == probe.direction.value else "direct"


def cause(probe: Probe, result: Result, found: Explanation, dropping: Sequence[str]) -> str:
    """Why a probe did not go as expected, by what the kernel's own rules say of it.

    ``dropping`` are the chains on the way in of this family that drop what no rule of theirs accepts.
    """
    if _result(probe, found) != probe.expected:
        rule = f" by {found.rule}" if found.rule else ""
        return f"the kernel's rules make it {found.verdict}{rule}: {found.because}"
    if result == "lost" and dropping:
        needed = "established connections" + (" and neighbour discovery" if probe.family == 6 else "")
        return f"what comes back must be accepted, {needed}, or is dropped by the policy of {', '.join(dropping)}"
    return "no rule of this namespace is the cause, as far as they can be read"
