"""What guests behind a virtual interface reach directly and what of theirs is captured."""

from __future__ import annotations

from ipaddress import ip_network

from interceptor.config.redirect import PortRange, RedirectSettings
from interceptor.redirect import guests

NETWORK = ip_network("10.0.0.0/8")
TWO = RedirectSettings(
    virtual_interfaces=("docker0", "virbr+"),
    exclude_interfaces=("virbr9",),
    exclude_egress_ports=(PortRange(22, 22),),
    exclude_egress_cidrs=(NETWORK,),
    include_egress_ports=(PortRange(80, 80),),
)


def test_without_virtual_interfaces_there_is_nothing() -> None:
    settings = RedirectSettings(exclude_interfaces=("eth1",), exclude_egress_cidrs=(NETWORK,))
    assert not list(guests.excluded_interfaces(settings))
    assert not list(guests.exemptions(settings))
    assert not list(guests.selection(settings))
    assert not list(guests.dns_exemptions(settings))
    assert not list(guests.dns_selection(settings))


def test_each_interface_has_every_place_and_only_towards_other_hosts() -> None:
    parts = [*guests.exemptions(TWO), *guests.selection(TWO)]
    assert [part.id for part in parts] == [
        "docker0-exclude-ports-1",
        "docker0-exclude-cidr-10.0.0.0/8",
        "virbr+-exclude-ports-1",
        "virbr+-exclude-cidr-10.0.0.0/8",
        "docker0-include-ports-1",
        "virbr+-include-ports-1",
    ]
    assert all(part.match.remote_destination and part.match.in_interface for part in parts)
    assert [part.id for part in guests.excluded_interfaces(TWO)] == ["exclude-interface-virbr9"]


def test_name_queries_are_captured_to_this_host_too_unless_the_port_is_excluded() -> None:
    assert [part.match.remote_destination for part in guests.dns_selection(TWO)] == [False, False]
    assert [part.id for part in guests.dns_exemptions(TWO)] == [
        "docker0-dns-exclude-cidr-10.0.0.0/8",
        "virbr+-dns-exclude-cidr-10.0.0.0/8",
    ]
    excluded = RedirectSettings(virtual_interfaces=("docker0",), exclude_egress_ports=(PortRange(50, 60),))
    assert not list(guests.dns_selection(excluded))
