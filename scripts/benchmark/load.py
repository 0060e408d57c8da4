"""The load: run the tools against a stage and yield samples, metric by metric."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripts.benchmark import outputs
from scripts.benchmark.contestants import BULK_CLIENT, BULK_PORT, HTTP2_PORT, HTTP_PORT
from scripts.benchmark.measures import (
    CLIENTS,
    CONNECTION_COUNTS,
    FAIRNESS_CONNECTIONS,
    HTTP2_SHAPES,
    STREAM_COUNTS,
)
from scripts.benchmark.outputs import OutputError
from scripts.benchmark.stage import (
    ADDRESSES,
    BODY,
    TICKS,
    WORK,
    Stage,
    StageError,
    command_inside,
    process,
    wait,
    wait_listening,
)

WRK_SCRIPT: Final = Path(__file__).with_name("wrk.lua")
REQUEST: Final = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
IDLE_SECONDS: Final = 15.0  # to open the idle connections; who is slower is measured with those there are
SETTLE_SECONDS: Final = 0.5  # for buffers to be given back
GRACE_SECONDS: Final = 15.0  # beyond a run's length, for a tool to end

Samples = Iterator[tuple[str, float]]


@dataclass
class Spent:
    """CPU seconds of a block: the whole machine's, and the proxy's alone."""

    machine: float = 0.0
    proxy: float = 0.0


@contextlib.contextmanager
def spent(stage: Stage) -> Iterator[Spent]:
    """Measure the CPU time of a block."""
    result = Spent()
    machine, proxy = _machine_busy(), stage.proxy_cpu_seconds()
    yield result
    result.machine = _machine_busy() - machine
    result.proxy = stage.proxy_cpu_seconds() - proxy


def check_path(stage: Stage) -> None:
    """A few requests, to warm up and to prove that the contestant is in the path (or, with none, that nothing is)."""
    for connection in _open(stage, 20):
        connection.close()
    if stage.proxy is not None and stage.redirected() < 20:
        raise StageError(f"the connections did not go through {stage.name}")


def memory(stage: Stage, _seconds: int, idle: int) -> Samples:
    """Resident memory at rest, and for each 1 000 idle connections that have made one request."""
    if stage.proxy is None:
        return
    rest = stage.proxy_memory_mb()
    yield "rest", rest
    before = _sockets_in_use(stage)
    connections = _open(stage, idle)
    try:
        time.sleep(SETTLE_SECONDS)
        yield "idle", (stage.proxy_memory_mb() - rest) / len(connections) * 1000
    finally:
        for connection in connections:
            connection.close()
    wait(
        lambda: _sockets_in_use(stage) <= before,
        lambda: f"{stage.name} keeps connections whose peers have closed",
    )


def requests(stage: Stage, seconds: int, _idle: int) -> Samples:
    """Small requests over kept connections."""
    for count in CONNECTION_COUNTS:
        with spent(stage) as cpu:
            result = _wrk(stage, seconds, count)
        yield f"requests@{count}", result.requests / result.seconds
        yield f"p50@{count}", result.p50_ms
        yield f"p99@{count}", result.p99_ms
        if count == 50:
            yield "cpu/100k", cpu.machine / result.requests * 100_000
            if stage.proxy is not None:
                yield "own-cpu/100k", cpu.proxy / result.requests * 100_000


def http(stage: Stage, seconds: int, _idle: int) -> Samples:
    """Small requests over kept connections, each of them understood, counted and logged."""
    for count in CONNECTION_COUNTS:
        with spent(stage) as cpu:
            result = _wrk(stage, seconds, count)
        yield f"http@{count}", result.requests / result.seconds
        yield f"http-p50@{count}", result.p50_ms
        yield f"http-p99@{count}", result.p99_ms
        if count == 50 and stage.proxy is not None:
            yield "http-own-cpu/100k", cpu.proxy / result.requests * 100_000


def http2(stage: Stage, seconds: int, _idle: int) -> Samples:
    """The same over HTTP/2, without TLS. HAProxy decides by the port what a server speaks, and is left out."""
    if stage.name == "haproxy":
        return
    for count, streams in HTTP2_SHAPES:
        argv = [
            "h2load",
            "-D",
            str(seconds),
            "-c",
            str(count),
            "-m",
            str(streams),
            f"http://{stage.target}:{HTTP2_PORT}/",
        ]
        done = subprocess.run(
            command_inside(stage.client, argv),
            check=False,
            capture_output=True,
            text=True,
            timeout=seconds + GRACE_SECONDS,
        )
        yield f"http2@{count}x{streams}", outputs.parse_h2load(done.stdout + done.stderr)


def connections(stage: Stage, seconds: int, _idle: int) -> Samples:
    """A connection for each request."""
    with spent(stage) as cpu:
        result = _wrk(stage, seconds, CLIENTS, "Connection: close")
    yield "connections", result.requests / result.seconds
    yield "cpu/connection", cpu.machine / result.requests * 1e6
    if stage.proxy is not None:
        yield "own-cpu/connection", cpu.proxy / result.requests * 1e6


def bulk(stage: Stage, seconds: int, _idle: int) -> Samples:
    """As many bytes as possible, from the client (up) and to it (down)."""
    for count in STREAM_COUNTS:
        for way, option in (("up", ()), ("down", ("--reverse",))):
            with _iperf3(stage, seconds, "--parallel", str(count), *option) as finish, spent(stage) as cpu:
                result = finish()
            yield f"{way}@{count}", result.gbit
            if count == 1:
                yield f"cpu/GB-{way}", cpu.machine / (result.bytes / 1e9)


def fairness(stage: Stage, seconds: int, _idle: int) -> Samples:
    """Small requests while one flow takes all it can get."""
    with _iperf3(stage, seconds + 1) as finish:
        result = _wrk(stage, seconds, FAIRNESS_CONNECTIONS)
        beside = finish()
    yield "fair-p99", result.p99_ms
    yield "fair-bulk", beside.gbit


LOADS: Final[dict[str, Callable[[Stage, int, int], Samples]]] = {
    "memory": memory,
    "requests": requests,
    "connections": connections,
    "bulk": bulk,
    "fairness": fairness,
    "http": http,
    "http2": http2,
}


def _wrk(stage: Stage, seconds: int, count: int, header: str = "X-Bench: 1") -> outputs.Requests:
    addresses = list(ADDRESSES[stage.direction])
    threads = 1 if count < CLIENTS else 2
    argv = [
        "wrk",
        "-t",
        str(threads),
        "-c",
        str(count),
        "-d",
        f"{seconds}s",
        "--timeout",
        "10s",
        "-H",
        header,
    ]
    argv += ["-s", str(WRK_SCRIPT), f"http://{stage.target}:{HTTP_PORT}/"]
    environment = [f"BENCH_ADDRESSES={' '.join(addresses)}", f"BENCH_PORT={HTTP_PORT}"]
    done = subprocess.run(
        command_inside(stage.client, ["env", *environment, *argv]),
        check=False,
        capture_output=True,
        text=True,
        timeout=seconds + GRACE_SECONDS,
    )
    result = outputs.parse_wrk(done.stdout + done.stderr)
    if flaw := result.flaw():
        raise OutputError(flaw)
    return result


@contextlib.contextmanager
def _iperf3(stage: Stage, seconds: int, *options: str) -> Iterator[Callable[[], outputs.Bulk]]:
    """A bulk transfer under way; the function that is given waits for its end. The server serves just this one."""
    log = WORK / "iperf3.log"
    argv = [
        "iperf3",
        "--json",
        "--client",
        stage.target,
        "--port",
        str(BULK_PORT),
        "--bind",
        BULK_CLIENT[stage.direction],
    ]
    argv += ["--time", str(seconds), *options]
    with process(
        stage.called, ["iperf3", "--server", "--one-off", "--port", str(BULK_PORT)], log=log
    ) as server:
        wait_listening("iperf3", server, {BULK_PORT}, log)
        client = subprocess.Popen(
            command_inside(stage.client, argv),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

        def finish() -> outputs.Bulk:
            return outputs.parse_iperf3(client.communicate(timeout=seconds + GRACE_SECONDS)[0])

        try:
            yield finish
        finally:
            client.kill()
            client.communicate()


def _open(stage: Stage, count: int) -> list[socket.socket]:
    """Connections that have made one request each: fewer than asked when time runs out."""
    deadline = time.monotonic() + IDLE_SECONDS
    addresses = list(ADDRESSES[stage.direction])

    def connect() -> list[socket.socket]:
        made: list[socket.socket] = []
        try:
            while len(made) < count and (time.monotonic() < deadline or not made):
                connection = socket.create_connection(
                    (addresses[len(made) % len(addresses)], HTTP_PORT), timeout=5
                )
                made.append(connection)
                connection.sendall(REQUEST)
                _read_answer(connection)
        except OSError as error:
            for connection in made:
                connection.close()
            raise StageError(f"connection {len(made) + 1} through {stage.name} failed: {error}") from error
        return made

    return stage.inside_client(connect)


def _read_answer(connection: socket.socket) -> None:
    received = b""
    while not received.endswith(BODY.encode()):
        more = connection.recv(4096)
        if not more:
            raise ConnectionError("it was closed before the answer")
        received += more


def _sockets_in_use(stage: Stage) -> int:
    """TCP sockets in use in the called server's namespace: both sides of a flow on ingress, one on egress."""
    line = next(
        line
        for line in Path(f"/proc/{stage.server.pid}/net/sockstat").read_text().splitlines()
        if line.startswith("TCP:")
    )
    return int(line.split()[2])


def _machine_busy() -> float:
    return outputs.busy_seconds(Path("/proc/stat").read_text(), TICKS)
