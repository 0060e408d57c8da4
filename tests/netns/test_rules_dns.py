"""Captured name queries on a real kernel: whoever asks whatever resolver from whatever port."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from interceptor.config.redirect import Backend
from interceptor.kernel import rules
from interceptor.redirect.rules import Family
from tests.support.reporters import Attempt, connect, listening
from tests.support.resolvers import Query, ask, ask_at_once, resolving
from tests.support.rule_bed import FAR, Bed, rule_bed
from tests.support.tampering import flush

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("clean")]

LOCAL = {4: "127.0.0.53", 6: "::1"}  # a resolver on the app's host, as systemd's
DOCKER = "127.0.0.11"
PROXY = 1337


@pytest.fixture(scope="module")
def bed(backend: Backend) -> Iterator[Bed]:
    with rule_bed(backend) as made:
        near = {("127.0.0.1", 15053): "proxy", ("::1", 15053): "proxy", (DOCKER, 40053): "docker"}
        near |= {(host, 53): "local" for host in LOCAL.values()}
        far = {(host, 53): "upstream" for host in (*FAR.values(), made.peer.v4, made.peer.v6)}
        with (
            resolving(made.app, near),
            resolving(made.peer, far),
            listening(made.app, {"proxy": [15053], "local": [53], "egress": [15001]}),
            listening(made.peer, {"upstream": [53], "direct": [80]}),
        ):
            yield made


def apply(bed: Bed, **flags: str) -> rules.Applied:
    return bed.apply(**{"dns": "capture", **flags})


def iptables(bed: Bed, family: Family, *arguments: str) -> None:
    bed.app.run("iptables-legacy" if family == 4 else "ip6tables-legacy", *arguments)


def tcp(bed: Bed, *attempts: Attempt) -> list[str]:
    return [answer.listener for answer in connect(bed.app, attempts)]


def test_off_by_default(bed: Bed, family: Family) -> None:
    apply(bed, dns="off")
    assert ask(bed.app, Query(FAR[family]), Query(LOCAL[family])) == ["upstream", "local"]


def test_an_apps_queries_go_to_the_proxy_wherever_they_were_meant_to_go(bed: Bed, family: Family) -> None:
    apply(bed)
    hosts = (FAR[family], LOCAL[family], bed.app.address(family), bed.peer.address(family))
    assert ask(bed.app, *(Query(host) for host in hosts)) == ["proxy"] * 4
    assert ask(bed.app, Query(FAR[family], uid=0)) == ["proxy"]
    assert tcp(bed, *(Attempt(host, 53) for host in hosts)) == ["proxy"] * 4


def test_the_proxys_own_queries_are_direct(bed: Bed, family: Family) -> None:
    apply(bed)
    own = [Query(host, uid=PROXY) for host in (FAR[family], LOCAL[family])]
    assert ask(bed.app, *own) == ["upstream", "local"]
    assert tcp(bed, *(Attempt(query.host, 53, uid=PROXY) for query in own)) == ["upstream", "local"]


def test_everything_else_is_as_without(bed: Bed, family: Family) -> None:
    apply(bed)
    assert ask(bed.app, Query(FAR[family], port=5353)) == [
        "ConnectionRefusedError"
    ]  # the peer has nobody there
    assert tcp(bed, Attempt(FAR[family], 80), Attempt(FAR[family], 80, uid=PROXY)) == ["egress", "direct"]


@pytest.mark.parametrize(
    "flags",
    [
        {"exclude_uids": "1000"},
        {"exclude_egress_ports": "50-60"},
        {"exclude_egress_ports_for_uids": "53:1000"},
        {"exclude_egress_cidrs": "192.0.2.0/24,2001:db8::/32"},
        {"exclude_interfaces": "eth0"},
    ],
    ids=str,
)
def test_what_is_excluded_is_direct(bed: Bed, family: Family, flags: dict[str, str]) -> None:
    apply(bed, **flags)
    assert ask(bed.app, Query(FAR[family])) == ["upstream"]
    assert tcp(bed, Attempt(FAR[family], 53)) == ["upstream"]


def test_includes_do_not_narrow_it_down(bed: Bed, family: Family) -> None:
    apply(bed, include_egress_ports="80", include_egress_cidrs="198.51.100.0/24")
    assert ask(bed.app, Query(FAR[family])) == ["proxy"]


def test_one_socket_that_asks_several_resolvers_hears_each(bed: Bed, family: Family) -> None:
    apply(bed)
    hosts = (FAR[family], bed.peer.address(family))
    assert ask_at_once(bed.app, *hosts) == dict.fromkeys(hosts, "proxy")


def test_a_port_that_changes_hands_never_slips_past_nor_back(bed: Bed, family: Family) -> None:
    apply(bed)
    app = Query(FAR[family], source_port=40000)
    proxy = app._replace(uid=PROXY)
    assert ask(bed.app, proxy, app, proxy, app) == ["upstream", "proxy"] * 2
    app, proxy = (query._replace(source_port=40001) for query in (app, proxy))
    assert ask(bed.app, app, proxy, app, proxy) == ["proxy", "upstream"] * 2


def test_without_zones_it_would(bed: Bed, family: Family) -> None:
    """That the test before this one can fail: the same queries with the zones taken out."""
    apply(bed)
    flush(bed.app, bed.backend, family, "raw")
    app = Query(FAR[family], source_port=40002)
    assert ask(bed.app, app._replace(uid=PROXY), app) == ["upstream", "upstream"]
    app = app._replace(source_port=40003)
    assert ask(bed.app, app, app._replace(uid=PROXY)) == ["proxy", "proxy"]


def test_without_a_proxy_a_query_is_refused(bed: Bed, family: Family) -> None:
    apply(bed, dns_port="16053")
    assert ask(bed.app, Query(FAR[family])) == ["ConnectionRefusedError"]
    assert tcp(bed, Attempt(FAR[family], 53)) == ["refused"]


def test_dockers_resolver_works_for_the_proxy_and_is_captured_for_the_app(bed: Bed) -> None:
    """Docker's rules in a container's namespace, as of libnetwork's resolver_unix.go."""
    to, back = ("-p", "udp", "-d", DOCKER, "--dport", "53"), ("-p", "udp", "-s", DOCKER, "--sport", "40053")
    for rule in (
        ("-N", "DOCKER_OUTPUT"),
        ("-N", "DOCKER_POSTROUTING"),
        ("-A", "OUTPUT", "-d", DOCKER, "-j", "DOCKER_OUTPUT"),
        ("-A", "POSTROUTING", "-d", DOCKER, "-j", "DOCKER_POSTROUTING"),
        ("-A", "DOCKER_OUTPUT", *to, "-j", "DNAT", "--to-destination", f"{DOCKER}:40053"),
        ("-A", "DOCKER_POSTROUTING", *back, "-j", "SNAT", "--to-source", ":53"),
    ):
        iptables(bed, 4, "-t", "nat", *rule)
    try:
        assert ask(bed.app, Query(DOCKER)) == ["docker"]
        apply(bed)
        app = Query(DOCKER, source_port=40004)
        proxy = app._replace(uid=PROXY)
        assert ask(bed.app, app, proxy, app, proxy) == ["proxy", "docker"] * 2
        apply(bed, exclude_uids="1000")
        assert ask(bed.app, Query(DOCKER), Query(DOCKER, uid=PROXY)) == ["docker", "docker"]
        apply(bed, strict="yes")
        assert ask(bed.app, Query(DOCKER), Query(DOCKER, uid=PROXY)) == ["proxy", "docker"]
    finally:
        rules.remove(bed.app.path)
        iptables(bed, 4, "-t", "nat", "-F")
        iptables(bed, 4, "-t", "nat", "-X")


def test_strict_refuses_queries_that_were_missed(bed: Bed, family: Family) -> None:
    apply(bed, strict="yes")
    hosts = (FAR[family], LOCAL[family])
    assert ask(bed.app, *(Query(host) for host in hosts)) == ["proxy", "proxy"]
    assert tcp(bed, *(Attempt(host, 53) for host in hosts)) == ["proxy", "proxy"]
    flush(bed.app, bed.backend, family)
    assert ask(bed.app, *(Query(host) for host in hosts)) == ["PermissionError", "PermissionError"]
    assert tcp(bed, *(Attempt(host, 53) for host in hosts)) == ["refused", "refused"]
    assert ask(bed.app, *(Query(host, uid=PROXY) for host in hosts)) == ["upstream", "local"]


def test_strict_keeps_outsiders_from_the_proxys_resolver(bed: Bed, family: Family) -> None:
    own = bed.app.address(family)
    with resolving(bed.app, {(own, 15053): "proxy"}):
        apply(bed)
        assert ask(bed.peer, Query(own, port=15053)) == ["proxy"]
        apply(bed, strict="yes")
        assert ask(bed.peer, Query(own, port=15053, source_port=40005)) == ["ConnectionRefusedError"]
