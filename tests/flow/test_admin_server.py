"""What a client may cost the HTTP server, and that nothing it does ends it."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from interceptor.admin import server
from interceptor.admin.server import Request, Response
from tests.support.raw_http import exchange, request

BIG = "x" * (64 << 20)  # more than any socket buffer takes


async def app(asked: Request) -> Response:
    if asked.path == "/broken":
        raise ValueError("a fault of ours")
    return Response(BIG if asked.path == "/big" else "hello")


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[str, int]]:
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, app, listener)
        yield address
        nursery.cancel_scope.cancel()


async def closed(stream: trio.SocketStream) -> bool:
    """Whether the server closes the connection, within the deadline."""
    with trio.fail_after(10):
        try:
            return await stream.receive_some(1) == b""
        except trio.BrokenResourceError:
            return True


async def test_keep_alive_serves_one_request_after_another() -> None:
    async with serving() as address:
        stream = await trio.open_tcp_stream(*address)
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        received = b""
        with trio.fail_after(10):
            while not received.endswith(b"hello"):
                received += await stream.receive_some(4096)
        assert b"server:" not in received.lower()
        answer = await exchange(stream, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert answer.body == "hello"


async def test_a_fault_in_a_handler_is_500_and_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as address:
        answer = await request(address, "GET", "/broken")
        assert answer.status == 500
        assert "fault of ours" not in answer.body
        assert "a fault of ours" in caplog.text
        assert (await request(address, "GET", "/")).body == "hello"


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # a TLS ClientHello
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"GET /" + b"a" * 9000,
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: " + b"a" * 9000,  # and never the end of it
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\n" * 10 + b"\x00" * 50 + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n" + bytes(10_000),
    ],
)
async def test_bad_requests_are_refused_and_closed(sent: bytes) -> None:
    async with serving() as address:
        answer = await exchange(await trio.open_tcp_stream(*address), sent)
        assert answer.status in {400, 413, 431, 505}
        assert (await request(address, "GET", "/")).body == "hello"


async def test_a_body_is_read_and_forgotten() -> None:
    async with serving() as address:
        async with await trio.open_tcp_stream(*address) as stream:
            await stream.send_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET /")
            assert (await stream.receive_some(4096)).startswith(b"HTTP/1.1 200")
            answer = await exchange(stream, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert answer.body == "hello"


async def test_who_waits_for_leave_to_send_a_body_is_answered_at_once() -> None:
    async with serving() as address:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        answer = await exchange(await trio.open_tcp_stream(*address), head)
        assert (answer.status, answer.body) == (200, "hello")


async def test_head_is_answered_without_a_body() -> None:
    async with serving() as address:
        answer = await request(address, "HEAD", "/")
        assert (answer.status, answer.headers["content-length"], answer.body) == (200, "5", "")


async def test_resets_at_any_moment_are_harmless() -> None:
    async with serving() as address:
        for sent in (b"", b"GET /", b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n"):
            stream = await trio.open_tcp_stream(*address)
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await stream.send_all(sent)
            stream.socket.close()
        assert (await request(address, "GET", "/")).body == "hello"


async def test_an_idle_or_dribbling_client_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_SECONDS", 0.05)
    async with serving() as address:
        for sent in (b"", b"GET / HTT"):
            async with await trio.open_tcp_stream(*address) as stream:
                await stream.send_all(sent)
                assert await closed(stream)


async def test_a_client_that_does_not_read_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in _connected())
    await theirs.send_all(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
    bodies = trio.CapacityLimiter(1)
    conversation = server._Conversation(app, server.wants_none, bodies, ours, server.Greeted(ours))
    with pytest.raises(trio.BrokenResourceError):
        await conversation.run()  # a half-written answer is never continued
    assert trio.current_time() >= server.WRITE_SECONDS
    await ours.aclose()
    await theirs.aclose()


def _connected() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    return accepted, client


async def test_when_all_places_are_taken_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 3)
    async with serving() as address:
        held = [await trio.open_tcp_stream(*address) for _ in range(3)]
        assert (await request(address, "GET", "/")).body == "hello"
        assert await closed(held[0])
        await held[2].send_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert await held[2].receive_some(12) == b"HTTP/1.1 200"
        for stream in held:
            await stream.aclose()


async def test_cancelling_ends_at_once_also_where_a_client_does_not_read() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, app, listener)
        idle = await trio.open_tcp_stream(*listener.getsockname())
        stalled = await trio.open_tcp_stream(*listener.getsockname())
        await stalled.send_all(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
        assert await stalled.receive_some(8) == b"HTTP/1.1"
        began = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began < 1
    assert listener.fileno() == -1
    await trio.aclose_forcefully(idle)
    await trio.aclose_forcefully(stalled)
