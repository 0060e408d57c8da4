"""What an app is told whose connection may go nowhere: an answer where it speaks HTTP, else a reset."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from interceptor.config.sidecar import Sidecar
from interceptor.model.connection import Direction, ProtocolName, ResponseFlag
from interceptor.protocol.http2.codes import GOAWAY, PING, PREFACE
from interceptor.proxy import nowhere
from interceptor.routing.destinations import Decision
from tests.support.flows import FixedView, Running, running_proxy, settings
from tests.support.http2 import Wire, frame, settings as frame_settings

GET = b"GET /v1 HTTP/1.1\r\nHost: api.example\r\n\r\n"
GRPC = [
    (b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"api.example"), (b":path", b"/p.S/Do"),
    (b"content-type", b"application/grpc"), (b"te", b"trailers"),
]  # fmt: skip


class Refusing(FixedView):
    """Nothing may go anywhere, and a protocol may be declared."""

    def _decide(self, destination: object) -> Decision:
        name = "BlackHoleCluster"
        return Decision((), name, name, "test", self.denied, "not allowed here", protocol=self.protocol)


@asynccontextmanager
async def refusing(
    reason: str = "registry", protocol: ProtocolName = "auto", given: Sidecar | None = None
) -> AsyncIterator[Running]:
    view = Refusing(denied=reason, protocol=protocol)
    async with running_proxy(view, given, direction=Direction.EGRESS) as running:
        yield running


async def all_of(sock: socket.socket) -> bytes:
    """What comes until the end, in order or not."""
    received = b""
    with trio.fail_after(10):
        while data := await trio.to_thread.run_sync(sock.recv, 65536):
            received += data
    return received


@pytest.mark.parametrize(
    ("reason", "protocol", "status", "flag"),
    [
        ("registry", "auto", 502, ResponseFlag.DENY),
        ("unresolved", "auto", 503, ResponseFlag.NO_HEALTHY_UPSTREAM),
        ("unresolved", "http", 503, ResponseFlag.NO_HEALTHY_UPSTREAM),
    ],
)
async def test_a_request_is_answered_and_the_connection_ends(
    reason: str, protocol: ProtocolName, status: int, flag: ResponseFlag
) -> None:
    async with refusing(reason, protocol) as running:
        with running.connect() as app:
            app.sendall(GET + GET)
            answer = await all_of(app)
        (flow,) = await running.records.wait_closed()
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close\r\n" in answer.lower()
    assert answer.endswith(b"\r\n\r\ninterceptor: not allowed here\n")
    (record,) = running.records.requests  # the second one was never asked
    assert (record.status, record.flag, record.details) == (status, flag, "not allowed here")
    assert record.destination == (
        "BlackHoleCluster",
        "BlackHoleCluster",
        "unknown",
        "block_all" if status == 502 else None,
    )
    assert (flow.denied, flow.flag, flow.upstream, flow.http) == (reason, flag, None, True)


@pytest.mark.parametrize("protocol", ["auto", "http", "grpc"])
async def test_streams_are_answered_and_then_the_client_is_asked_to_leave(protocol: ProtocolName) -> None:
    async with refusing("registry", protocol) as running:
        with running.connect() as sock:
            client = Wire(sock)
            await client.say(PREFACE, frame_settings())
            await client.ask(1, GRPC)
            fields = await client.fields(1)
            assert (fields[b":status"], fields[b"grpc-status"]) == (b"200", b"14")
            await client.hear(GOAWAY)
            asked = await client.hear(PING)
            await client.say(frame(PING, 1, 0, asked.payload))
            await client.end()
        (flow,) = await running.records.wait_closed()
    (record,) = running.records.requests
    assert (record.flag, record.grpc_status, flow.denied) == (ResponseFlag.DENY, "14", "registry")


@pytest.mark.parametrize("said", [b"\x16\x03\x01\x00\x05hello", b"EHLO me\r\n", None])
async def test_what_is_no_request_is_reset_without_a_byte(
    said: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nowhere, "PATIENCE", 0.05 if said is None else 60.0)
    async with refusing() as running:
        with running.connect() as app:
            if said is not None:
                app.sendall(said)
            with pytest.raises(ConnectionResetError):
                await all_of(app)
        (flow,) = await running.records.wait_closed()
    assert (flow.denied, flow.flag, flow.http, flow.bytes_sent) == ("registry", ResponseFlag.DENY, False, 0)
    assert running.records.requests == []


@pytest.mark.parametrize("protocol", ["auto", "tcp"])
async def test_where_nothing_is_looked_at_the_reset_comes_at_once(
    protocol: ProtocolName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nowhere, "PATIENCE", 60.0)
    given = settings()
    if protocol == "auto":
        given = given.model_copy(update={"spec": given.spec.model_copy(update={"detection": False})})
    async with refusing("registry", protocol, given) as running:
        with running.connect() as app, pytest.raises(ConnectionResetError):
            await all_of(app)
        (flow,) = await running.records.wait_closed()
    assert flow.denied == "registry"


async def test_a_client_that_goes_before_it_asks_is_recorded_as_refused() -> None:
    async with refusing() as running:
        with running.connect() as app:
            app.shutdown(socket.SHUT_WR)
            with pytest.raises(ConnectionResetError):
                await all_of(app)
        (flow,) = await running.records.wait_closed()
    assert (flow.denied, flow.flag) == ("registry", ResponseFlag.DENY)


async def test_one_that_never_asks_does_not_stay() -> None:
    given = settings()
    timeouts = given.spec.timeouts.model_copy(update={"requestHead": 0.2})
    given = given.model_copy(update={"spec": given.spec.model_copy(update={"timeouts": timeouts})})
    async with refusing("registry", "http2", given) as running:
        with running.connect() as app:
            app.sendall(PREFACE + frame_settings())
            with pytest.raises(ConnectionResetError):
                await all_of(app)
        (flow,) = await running.records.wait_closed()
    assert flow.denied == "registry"
