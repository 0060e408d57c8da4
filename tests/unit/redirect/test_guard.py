"""What the guard refuses, for each flag that asks for it, and what it leaves alone."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from interceptor.config.redirect import Dns, Mark, Mode, PortRange, Quic, RedirectSettings
from interceptor.model.record import replace
from interceptor.redirect.guard import chains
from interceptor.redirect.rules import Answer, Chain, Hook, Match, Protocol, Reject, Rule

STRICT = RedirectSettings(strict=True)
QUIC = RedirectSettings(quic=Quic.BLOCK)
DNS = replace(STRICT, dns=Dns.CAPTURE)
GUESTS = replace(STRICT, virtual_interfaces=("docker0",))


def guard(settings: RedirectSettings, *, blocked: bool = False) -> dict[Hook, Chain]:
    return {chain.hook: chain for chain in chains(settings, (6,) if blocked else (4, 6), blocked=blocked)}


def ids(chain: Chain) -> list[str]:
    return [rule.id for rule in chain.rules]


def rule(chain: Chain, name: str) -> Rule:
    (found,) = [rule for rule in chain.rules if rule.id == name]
    return found


def test_without_flags_there_is_none() -> None:
    assert guard(RedirectSettings(dns=Dns.CAPTURE, virtual_interfaces=("docker0",))) == {}


def test_strict_egress_lets_pass_what_was_captured_and_what_is_exempt() -> None:
    egress = guard(replace(STRICT, exclude_egress_ports=(PortRange(22, 22),)))[Hook.OUTPUT]
    assert ids(egress) == [
        "guard-egress-captured",
        "guard-egress-proxy-uid-1337",
        "guard-egress-exclude-ports-1",
        "guard-egress-loopback",
        "guard-egress-everything",
    ]
    assert egress.jump.match == Match(new=True, protocol=Protocol.TCP)
    assert {rule.match.protocol for rule in egress.rules} == {Protocol.TCP}
    assert egress.rules[0].match == Match(
        protocol=Protocol.TCP, rewritten=True, ports=(PortRange(15001, 15001),)
    )
    assert (egress.rules[-1].verdict, egress.rules[-1].flag) == (Reject(Answer.RESET), "--strict")


def test_strict_ingress_refuses_the_listeners_before_any_exemption() -> None:
    ingress = guard(replace(STRICT, exclude_interfaces=("eth1",)))[Hook.INPUT]
    assert ids(ingress) == [
        "guard-ingress-loopback",
        "guard-ingress-captured",
        "guard-ingress-listeners",
        "guard-ingress-own-ports-1",
        "guard-ingress-exclude-interface-eth1",
        "guard-ingress-everything",
    ]
    assert [str(ports) for ports in ingress.rules[2].match.ports] == ["15001", "15006", "15053"]
    assert ingress.rules[1].match.ports == (PortRange(15006, 15006),)
    assert ingress.rules[-1].match.local_destination


def test_kept_addresses_are_known_by_the_connections_mark() -> None:
    ingress = guard(replace(STRICT, mode=Mode.TPROXY))[Hook.INPUT]
    assert "guard-ingress-captured" not in ids(ingress)
    taken = rule(ingress, "guard-ingress-taken").match
    assert taken == Match(protocol=Protocol.TCP, connection_mark=Mark(0x53A, 0xFFF))


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (QUIC, ["guard-egress-quic-everything"]),
        (
            replace(QUIC, include_egress_ports=(PortRange(80, 80),), include_egress_cidrs=(ip_network("10.0.0.0/8"),)),
            ["guard-egress-quic-include-cidr-10.0.0.0/8"],
        ),
        (
            replace(QUIC, include_egress_ports=(PortRange(400, 500),)),
            ["guard-egress-quic-include-ports-1"],
        ),
        (replace(QUIC, include_egress_ports=(PortRange(80, 80),)), []),
    ],
)  # fmt: skip
def test_quic_is_refused_where_tcp_443_would_be_captured(
    settings: RedirectSettings, wanted: list[str]
) -> None:
    found = guard(settings)
    assert list(found) == [Hook.OUTPUT]
    egress = found[Hook.OUTPUT]
    refused = [rule for rule in egress.rules if isinstance(rule.verdict, Reject)]
    assert [rule.id for rule in refused] == wanted
    assert egress.jump.match == Match(new=True, protocol=Protocol.UDP)
    for each in refused:
        assert each.verdict == Reject(Answer.UNREACHABLE)
        assert (each.match.protocol, each.match.ports) == (Protocol.UDP, (PortRange(443, 443),))
        assert each.flag == "--quic"


def test_strict_with_captured_name_queries_refuses_those_that_were_missed_also_on_loopback() -> None:
    found = guard(DNS)
    egress = ids(found[Hook.OUTPUT])
    assert egress.index("guard-egress-proxy-uid-1337") < egress.index("guard-egress-dns-udp")
    assert egress.index("guard-egress-dns-tcp") < egress.index("guard-egress-loopback")
    captured = rule(found[Hook.OUTPUT], "guard-egress-captured-udp").match
    assert captured.ports == (PortRange(15001, 15001), PortRange(15053, 15053))
    assert found[Hook.OUTPUT].jump.match == Match(new=True)
    listener = rule(found[Hook.INPUT], "guard-ingress-listeners-udp")
    assert (listener.match.ports, listener.verdict) == (
        (PortRange(15053, 15053),),
        Reject(Answer.UNREACHABLE),
    )


def test_guests_are_guarded_where_they_are_forwarded() -> None:
    found = guard(
        replace(GUESTS, exclude_interfaces=("eth1",), exclude_egress_cidrs=(ip_network("10.0.0.0/8"),))
    )
    forward = found[Hook.FORWARD]
    assert ids(forward) == [
        "guard-forward-exclude-interface-eth1",
        "guard-forward-docker0-exclude-cidr-10.0.0.0/8",
        "guard-forward-docker0-everything",
    ]
    assert {rule.match.in_interface for rule in forward.rules} == {"eth1", "docker0"}
    arrived = rule(found[Hook.INPUT], "guard-ingress-captured").match.ports
    assert arrived == (PortRange(15001, 15001), PortRange(15006, 15006))


def test_the_name_queries_of_guests_are_guarded_too() -> None:
    settings = replace(GUESTS, dns=Dns.CAPTURE, exclude_egress_cidrs=(ip_network("10.0.0.0/8"),))
    found = guard(settings)
    assert ids(found[Hook.FORWARD])[:4] == [
        "guard-forward-docker0-dns-exclude-cidr-10.0.0.0/8",
        "guard-forward-docker0-dns-exclude-cidr-10.0.0.0/8-udp",
        "guard-forward-docker0-dns-udp",
        "guard-forward-docker0-dns-tcp",
    ]
    arrived = rule(found[Hook.INPUT], "guard-ingress-captured-udp").match.ports
    assert arrived[-1] == PortRange(15053, 15053)


def test_blocked_ipv6_is_strict_about_the_listeners_only_when_asked() -> None:
    blocked = guard(RedirectSettings(), blocked=True)
    assert "block-ingress-listeners" not in ids(blocked[Hook.INPUT])
    both = guard(GUESTS, blocked=True)
    assert "block-ingress-listeners" in ids(both[Hook.INPUT])
    assert not [name for chain in both.values() for name in ids(chain) if "captured" in name]
    assert {chain.jump.match for chain in both.values()} == {Match(new=True)}
    assert ids(both[Hook.FORWARD])[-1] == "block-forward-docker0-everything-other"
