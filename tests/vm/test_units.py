"""The systemd units on one machine: what a crash, a restart and a bad file do to rules, proxy and app."""

from __future__ import annotations

import pytest

from tests.support import stage
from tests.support.machine import COMMAND_SECONDS, Machine, wait_for

pytestmark = pytest.mark.vm

SINCE = "systemctl show -P ActiveEnterTimestampMonotonic interceptor-rules"


def test_a_crashed_proxy_comes_back_and_rules_and_app_never_go(app: Machine) -> None:
    since, app_pid = app.run(SINCE).stdout, app.run("systemctl show -P MainPID app").stdout
    app.run("systemctl kill --signal=KILL --kill-whom=main interceptor")
    restarts = "systemctl show -P NRestarts interceptor"
    wait_for(lambda: int(app.run(restarts).stdout) >= 1, COMMAND_SECONDS, "the proxy was not restarted")
    wait_for(
        lambda: stage.state(app, "interceptor") == "active", COMMAND_SECONDS, "the proxy did not come back"
    )
    assert app.run(SINCE).stdout == since
    assert app.run("systemctl show -P MainPID app").stdout == app_pid


def test_restarting_the_proxy_keeps_rules_and_app(app: Machine) -> None:
    since, app_pid = app.run(SINCE).stdout, app.run("systemctl show -P MainPID app").stdout
    app.run("systemctl restart interceptor")
    assert app.run(SINCE).stdout == since
    assert app.run("systemctl show -P MainPID app").stdout == app_pid


def test_rules_that_cannot_be_applied_keep_the_app_from_starting(gateway: Machine) -> None:
    gateway.run(
        "mv /etc/interceptor/rules.yaml /etc/interceptor/rules.kept; echo 'no-such-flag: 1' > /etc/interceptor/rules.yaml"
    )
    try:
        started = gateway.run("systemctl start app", check=False)
        assert started.returncode != 0
        assert stage.state(gateway, "app") == "inactive"
        assert stage.state(gateway, "interceptor-rules") == "failed"
        assert "no-such-flag" in gateway.run("journalctl -u interceptor-rules -o cat --no-pager -n 20").stdout
    finally:
        gateway.run(
            "mv /etc/interceptor/rules.kept /etc/interceptor/rules.yaml; systemctl stop interceptor; systemctl reset-failed"
        )


def test_a_proxy_that_cannot_start_leaves_the_app_behind_the_rules(gateway: Machine) -> None:
    gateway.run(
        "mv /etc/interceptor/sidecar.yaml /etc/interceptor/sidecar.kept; echo 'kind: Nonsense' > /etc/interceptor/sidecar.yaml"
    )
    try:
        gateway.run("systemctl start app")
        assert stage.state(gateway, "interceptor-rules") == "active"
        assert stage.state(gateway, "interceptor") == "activating"
        # 192.0.2.1 is nowhere (RFC 5737): without rules this would find no route or no answer, not a refusal.
        gateway.run("ip route replace 192.0.2.1 dev eth1")
        assert stage.curl(gateway, "192.0.2.1", 80, user="www-data") == stage.REFUSED
    finally:
        gateway.run(
            "mv /etc/interceptor/sidecar.kept /etc/interceptor/sidecar.yaml; ip route del 192.0.2.1 dev eth1 || true"
        )
        stage.stop(gateway)


def test_the_rules_go_with_the_last_who_needs_them(app: Machine) -> None:
    app.run("systemctl stop interceptor")
    assert stage.state(app, "interceptor-rules") == "active"
    app.run("systemctl stop app")
    wait_for(
        lambda: stage.state(app, "interceptor-rules") == "inactive",
        COMMAND_SECONDS,
        "the rules' unit did not stop",
    )
    assert "INTERCEPTOR" not in app.run("iptables-save; ip6tables-save").stdout
