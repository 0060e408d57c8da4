"""One machine: Debian's own kernel boots, the units bring rules and proxy, both directions are captured, all of it goes."""

from __future__ import annotations

import json
import time

import pytest

from tests.support.machine import Machine, wait_for

pytestmark = pytest.mark.vm

# A peer beyond a link of its own. The app and the gateway are on the machine itself, as on any host.
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
NGINX = """
    mkdir -p /etc/{name}
    cat > /etc/{name}/nginx.conf <<'EOF'
    pid /run/{name}.pid;
    error_log stderr;
    events {{}}
    http {{ access_log off; server {{ listen {port}; listen [::]:{port}; location / {{ return 200 "hello from {name}"; }} }} }}
EOF
"""
APP = (
    NGINX.format(name="app", port=8080)
    + """
    cat > /etc/systemd/system/app.service <<'EOF'
    [Service]
    ExecStart=/usr/sbin/nginx -c /etc/app/nginx.conf -g 'daemon off;'
    ExecStop=/bin/kill -QUIT $MAINPID
    [Install]
    WantedBy=multi-user.target
EOF
    mkdir -p /etc/systemd/system/app.service.d
    cp /vagrant/vagrant/systemd/behind-interceptor.conf /etc/systemd/system/app.service.d/
    systemctl daemon-reload
"""
)
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


def test_both_directions_are_captured_and_removal_leaves_no_rule(gateway: Machine) -> None:
    gateway.run(PEER + APP + NGINX.format(name="outside", port=80))
    gateway.run("systemd-run --quiet ip netns exec peer nginx -c /etc/outside/nginx.conf -g 'daemon off;'")
    before = gateway.run(RULES).stdout

    gateway.run("systemctl start app")
    assert (
        gateway.run("systemctl is-active interceptor-rules interceptor app").stdout.split() == ["active"] * 3
    )
    for host in ("10.9.0.2", "[fd09::2]"):
        answer = gateway.run(f"ip netns exec peer curl -sS --max-time 20 http://{host}:8080/").stdout
        assert answer == "hello from app"
    for host in ("10.9.0.1", "[fd09::1]"):
        answer = gateway.run(
            f"setpriv --reuid=www-data --clear-groups curl -sS --max-time 20 http://{host}/"
        ).stdout
        assert answer == "hello from outside"
    wait_for(lambda: len(flows(gateway)) >= 4, 30, "the access log did not get four lines")
    assert [(flow["direction"], flow["original_dst"]) for flow in flows(gateway)] == [
        ("ingress", "10.9.0.2:8080"),
        ("ingress", "[fd09::2]:8080"),
        ("egress", "10.9.0.1:80"),
        ("egress", "[fd09::1]:80"),
    ]

    gateway.run("systemctl stop app interceptor")
    # Nobody needs the rules any more: systemd stops their unit by itself.
    wait_for(
        lambda: gateway.run("systemctl is-active interceptor-rules", check=False).stdout == "inactive\n",
        60,
        "the rules' unit did not stop",
    )
    assert gateway.run(RULES).stdout == before
    assert gateway.run("systemctl --failed --plain --no-legend").stdout == ""


def flows(machine: Machine) -> list[dict[str, str]]:
    """The access log."""
    lines = machine.run("journalctl -u interceptor -o cat --no-pager").stdout.splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]
