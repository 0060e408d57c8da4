"""The order of the rules, which is what they mean."""

from __future__ import annotations

from ipaddress import ip_network

from hypothesis import given, strategies as st

from interceptor.config.redirect import Mark, PortRange, RedirectSettings, merge_ranges
from interceptor.model.record import replace
from interceptor.redirect.ipv6 import Ipv6
from interceptor.redirect.parts import PORTS_IN_A_RULE
from interceptor.redirect.plan import plan
from interceptor.redirect.rules import Answer, Chain, Hook, Jump, Protocol, Redirect, Reject, Return, Table

FULL = RedirectSettings(
    proxy_uids=(1337, 1338),
    proxy_gids=(7,),
    proxy_mark=Mark(0x539),
    include_ingress_ports=(PortRange(80, 80),),
    exclude_ingress_ports=(PortRange(22, 22),),
    include_egress_ports=(PortRange(443, 443),),
    exclude_egress_ports=(PortRange(25, 25),),
    include_egress_cidrs=(ip_network("10.0.0.0/8"), ip_network("fd00::/8")),
    exclude_egress_cidrs=(ip_network("10.1.0.0/16"),),
    exclude_ingress_cidrs=(ip_network("fd01::/16"),),
    exclude_uids=(0,),
    exclude_gids=(0,),
    exclude_interfaces=("eth1",),
)


def chain(
    settings: RedirectSettings, hook: Hook, ipv6: Ipv6 = Ipv6.CAPTURE, table: Table = Table.NAT
) -> Chain:
    (found,) = [chain for chain in plan(settings, ipv6).chains if chain.hook is hook and chain.table is table]
    return found


def ids(found: Chain) -> list[str]:
    return [rule.id for rule in found.rules]


def test_egress_without_flags() -> None:
    found = chain(RedirectSettings(), Hook.OUTPUT)
    assert ids(found) == ["egress-proxy-uid-1337", "egress-loopback", "egress-everything"]
    assert found.rules[-1].verdict == Redirect(15001)
    assert found.jump.verdict == Jump("INTERCEPTOR_EGRESS")


def test_egress_order_the_proxy_first_exclude_before_include() -> None:
    found = chain(FULL, Hook.OUTPUT)
    assert ids(found) == [
        "egress-proxy-mark",
        "egress-proxy-uid-1337",
        "egress-proxy-uid-1338",
        "egress-proxy-gid-7",
        "egress-exclude-uid-0",
        "egress-exclude-gid-0",
        "egress-exclude-interface-eth1",
        "egress-exclude-ports-1",
        "egress-exclude-cidr-10.1.0.0/16",
        "egress-loopback",
        "egress-include-ports-1",
        "egress-include-cidr-10.0.0.0/8",
        "egress-include-cidr-fd00::/8",
    ]
    assert {type(rule.verdict) for rule in found.rules[:-3]} == {Return}
    assert {type(rule.verdict) for rule in found.rules[-3:]} == {Redirect}
    assert {rule.match.protocol for rule in found.rules} == {Protocol.TCP}


def test_ingress_order_own_ports_first() -> None:
    found = chain(FULL, Hook.PREROUTING)
    assert ids(found) == [
        "ingress-own-ports-1",
        "ingress-exclude-interface-eth1",
        "ingress-exclude-cidr-fd01::/16",
        "ingress-exclude-ports-1",
        "ingress-include-ports-1",
    ]
    assert found.rules[-1].match.local_destination
    assert found.rules[-1].verdict == Redirect(15006)


def test_ingress_captures_only_what_is_for_this_host() -> None:
    assert chain(RedirectSettings(), Hook.PREROUTING).rules[-1].match.local_destination


def test_ipv6_left_alone_leaves_ipv4_only() -> None:
    ruleset = plan(FULL, Ipv6.LEAVE)
    assert {chain.families for chain in ruleset.chains} == {(4,)}
    assert not [rule for chain in ruleset.chains for rule in chain.rules if rule.match.family == 6]


def test_blocked_ipv6_has_the_same_exemptions_for_every_protocol() -> None:
    found = chain(FULL, Hook.OUTPUT, Ipv6.BLOCK, Table.FILTER)
    assert ids(found) == [
        "block-egress-icmpv6",
        "block-egress-proxy-mark",
        "block-egress-proxy-uid-1337",
        "block-egress-proxy-uid-1338",
        "block-egress-proxy-gid-7",
        "block-egress-exclude-uid-0",
        "block-egress-exclude-gid-0",
        "block-egress-exclude-interface-eth1",
        "block-egress-exclude-ports-1",
        "block-egress-exclude-ports-1-udp",
        "block-egress-loopback",
        "block-egress-include-ports-1",
        "block-egress-include-ports-1-other",
        "block-egress-include-cidr-fd00::/8",
        "block-egress-include-cidr-fd00::/8-other",
    ]
    assert found.jump.match.new
    rejects = [rule for rule in found.rules if isinstance(rule.verdict, Reject)]
    assert [(rule.match.protocol, rule.verdict) for rule in rejects] == [
        (Protocol.TCP, Reject(Answer.RESET)),
        (Protocol.UDP, Reject(Answer.UNREACHABLE)),
        (Protocol.TCP, Reject(Answer.RESET)),
        (None, Reject(Answer.UNREACHABLE)),
    ]
    assert {rule.flag for rule in rejects} == {"--ipv6"}


def test_blocked_ipv6_lets_this_host_reach_itself_on_ingress() -> None:
    found = chain(RedirectSettings(), Hook.INPUT, Ipv6.BLOCK, Table.FILTER)
    assert ids(found)[:2] == ["block-ingress-icmpv6", "block-ingress-loopback"]
    assert found.rules[1].match.in_interface == "lo"


ports = st.builds(
    lambda first, size: PortRange(first, min(first + size, 65535)),
    st.integers(1, 65535),
    st.sampled_from([0, 0, 3]),
)


@given(st.lists(ports, max_size=80))
def test_any_number_of_ports_fits_the_kernels_limit_and_none_is_lost(given_ranges: list[PortRange]) -> None:
    merged = merge_ranges(given_ranges)
    found = chain(RedirectSettings(exclude_egress_ports=merged), Hook.OUTPUT)
    groups = [rule.match.ports for rule in found.rules if rule.flag == "--exclude-egress-ports"]
    assert tuple(port for group in groups for port in group) == merged
    assert all(sum(1 + (first != last) for first, last in group) <= PORTS_IN_A_RULE for group in groups)


def test_rule_ids_are_unique_within_the_ruleset() -> None:
    for ipv6 in Ipv6:
        found = [rule.id for chain in plan(FULL, ipv6).chains for rule in (chain.jump, *chain.rules)]
        assert len(found) == len(set(found))


def test_the_listeners_are_where_the_settings_say() -> None:
    settings = replace(FULL, ingress_port=16006, egress_port=16001)
    assert chain(settings, Hook.PREROUTING).rules[-1].verdict == Redirect(16006)
    assert chain(settings, Hook.OUTPUT).rules[-1].verdict == Redirect(16001)
