"""``interceptor run``: rules, proxy, proof, app; and everything gone at the end, whatever ended it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.netns import Topology, links, topology
from tests.support.processes import interceptor, run, started, wait_until

pytestmark = pytest.mark.netns

NOBODY = "65534"


@pytest.fixture
def bed() -> Iterator[Topology]:
    with topology() as made:
        # Tables exist from here on, so that what a run leaves can be compared byte for byte.
        for family in ("iptables-legacy", "ip6tables-legacy"):
            for table in ("raw", "nat", "filter"):
                made.app.run(family, "-t", table, "-S")
        before = [rules(made, family) for family in (4, 6)]
        yield made
        assert [rules(made, family) for family in (4, 6)] == before
        assert links(made.app) == ["lo", "eth0"]


def rules(bed: Topology, family: int) -> str:
    """Every rule; without counters, because the app's traffic passes the built-in chains."""
    return re.sub(r"\[\d+:\d+\]", "", bed.app.save(family))


def behind(bed: Topology, *command: str, options: tuple[str, ...] = ()) -> list[str]:
    return interceptor("run", "--netns", bed.app.name, "--user", NOBODY, *options, "--", *command)


def flows(text: str) -> list[dict[str, object]]:
    """The access log's lines among an app's output."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("family", [4, 6])
def test_the_apps_call_goes_through_the_proxy_and_is_logged(bed: Topology, family: int) -> None:
    host = bed.peer.address(family)
    bound = socket.AF_INET if family == 4 else socket.AF_INET6
    server = bed.peer.call(lambda: socket.create_server((host, 7000), family=bound))
    with server, started(behind(bed, "bash", "-c", f"exec 3<>/dev/tcp/{host}/7000; cat <&3")) as app:
        server.settimeout(30)
        accepted, _ = server.accept()
        with accepted:
            accepted.sendall(b"hello\n")
        out, err = app.communicate(timeout=60)
    assert app.returncode == 0, err
    assert "hello" in out
    shown = f"{host}:7000" if family == 4 else f"[{host}]:7000"
    (line,) = [line for line in flows(out) if line["original_dst"] == shown]
    assert line["direction"] == "egress"
    assert line["bytes_sent"] == 6


@pytest.mark.parametrize(
    ("command", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
)
def test_exits_with_the_commands_status(bed: Topology, command: str, status: int) -> None:
    assert run(behind(bed, "sh", "-c", command)).returncode == status


def test_the_app_runs_as_its_user_and_the_proxy_as_its_own_without_capabilities(bed: Topology) -> None:
    script = "id -u; for p in $(pgrep -f '[c]ontrol-fd'); do cat /proc/$p/status; done"
    result = run(behind(bed, "sh", "-c", script))
    assert result.returncode == 0, result.stderr
    assert NOBODY in result.stdout.splitlines()
    status = dict(line.split(":\t", 1) for line in result.stdout.splitlines() if ":\t" in line)
    assert status["Uid"].split() == ["1337"] * 4
    assert status["CapEff"] == status["CapPrm"] == "0" * 16
    assert status["NoNewPrivs"] == "1"


def test_signals_are_forwarded(bed: Topology) -> None:
    script = "trap 'echo got-usr1' USR1; trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done"
    with started(behind(bed, "sh", "-c", script)) as app:
        wait_for_line(app, "up")
        app.send_signal(signal.SIGUSR1)
        wait_for_line(app, "got-usr1")
        app.send_signal(signal.SIGTERM)
        app.communicate(timeout=60)
    assert app.returncode == 9


def test_no_process_of_the_app_outlives_the_rules(bed: Topology) -> None:
    stubborn = "trap '' HUP TERM; echo left $$; exec >&- 2>&-; while :; do sleep 0.1; done"
    script = 'setsid sh -c "$0" & while :; do sleep 0.05; done'
    with started(behind(bed, "sh", "-c", script, stubborn)) as app:
        left = wait_for_line(app, "left").split()[1]
        assert Path("/proc", left).exists()
        app.send_signal(signal.SIGTERM)
        app.communicate(timeout=60)
    assert app.returncode == 143
    assert not Path("/proc", left).exists()


def test_an_unknown_command_never_starts_and_leaves_nothing(bed: Topology) -> None:
    result = run(behind(bed, "/no/such/program"))
    assert result.returncode == 1
    assert "cannot start '/no/such/program': No such file or directory" in result.stderr


def test_when_the_proxy_dies_the_app_is_stopped(bed: Topology) -> None:
    with started(behind(bed, "sh", "-c", "echo up; while :; do sleep 0.05; done")) as app:
        wait_for_line(app, "up")
        (proxy,) = children(app.pid, "control-fd")
        os.kill(proxy, signal.SIGKILL)
        _, err = app.communicate(timeout=60)
    assert app.returncode == 1
    assert "the proxy ended" in err


def test_the_app_does_not_start_when_the_proxy_cannot_listen(bed: Topology) -> None:
    taken = bed.app.call(lambda: socket.create_server(("127.0.0.1", 15020)))
    with taken:
        result = run(behind(bed, "echo", "started"))
    assert result.returncode == 1
    assert "15020" in result.stderr
    assert "started" not in result.stdout


def test_the_app_does_not_start_when_a_foreign_rule_defeats_ours(bed: Topology) -> None:
    foreign = ("-t", "raw", "-p", "tcp", "-s", "192.0.2.2", "-j", "DROP")
    bed.app.run("iptables-legacy", "-A", "PREROUTING", *foreign)
    try:
        result = run(behind(bed, "echo", "started"))
    finally:
        bed.app.run("iptables-legacy", "-D", "PREROUTING", *foreign)
    assert result.returncode == 1
    assert "ingress over IPv4 is lost" in result.stderr
    assert "started" not in result.stdout


def test_a_machine_that_is_late_once_does_not_keep_the_app_from_starting(bed: Topology) -> None:
    """The first two packets are dropped, more than a probe's time has; the next try finds the way."""
    late = ("-s", "192.0.2.2", "-m", "statistic", "--mode", "nth", "--every", "1000000", "--packet", "0")
    rules = 2 * [("-t", "raw", "-p", "tcp", *late, "-j", "DROP")]
    for rule in rules:
        bed.app.run("iptables-legacy", "-A", "PREROUTING", *rule)
    try:
        result = run(behind(bed, "echo", "started"))
    finally:
        for rule in rules:
            bed.app.run("iptables-legacy", "-D", "PREROUTING", *rule)
    assert (result.returncode, result.stdout.count("started")) == (0, 1), result.stderr


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (("--user", "no-such-user"), 2, "no user 'no-such-user'"),
        (("--user", "1337"), 2, "1337 is the proxy's own"),
        (("--netns", "nowhere"), 2, "network namespace 'nowhere' does not exist"),
        (("--config", "/nowhere.yaml"), 2, "/nowhere.yaml"),
    ],
)
def test_bad_input_is_refused_before_anything_changes(
    bed: Topology, options: tuple[str, ...], status: int, says: str
) -> None:
    result = run(behind(bed, "true", options=options))
    assert (result.returncode, "Traceback" in result.stderr) == (status, False)
    assert says in result.stderr


def test_makes_the_namespace_only_when_asked_and_removes_it(bed: Topology) -> None:
    result = run(interceptor("run", "--netns", "icpmade", "--create-netns", "--", "ip", "-o", "link"))
    assert result.returncode == 0, result.stderr
    assert "lo:" in result.stdout
    assert not Path("/run/netns/icpmade").exists()


def wait_for_line(process: subprocess.Popen[str], beginning: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(beginning):
            return line
    raise AssertionError(
        f"the output ended without {beginning!r}: {process.stderr.read() if process.stderr else ''}"
    )


def children(pid: int, marker: str) -> list[int]:
    """The direct children of a process whose command line has a marker."""
    listed = wait_until(lambda: Path(f"/proc/{pid}/task/{pid}/children").read_text().split(), "children")
    return [int(child) for child in listed if marker in Path("/proc", child, "cmdline").read_text()]
