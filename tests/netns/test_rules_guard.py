"""The strict guard on a real kernel: a refusal where there would be a leak, and nothing else broken."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from interceptor.config.redirect import Backend
from interceptor.kernel import rules
from interceptor.redirect.rules import FAMILIES, Family
from tests.support.reporters import Attempt, connect, listening, send_datagram
from tests.support.rule_bed import FAR, LOOPBACK, Bed, rule_bed
from tests.support.tampering import flush

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("clean")]

SERVERS = {"direct": [80, 8080, 9090, 15020]}
PROXY = {"egress": [15001], "ingress": [15006]}


@pytest.fixture(scope="module")
def bed(backend: Backend) -> Iterator[Bed]:
    with rule_bed(backend) as made:
        with listening(made.app, {**PROXY, **SERVERS}), listening(made.peer, SERVERS):
            yield made


def egress(bed: Bed, *attempts: Attempt) -> list[str]:
    return [answer.listener for answer in connect(bed.app, attempts)]


def ingress(bed: Bed, family: Family, *ports: int) -> list[str]:
    attempts = [Attempt(bed.app.address(family), port) for port in ports]
    return [answer.listener for answer in connect(bed.peer, attempts)]


def ping(bed: Bed, family: Family) -> None:
    """Both ways, neighbour discovery included."""
    for near, host in ((bed.app, FAR[family]), (bed.peer, bed.app.address(family))):
        near.run("ip", "neigh", "flush", "dev", "eth0")
        near.run("ping", f"-{family}", "-c1", "-W2", host)


def test_what_is_captured_exempt_or_loopback_works_as_without(bed: Bed, family: Family) -> None:
    bed.apply(strict="yes", exclude_egress_ports="8080", exclude_ingress_ports="9090")
    far = Attempt(FAR[family], 80)
    own = Attempt(bed.app.address(family), 8080)
    assert egress(
        bed, far, far._replace(uid=1337), far._replace(port=8080), own, Attempt(LOOPBACK[family], 80)
    ) == ["egress", "direct", "direct", "direct", "direct"]
    assert ingress(bed, family, 80, 8080, 9090, 15020) == ["ingress", "ingress", "direct", "direct"]
    ping(bed, family)


def test_flushed_nat_rules_are_a_leak_without_the_guard(bed: Bed, family: Family) -> None:
    bed.apply()
    flush(bed.app, bed.backend, family)
    assert egress(bed, Attempt(FAR[family], 80)) == ["direct"]
    assert ingress(bed, family, 8080) == ["direct"]


def test_flushed_nat_rules_are_a_refusal_with_the_guard(bed: Bed, family: Family) -> None:
    bed.apply(strict="yes", exclude_egress_ports="8080", exclude_ingress_ports="9090")
    flush(bed.app, bed.backend, family)
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


def test_established_flows_outlive_the_flush(bed: Bed, family: Family) -> None:
    bed.apply(strict="yes", egress_port="16001", ingress_port="16006")
    for port, where, host in ((16001, bed.app, FAR[family]), (16006, bed.peer, bed.app.address(family))):
        with bed.app.call(lambda port=port: listener(port)) as server:  # type: ignore[misc]  # binds the loop's value
            flow = where.call(lambda host=host: socket.create_connection((host, 80), timeout=5))  # type: ignore[misc]
            accepted, _ = server.accept()
            with flow, accepted:
                flush(bed.app, bed.backend, family)
                flow.sendall(b"there")
                assert accepted.recv(8) == b"there"
                accepted.sendall(b"and back")
                assert flow.recv(8) == b"and back"
        rules.remove(bed.app.path)
        bed.apply(strict="yes", egress_port="16001", ingress_port="16006")


def listener(port: int) -> socket.socket:
    made = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    made.settimeout(5)
    return made


def test_the_proxys_listeners_are_out_of_reach_from_outside(bed: Bed, family: Family) -> None:
    bed.apply()
    assert ingress(bed, family, 15001, 15006) == ["egress", "ingress"]
    bed.apply(strict="yes", exclude_interfaces="eth0", exclude_ingress_cidrs="10.9.0.1,fd09::1")
    assert ingress(bed, family, 15001, 15006) == ["refused", "refused"]
    assert ingress(bed, family, 8080, 15020) == ["direct", "direct"]
    assert egress(bed, Attempt(bed.app.address(family), 15006)) == [
        "ingress"
    ]  # this host: the proxy's to refuse


def test_a_foreign_redirect_that_wins_is_a_refusal(bed: Bed, family: Family) -> None:
    bed.apply(strict="yes")
    with foreign_redirect(bed, family):
        assert egress(bed, Attempt(FAR[family], 7)) == ["refused"]
        assert egress(bed, Attempt(FAR[family], 7, uid=1337)) == ["direct"]


@contextmanager
def foreign_redirect(bed: Bed, family: Family) -> Iterator[None]:
    """One that comes before ours."""
    tool, elsewhere = ("iptables", "192.0.2.7:80") if family == 4 else ("ip6tables", "[2001:db8::7]:80")
    rule = ("OUTPUT", "-p", "tcp", "--dport", "7", "-j", "DNAT", "--to-destination", elsewhere)
    table = "ip theirs" if family == 4 else "ip6 theirs"
    chain = "type nat hook output priority -150; policy accept;"
    put, away = ([f"{tool}-legacy", "-t", "nat", what, *rule] for what in ("-I", "-D"))
    if bed.backend is Backend.NFT:
        put = ["nft", f"table {table} {{ chain o {{ {chain}; tcp dport 7 dnat to {elsewhere}; }}; }}"]
        away = ["nft", f"delete table {table}"]
    bed.app.run(*put)
    try:
        yield
    finally:
        bed.app.run(*away)


REFUSED_HERE = "PermissionError"  # send() says EPERM when our own rule refuses
REFUSED_THERE = "ConnectionRefusedError"  # the peer has nobody at the port


def test_quic_is_refused_where_asked_and_tcp_goes_on(bed: Bed, family: Family) -> None:
    bed.apply()
    assert send_datagram(bed.app, FAR[family]) == REFUSED_THERE
    bed.apply(quic="block")
    assert send_datagram(bed.app, FAR[family]) == REFUSED_HERE
    assert egress(bed, Attempt(FAR[family], 80)) == ["egress"]
    for exempt in (
        {"exclude_uids": "1000"},
        {"exclude_egress_ports": "443"},
        {"exclude_egress_ports_for_uids": "443:1000"},
        {"exclude_egress_cidrs": "192.0.2.0/24,2001:db8::/32"},
        {"include_egress_ports": "80"},
    ):
        bed.apply(quic="block", **exempt)
        assert send_datagram(bed.app, FAR[family]) == REFUSED_THERE, exempt


def test_strict_with_blocked_ipv6_guards_both_families(bed: Bed) -> None:
    bed.apply(strict="yes", quic="block", ipv6="block")
    assert egress(bed, Attempt(FAR[4], 80), Attempt(FAR[6], 80)) == ["egress", "refused"]
    for family in FAMILIES:
        assert send_datagram(bed.app, FAR[family]) == REFUSED_HERE
        assert ingress(bed, family, 15006, 15020) == ["refused", "direct"]
        ping(bed, family)
    flush(bed.app, bed.backend, 4)
    assert egress(bed, Attempt(FAR[4], 80)) == ["refused"]
