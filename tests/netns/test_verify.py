"""``sidecar-setup verify`` on a real kernel: it tells right rules from wrong ones, and leaves nothing behind."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from interceptor.kernel import rules
from tests.support.netns import Topology, links, topology
from tests.support.processes import interceptor, listens, run, sidecar_setup, started, wait_until

pytestmark = pytest.mark.netns

FLAGS = (
    "--exclude-uids", "5000", "--exclude-gids", "77", "--proxy-mark", "0x539/0xfff",
    "--exclude-egress-ports", "25,8000-8100", "--exclude-egress-cidrs", "10.96.0.1,fd00:96::/64",
    "--exclude-ingress-ports", "22", "--exclude-ingress-cidrs", "172.16.0.0/12,fd00:97::/64",
)  # fmt: skip


@pytest.fixture
def bed() -> Iterator[Topology]:
    with topology() as made:
        before = routing(made)
        yield made
        rules.remove(made.app.path)
        assert routing(made) == before
        assert links(made.app) == ["lo", "eth0"]


def routing(bed: Topology) -> list[str]:
    """Policy rules and routes, which the probe's link must not leave changed; without what the kernel adds when it pleases."""
    return [
        line
        for family in ("-4", "-6")
        for what in (("rule",), ("route", "show", "table", "all"))
        for line in bed.app.run("ip", family, *what).stdout.splitlines()
        if "fe80:" not in line and "multicast" not in line
    ]


def applied(bed: Topology, *flags: str) -> None:
    assert run(sidecar_setup("apply", "--netns", bed.app.name, *flags)).returncode == 0


def verified(bed: Topology, *flags: str) -> tuple[int, dict[tuple[int, str], dict[str, object]], str]:
    """The exit status, each path's outcome by family and name, and what is installed."""
    result = run(sidecar_setup("verify", "--netns", bed.app.name, "--output", "json", *flags))
    assert result.stdout, result.stderr
    report = json.loads(result.stdout)
    return (
        result.returncode,
        {(path["family"], f"{path['direction']}: {path['path']}"): path for path in report["paths"]},
        report["installed"],
    )


def test_every_path_as_planned(bed: Topology) -> None:
    applied(bed, *FLAGS)
    status, paths, installed = verified(bed, *FLAGS)
    assert (status, installed) == (0, "exactly this")
    assert {path["result"] for path in paths.values() if path["expected"] == "direct"} == {"direct"}
    captured = {key: path for key, path in paths.items() if path["expected"] == "captured"}
    assert {(path["result"], path["note"]) for path in captured.values()} == {
        ("captured", "with its original destination")
    }
    assert set(captured) == {(family, f"{way}: {way}") for family in (4, 6) for way in ("egress", "ingress")}
    assert len(paths) == 24


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_ports_of_users_and_name_queries(bed: Topology, backend: str) -> None:
    flags = (
        "--backend",
        backend,
        "--exclude-egress-ports-for-uids",
        "443:1000",
        "--dns",
        "capture",
        "--virtual-interfaces",
        "v+",
    )
    applied(bed, *flags)
    status, paths, _ = verified(bed, *flags)
    assert status == 0, paths
    for family in (4, 6):
        assert paths[family, "egress: excluded port 443 for uid 1000"]["result"] == "direct"
        assert paths[family, "egress: name query over TCP"]["note"] == "with its original destination"
    said = run(sidecar_setup("verify", "--netns", bed.app.name, *flags)).stdout
    assert "not tried  name queries over UDP: only TCP is tried" in said
    assert "not tried  guests behind v+: there is none here to connect from" in said
    rules.remove(bed.app.path)
    status, paths, _ = verified(bed, *flags)
    assert (status, paths[4, "egress: name query over TCP"]["result"]) == (3, "direct")


def test_without_rules_nothing_is_captured(bed: Topology) -> None:
    status, paths, installed = verified(bed)
    assert (status, installed) == (3, "nothing")
    assert {path["result"] for path in paths.values()} == {"direct"}


def test_other_rules_than_asked_for_are_told_and_tried(bed: Topology) -> None:
    applied(bed)
    status, paths, installed = verified(bed, "--exclude-uids", "5000")
    assert (status, installed) == (3, "something else")
    assert {key for key, path in paths.items() if not path["ok"]} == {
        (4, "egress: excluded uid 5000"),
        (6, "egress: excluded uid 5000"),
    }


@pytest.mark.parametrize("flags", [("--mode", "tproxy"), ("--strict",), ("--backend", "nft")])
def test_other_ways_of_capturing_are_tried_too(bed: Topology, flags: tuple[str, ...]) -> None:
    applied(bed, *flags)
    status, paths, installed = verified(bed, *flags)
    assert (status, installed) == (0, "exactly this"), paths


def test_blocked_ipv6_is_refused(bed: Topology) -> None:
    applied(bed, "--ipv6", "block")
    status, paths, _ = verified(bed, "--ipv6", "block")
    assert status == 0
    assert paths[6, "egress: egress"]["result"] == paths[6, "ingress: ingress"]["result"] == "refused"
    assert paths[6, "egress: proxy uid 1337"]["result"] == "direct"


def test_a_foreign_drop_makes_it_lost(bed: Topology) -> None:
    applied(bed)
    bed.app.run("iptables-legacy", "-t", "raw", "-A", "PREROUTING", "-s", "192.0.2.2", "-j", "DROP")
    status, paths, _ = verified(bed)
    assert status == 3
    assert paths[4, "ingress: ingress"]["result"] == "lost"
    assert "-A PREROUTING -s 192.0.2.2/32 -j DROP" in str(paths[4, "ingress: ingress"]["cause"])
    assert paths[6, "ingress: ingress"]["result"] == "captured"


def test_a_foreign_redirect_before_ours_makes_it_misdirected(bed: Topology) -> None:
    applied(bed)
    stranger = bed.app.call(lambda: socket.create_server(("", 7777)))
    with stranger:
        redirect = ("-p", "tcp", "-d", "192.0.2.2", "-j", "REDIRECT", "--to-ports", "7777")
        bed.app.run("iptables-legacy", "-t", "nat", "-I", "OUTPUT", "1", *redirect)
        status, paths, _ = verified(bed)
    assert status == 3
    assert paths[4, "egress: egress"]["result"] == "misdirected"
    assert "leads it elsewhere" in str(paths[4, "egress: egress"]["cause"])


def test_a_running_proxy_is_what_captures(bed: Topology) -> None:
    applied(bed)
    with started(interceptor("proxy", "--netns", bed.app.name)):
        wait_until(listens(bed.app, "127.0.0.1", 15001), "the proxy listens")
        status, paths, _ = verified(bed)
    assert status == 0
    captured = {path["note"] for path in paths.values() if path["expected"] == "captured"}
    assert captured == {"by the proxy"}


def test_a_port_that_a_program_uses_is_not_tried(bed: Topology) -> None:
    applied(bed, "--exclude-ingress-ports", "22")
    daemon = bed.app.call(lambda: socket.create_server(("", 22)))
    with daemon:
        status, paths, _ = verified(bed, "--exclude-ingress-ports", "22")
    assert status == 1
    path = paths[4, "ingress: excluded port 22"]
    assert (path["result"], path["note"]) == (
        "untried",
        "port 22 is in use here, or opening it takes CAP_NET_BIND_SERVICE",
    )
    assert paths[6, "ingress: excluded port 22"]["result"] == "direct"


def test_without_the_right_to_make_a_namespace_it_says_what_it_could_not_try(bed: Topology) -> None:
    applied(bed)
    less = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
    result = run(bed.app.command(*less, *sidecar_setup("verify", "--output", "json")))
    paths = {
        (path["family"], f"{path['direction']}: {path['path']}"): path
        for path in json.loads(result.stdout)["paths"]
    }
    assert result.returncode == 1
    assert {key: path["result"] for key, path in paths.items() if key[0] == 4} == {
        (4, "ingress: ingress"): "untried",
        (4, "egress: egress"): "captured",
        (4, "egress: proxy uid 1337"): "untried",
        (4, "egress: own address"): "direct",
    }
    assert "CAP_SYS_ADMIN" in str(paths[4, "ingress: ingress"]["note"])


def test_without_ipv6_in_the_namespace_only_ipv4_is_tried(bed: Topology) -> None:
    bed.app.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
    applied(bed)
    status, paths, _ = verified(bed)
    assert {(key[0], path["result"]) for key, path in paths.items()} == {(4, "captured"), (4, "direct")}
    assert status == 0
