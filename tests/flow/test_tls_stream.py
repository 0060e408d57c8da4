"""TLS streams in the hub over real loopback connections: every byte, every kind of end, no room for a record."""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from interceptor.proxy.endings import Ended, Ending, Side
from interceptor.proxy.hub import Hub
from interceptor.tls.contexts import Contexts
from interceptor.tls.stream import TlsStream
from tests.support.flows import flow_between, reset, tcp_pair
from tests.support.identities import WEB, Root, contexts
from tests.support.relayed import pattern, receive, send

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    root = Root()
    return contexts(tmp_path_factory.mktemp("mesh"), root.issue(WEB), root)


@dataclass
class Legs:
    """A peer that speaks TLS, and an app that does not, joined by the hub."""

    peer: ssl.SSLSocket
    app: socket.socket
    hub: Hub
    ended: Ended | None = None


class Joined:
    """``peer`` speaks TLS (stdlib's own sockets), ``app`` does not; the hub is between."""

    def __init__(
        self, mesh: Contexts, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, buffers: int | None = None
    ) -> None:
        self.hub = Hub(idle=60, linger=60)
        self.raw_peer, self.downstream = tcp_pair(buffers)
        self.upstream, self.app = tcp_pair(buffers)
        client = mesh.client(())
        client.maximum_version = version
        self.context = client
        self.server = mesh.server(())
        self.flow = flow_between(self.downstream)
        self.result: Ended | None = None
        self.over = trio.Event()

    async def shake(self) -> None:
        """Both handshakes; the peer's in a thread."""
        self.downstream.setblocking(False)
        self.stream = TlsStream(self.downstream, self.server, server_side=True)
        async with trio.open_nursery() as nursery:

            async def peer() -> None:
                self.peer = await trio.to_thread.run_sync(
                    lambda: self.context.wrap_socket(self.raw_peer, suppress_ragged_eofs=False)
                )
                self.peer.settimeout(20)

            nursery.start_soon(peer)
            while not self.stream.handshake():
                await trio.lowlevel.wait_readable(self.downstream)

    async def relay(self) -> None:
        self.upstream.setblocking(False)
        self.result = await self.hub.relay(self.flow, self.stream, self.upstream)
        self.over.set()

    def close(self) -> None:
        for sock in (self.peer, self.app):
            sock.close()


@pytest.fixture(params=VERSIONS, ids=["tls1.2", "tls1.3"])
def joined(mesh: Contexts, request: pytest.FixtureRequest) -> Iterator[Joined]:
    made = Joined(mesh, request.param)
    yield made
    made.context.maximum_version = ssl.TLSVersion.TLSv1_3
    made.close()


async def running(joined: Joined, nursery: trio.Nursery) -> None:
    await joined.shake()
    nursery.start_soon(joined.relay)
    await wait_all_tasks_blocked()
    nursery.start_soon(joined.hub.run)


def exactly(sock: socket.socket, size: int) -> bytes:
    received = bytearray()
    sock.settimeout(20)
    while len(received) < size:
        data = sock.recv(min(size - len(received), 1 << 20))
        if not data:
            break
        received += data
    return bytes(received)


async def thread_exactly(sock: socket.socket, size: int) -> bytes:
    return await trio.to_thread.run_sync(exactly, sock, size)


async def test_messages_go_both_ways_and_are_counted(joined: Joined) -> None:
    async with trio.open_nursery() as nursery:
        await running(joined, nursery)
        for number in range(200):
            joined.peer.sendall(b"ask%d" % number)
            assert await thread_exactly(joined.app, len(b"ask%d" % number)) == b"ask%d" % number
            joined.app.sendall(b"answer")
            assert await thread_exactly(joined.peer, 6) == b"answer"
        joined.hub.count()
        assert joined.flow.bytes_sent == 1200
        assert joined.flow.relay == "tls"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("size", [20_000_000])
async def test_every_byte_arrives_in_both_directions_at_once(joined: Joined, size: int) -> None:
    up, down = pattern(size, 0), pattern(size, 1)
    async with trio.open_nursery() as nursery:
        await running(joined, nursery)
        async with trio.open_nursery() as transfers:

            async def check(sock: socket.socket, expected: bytes) -> None:
                assert await receive(sock, len(expected)) == expected

            transfers.start_soon(check, joined.app, up)
            transfers.start_soon(send, joined.app, down)
            # One thread for the peer: an SSLSocket is not for two at once.
            transfers.start_soon(trio.to_thread.run_sync, both_ways, joined.peer, up, down)
        nursery.cancel_scope.cancel()


def both_ways(sock: ssl.SSLSocket, out: bytes, expected: bytes) -> None:
    sock.setblocking(False)
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE)
        rest, received = memoryview(out), bytearray()
        while rest or len(received) < len(expected):
            selector.modify(sock, selectors.EVENT_READ | (selectors.EVENT_WRITE if rest else 0))
            assert selector.select(20)
            try:
                while rest:
                    rest = rest[sock.send(rest[:65536]) :]
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                pass
            try:
                while data := sock.recv(65536):
                    received += data
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pass
        assert bytes(received) == expected


async def test_the_app_finishes_first_and_the_peer_reads_an_orderly_end(joined: Joined) -> None:
    async with trio.open_nursery() as nursery:
        await running(joined, nursery)
        joined.app.sendall(b"all")
        joined.app.shutdown(socket.SHUT_WR)
        assert await thread_exactly(joined.peer, 3) == b"all"
        assert (
            await trio.to_thread.run_sync(joined.peer.recv, 10) == b""
        )  # by a close_notify: see how the context was made
        await trio.to_thread.run_sync(joined.peer.unwrap)
        with trio.fail_after(10):
            await joined.over.wait()
        assert joined.result == Ended(Side.UPSTREAM, Ending.FIN)
        nursery.cancel_scope.cancel()


async def test_the_peer_finishes_first_and_still_gets_its_answer(joined: Joined) -> None:
    """Half-close: the peer says close_notify and reads on, by memory, because stdlib's sockets cannot."""
    await joined.shake()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(joined.relay)
        await wait_all_tasks_blocked()
        nursery.start_soon(joined.hub.run)
        await trio.to_thread.run_sync(joined.peer.sendall, b"question")
        joined.peer.setblocking(False)
        with pytest.raises(ssl.SSLWantReadError):
            joined.peer.unwrap()  # ours is sent, theirs has not come
        assert await thread_exactly(joined.app, 8) == b"question"
        assert await trio.to_thread.run_sync(joined.app.recv, 1) == b""
        joined.app.sendall(b"late answer")
        joined.app.shutdown(socket.SHUT_WR)
        with trio.fail_after(10):
            await joined.over.wait()
        assert joined.result == Ended(Side.DOWNSTREAM, Ending.FIN)
        joined.hub.count()
        assert (joined.flow.bytes_received, joined.flow.bytes_sent) == (8, 11)
        joined.peer.settimeout(20)
        read = joined.peer._sslobj.read  # type: ignore[attr-defined]  # the socket's own read hides how it ended
        assert read(100) == b"late answer"
        with pytest.raises(ssl.SSLZeroReturnError):  # a close_notify: an end without one is another error
            read(100)
        nursery.cancel_scope.cancel()


async def test_an_end_without_close_notify_is_a_truncation_and_resets_the_app(joined: Joined) -> None:
    async with trio.open_nursery() as nursery:
        await running(joined, nursery)
        await trio.to_thread.run_sync(joined.peer.sendall, b"half of")
        assert await thread_exactly(joined.app, 7) == b"half of"
        joined.peer.shutdown(socket.SHUT_WR)  # the TCP connection's, without a word of TLS
        with trio.fail_after(10):
            await joined.over.wait()
        assert joined.result == Ended(Side.DOWNSTREAM, Ending.RESET, errno.EPROTO)
        with pytest.raises(ConnectionResetError):
            await trio.to_thread.run_sync(joined.app.recv, 1)
        nursery.cancel_scope.cancel()


async def test_damaged_records_reset_the_app_after_what_was_good(joined: Joined) -> None:
    async with trio.open_nursery() as nursery:
        await running(joined, nursery)
        await trio.to_thread.run_sync(joined.peer.sendall, b"good")
        raw = socket.socket(fileno=joined.peer.detach())
        raw.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        assert await thread_exactly(joined.app, 4) == b"good"
        with trio.fail_after(10):
            await joined.over.wait()
        assert joined.result == Ended(Side.DOWNSTREAM, Ending.RESET, errno.EPROTO)
        raw.close()
        nursery.cancel_scope.cancel()


async def test_an_app_that_resets_resets_the_peer_without_a_close_notify(joined: Joined) -> None:
    async with trio.open_nursery() as nursery:
        await running(joined, nursery)
        reset(joined.app)
        with trio.fail_after(10):
            await joined.over.wait()
        with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):
            await trio.to_thread.run_sync(joined.peer.recv, 1)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("size", [6_000_000])
async def test_a_peer_that_reads_late_gets_every_byte_and_the_end(mesh: Contexts, size: int) -> None:
    """The kernel has no room for records, nor for the close_notify behind them: all wait, and all arrive."""
    joined = Joined(mesh, buffers=4096)
    async with trio.open_nursery() as nursery:
        await running(joined, nursery)
        answer = pattern(size, 3)

        async def say_all() -> None:
            await send(joined.app, answer)
            joined.app.shutdown(socket.SHUT_WR)

        nursery.start_soon(say_all)
        await wait_all_tasks_blocked(0.1)  # everything is full by now
        assert joined.flow.bytes_sent < size
        assert await thread_exactly(joined.peer, size) == answer
        assert await trio.to_thread.run_sync(joined.peer.recv, 1) == b""
        joined.hub.count()
        assert joined.flow.bytes_sent == size
        nursery.cancel_scope.cancel()
    joined.close()


class FullSocket:
    """Takes so many bytes, then none until there is room again."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.taken = bytearray()
        self.finished = False

    def send(self, data: memoryview) -> int:
        if not self.room:
            raise BlockingIOError
        size = min(self.room, len(data))
        self.room -= size
        self.taken += data[:size]
        return size

    def recv_into(self, _buffer: bytearray, _size: int) -> int:
        raise BlockingIOError

    def shutdown(self, how: int) -> None:
        assert how == socket.SHUT_WR
        self.finished = True


def shaken(mesh: Contexts, sock: FullSocket) -> tuple[TlsStream, ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
    """A stream over a socket of the test's, after its handshake with a client in memory."""
    stream = TlsStream(sock, mesh.server(()), server_side=True)  # type: ignore[arg-type]  # a fake
    to_client, from_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = mesh.client(()).wrap_bio(to_client, from_client)
    for _ in range(4):
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
        stream._incoming.write(from_client.read())
        stream.handshake()
        to_client.write(bytes(sock.taken))
        sock.taken.clear()
    return stream, client, to_client, from_client


def test_what_the_kernel_refuses_is_offered_again_and_encrypted_once(mesh: Contexts) -> None:
    sock = FullSocket(1 << 20)
    stream, client, to_client, _ = shaken(mesh, sock)
    message, sent = pattern(100_000, 5), 0
    sock.room = 0
    while sent < len(message):
        try:
            sent += stream.send(memoryview(message)[sent:])
        except BlockingIOError:
            sock.room = 777
    while stream.holds:
        sock.room = 777
        stream._offer()
    sock.room = 0
    with pytest.raises(BlockingIOError):
        stream.shutdown(socket.SHUT_WR)
    finished = [sock.finished]
    sock.room = 1000
    assert stream.send(b"?") == 1  # stands for the end, and is never sent
    stream.shutdown(socket.SHUT_WR)
    assert [*finished, sock.finished] == [False, True]
    to_client.write(bytes(sock.taken))
    received = bytearray()
    while data := client.read(1 << 16):
        received += data
    assert bytes(received) == message


class Noting:
    """A reader that notes that it is to read on."""

    drain = False


def test_what_does_not_fit_in_the_readers_buffer_is_announced(mesh: Contexts) -> None:
    """No event of the socket's will tell of it: it has left the kernel."""
    stream, client, _, said = shaken(mesh, FullSocket(1 << 20))
    stream.reader = reader = Noting()
    for _ in range(2):
        client.write(bytes(1000))
    stream._incoming.write(said.read())
    buffer = bytearray(1000)
    assert stream.recv_into(buffer) == 1000
    assert reader.drain
    assert stream.recv_into(buffer) == 1000
    with pytest.raises(BlockingIOError):
        stream.recv_into(buffer)
