"""What the installed rules do to real connections, for both families."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from interceptor.config.redirect import Backend
from interceptor.kernel import rules
from interceptor.redirect.render.iptables import rule_lines
from interceptor.redirect.render.nft import render as render_nft
from interceptor.redirect.rules import FAMILIES, Family, Ruleset
from tests.support.reporters import Answer, Attempt, connect, listening, send_datagram
from tests.support.rule_bed import FAR, LOOPBACK, Bed, printed, rule_bed

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("clean")]

PROXY = {"egress": [15001], "ingress": [15006]}
SERVERS = {"direct": [80, 8080, 15020]}


@pytest.fixture(scope="module")
def bed(backend: Backend) -> Iterator[Bed]:
    with rule_bed(backend) as made:
        with listening(made.app, {**PROXY, **SERVERS}), listening(made.peer, SERVERS):
            yield made


def one(bed: Bed, attempt: Attempt) -> Answer:
    return connect(bed.app, [attempt])[0]


def test_an_ordinary_user_is_captured_with_the_original_destination(bed: Bed, family: Family) -> None:
    bed.apply()
    answer = one(bed, Attempt(FAR[family], 80))
    assert answer == Answer("egress", printed(FAR[family], 80), bed.app.address(family))


def test_root_is_captured_like_any_user(bed: Bed, family: Family) -> None:
    bed.apply()
    assert one(bed, Attempt(FAR[family], 80, uid=0, gid=0)).listener == "egress"


def test_the_proxys_uid_gid_and_mark_are_direct(bed: Bed, family: Family) -> None:
    bed.apply(proxy_uid="1337,1000650000", proxy_gid="4242", proxy_mark="0x539/0xfff")
    far = Attempt(FAR[family], 80)
    answers = connect(
        bed.app,
        [
            far._replace(uid=1337),
            far._replace(uid=1000650000),
            far._replace(gid=4242),
            far._replace(mark=0x539),
            far._replace(mark=0x7000539),
            far._replace(mark=0x53A),
            far,
        ],
    )
    assert [answer.listener for answer in answers] == ["direct"] * 5 + ["egress"] * 2


def test_a_socket_made_before_becoming_the_proxy_is_not_exempt(bed: Bed, family: Family) -> None:
    bed.apply()
    assert one(bed, Attempt(FAR[family], 80, uid=1337, made_as=0)).listener == "egress"
    assert one(bed, Attempt(FAR[family], 80, uid=1000, made_as=1337)).listener == "direct"


def test_loopback_and_calls_to_oneself_are_direct_for_everyone(bed: Bed, family: Family) -> None:
    bed.apply()
    for uid in (1000, 1337):
        for host in (LOOPBACK[family], bed.app.address(family)):
            assert one(bed, Attempt(host, 8080, uid=uid)).listener == "direct"


def test_an_interface_is_matched_by_its_whole_name(bed: Bed, family: Family) -> None:
    """python-iptables masks IPv6 names one bit a byte, by which 'lo' is the start of 'bond0' too."""
    ends = ((bed.app, "10.10.0.2/24", "fd0a::2/64"), (bed.peer, "10.10.0.1/24", "fd0a::1/64"))
    there = ("type", "veth", "peer", "name", "bond0", "netns", bed.peer.name)
    bed.app.run("ip", "link", "add", "bond0", *there)
    try:
        for end, v4, v6 in ends:
            end.run("ip", "addr", "add", v4, "dev", "bond0")
            end.run("ip", "addr", "add", v6, "dev", "bond0", "nodad")
            end.run("ip", "link", "set", "bond0", "up")
        bed.apply()
        assert one(bed, Attempt({4: "10.10.0.1", 6: "fd0a::1"}[family], 80)).listener == "egress"
    finally:
        bed.app.run("ip", "link", "del", "bond0")


def test_all_of_127_is_loopback(bed: Bed) -> None:
    bed.apply()
    assert [
        a.listener for a in connect(bed.app, [Attempt("127.0.0.53", 8080), Attempt("127.9.9.9", 80)])
    ] == [
        "direct",
        "direct",
    ]


def test_a_peer_is_captured_on_ingress_with_its_own_address(bed: Bed, family: Family) -> None:
    bed.apply()
    own = bed.app.address(family)
    (answer,) = connect(bed.peer, [Attempt(own, 8080)])
    assert answer == Answer("ingress", printed(own, 8080), bed.peer.address(family))


def test_the_proxys_own_ports_are_reached_directly(bed: Bed, family: Family) -> None:
    bed.apply()
    own = bed.app.address(family)
    answers = connect(bed.peer, [Attempt(own, 15020), Attempt(own, 15001), Attempt(own, 15006)])
    assert [answer.listener for answer in answers] == ["direct", "egress", "ingress"]
    # Never redirected, yet SO_ORIGINAL_DST answers: the proxy must compare it with its own listeners.
    assert answers[2].original == printed(own, 15006)


def test_what_is_only_forwarded_is_not_the_apps(bed: Bed) -> None:
    bed.app.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    bed.app.run("ip", "route", "add", "unreachable", "203.0.113.0/24")
    try:
        bed.apply()
        assert connect(bed.peer, [Attempt("203.0.113.5", 80)]) == [Answer("unreachable")]
    finally:
        bed.app.run("ip", "route", "del", "unreachable", "203.0.113.0/24")


@pytest.mark.parametrize(
    "flags",
    [
        {"exclude_egress_ports": "22,79-81"},
        {"exclude_egress_cidrs": "192.0.2.0/24,2001:db8::/32"},
        {"exclude_uids": "1000"},
        {"exclude_gids": "1000"},
        {"exclude_interfaces": "eth+"},
        {"exclude_egress_ports": "80", "include_egress_ports": "80"},
        {"exclude_egress_cidrs": "192.0.2.7,2001:db8::7", "include_egress_cidrs": "*"},
        {"exclude_uids": "1000", "include_egress_ports": "80", "include_egress_cidrs": "*"},
        {"include_egress_ports": "81"},
        {"include_egress_cidrs": "198.51.100.0/24,2001:db9::/32"},
    ],
    ids=" ".join,
)
def test_what_is_excluded_or_not_included_is_direct_on_egress(
    bed: Bed, family: Family, flags: dict[str, str]
) -> None:
    bed.apply(**flags)
    assert one(bed, Attempt(FAR[family], 80)).listener == "direct"


@pytest.mark.parametrize(
    "flags",
    [
        {"include_egress_ports": "80"},
        {"include_egress_cidrs": "192.0.2.0/24,2001:db8::/32"},
        {"include_egress_ports": "80", "include_egress_cidrs": "198.51.100.0/24,2001:db9::/32"},
        {"exclude_egress_ports": "81", "exclude_uids": "0", "exclude_interfaces": "eth"},
    ],
    ids=" ".join,
)
def test_what_is_included_and_not_excluded_is_captured_on_egress(
    bed: Bed, family: Family, flags: dict[str, str]
) -> None:
    bed.apply(**flags)
    assert one(bed, Attempt(FAR[family], 80)).listener == "egress"


@pytest.mark.parametrize(
    ("flags", "listener"),
    [
        ({"exclude_ingress_ports": "8080"}, "direct"),
        ({"exclude_ingress_ports": "8000-8100", "include_ingress_ports": "8080"}, "direct"),
        ({"exclude_ingress_cidrs": "10.9.0.1,fd09::/64"}, "direct"),
        ({"exclude_interfaces": "eth0"}, "direct"),
        ({"include_ingress_ports": "80"}, "direct"),
        ({"include_ingress_ports": "8080"}, "ingress"),
        ({"exclude_ingress_ports": "80", "exclude_ingress_cidrs": "10.8.0.0/16,fd08::/16"}, "ingress"),
    ],
    ids=str,
)
def test_ingress_selection(bed: Bed, family: Family, flags: dict[str, str], listener: str) -> None:
    bed.apply(**flags)
    (answer,) = connect(bed.peer, [Attempt(bed.app.address(family), 8080)])
    assert answer.listener == listener


def test_twenty_ports_need_more_than_one_rule(bed: Bed, family: Family) -> None:
    bed.apply(exclude_egress_ports=",".join(str(port) for port in range(1000, 1040, 2)) + ",80")
    assert one(bed, Attempt(FAR[family], 80)).listener == "direct"


MANY_FLAGS = {
    "proxy_uid": "1337,1338",
    "proxy_gid": "7",
    "proxy_mark": "0x539/0xfff",
    "include_ingress_ports": "80,443,9000-9100",
    "exclude_ingress_ports": "22",
    "include_egress_ports": ",".join(map(str, range(2000, 2040, 2))),
    "exclude_egress_ports": "25,100-200",
    "include_egress_cidrs": "0.0.0.0/1,8000::/1,192.0.2.7",
    "exclude_egress_cidrs": "10.0.0.0/9,fd00::1",
    "exclude_ingress_cidrs": "172.16.0.0/12,fc00::/7",
    "exclude_uids": "0,4294967294",
    "exclude_gids": "100",
    "exclude_interfaces": "docker+,a23456789012345",
}


def test_the_kernel_has_exactly_what_the_plan_prints(bed: Bed, family: Family) -> None:
    if bed.backend is Backend.LEGACY:
        tables_are_as_printed(bed, family, bed.apply(**MANY_FLAGS).ruleset)
    else:
        table_is_as_printed(bed, bed.apply(**MANY_FLAGS, ipv6={4: "on", 6: "block"}[family]).ruleset)


def tables_are_as_printed(bed: Bed, family: Family, ruleset: Ruleset) -> None:
    tool = "iptables-legacy-save" if family == 4 else "ip6tables-legacy-save"
    saved = bed.app.run(tool).stdout.splitlines()
    for chain in ruleset.chains:
        there = [line.strip() for line in saved if line.startswith(f"-A {chain.name} ")]
        assert there == list(rule_lines(ruleset, chain, family))
        assert [line for line in saved if line.startswith(f"-A {chain.hook.value} ")] == [
            f'-A {chain.hook.value} -p tcp -m comment --comment "{ruleset.comment(chain.jump)}" -j {chain.name}'
        ]


def table_is_as_printed(bed: Bed, ruleset: Ruleset) -> None:
    """But for the default answer, which nft leaves out, and sets, which it wraps: that those are right, 'unchanged' says."""
    listed = bed.app.run("nft", "-s", "list", "table", "inet", "interceptor").stdout
    there = [line.strip() for line in listed.splitlines() if "comment" in line and "elements" not in line]
    printed_lines = render_nft(ruleset).replace(" with icmpx type port-unreachable", "").splitlines()
    wanted = [line.strip() for line in printed_lines if line.endswith('"')]
    assert [line for line in there if " counter " in line and not line.endswith(("}", ","))] == wanted


def test_ipv6_off_leaves_ipv6_alone_and_captures_ipv4(bed: Bed) -> None:
    applied = bed.apply(ipv6="off")
    assert [chain.families for chain in applied.ruleset.chains] == [(4,), (4,)]
    assert one(bed, Attempt(FAR[6], 80)).listener == "direct"
    assert one(bed, Attempt(FAR[4], 80)).listener == "egress"


def test_ipv6_block_refuses_what_it_would_have_captured(bed: Bed) -> None:
    bed.apply(ipv6="block", exclude_egress_ports="8080")
    own, far = bed.app.address(6), Attempt(FAR[6], 80)
    answers = connect(
        bed.app,
        [far, far._replace(uid=1337), far._replace(port=8080), Attempt("::1", 80), Attempt(own, 80)],
    )
    assert [answer.listener for answer in answers] == ["refused", "direct", "direct", "direct", "direct"]
    incoming = connect(bed.peer, [Attempt(own, 8080), Attempt(own, 15020)])
    assert [answer.listener for answer in incoming] == ["refused", "direct"]
    assert one(bed, Attempt(FAR[4], 80)).listener == "egress"
    bed.app.run("ping", "-6", "-c1", "-W2", FAR[6])
    bed.peer.run("ping", "-6", "-c1", "-W2", own)


def test_udp_is_not_captured_and_ipv6_block_refuses_it(bed: Bed) -> None:
    bed.apply()
    before = {family: hits(bed, family) for family in FAMILIES}
    for family in FAMILIES:
        assert send_datagram(bed.app, FAR[family]) == "ConnectionRefusedError"  # by the peer: nobody listens
    assert {family: hits(bed, family) for family in FAMILIES} == before
    bed.apply(ipv6="block")
    assert send_datagram(bed.app, FAR[6]) == "PermissionError"  # a local refusal: send() says EPERM
    assert hits(bed, 6)["block-egress-everything-other"] == 1


def hits(bed: Bed, family: Family) -> dict[str, int]:
    chains = rules.status(bed.app.path).of(family)
    return {hit.tag.rule: hit.packets for chain in chains for hit in chain.rules if hit.tag}


def test_status_counts_the_connections_each_rule_decided(bed: Bed, family: Family) -> None:
    bed.apply()
    connect(bed.app, [Attempt(FAR[family], 80)] * 3 + [Attempt(FAR[family], 80, uid=1337)])
    counted = hits(bed, family)
    assert (counted["egress-everything"], counted["egress-proxy-uid-1337"]) == (3, 1)
