from __future__ import annotations

from ipaddress import ip_network

import pytest

from interceptor.config.redirect import PortRange, RedirectSettings
from interceptor.model.connection import Direction
from interceptor.redirect.ipv6 import Ipv6
from interceptor.redirect.plan import plan
from interceptor.redirect.probes import FAR, NEAR, NOBODY, PORT, Probe, choose


def chosen(settings: RedirectSettings, ipv6: Ipv6 = Ipv6.CAPTURE) -> tuple[Probe, ...]:
    return choose(plan(settings, ipv6), settings)


def test_each_direction_and_family_is_tried_with_documentation_addresses() -> None:
    assert chosen(RedirectSettings()) == (
        Probe(Direction.INGRESS, 4, NEAR[4], PORT, NOBODY),
        Probe(Direction.INGRESS, 6, NEAR[6], PORT, NOBODY),
        Probe(Direction.EGRESS, 4, FAR[4], PORT, NOBODY),
        Probe(Direction.EGRESS, 6, FAR[6], PORT, NOBODY),
    )


def test_what_is_not_captured_is_not_tried() -> None:
    assert {probe.family for probe in chosen(RedirectSettings(), Ipv6.LEAVE)} == {4}
    nothing = (PortRange(1, 65535),)
    assert chosen(RedirectSettings(exclude_egress_ports=nothing, exclude_ingress_ports=nothing)) == ()


def test_an_included_port_is_tried() -> None:
    settings = RedirectSettings(
        include_ingress_ports=(PortRange(8080, 8080),), include_egress_ports=(PortRange(443, 445),)
    )
    assert {(probe.direction, probe.port) for probe in chosen(settings)} == {
        (Direction.INGRESS, 8080),
        (Direction.EGRESS, 443),
    }


@pytest.mark.parametrize(
    ("network", "host"),
    [("203.0.113.0/24", "203.0.113.254"), ("203.0.113.7/32", "203.0.113.7"), ("fd00::/8", None)],
)
def test_an_included_network_is_tried_in_its_own_family_only(network: str, host: str | None) -> None:
    settings = RedirectSettings(include_egress_cidrs=(ip_network(network),))
    egress = [probe for probe in chosen(settings) if probe.direction is Direction.EGRESS]
    assert [(probe.family, probe.host) for probe in egress] == [
        (4, host) if host else (6, "fdff:ffff:ffff:ffff:ffff:ffff:ffff:fffe")
    ]


def test_the_last_port_left_is_found() -> None:
    settings = RedirectSettings(exclude_egress_ports=(PortRange(1, 65534),))
    assert {probe.port for probe in chosen(settings) if probe.direction is Direction.EGRESS} == {65535}


def test_the_user_who_tries_is_neither_the_proxy_nor_excluded() -> None:
    settings = RedirectSettings(proxy_uids=(NOBODY,), exclude_uids=(0, 1))
    assert {probe.uid for probe in chosen(settings)} == {2}
