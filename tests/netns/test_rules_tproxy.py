"""TPROXY on a real kernel: the app sees its client's address, and nothing else is stolen."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest

from interceptor.config.redirect import Backend
from interceptor.errors import KernelError
from interceptor.kernel import rules
from interceptor.redirect.rules import Family
from tests.support.netns import Namespace
from tests.support.reporters import Answer, Attempt, connect, listening
from tests.support.rule_bed import FAR, LOOPBACK, Bed, printed, rule_bed
from tests.support.transparent import transparent_proxy

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("clean")]

SERVERS = {"direct": [80, 8080, 9090, 15020]}


@pytest.fixture(scope="module")
def bed(backend: Backend) -> Iterator[Bed]:
    with rule_bed(backend) as made:
        with listening(made.app, {"egress": [15001], **SERVERS}), listening(made.peer, SERVERS):
            yield made


def apply(bed: Bed, **flags: str) -> rules.Applied:
    return bed.apply(**{"mode": "tproxy", **flags})


def from_peer(bed: Bed, family: Family, port: int) -> Answer:
    return connect(bed.peer, [Attempt(bed.app.address(family), port)])[0]


def routing(where: Namespace) -> str:
    """What ``ip`` tells of routing, in both families, but for the link-local addresses that the kernel is still making."""
    return "".join(
        line
        for family in ("-4", "-6")
        for what in (("rule",), ("route", "show", "table", "all"))
        for line in where.run("ip", family, *what).stdout.splitlines(keepends=True)
        if not line.startswith("local fe80:")
    )


@pytest.mark.parametrize("strict", ["no", "yes"])
def test_the_app_sees_its_clients_address(bed: Bed, family: Family, strict: str) -> None:
    apply(bed, strict=strict)
    with transparent_proxy(bed.app):
        own = bed.app.address(family)
        for port in (80, 8080):
            assert from_peer(bed, family, port) == Answer(
                "tproxy:direct", printed(own, port), bed.peer.address(family)
            )


def test_a_client_behind_a_route_is_seen_as_well(bed: Bed, family: Family) -> None:
    apply(bed)
    with transparent_proxy(bed.app):
        client = bed.peer.call(
            lambda: socket.create_connection(
                (bed.app.address(family), 80), timeout=5, source_address=(FAR[family], 0)
            )
        )
        with client:
            assert f'"{FAR[family]}"' in client.recv(4096).decode()


def test_what_the_app_opens_is_not_stolen(bed: Bed, family: Family) -> None:
    """The traps of a TPROXY for everything: the app's own address, loopback, and every answer from outside."""
    apply(bed, exclude_egress_ports="8080")
    with transparent_proxy(bed.app):
        far = Attempt(FAR[family], 80)
        answers = connect(
            bed.app,
            [
                Attempt(bed.app.address(family), 8080),
                Attempt(LOOPBACK[family], 80),
                far._replace(uid=1337),
                far._replace(port=8080),
                far,
            ],
        )
        assert [answer.listener for answer in answers] == ["direct"] * 4 + ["egress"]


def test_exemptions_hold(bed: Bed, family: Family) -> None:
    apply(bed, exclude_ingress_ports="9090")
    with transparent_proxy(bed.app):
        assert from_peer(bed, family, 9090).listener == "direct"
        assert from_peer(bed, family, 15020).listener == "direct"
    for flags in (
        {"exclude_interfaces": "eth0"},
        {"exclude_ingress_cidrs": "10.9.0.1,fd09::1"},
        {"include_ingress_ports": "80"},
    ):
        apply(bed, **flags)
        with transparent_proxy(bed.app):
            assert from_peer(bed, family, 8080).listener == "direct", flags


def test_syn_cookies_do_not_lead_past_the_proxy(bed: Bed, family: Family) -> None:
    """With a cookie the third segment meets no socket of its own: it must find the proxy's listener, not the app's."""
    bed.app.run("sysctl", "-qw", "net.ipv4.tcp_syncookies=2")
    try:
        apply(bed)
        with transparent_proxy(bed.app):
            answers = {from_peer(bed, family, 8080) for _ in range(5)}
        assert answers == {
            Answer("tproxy:direct", printed(bed.app.address(family), 8080), bed.peer.address(family))
        }
    finally:
        bed.app.run("sysctl", "-qw", "net.ipv4.tcp_syncookies=1")


def test_without_a_proxy_the_app_is_not_reached(bed: Bed, family: Family) -> None:
    apply(bed)
    peer = bed.peer.call(lambda: socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6))
    with peer:
        peer.settimeout(0.5)  # TPROXY drops what nobody listens for: there is no answer to wait for
        with pytest.raises(TimeoutError):
            peer.connect((bed.app.address(family), 8080))


def test_the_listener_is_out_of_reach_when_strict(bed: Bed, family: Family) -> None:
    apply(bed, strict="yes")
    with transparent_proxy(bed.app):
        assert from_peer(bed, family, 15006).listener == "refused"


def test_connections_that_were_there_before_go_on(bed: Bed, family: Family) -> None:
    with bed.app.call(
        lambda: socket.create_server(("::", 7070), family=socket.AF_INET6, dualstack_ipv6=True)
    ) as app:
        client = bed.peer.call(lambda: socket.create_connection((bed.app.address(family), 7070), timeout=5))
        accepted, _ = app.accept()
        accepted.settimeout(5)
        with client, accepted:
            apply(bed)
            client.sendall(b"there")
            assert accepted.recv(8) == b"there"
            accepted.sendall(b"and back")
            assert client.recv(8) == b"and back"


def test_a_proxy_mark_is_not_taken_for_ours(bed: Bed, family: Family) -> None:
    apply(bed, proxy_mark="0x53b/0xfff")
    with transparent_proxy(bed.app):
        assert from_peer(bed, family, 8080).peer == bed.peer.address(family)
        marked = Attempt(FAR[family], 80, mark=0x53B)
        assert connect(bed.app, [marked])[0].listener == "direct"


def test_applied_twice_it_is_there_once_and_removed_it_leaves_nothing(bed: Bed) -> None:
    before = routing(bed.app)
    assert apply(bed).outcome == "installed"
    installed = routing(bed.app)
    assert installed.count("15006:\tfrom all fwmark 0x53b/0xfff lookup 15006 proto 150") == 2
    assert installed.count("local default dev lo table 15006") == 2
    again = apply(bed)
    assert (again.outcome, again.changes) == ("unchanged", ())
    assert routing(bed.app) == installed
    assert rules.remove(bed.app.path).outcome == "removed"
    assert routing(bed.app) == before
    assert rules.remove(bed.app.path).outcome == "absent"


def test_what_somebody_did_to_the_routing_is_put_right(bed: Bed) -> None:
    apply(bed)
    right = routing(bed.app)
    for spoil in (
        ("ip", "rule", "del", "pref", "15006"),
        ("ip", "-6", "route", "flush", "table", "15006"),
        ("ip", "rule", "add", "pref", "15006", "fwmark", "7", "table", "15006", "protocol", "150"),
    ):
        bed.app.run(*spoil)
        assert apply(bed).outcome == "updated"
        assert routing(bed.app) == right


def test_going_back_to_redirecting_takes_the_routing_away(bed: Bed, family: Family) -> None:
    before = routing(bed.app)
    apply(bed)
    apply(bed, mode="redirect")
    assert routing(bed.app) == before
    with listening(bed.app, {"ingress": [15006]}):
        assert from_peer(bed, family, 8080).listener == "ingress"


def test_ipv6_left_alone_has_no_routing(bed: Bed) -> None:
    apply(bed, ipv6="off")
    assert "15006" not in bed.app.run("ip", "-6", "rule").stdout
    assert "15006" in bed.app.run("ip", "rule").stdout


def test_a_foreign_route_in_our_table_is_a_refusal_that_changes_nothing(bed: Bed) -> None:
    bed.app.run("ip", "route", "add", "local", "default", "dev", "lo", "table", "15006")
    try:
        before = everything(bed)
        with pytest.raises(KernelError, match=r"the routing table 15006 for itself.*nothing was changed"):
            apply(bed)
        assert everything(bed) == before
    finally:
        bed.app.run("ip", "route", "flush", "table", "15006")


def everything(bed: Bed) -> tuple[str, ...]:
    """Routing and rules, without the counters: packets of IPv6's own may come at any time."""
    saved = (re.sub(r"\[\d+:\d+\]", "", bed.app.save(family)) for family in (4, 6))
    return routing(bed.app), *saved
