"""The verdict for one described connection, and the rule and flag behind it."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from interceptor.config.redirect import Dns, Mark, Mode, PortRange, Quic, RedirectSettings
from interceptor.model.record import replace
from interceptor.redirect.ipv6 import Ipv6
from interceptor.redirect.plan import plan
from interceptor.redirect.rules import Match, Protocol
from interceptor.redirect.simulate import Connection, Explanation, explain, matches
from tests.support.connections import IN, OUT

V6 = {"source": ip_address("fd09::2"), "destination": ip_address("2001:db8::7")}


@pytest.mark.parametrize(
    ("changes", "verdict", "rule"),
    [
        ({}, "egress", "egress-everything"),
        ({"uid": 1337}, "direct", "egress-proxy-uid-1337"),
        ({"interface": "lo", "local": True}, "direct", "egress-loopback"),
        ({"protocol": Protocol.UDP}, "direct", None),
        (V6, "egress", "egress-everything"),
    ],
)
def test_egress_without_flags(changes: dict[str, object], verdict: str, rule: str | None) -> None:
    connection = replace(OUT, **changes)  # type: ignore[arg-type]  # the fields of a Connection
    found = explain(plan(RedirectSettings()), connection)
    assert (found.verdict, found.rule) == (verdict, rule)


def test_ingress() -> None:
    ruleset = plan(RedirectSettings())
    assert explain(ruleset, IN).verdict == "ingress"
    assert explain(ruleset, replace(IN, port=15020)).rule == "ingress-own-ports-1"
    assert explain(ruleset, replace(IN, local=False)) == Explanation(
        "direct", None, "no rule captures it", None
    )


def test_the_flag_that_decided_is_named() -> None:
    ruleset = plan(RedirectSettings(exclude_egress_ports=(PortRange(400, 500),)))
    assert explain(ruleset, OUT) == Explanation(
        "direct", "egress-exclude-ports-1", "these ports are excluded", "--exclude-egress-ports"
    )


def test_blocked_ipv6_is_rejected_whatever_the_protocol() -> None:
    ruleset = plan(RedirectSettings(), Ipv6.BLOCK)
    out = replace(OUT, source=ip_address("fd09::2"), destination=ip_address("2001:db8::7"))
    assert explain(ruleset, out).rule == "block-egress-everything"
    assert explain(ruleset, replace(out, protocol=Protocol.UDP)).rule == "block-egress-everything-other"
    assert explain(ruleset, replace(out, protocol=Protocol.ICMPV6)).verdict == "direct"
    assert explain(ruleset, replace(out, uid=1337)).verdict == "direct"
    assert explain(ruleset, OUT).verdict == "egress"


def test_ipv6_left_alone_is_direct() -> None:
    out = replace(OUT, source=ip_address("fd09::2"), destination=ip_address("2001:db8::7"))
    assert explain(plan(RedirectSettings(), Ipv6.LEAVE), out).rule is None


@pytest.mark.parametrize(
    ("match", "connection", "fits"),
    [
        (Match(), OUT, True),
        (Match(protocol=Protocol.UDP), OUT, False),
        (Match(out_interface="eth0"), OUT, True),
        (Match(out_interface="eth+"), OUT, True),
        (Match(out_interface="eth"), OUT, False),
        (Match(in_interface="eth0"), OUT, False),
        (Match(in_interface="eth0"), IN, True),
        (Match(out_interface="eth0"), IN, False),
        (Match(source=ip_network("10.9.0.0/16")), OUT, True),
        (Match(source=ip_network("fd00::/8")), OUT, False),
        (Match(destination=ip_network("192.0.2.0/24")), OUT, True),
        (Match(destination=ip_network("192.0.3.0/24")), OUT, False),
        (Match(ports=(PortRange(1, 2), PortRange(440, 443))), OUT, True),
        (Match(ports=(PortRange(1, 2),)), OUT, False),
        (Match(uid=1000), OUT, True),
        (Match(uid=0), OUT, False),
        (Match(uid=0), IN, False),
        (Match(gid=1000), OUT, True),
        (Match(gid=7), OUT, False),
        (Match(mark=Mark(5)), OUT, False),
        (Match(mark=Mark(5)), replace(OUT, mark=5), True),
        (Match(mark=Mark(5)), replace(OUT, mark=0x15), False),
        (Match(mark=Mark(5, 0xF)), replace(OUT, mark=0x15), True),
        (Match(local_destination=True), OUT, False),
        (Match(local_destination=True), IN, True),
        (Match(new=True), OUT, True),
        (Match(syn=True), OUT, True),
        (Match(remote_destination=True), OUT, True),
        (Match(remote_destination=True), IN, False),
        (Match(remote_source=True), OUT, False),
        (Match(reply=True), OUT, False),
        (Match(rewritten=True), OUT, False),
        (Match(connection_mark=Mark(5)), OUT, False),
        (Match(gid=7), replace(OUT, groups=frozenset({7})), False),
        (Match(gid=7, supplementary=True), replace(OUT, groups=frozenset({7})), True),
        (Match(gid=7, supplementary=True), replace(OUT, gid=7), True),
        (Match(gid=7, supplementary=True), OUT, False),
    ],
)
def test_each_field_of_a_match(match: Match, connection: Connection, fits: bool) -> None:
    assert matches(match, connection) is fits


def verdict(
    settings: RedirectSettings, connection: Connection, ipv6: Ipv6 = Ipv6.CAPTURE
) -> tuple[str, str | None]:
    found = explain(plan(settings, ipv6), connection)
    return found.verdict, found.rule


def test_quic_is_refused_where_it_is_blocked_and_captured_tcp_is_not() -> None:
    settings = RedirectSettings(quic=Quic.BLOCK, strict=True)
    quic = replace(OUT, protocol=Protocol.UDP)
    assert verdict(settings, quic) == ("rejected", "guard-egress-quic-everything")
    assert verdict(settings, replace(quic, port=53)) == ("direct", None)
    assert verdict(settings, replace(quic, uid=1337)) == ("direct", "guard-egress-proxy-uid-1337")
    assert verdict(settings, OUT) == ("egress", "egress-everything")


def test_the_proxys_listeners_are_not_reached_from_outside_when_strict() -> None:
    settings = RedirectSettings(strict=True)
    assert verdict(settings, replace(IN, port=15006)) == ("rejected", "guard-ingress-listeners")
    assert verdict(settings, replace(IN, port=15020)) == ("direct", "ingress-own-ports-1")
    assert verdict(settings, IN) == ("ingress", "ingress-everything")


def test_name_queries_are_captured_also_towards_this_host() -> None:
    settings = RedirectSettings(dns=Dns.CAPTURE, exclude_uids=(7,))
    near = replace(OUT, port=53, destination=ip_address("127.0.0.53"), interface="lo", local=True)
    for connection in (near, replace(OUT, port=53)):
        assert verdict(settings, connection) == ("egress", "egress-dns-tcp")
        query = replace(connection, protocol=Protocol.UDP)
        assert verdict(settings, query) == ("egress", "egress-dns-udp")
        assert verdict(settings, replace(query, uid=7)) == ("direct", "egress-exclude-uid-7")
        assert verdict(settings, replace(query, uid=1337))[0] == "direct"


def test_kept_addresses_are_captured_before_nat() -> None:
    settings = RedirectSettings(mode=Mode.TPROXY, exclude_ingress_ports=(PortRange(22, 22),))
    assert verdict(settings, IN) == ("ingress", "ingress-everything")
    assert verdict(settings, replace(IN, port=22)) == ("direct", "ingress-exclude-ports-1")
    assert verdict(settings, OUT) == ("egress", "egress-everything")


def test_guests_count_as_egress_towards_other_hosts_only() -> None:
    settings = RedirectSettings(virtual_interfaces=("docker0",), strict=True, quic=Quic.BLOCK)
    guest = replace(IN, interface="docker0", local=False, destination=ip_address("192.0.2.7"), port=443)
    assert verdict(settings, guest) == ("egress", "guest-docker0-everything")
    assert verdict(settings, replace(guest, interface="eth0")) == ("direct", None)
    assert verdict(settings, replace(guest, local=True)) == ("ingress", "ingress-everything")
    quic = replace(guest, protocol=Protocol.UDP)
    assert verdict(settings, quic) == ("rejected", "guard-forward-quic-docker0-everything")
