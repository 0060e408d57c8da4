"""Which connections to try, to prove that the kernel does what the ruleset says: one per direction and family.

A probe's port and address are found by asking the simulator, so that every set of excludes and includes can be proved
that captures anything at all. Addresses are documentation ones (RFC 5737, RFC 3849) unless only others are captured.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Final

from interceptor.model.connection import Direction
from interceptor.redirect.rules import FAMILIES
from interceptor.redirect.simulate import Connection, explain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.config.redirect import RedirectSettings
    from interceptor.redirect.rules import Family, Ruleset

INTERFACE: Final = "icp-probe"
NEAR: Final[dict[Family, str]] = {4: "192.0.2.1", 6: "2001:db8::1"}  # our end of the veth pair
FAR: Final[dict[Family, str]] = {4: "192.0.2.2", 6: "2001:db8::2"}
NOBODY: Final = 65534
PORT: Final = 4  # unassigned by IANA, below the ephemeral range: nothing listens there


@dataclass(frozen=True, slots=True)
class Probe:
    """One connection to try: to ``host`` outside the namespace as ``uid``, or to ``host``, our end, from outside."""

    direction: Direction
    family: Family
    host: str
    port: int
    uid: int


def choose(ruleset: Ruleset, settings: RedirectSettings) -> tuple[Probe, ...]:
    """One captured connection for each direction and family; none where nothing is captured."""
    uid = next(
        uid for uid in (NOBODY, *range(64)) if uid not in {*settings.proxy_uids, *settings.exclude_uids}
    )
    found = (
        next(
            (probe for probe in _candidates(direction, family, settings, uid) if _captured(ruleset, probe)),
            None,
        )
        for direction in Direction
        for family in FAMILIES
    )
    return tuple(probe for probe in found if probe is not None)


def _candidates(
    direction: Direction, family: Family, settings: RedirectSettings, uid: int
) -> Iterator[Probe]:
    """The likeliest first; every port there is last, for excludes that leave almost nothing."""
    if direction is Direction.INGRESS:
        hosts, included = [NEAR[family]], settings.include_ingress_ports
    else:
        networks = (each for each in settings.include_egress_cidrs if each.version == family)
        hosts = [FAR[family], *(str(network[-2 if network.num_addresses > 1 else 0]) for network in networks)]
        included = settings.include_egress_ports
    for host in hosts:
        for port in (PORT, *(each.first for each in included)):
            yield Probe(direction, family, host, port, uid)
    for port in range(1, 65536):
        yield Probe(direction, family, hosts[-1], port, uid)


def _captured(ruleset: Ruleset, probe: Probe) -> bool:
    inward = probe.direction is Direction.INGRESS
    source = FAR[probe.family] if inward else NEAR[probe.family]
    connection = Connection(
        direction=probe.direction,
        source=_address(source),
        destination=_address(probe.host),
        port=probe.port,
        interface=INTERFACE,
        local=inward,
        uid=None if inward else probe.uid,
        gid=None if inward else probe.uid,
    )
    return explain(ruleset, connection).verdict == probe.direction.value


def _address(text: str) -> IPv4Address | IPv6Address:
    return ip_address(text)
