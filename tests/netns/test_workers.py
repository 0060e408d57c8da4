"""Several workers as processes: they share what comes, and the death of one is the end of its own flows only."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gateways import Gateway, connect, gateway, server
from tests.support.netns import Topology
from tests.support.processes import interceptor, started, wait_until

pytestmark = [pytest.mark.netns, pytest.mark.slow]

PORT = 7001


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Unlike pytest's own, a directory that the proxy's user may enter."""
    with tempfile.TemporaryDirectory(prefix="icp-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


class Pairs:
    """Connections from the peer's namespace through the gateway to a server in the app's, each with both its ends."""

    def __init__(self, bed: Topology, stack: contextlib.ExitStack) -> None:
        self.bed = bed
        self._stack = stack
        self._server = stack.enter_context(server(bed.app, bed.app.v4, PORT))

    def open(self) -> tuple[socket.socket, socket.socket]:
        """One more; ConnectionError where the proxy refuses it."""
        peer = self._stack.enter_context(connect(self.bed.peer, self.bed.app.v4, PORT))
        peer.settimeout(30)
        peer.sendall(b"%5d" % peer.getsockname()[1])
        self._server.settimeout(0.05)
        while True:
            with contextlib.suppress(TimeoutError):
                app, _ = self._server.accept()
                break
            peer.settimeout(0.05)
            with contextlib.suppress(TimeoutError):
                assert peer.recv(1) == b"x"  # refused: raises ConnectionResetError
            peer.settimeout(30)
        self._stack.enter_context(app)
        app.settimeout(30)
        assert app.recv(5, socket.MSG_WAITALL) == b"%5d" % peer.getsockname()[1]
        return peer, app


@pytest.fixture
def pairs(bed: Topology) -> Iterator[Pairs]:
    with contextlib.ExitStack() as stack:
        yield Pairs(bed, stack)


def works(pair: tuple[socket.socket, socket.socket]) -> bool:
    peer, app = pair
    peer.sendall(b"ping")
    return app.recv(4, socket.MSG_WAITALL) == b"ping"


def pids(proxy: Gateway) -> list[int]:
    """The workers that serve."""
    status, text = proxy.get(15000, "/config_dump")
    return [each["pid"] for each in json.loads(text)["workers"] if each["ready"]] if status == 200 else []


def connections(proxy: Gateway) -> dict[str, int]:
    """Which worker has each live flow, by its peer."""
    return {each["peer"]: each["worker"] for each in json.loads(proxy.get(15000, "/connections")[1])}


def name(pair: tuple[socket.socket, socket.socket]) -> str:
    host, port = pair[0].getsockname()
    return f"{host}:{port}"


def family(pid: int) -> list[int]:
    """A process and all below it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [pid, *(each for child in children for each in family(int(child)))]


def alive(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    return False


def test_two_workers_share_what_comes_and_are_shown_as_one(
    bed: Topology, tmp_path: Path, pairs: Pairs
) -> None:
    with gateway(bed, tmp_path, workers=2) as proxy:
        opened = [pairs.open() for _ in range(40)]
        who = connections(proxy)
        assert set(who) == {name(pair) for pair in opened}
        assert set(who.values()) == set(pids(proxy))
        assert len(set(who.values())) == 2, "with the kernel's hash 40 connections never come to one worker"
        rows = json.loads(proxy.get(15000, "/connections")[1])
        assert len({row["id"] for row in rows}) == 40
        listeners = json.loads(proxy.get(15000, "/listeners")[1])
        assert [row["pids"] for row in listeners if row["direction"] == "ingress"] == [pids(proxy)]
        assert proxy.metric('interceptor_connections_active{direction="ingress"}') == 40
        assert proxy.metric("interceptor_worker_connections_active") == 40
        assert proxy.metric("interceptor_workers_ready") == 2
        assert proxy.metric("istio_tcp_connections_opened_total") == 40
        assert proxy.metric("istio_tcp_received_bytes_total") == 200
        assert proxy.metric("interceptor_config_version_info") == 1
        for peer, app in opened:
            peer.close()
            app.close()
        assert len({line["peer"] for line in proxy.flows(40)}) == 40
        wait_until(lambda: proxy.metric("istio_tcp_connections_closed_total") == 40, "all are counted")
        assert proxy.metric("interceptor_connection_duration_seconds_count") == 40
        assert "istio_tcp_connections_closed_total" in proxy.get(15000, "/stats")[1]


def test_a_killed_worker_takes_its_own_flows_with_it_and_is_replaced(
    bed: Topology, tmp_path: Path, pairs: Pairs
) -> None:
    with gateway(bed, tmp_path, workers=2) as proxy:
        opened = [pairs.open() for _ in range(24)]
        who = connections(proxy)
        victim, other = pids(proxy)
        lost = [pair for pair in opened if who[name(pair)] == victim]
        left = [pair for pair in opened if who[name(pair)] == other]
        assert lost
        assert left
        before = proxy.metric("istio_tcp_connections_opened_total")
        os.kill(victim, signal.SIGKILL)
        for peer, app in lost:
            for end in (peer, app):
                with pytest.raises(ConnectionResetError):
                    end.recv(1)
        assert all(map(works, left))
        replaced = wait_until(
            lambda: [pid for pid in pids(proxy) if pid != other and len(pids(proxy)) == 2], "it is replaced"
        )
        assert victim not in replaced
        assert proxy.get(15020, "/healthz/ready")[0] == 200
        assert set(connections(proxy)) == {name(pair) for pair in left}
        assert proxy.metric("interceptor_worker_connections_active") == len(left)
        assert proxy.metric('interceptor_worker_restarts_total{status="137"}') == 1
        assert proxy.metric("interceptor_worker_lost_connections_total") == len(lost)
        assert proxy.metric("istio_tcp_connections_opened_total") >= before
        again = [pairs.open() for _ in range(24)]
        assert set(connections(proxy).values()) == {other, *replaced}
        assert proxy.metric("istio_tcp_connections_opened_total") == before + 24
        assert all(map(works, (*left, *again)))
        proxy.process.terminate()
        _, log = proxy.process.communicate(timeout=30)
    assert f"worker 0 (process {victim}) was killed by SIGKILL; the {len(lost)} connections" in log


def test_connections_that_wait_for_a_killed_worker_are_served_by_its_replacement(
    bed: Topology, tmp_path: Path, pairs: Pairs
) -> None:
    with gateway(bed, tmp_path, workers=2) as proxy:
        workers = pids(proxy)
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)  # what comes now waits in the kernel
        waiting = [connect(bed.peer, bed.app.v4, PORT) for _ in range(16)]
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        with contextlib.ExitStack() as stack:
            for peer in waiting:
                stack.enter_context(peer).sendall(b"x")
            for _ in waiting:
                app, _ = pairs._server.accept()
                assert stack.enter_context(app).recv(1) == b"x"


def test_the_limit_is_for_all_workers_also_after_one_was_killed(
    bed: Topology, tmp_path: Path, pairs: Pairs
) -> None:
    limit = 7
    with gateway(bed, tmp_path, workers=2, limit=limit) as proxy:
        for _ in range(2):
            opened = [pairs.open() for _ in range(limit)]
            for _ in range(6):
                with pytest.raises(ConnectionError):
                    pairs.open()
            assert proxy.metric("interceptor_worker_connections_active") == limit
            workers = pids(proxy)
            os.kill(workers[0], signal.SIGKILL)
            wait_until(lambda: workers[0] not in pids(proxy) and len(pids(proxy)) == 2, "it is replaced")  # noqa: B023
            for peer, app in opened:
                peer.close()
                app.close()
            wait_until(lambda: proxy.metric("interceptor_worker_connections_active") == 0, "all have ended")
        assert proxy.metric('interceptor_connections_denied_total{direction="ingress",reason="limit"}') >= 6


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left_however_the_main_process_ends(
    bed: Topology, tmp_path: Path, pairs: Pairs, number: signal.Signals
) -> None:
    with gateway(bed, tmp_path, workers=2, drain="500ms") as proxy:
        everyone = family(proxy.process.pid)
        assert len(everyone) == 4, "the main process, the starter and two workers"
        peer, _ = pairs.open()
        proxy.process.send_signal(number)
        with pytest.raises(ConnectionResetError):  # at the drain deadline, or at once
            peer.recv(1)
        status = proxy.process.wait(30)
        assert status == (-9 if number is signal.SIGKILL else 0)
        wait_until(lambda: not any(map(alive, everyone)), "all processes have ended")
        with pytest.raises(ConnectionRefusedError):
            connect(bed.peer, bed.app.v4, 15006)


def test_one_worker_starts_no_process(bed: Topology, tmp_path: Path) -> None:
    with gateway(bed, tmp_path, workers=1) as proxy:
        assert family(proxy.process.pid) == [proxy.process.pid]
        assert pids(proxy) == [proxy.process.pid]
        assert "interceptor_worker" not in proxy.get(15020, "/metrics")[1]


def test_workers_run_as_the_proxys_user_without_capabilities(bed: Topology, tmp_path: Path) -> None:
    with gateway(bed, tmp_path, workers=2) as proxy:
        for pid in family(proxy.process.pid):
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
            assert status["Uid"].split() == ["1337"] * 4
            assert status["CapPrm"] == "0" * 16
            assert status["NoNewPrivs"] == "1"


def test_drained_workers_let_flows_end_and_refuse_new_ones(
    bed: Topology, tmp_path: Path, pairs: Pairs
) -> None:
    with gateway(bed, tmp_path, workers=2, drain="20s") as proxy:
        opened = [pairs.open() for _ in range(12)]
        assert proxy.get(15000, "/drain", "POST")[0] == 200

        def refused() -> bool:
            try:
                connect(bed.peer, bed.app.v4, 15006).close()
            except ConnectionRefusedError:
                return True
            except ConnectionResetError:  # just when they were closed
                return False
            return False

        wait_until(refused, "the listeners are closed")
        assert proxy.get(15020, "/healthz/ready")[0] == 503
        assert all(map(works, opened))
        for peer, app in opened:
            peer.shutdown(socket.SHUT_WR)
            assert app.recv(1) == b""
            app.close()
            assert peer.recv(1) == b""
        assert proxy.process.wait(10) == 0
        assert {line["response_flags"] for line in proxy.flows(12)} <= {"-", "NR"}
        assert len(proxy.flows(12)) >= 12


def test_without_the_process_that_starts_workers_nothing_goes_on(bed: Topology, tmp_path: Path) -> None:
    with gateway(bed, tmp_path, workers=2) as proxy:
        main, starter, *workers = family(proxy.process.pid)
        os.kill(starter, signal.SIGKILL)
        assert proxy.process.wait(30) == 1
        wait_until(lambda: not any(map(alive, (main, starter, *workers))), "all processes have ended")
        assert "the process that starts workers was killed" in proxy.process.communicate()[1]


def test_a_worker_that_dies_again_and_again_ends_the_proxy(bed: Topology, tmp_path: Path) -> None:
    with gateway(bed, tmp_path, workers=2) as proxy:
        everyone = family(proxy.process.pid)
        keeps = pids(proxy)[1]
        while proxy.process.poll() is None:
            for pid in set(pids(proxy)) - {keeps}:
                everyone.append(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        assert proxy.process.returncode == 1
        assert "worker 0 died 9 times in a row" in proxy.process.communicate()[1]
        wait_until(lambda: not any(map(alive, everyone)), "all processes have ended")


TPROXY = """\
apiVersion: interceptor/v1
kind: Sidecar
metadata: {name: shop, namespace: demo}
spec:
  workers: 2
  timeouts: {drainDelay: 100ms, drain: 1s}
  ingress: {mode: %s}
"""
# Tells each client the address it sees.
APP = f"""
import socket, threading
server = socket.create_server(("10.9.0.2", {PORT}), backlog=64)
def serve(client, address):
    client.sendall(("%s %d" % address).encode())
    client.recv(1)
    client.close()
while True:
    threading.Thread(target=serve, args=server.accept(), daemon=True).start()
"""


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_an_app_runs_behind_two_workers(bed: Topology, tmp_path: Path, mode: str) -> None:
    config = tmp_path / "sidecar.yaml"
    config.write_text(TPROXY % mode)
    behind = interceptor(
        *("run", "--netns", bed.app.name, "--user=65534", f"--config={config}", "--"),
        *("/usr/bin/python3", "-c", APP),
    )
    with started(behind) as gate, contextlib.ExitStack() as stack:

        def up() -> bool:
            with contextlib.suppress(OSError), connect(bed.peer, bed.app.v4, PORT) as sock:
                return bool(sock.recv(64))
            return False

        wait_until(lambda: up() or gate.poll() is not None, "the app serves")
        seen = set()
        for _ in range(32):
            sock = stack.enter_context(connect(bed.peer, bed.app.v4, PORT))
            seen.add(tuple(sock.recv(64).decode().split()))
        assert len(seen) == 32
        assert {host for host, _ in seen} == {bed.peer.v4 if mode == "TPROXY" else bed.app.v4}
        if mode == "TPROXY":
            assert {int(port) % 2 for _, port in seen} == {0, 1}, "each worker has source ports of its own"
        everyone = family(gate.pid)
        assert len(everyone) == 6, "the launcher, the four of the proxy, the app"
        stack.close()
        gate.send_signal(signal.SIGTERM)
        gate.communicate(timeout=30)
        assert gate.returncode == 143
        assert not any(map(alive, everyone))


def test_a_rate_limit_holds_for_all_workers_together_also_after_one_died(
    bed: Topology, tmp_path: Path, pairs: Pairs
) -> None:
    limit = "  middleware:\n    - {name: opens, use: rateLimit, scope: connection, config: {total: {rate: 12/h}}}\n"
    with gateway(bed, tmp_path, more=limit, workers=2) as proxy:
        opened = []
        for _ in range(30):
            with contextlib.suppress(ConnectionError):
                opened.append(pairs.open())
        assert len(opened) == 12
        assert set(connections(proxy).values()) == set(pids(proxy))
        before = pids(proxy)
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda: len(pids(proxy)) == 2 and pids(proxy) != before, "it is replaced")
        for _ in range(8):
            with pytest.raises(ConnectionError):
                pairs.open()
