"""Which connections prove a ruleset, and what their answers mean."""

from __future__ import annotations

import re
from ipaddress import ip_network

import pytest

from interceptor.config.redirect import Dns, Ipv6Policy, Mark, PortRange, Quic, RedirectSettings, UserPorts
from interceptor.model.connection import Direction
from interceptor.redirect.ipv6 import Ipv6
from interceptor.redirect.plan import plan
from interceptor.redirect.probes import (
    FAR,
    NEAR,
    OF_A_KIND,
    Answer,
    Judged,
    Probe,
    cause,
    choose,
    judge,
    matrix,
)
from interceptor.redirect.simulate import Explanation

EVERYTHING = RedirectSettings(
    proxy_uids=(1337, 1338),
    proxy_gids=(4242,),
    proxy_mark=Mark(0x539, 0xFFF),
    exclude_uids=(5000,),
    exclude_gids=(77,),
    exclude_interfaces=("docker0",),
    exclude_egress_ports=(PortRange(25, 25), PortRange(8000, 8100)),
    exclude_egress_cidrs=(ip_network("10.96.0.1/32"), ip_network("fd00:96::/64")),
    exclude_ingress_ports=(PortRange(22, 22),),
    exclude_ingress_cidrs=(ip_network("172.16.0.0/12"),),
)


def paths(settings: RedirectSettings, ipv6: Ipv6 = Ipv6.CAPTURE) -> dict[tuple[int, str, str], Probe]:
    found = matrix(plan(settings, ipv6), settings).probes
    return {(probe.family, probe.direction.value, probe.path): probe for probe in found}


def test_the_plain_paths_of_each_family() -> None:
    found = paths(RedirectSettings())
    assert {key: (probe.expected, probe.rule) for key, probe in found.items() if key[0] == 6} == {
        (6, "ingress", "ingress"): ("captured", "ingress-everything"),
        (6, "egress", "egress"): ("captured", "egress-everything"),
        (6, "egress", "proxy uid 1337"): ("direct", "egress-proxy-uid-1337"),
        (6, "egress", "own address"): ("direct", "egress-loopback"),
    }
    assert {key[1:] for key in found if key[0] == 4} == {key[1:] for key in found if key[0] == 6}
    assert [probe.inside for probe in found.values() if probe.path == "own address"] == [True, True]


def test_every_exemption_is_a_path_of_its_own_and_direct() -> None:
    found = paths(EVERYTHING)
    exempt = {key: probe for key, probe in found.items() if key[2] not in {"ingress", "egress"}}
    assert {path for family, _, path in exempt if family == 4} == {
        "proxy uid 1337", "proxy uid 1338", "proxy gid 4242", "proxy mark 0x539/0xfff", "excluded uid 5000",
        "excluded gid 77", "excluded port 25", "excluded port 8000-8100", "excluded CIDR 10.96.0.1/32", "own address",
        "excluded port 22", "excluded CIDR 172.16.0.0/12",
    }  # fmt: skip
    assert {probe.expected for probe in exempt.values()} == {"direct"}
    assert exempt[4, "egress", "excluded CIDR 10.96.0.1/32"].host == "10.96.0.1"
    assert exempt[6, "egress", "excluded CIDR fd00:96::/64"].host == "fd00:96::ffff:ffff:ffff:fffe"
    assert exempt[4, "ingress", "excluded CIDR 172.16.0.0/12"].source == "172.31.255.254"
    assert exempt[4, "egress", "proxy mark 0x539/0xfff"].mark == 0x539
    assert exempt[4, "egress", "excluded gid 77"].gid == 77


def test_what_no_probe_can_try_is_told() -> None:
    assert matrix(plan(EVERYTHING), EVERYTHING).untried == (
        "the excluded interface docker0: the probe's link cannot have its name",
    )
    left_alone = matrix(plan(RedirectSettings(), Ipv6.LEAVE), RedirectSettings())
    assert {probe.family for probe in left_alone.probes} == {4}
    assert left_alone.untried[0] == "egress over IPv6: nothing is captured that could be tried" or (
        left_alone.untried[0] == "ingress over IPv6: nothing is captured that could be tried"
    )
    many = RedirectSettings(exclude_uids=tuple(range(1, OF_A_KIND + 2)))
    found = matrix(plan(many), many)
    assert found.untried == (f"all but {OF_A_KIND} of --exclude-uids",)
    assert len([probe for probe in found.probes if probe.path.startswith("excluded uid")]) == 2 * OF_A_KIND


def test_blocked_ipv6_must_be_refused_and_is_not_chosen_as_captured() -> None:
    settings = RedirectSettings(ipv6=Ipv6Policy.BLOCK)
    found = paths(settings, Ipv6.BLOCK)
    assert found[6, "egress", "egress"].expected == found[6, "ingress", "ingress"].expected == "refused"
    assert found[6, "egress", "proxy uid 1337"].expected == "direct"
    assert {probe.family for probe in choose(plan(settings, Ipv6.BLOCK), settings)} == {4}


def test_the_ordinary_user_is_nobody_who_is_exempt() -> None:
    exempt = (0, 1, 65534)
    settings = RedirectSettings(exclude_uids=exempt, exclude_gids=(2, 3))
    assert {probe.uid for probe in choose(plan(settings), settings)} == {4}


@pytest.mark.parametrize(
    ("settings", "host", "port"),
    [
        (RedirectSettings(), FAR[4], 4),
        (RedirectSettings(include_egress_cidrs=(ip_network("10.1.0.0/16"),)), "10.1.255.254", 4),
        (RedirectSettings(include_egress_ports=(PortRange(443, 443),)), FAR[4], 443),
        (
            RedirectSettings(exclude_egress_ports=(PortRange(1, 41), PortRange(43, 65535))),
            FAR[4],
            42,
        ),
    ],
)
def test_something_captured_is_found(settings: RedirectSettings, host: str, port: int) -> None:
    (probe,) = [
        probe
        for probe in choose(plan(settings), settings)
        if (probe.direction, probe.family) == (Direction.EGRESS, 4)
    ]
    assert (probe.host, probe.port) == (host, port)


def test_nothing_is_chosen_where_nothing_is_captured() -> None:
    everywhere = (ip_network("0.0.0.0/0"), ip_network("::/0"))
    settings = RedirectSettings(exclude_egress_cidrs=everywhere, exclude_ingress_cidrs=everywhere)
    assert choose(plan(settings), settings) == ()
    assert matrix(plan(settings), settings).probes == ()


@pytest.mark.parametrize(
    "network", ["127.0.0.0/8", "224.0.0.0/4", "169.254.0.0/16", "240.0.0.0/4", "0.0.0.0/8"]
)
def test_networks_without_an_address_for_a_link_are_not_tried(network: str) -> None:
    found = paths(RedirectSettings(exclude_egress_cidrs=(ip_network(network),)))
    assert not [key for key in found if "CIDR" in key[2]]


EGRESS_4 = paths(RedirectSettings())[4, "egress", "egress"]
INGRESS_6 = paths(RedirectSettings())[6, "ingress", "ingress"]


@pytest.mark.parametrize(
    ("probe", "answer", "judged"),
    [
        (EGRESS_4, Answer("end", 40000, None), Judged("direct")),
        (EGRESS_4, Answer("end", 40001, None), Judged("captured", "by the proxy")),
        (
            EGRESS_4,
            Answer("proxy", 40000, f"{FAR[4]}:4"),
            Judged("captured", "with its original destination"),
        ),
        (
            INGRESS_6,
            Answer("proxy", 1, f"[{NEAR[6]}]:4"),
            Judged("captured", "with its original destination"),
        ),
        (
            EGRESS_4,
            Answer("proxy", 40000, "10.0.0.1:80"),
            Judged("misdirected", "the original destination came out as 10.0.0.1:80"),
        ),
        (
            EGRESS_4,
            Answer("proxy", 40000, None),
            Judged("misdirected", "the original destination came out as None"),
        ),
    ],
)
def test_what_an_answer_proves(probe: Probe, answer: Answer, judged: Judged) -> None:
    assert judge(probe, answer, 40000) == judged


@pytest.mark.parametrize(
    ("probe", "found", "dropping", "said"),
    [
        (
            EGRESS_4,
            Explanation("rejected", "rule 7", "ufw says so", None),
            [],
            r"rejected by rule 7: ufw says so",
        ),
        (
            INGRESS_6,
            Explanation("rejected", None, "it is the policy", None),
            ["x"],
            r"make it rejected: it is",
        ),
        (EGRESS_4, Explanation("direct", None, "no rule", None), [], "make it direct: no rule"),
        (EGRESS_4, Explanation("egress", "e", "", None), [], "no rule of this namespace"),
        (
            EGRESS_4,
            Explanation("egress", "e", "", None),
            ["legacy filter INPUT"],
            "established connections, or is dropped by the policy of legacy filter INPUT",
        ),
        (INGRESS_6, Explanation("ingress", "e", "", None), ["a", "b"], "and neighbour discovery, .* of a, b"),
    ],
)
def test_the_cause_of_a_lost_probe(probe: Probe, found: Explanation, dropping: list[str], said: str) -> None:
    assert re.search(said, cause(probe, "lost", found, dropping))


def test_what_is_not_lost_is_not_dropped_on_its_way_back() -> None:
    found = Explanation("egress", "e", "", None)
    assert "no rule" in cause(EGRESS_4, "misdirected", found, ["legacy filter INPUT"])


def test_ports_of_users_and_captured_name_queries_are_paths() -> None:
    of_users = (
        UserPorts(1000, (PortRange(443, 443), PortRange(8000, 8100))),
        UserPorts(7, (PortRange(53, 53),)),
    )
    found = paths(RedirectSettings(exclude_egress_ports_for_uids=of_users, dns=Dns.CAPTURE))
    asked = [
        found[4, "egress", f"excluded port {port}"]
        for port in ("443 for uid 1000", "8000-8100 for uid 1000", "53 for uid 7")
    ]
    assert [(probe.port, probe.uid, probe.expected) for probe in asked] == [
        (443, 1000, "direct"), (8000, 1000, "direct"), (53, 7, "direct")
    ]  # fmt: skip
    query = found[6, "egress", "name query over TCP"]
    assert (query.port, query.expected, query.rule) == (53, "captured", "egress-dns-tcp")


def test_what_no_probe_can_show_is_said() -> None:
    settings = RedirectSettings(
        exclude_interfaces=("docker0",), virtual_interfaces=("vnet+",), exclude_gids=(7,), supplementary_groups=True,
        dns=Dns.CAPTURE, quic=Quic.BLOCK,
    )  # fmt: skip
    said = matrix(plan(settings), settings).untried
    assert [sentence.partition(":")[0] for sentence in said] == [
        "the excluded interface docker0", "guests behind vnet+", "supplementary groups", "name queries over UDP", "QUIC"
    ]  # fmt: skip
