"""The strict guard on a real kernel: a refusal where there would be a leak, and nothing else broken."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from interceptor.config.redirect import from_command_line
from interceptor.config.redirect_flags import parse
from interceptor.kernel import rules
from interceptor.kernel.users import NAMES
from interceptor.redirect.rules import FAMILIES, Family
from tests.support.netns import Topology, topology
from tests.support.reporters import Attempt, connect, listening, send_datagram

pytestmark = pytest.mark.netns

FAR = {4: "192.0.2.7", 6: "2001:db8::7"}  # the peer's, reached by the default route
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
SERVERS = {"direct": [80, 8080, 9090, 15020]}
PROXY = {"egress": [15001], "ingress": [15006]}


@pytest.fixture(scope="module")
def bed() -> Iterator[Topology]:
    with topology() as made:
        for address in FAR.values():
            made.peer.run("ip", "addr", "add", address, "dev", "lo")
        with listening(made.app, {**PROXY, **SERVERS}), listening(made.peer, SERVERS):
            yield made


@pytest.fixture(autouse=True)
def clean(bed: Topology) -> Iterator[None]:
    yield
    rules.remove(bed.app.path)


@pytest.fixture(params=FAMILIES, ids=["v4", "v6"])
def family(request: pytest.FixtureRequest) -> Family:
    found: Family = request.param
    return found


def apply(bed: Topology, **flags: str) -> None:
    texts = {name.replace("_", "-"): [text] for name, text in flags.items()}
    rules.apply(parse([from_command_line(texts)], NAMES).settings, bed.app.path)


def flush_nat(bed: Topology, family: Family) -> None:
    """What another program does to us."""
    bed.app.run("iptables-legacy" if family == 4 else "ip6tables-legacy", "-t", "nat", "-F")


def egress(bed: Topology, *attempts: Attempt) -> list[str]:
    return [answer.listener for answer in connect(bed.app, attempts)]


def ingress(bed: Topology, family: Family, *ports: int) -> list[str]:
    attempts = [Attempt(bed.app.address(family), port) for port in ports]
    return [answer.listener for answer in connect(bed.peer, attempts)]


def ping(bed: Topology, family: Family) -> None:
    """Both ways, neighbour discovery included."""
    for near, host in ((bed.app, FAR[family]), (bed.peer, bed.app.address(family))):
        near.run("ip", "neigh", "flush", "dev", "eth0")
        near.run("ping", f"-{family}", "-c1", "-W2", host)


def test_what_is_captured_exempt_or_loopback_works_as_without(bed: Topology, family: Family) -> None:
    apply(bed, strict="yes", exclude_egress_ports="8080", exclude_ingress_ports="9090")
    far = Attempt(FAR[family], 80)
    own = Attempt(bed.app.address(family), 8080)
    assert egress(
        bed, far, far._replace(uid=1337), far._replace(port=8080), own, Attempt(LOOPBACK[family], 80)
    ) == ["egress", "direct", "direct", "direct", "direct"]
    assert ingress(bed, family, 80, 8080, 9090, 15020) == ["ingress", "ingress", "direct", "direct"]
    ping(bed, family)


def test_flushed_nat_rules_are_a_leak_without_the_guard(bed: Topology, family: Family) -> None:
    apply(bed)
    flush_nat(bed, family)
    assert egress(bed, Attempt(FAR[family], 80)) == ["direct"]
    assert ingress(bed, family, 8080) == ["direct"]


def test_flushed_nat_rules_are_a_refusal_with_the_guard(bed: Topology, family: Family) -> None:
    apply(bed, strict="yes", exclude_egress_ports="8080", exclude_ingress_ports="9090")
    flush_nat(bed, family)
    far = Attempt(FAR[family], 80)
    assert egress(bed, far, far._replace(uid=0, gid=0)) == ["refused", "refused"]
    assert ingress(bed, family, 80, 8080) == ["refused", "refused"]
    assert (
        egress(
            bed,
            far._replace(uid=1337),
            far._replace(port=8080),
            Attempt(bed.app.address(family), 8080),
            Attempt(LOOPBACK[family], 80),
        )
        == ["direct"] * 4
    )
    assert ingress(bed, family, 9090, 15020) == ["direct", "direct"]
    ping(bed, family)


def test_established_flows_outlive_the_flush(bed: Topology, family: Family) -> None:
    apply(bed, strict="yes", egress_port="16001", ingress_port="16006")
    for port, where, host in ((16001, bed.app, FAR[family]), (16006, bed.peer, bed.app.address(family))):
        with bed.app.call(lambda port=port: listener(port)) as server:  # type: ignore[misc]  # binds the loop's value
            flow = where.call(lambda host=host: socket.create_connection((host, 80), timeout=5))  # type: ignore[misc]
            accepted, _ = server.accept()
            with flow, accepted:
                flush_nat(bed, family)
                flow.sendall(b"there")
                assert accepted.recv(8) == b"there"
                accepted.sendall(b"and back")
                assert flow.recv(8) == b"and back"
        rules.remove(bed.app.path)
        apply(bed, strict="yes", egress_port="16001", ingress_port="16006")


def listener(port: int) -> socket.socket:
    made = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    made.settimeout(5)
    return made


def test_the_proxys_listeners_are_out_of_reach_from_outside(bed: Topology, family: Family) -> None:
    apply(bed)
    assert ingress(bed, family, 15001, 15006) == ["egress", "ingress"]
    apply(bed, strict="yes", exclude_interfaces="eth0", exclude_ingress_cidrs="10.9.0.1,fd09::1")
    assert ingress(bed, family, 15001, 15006) == ["refused", "refused"]
    assert ingress(bed, family, 8080, 15020) == ["direct", "direct"]
    assert egress(bed, Attempt(bed.app.address(family), 15006)) == [
        "ingress"
    ]  # this host: the proxy's to refuse


def test_a_foreign_redirect_that_wins_is_a_refusal(bed: Topology, family: Family) -> None:
    apply(bed, strict="yes")
    tool, elsewhere = ("iptables", "192.0.2.7:80") if family == 4 else ("ip6tables", "[2001:db8::7]:80")
    rule = ("OUTPUT", "-p", "tcp", "--dport", "7", "-j", "DNAT", "--to-destination", elsewhere)
    bed.app.run(f"{tool}-legacy", "-t", "nat", "-I", *rule)
    try:
        assert egress(bed, Attempt(FAR[family], 7)) == ["refused"]
        assert egress(bed, Attempt(FAR[family], 7, uid=1337)) == ["direct"]
    finally:
        bed.app.run(f"{tool}-legacy", "-t", "nat", "-D", *rule)


REFUSED_HERE = "PermissionError"  # send() says EPERM when our own rule refuses
REFUSED_THERE = "ConnectionRefusedError"  # the peer has nobody at the port


def test_quic_is_refused_where_asked_and_tcp_goes_on(bed: Topology, family: Family) -> None:
    apply(bed)
    assert send_datagram(bed.app, FAR[family]) == REFUSED_THERE
    apply(bed, quic="block")
    assert send_datagram(bed.app, FAR[family]) == REFUSED_HERE
    assert egress(bed, Attempt(FAR[family], 80)) == ["egress"]
    for exempt in (
        {"exclude_uids": "1000"},
        {"exclude_egress_ports": "443"},
        {"exclude_egress_ports_for_uids": "443:1000"},
        {"exclude_egress_cidrs": "192.0.2.0/24,2001:db8::/32"},
        {"include_egress_ports": "80"},
    ):
        apply(bed, quic="block", **exempt)
        assert send_datagram(bed.app, FAR[family]) == REFUSED_THERE, exempt


def test_strict_with_blocked_ipv6_guards_both_families(bed: Topology) -> None:
    apply(bed, strict="yes", quic="block", ipv6="block")
    assert egress(bed, Attempt(FAR[4], 80), Attempt(FAR[6], 80)) == ["egress", "refused"]
    for family in FAMILIES:
        assert send_datagram(bed.app, FAR[family]) == REFUSED_HERE
        assert ingress(bed, family, 15006, 15020) == ["refused", "direct"]
        ping(bed, family)
    flush_nat(bed, 4)
    assert egress(bed, Attempt(FAR[4], 80)) == ["refused"]
