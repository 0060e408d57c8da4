"""One machine: Debian's own kernel boots, the units bring rules and proxy, both directions are captured, all of it goes."""

from __future__ import annotations

import json
import time

import pytest

from interceptor.redirect.kernel_features import FEATURES, FILTER
from tests.support import stage
from tests.support.machine import Machine, wait_for

pytestmark = pytest.mark.vm

# A peer at the other end of a link of its own. The app and the gateway are on the machine itself, as on any host.
PEER = """
    ip netns add peer
    ip link add link0 type veth peer name eth0 netns peer
    ip address add 10.9.0.2/24 dev link0
    ip address add fd09::2/64 dev link0 nodad
    ip link set link0 up
    ip -n peer address add 10.9.0.1/24 dev eth0
    ip -n peer address add fd09::1/64 dev eth0 nodad
    ip -n peer link set eth0 up
    ip -n peer link set lo up
"""
# Every rule and every chain that is not the kernel's own, of both backends and families.
RULES = """
    for tool in iptables ip6tables; do
        for backend in legacy nft; do $tool-$backend-save 2> /dev/null; done
    done | sed -E '/^(#|[*]|COMMIT|:[A-Z]+ ACCEPT)/d'
"""


def test_boots_debians_own_kernel_at_the_right_time(gateway: Machine) -> None:
    """A machine that resumes from a snapshot would have the snapshot's time, and certificates would not be valid."""
    assert "Debian" in gateway.run("uname -v").stdout
    assert abs(float(gateway.run("date +%s.%N").stdout) - time.time()) < 30
    assert gateway.run("systemctl is-system-running").stdout == "running\n"


def test_the_kernel_has_everything_that_the_gateway_asks_for(gateway: Machine) -> None:
    report = json.loads(gateway.run("sidecar-setup doctor --output json").stdout)
    assert {each["name"]: each["has"] for each in report["kernel"]["features"]} == {
        each.name: "expected" if each is FILTER else "works" for each in FEATURES
    }


def test_both_directions_are_captured_and_removal_leaves_no_rule(gateway: Machine) -> None:
    gateway.run(
        PEER
        + stage.server("elsewhere", 80, prefix="/usr/sbin/ip netns exec peer ")
        + "systemctl start elsewhere"
    )
    before = gateway.run(RULES).stdout

    gateway.run("systemctl start app")
    assert [stage.state(gateway, unit) for unit in ("interceptor-rules", "interceptor", "app")] == [
        "active"
    ] * 3
    assert gateway.run(RULES).stdout != before
    for host in ("10.9.0.2", "[fd09::2]"):
        answer = gateway.run(f"ip netns exec peer curl -sS --max-time 20 http://{host}:8080/").stdout
        assert answer == f"app was called by {host.strip('[]')}\n"
    for host in ("10.9.0.1", "fd09::1"):
        assert stage.curl(gateway, host, 80, user="www-data").startswith("elsewhere was called by ")
    wait_for(lambda: len(stage.flows(gateway)) >= 4, 60, "the access log did not get four lines")
    assert [(flow["direction"], flow["original_dst"]) for flow in stage.flows(gateway)] == [
        ("ingress", "10.9.0.2:8080"),
        ("ingress", "[fd09::2]:8080"),
        ("egress", "10.9.0.1:80"),
        ("egress", "[fd09::1]:80"),
    ]

    stage.stop(gateway)
    assert gateway.run(RULES).stdout == before
    assert gateway.run("systemctl --failed --plain --no-legend").stdout == ""
    gateway.run("systemctl stop elsewhere; ip netns del peer")
