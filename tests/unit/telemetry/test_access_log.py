"""The lines, and that writing them never holds up the proxy."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
import trio
from hypothesis import given, settings, strategies as st

from interceptor.errors import ConfigError
from interceptor.kernel.shared_memory import SharedMemory
from interceptor.model.connection import Direction
from interceptor.model.identity import SpiffeId
from interceptor.telemetry import access_log
from interceptor.telemetry.access_log import AccessLog, json_line, text_line
from tests.support.sample_flows import DENIED, NOT_REDIRECTED, OK, RESET, UPSTREAM_FAILURE, flow
from tests.support.until import until

ISTIO_KEYS = [
    "start_time",
    "method",
    "path",
    "protocol",
    "response_code",
    "response_flags",
    "response_code_details",
    "connection_termination_details",
    "bytes_received",
    "bytes_sent",
    "duration",
    "upstream_service_time",
    "x_forwarded_for",
    "user_agent",
    "request_id",
    "authority",
    "upstream_host",
    "upstream_cluster",
    "upstream_local_address",
    "downstream_local_address",
    "downstream_remote_address",
    "requested_server_name",
    "route_name",
    "upstream_transport_failure_reason",
]
OUR_KEYS = ["direction", "original_dst", "peer", "peer_identity", "policy", "relay"]
KINDS = {"ok": OK, "denied": DENIED, "failure": UPSTREAM_FAILURE, "reset": RESET, "loop": NOT_REDIRECTED}


class Dropped:
    def __init__(self) -> None:
        self.lines = 0

    def __call__(self, lines: int) -> None:
        self.lines += lines


@asynccontextmanager
async def running(
    path: Path | str, format_: Literal["json", "text"] = "json"
) -> AsyncIterator[tuple[AccessLog, Dropped]]:
    dropped = Dropped()
    log = AccessLog(str(path), format_, dropped)
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run)
        yield log, dropped
        nursery.cancel_scope.cancel()


# -- lines


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_is_there_in_order(kind: str) -> None:
    line = json_line(flow(KINDS[kind]))
    assert line.endswith(b"}\n")
    assert list(json.loads(line)) == ISTIO_KEYS + OUR_KEYS


def test_values_of_a_flow_that_ended_well() -> None:
    assert {key: value for key, value in json.loads(json_line(OK)).items() if value is not None} == {
        "start_time": "2026-09-21T14:13:20.123Z",
        "response_code": 0,
        "response_flags": "-",
        "bytes_received": 100,
        "bytes_sent": 5000,
        "duration": 1500,
        "upstream_host": "93.184.216.34:443",
        "upstream_cluster": "outbound|443||example.com",
        "upstream_local_address": "10.0.0.1:50000",
        "downstream_local_address": "93.184.216.34:443",
        "downstream_remote_address": "10.0.0.1:40000",
        "direction": "egress",
        "original_dst": "93.184.216.34:443",
        "peer": "10.0.0.1:40000",
        "policy": "ServiceEntry shop/example",
        "relay": "splice",
    }


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (
            "denied",
            {
                "response_flags": "DENY",
                "connection_termination_details": "no ServiceEntry names it",
                "upstream_transport_failure_reason": None,
                "upstream_host": None,
                "upstream_cluster": "BlackHoleCluster",
                "original_dst": "[fd00::9]:25",
                "policy": "egress.policy=REGISTRY_ONLY",
                "relay": None,
            },
        ),
        (
            "failure",
            {
                "response_flags": "UF",
                "connection_termination_details": "connect failed: Connection refused",
                "upstream_transport_failure_reason": "connect failed: Connection refused",
                "upstream_host": "93.184.216.34:443",
                "upstream_local_address": None,
            },
        ),
        ("reset", {"response_flags": "DC", "upstream_transport_failure_reason": None, "bytes_sent": 5000}),
        (
            "loop",
            {
                "response_flags": "NR",
                "original_dst": None,
                "downstream_local_address": "10.0.0.1:15001",
                "upstream_cluster": None,
                "connection_termination_details": None,
                "policy": None,
                "duration": 0,
            },
        ),
    ],
)
def test_values_of_flows_that_did_not(kind: str, expected: dict[str, Any]) -> None:
    found = json.loads(json_line(KINDS[kind]))
    assert {key: found[key] for key in expected} == expected


def test_text_line_is_golden() -> None:
    assert text_line(flow(direction=Direction.INGRESS, policy="-")).decode() == (
        '[2026-09-21T14:13:20.123Z] "- - -" 0 - - - "-" 100 5000 1500 - "-" "-" "-" "-" "93.184.216.34:443" '
        "outbound|443||example.com 10.0.0.1:50000 93.184.216.34:443 10.0.0.1:40000 - - "
        "direction=ingress original_dst=93.184.216.34:443 peer=10.0.0.1:40000 peer_identity=- policy=- "
        "relay=splice\n"
    )
    assert text_line(UPSTREAM_FAILURE).decode() == (
        '[2026-09-21T14:13:20.123Z] "- - -" 0 UF - "connect failed: Connection refused" '
        '"connect failed: Connection refused" 0 0 1500 - "-" "-" "-" "-" "93.184.216.34:443" '
        "outbound|443||example.com - 93.184.216.34:443 10.0.0.1:40000 - - "
        "direction=egress original_dst=93.184.216.34:443 peer=10.0.0.1:40000 peer_identity=- "
        'policy="ServiceEntry shop/example" relay=-\n'
    )
    assert text_line(NOT_REDIRECTED).decode() == (
        '[2026-09-21T14:13:20.123Z] "- - -" 0 NR - - "-" 0 0 0 - "-" "-" "-" "-" "-" '
        "- - 10.0.0.1:15001 10.0.0.1:40000 - - "
        "direction=egress original_dst=- peer=10.0.0.1:40000 peer_identity=- policy=- relay=-\n"
    )


@settings(deadline=None)  # a shared machine may pause for long
@given(policy=st.text(), details=st.text(), cluster=st.text(), unix=st.floats(0, 4e9))
def test_no_text_breaks_out_of_its_place(policy: str, details: str, cluster: str, unix: float) -> None:
    hostile = flow(
        UPSTREAM_FAILURE, policy=policy, details=details, upstream_cluster=cluster, started_at=unix
    )
    line = json_line(hostile)
    found = json.loads(line)
    assert list(found) == ISTIO_KEYS + OUR_KEYS
    assert found["policy"] == (None if policy == "-" else policy)
    assert found["connection_termination_details"] == (None if details == "-" else details)
    for each in (line, text_line(hostile)):
        assert each.count(b"\n") == 1
        assert all(0x20 <= byte < 0x7F for byte in each[:-1])


def test_a_quote_in_a_text_line_stays_inside_its_word() -> None:
    line = text_line(flow(policy='a" relay=forged "', upstream_cluster="")).decode()
    assert r'policy="a\" relay=forged \"" relay=splice' in line
    assert '"93.184.216.34:443" "" 10.0.0.1:50000' in line


# -- writing


@pytest.mark.parametrize("format_", ["json", "text"])
async def test_everything_queued_is_written_in_order(
    tmp_path: Path, format_: Literal["json", "text"]
) -> None:
    path = tmp_path / "access.log"
    line = json_line if format_ == "json" else text_line
    flows = [flow(id=i, bytes_sent=i) for i in range(100)]
    async with running(path, format_) as (log, dropped):
        for each in flows[:50]:
            log.write(each)
        await until(lambda: path.read_bytes().count(b"\n") == 50)  # while it runs
        for each in flows[50:]:
            log.write(each)  # and at its end
    assert path.read_bytes() == b"".join(map(line, flows))
    assert dropped.lines == 0


async def test_an_existing_log_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_text("before\n")
    async with running(path) as (log, _):
        log.write(flow())
    assert path.read_text().startswith("before\n{")


async def test_no_write_is_larger_than_a_pipe_takes_at_once() -> None:
    """Packet mode (O_DIRECT) keeps each write apart, so that the reader sees the sizes."""
    reader, writer = os.pipe2(os.O_DIRECT | os.O_NONBLOCK)
    long_line = b"x" * 4095 + b"\n"
    lines = [json_line(flow()) for _ in range(12)] + [long_line, b"short\n"]
    assert access_log._write(writer, lines, contextlib.nullcontext) == (14, None)
    os.close(writer)
    packets = []
    while packet := os.read(reader, 65536):
        packets.append(packet)
    os.close(reader)
    assert b"".join(packets) == b"".join(lines)
    assert all(len(packet) <= 4096 and packet.endswith(b"\n") for packet in packets)
    assert len(packets) < len(lines)


def test_lines_of_several_processes_never_mix_however_long_they_are() -> None:
    reader, writer = os.pipe()
    in_turn = functools.partial(SharedMemory(1).locked, 1)
    children = []
    for letter in (b"a", b"b", b"c"):
        child = os.fork()
        if child == 0:
            _, error = access_log._write(writer, [letter * 100_000 + b"\n"] * 20, in_turn)
            os._exit(error is not None)
        children.append(child)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        lines = stream.read().splitlines()
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert len(lines) == 60
    assert {(line[:1], len(set(line)), len(line)) for line in lines} == {
        (letter, 1, 100_000) for letter in (b"a", b"b", b"c")
    }


@pytest.fixture
def fifo(tmp_path: Path) -> str:
    os.mkfifo(tmp_path / "fifo")
    return str(tmp_path / "fifo")


async def test_a_stalled_reader_costs_lines_and_never_time(
    fifo: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(access_log, "FLUSH_SECONDS", 0.1)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        began = trio.current_time()
        async with running(fifo) as (log, dropped):
            for _ in range(4):  # a FIFO holds 64 KiB, some 70 lines
                for _ in range(access_log.QUEUE_LINES):
                    log.write(flow())
                await trio.lowlevel.checkpoint()
            await until(lambda: dropped.lines > 0)
            held = log._writing + len(log._lines)
            assert held <= 2 * access_log.QUEUE_LINES
            assert dropped.lines + held == 4 * access_log.QUEUE_LINES
        assert trio.current_time() - began < 5
        assert dropped.lines == 4 * access_log.QUEUE_LINES
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "were lost at the end" in caplog.text
    finally:
        os.close(reader)


async def test_a_slow_reader_loses_nothing(fifo: str) -> None:
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    wanted = b"".join(json_line(flow(id=i, bytes_sent=i)) for i in range(500))
    found = b""
    async with running(fifo) as (log, dropped):
        for i in range(500):
            log.write(flow(id=i, bytes_sent=i))
        with trio.fail_after(10):
            while len(found) < len(wanted):
                await trio.lowlevel.wait_readable(reader)
                found += os.read(reader, 4096)
    os.close(reader)
    assert found == wanted
    assert dropped.lines == 0


async def test_a_reader_that_left_ends_the_log_with_one_warning(
    fifo: str, caplog: pytest.LogCaptureFixture
) -> None:
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    async with running(fifo) as (log, dropped):
        os.close(reader)
        log.write(flow())
        await until(lambda: dropped.lines == 1)
        for _ in range(10):
            log.write(flow())
        assert dropped.lines == 11
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "Broken pipe" in caplog.text
        assert "send SIGHUP" in caplog.text
        await trio.Path(fifo).unlink()
        log.reopen()  # a file is made in its place
        log.write(flow())
    assert await trio.Path(fifo).read_bytes() == json_line(flow())
    assert dropped.lines == 11


async def test_a_full_disk_is_told_once_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async with running("/dev/full") as (log, dropped):
        log.write(flow())
        await until(lambda: dropped.lines == 1)
        log.write(flow())
        await until(lambda: dropped.lines == 2)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "No space left on device" in caplog.text


async def test_reopen_after_rotation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "access.log"
    rotated = tmp_path / "access.log.1"
    async with running(path) as (log, _):
        log.write(flow(bytes_sent=1))
        await until(lambda: path.read_bytes() != b"")
        path.rename(rotated)
        log.reopen()
        await until(path.exists)
        log.write(flow(bytes_sent=2))
        await until(lambda: path.read_bytes() != b"")
        path.unlink()
        path.mkdir()  # cannot be opened: the old one is kept
        log.reopen()
        await until(lambda: "the log goes on in the file that was open" in caplog.text)
    assert rotated.read_bytes() == json_line(flow(bytes_sent=1))


@pytest.mark.parametrize("name", ["no/such/directory", "."])
def test_a_log_that_cannot_be_opened_is_bad_configuration(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be opened .* spec\.accessLog\.path"):
        AccessLog(str(tmp_path / name), "json", Dropped())


def test_a_fifo_without_reader_is_refused_at_once(fifo: str) -> None:
    with pytest.raises(ConfigError, match="No such device or address"):
        AccessLog(fifo, "json", Dropped())


STDOUT_PROGRAM = """
import logging, sys, trio
from interceptor.telemetry import logs
from interceptor.telemetry.access_log import AccessLog
from tests.support.sample_flows import flow

dropped = []
async def main():
    log = AccessLog("-", "json", dropped.append)
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run)
        log.reopen()
        log.write(flow())
        nursery.cancel_scope.cancel()

logs.setup("text", "info")
trio.run(main)
print(sum(dropped), "dropped", file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.parametrize("closed", [False, True])
def test_standard_output(closed: bool) -> None:
    reader, writer = os.pipe()
    if closed:
        os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", STDOUT_PROGRAM],
        check=False,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
    )
    os.close(writer)
    assert done.returncode == 0
    if closed:
        assert done.stderr.count("Broken pipe") == 1
        assert "1 dropped" in done.stderr
        return
    with os.fdopen(reader, "rb") as stream:
        assert stream.read() == json_line(flow())
    assert done.stderr == "0 dropped\n"


def test_no_line_is_made_where_nobody_can_read_it() -> None:
    log = AccessLog("/dev/null", "json", dropped=lambda _: pytest.fail("nothing is dropped"))
    for _ in range(access_log.QUEUE_LINES + 1):
        log.write(flow())
    assert not log._lines
    os.close(log._fd)


def test_the_identity_of_the_peer_is_its_spiffe_id() -> None:
    known = flow(peer_identity=SpiffeId("cluster.local", "shop", "web"))
    assert json.loads(json_line(known))["peer_identity"] == "spiffe://cluster.local/ns/shop/sa/web"
    assert b" peer_identity=spiffe://cluster.local/ns/shop/sa/web " in text_line(known)
