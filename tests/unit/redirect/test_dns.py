"""Where name queries are captured and tracked."""

from __future__ import annotations

from ipaddress import ip_network

from interceptor.config.redirect import Dns, PortRange, RedirectSettings
from interceptor.redirect.dns import ZONE
from interceptor.redirect.plan import plan
from interceptor.redirect.rules import Chain, Hook, Match, Protocol, Redirect, Return, Table, Zone

CAPTURE = RedirectSettings(
    dns=Dns.CAPTURE, exclude_uids=(0,), exclude_egress_cidrs=(ip_network("10.0.0.0/8"),)
)
GUESTS = RedirectSettings(
    dns=Dns.CAPTURE, virtual_interfaces=("docker0",), exclude_egress_cidrs=(ip_network("10.0.0.0/8"),)
)


def chains(settings: RedirectSettings) -> dict[tuple[Table, Hook], Chain]:
    return {(chain.table, chain.hook): chain for chain in plan(settings).chains}


def test_off_means_no_rule_for_it() -> None:
    found = chains(RedirectSettings())
    assert {table for table, _ in found} == {Table.NAT}
    assert not [rule for chain in found.values() for rule in chain.rules if rule.flag == "--dns"]


def test_queries_are_redirected_after_every_exemption_and_before_loopback() -> None:
    egress = chains(CAPTURE)[Table.NAT, Hook.OUTPUT]
    assert egress.jump.match == Match()
    assert [rule.id for rule in egress.rules] == [
        "egress-proxy-uid-1337",
        "egress-exclude-uid-0",
        "egress-exclude-cidr-10.0.0.0/8",
        "egress-dns-udp",
        "egress-dns-tcp",
        "egress-loopback",
        "egress-everything",
    ]
    assert [rule.match.protocol for rule in egress.rules] == [
        None,
        None,
        None,
        Protocol.UDP,
        Protocol.TCP,
        None,
        Protocol.TCP,
    ]
    assert egress.rules[3].verdict == egress.rules[4].verdict == Redirect(15053)


def test_includes_do_not_narrow_queries_down() -> None:
    settings = RedirectSettings(dns=Dns.CAPTURE, include_egress_ports=(PortRange(80, 80),))
    assert "egress-dns-udp" in [rule.id for rule in chains(settings)[Table.NAT, Hook.OUTPUT].rules]


def test_exactly_the_captured_queries_are_tracked_apart() -> None:
    zones = chains(CAPTURE)[Table.RAW, Hook.OUTPUT]
    assert zones.jump.match == Match(protocol=Protocol.UDP, ports=(PortRange(53, 53),))
    assert [(rule.id, rule.verdict) for rule in zones.rules] == [
        ("zone-egress-proxy-uid-1337", Return()),
        ("zone-egress-exclude-uid-0", Return()),
        ("zone-egress-exclude-cidr-10.0.0.0/8", Return()),
        ("zone-egress-dns", Zone(ZONE)),
    ]


def test_the_queries_of_guests() -> None:
    found = chains(GUESTS)
    ingress = found[Table.NAT, Hook.PREROUTING]
    assert ingress.jump.match == Match()
    assert [rule.id for rule in ingress.rules][:6] == [
        "guest-docker0-dns-exclude-cidr-10.0.0.0/8",
        "guest-docker0-dns-exclude-cidr-10.0.0.0/8-udp",
        "guest-docker0-dns-udp",
        "guest-docker0-dns-tcp",
        "guest-docker0-exclude-cidr-10.0.0.0/8",
        "guest-docker0-everything",
    ]
    zones = found[Table.RAW, Hook.PREROUTING]
    assert [(rule.id, rule.verdict) for rule in zones.rules] == [
        ("zone-guest-docker0-dns-exclude-cidr-10.0.0.0/8", Return()),
        ("zone-guest-docker0-dns", Zone(ZONE)),
    ]
