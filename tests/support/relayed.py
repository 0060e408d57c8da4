"""Two connections joined by a hub, and both outer ends: to fill, to read, to compare."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio.testing import wait_all_tasks_blocked

from interceptor.kernel.splice import CAPACITY
from interceptor.model.connection import Flow
from interceptor.proxy.endings import Ended, Side
from interceptor.proxy.hub import Hub
from tests.support.flows import flow_between, tcp_pair

PEER, APP = Side.DOWNSTREAM, Side.UPSTREAM


def pattern(size: int, seed: int) -> bytes:
    """Bytes that show a lost, doubled or swapped piece: each block names itself."""
    return b"".join((block * 2 + seed).to_bytes(8, "big") for block in range(size // 8 + 1))[:size]


STREAM = pattern(64 * 1024 * 1024, 0)  # more than the kernel's buffers of both legs hold


class Relayed:
    """A peer and an app joined by the hub; ``peer`` and ``app`` are the outer ends."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.peer, self.downstream = tcp_pair()
        self.upstream, self.app = tcp_pair()
        self.flow: Flow = flow_between(self.downstream)
        self.result: Ended | None = None
        self.over = trio.Event()
        self.scope = trio.CancelScope()

    def end(self, side: Side) -> socket.socket:
        return self.peer if side is PEER else self.app

    async def relay(self) -> None:
        self.downstream.setblocking(False)
        self.upstream.setblocking(False)
        with self.scope:
            self.result = await self.hub.relay(self.flow, self.downstream, self.upstream)
        self.over.set()

    async def ended(self) -> Ended:
        with trio.fail_after(10):
            await self.over.wait()
        assert self.result is not None
        assert self.downstream.fileno() == self.upstream.fileno() == -1
        return self.result

    def close(self) -> None:
        for sock in (self.peer, self.app, self.downstream, self.upstream):
            sock.close()


@asynccontextmanager
async def serving(hub: Hub, *pairs: Relayed) -> AsyncIterator[None]:
    """Relay the pairs, in order, while the body runs; nothing of them is left in the hub at the end."""
    async with trio.open_nursery() as nursery:
        for pair in pairs:
            nursery.start_soon(pair.relay)
            await wait_all_tasks_blocked()
        nursery.start_soon(hub.run)
        yield
        for pair in pairs:
            pair.scope.cancel()
            await pair.over.wait()
            pair.close()
        assert not hub._ends
        assert not len(hub._wheel)
        nursery.cancel_scope.cancel()


async def receive(sock: socket.socket, size: int) -> bytes:
    """Exactly so many bytes."""
    sock.setblocking(False)
    received = bytearray()
    with trio.fail_after(20):
        while len(received) < size:
            try:
                data = sock.recv(size - len(received))
            except BlockingIOError:
                await trio.lowlevel.wait_readable(sock)
                continue
            assert data, f"ended after {len(received)} of {size} bytes"
            received += data
    return bytes(received)


async def send(sock: socket.socket, data: bytes) -> None:
    sock.setblocking(False)
    rest = memoryview(data)
    with trio.fail_after(20):
        while rest:
            try:
                rest = rest[sock.send(rest) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(sock)


def fill(sock: socket.socket, start: int = 0) -> int:
    """Send a pattern from its ``start`` on until the kernel takes no more; how much it took."""
    sock.setblocking(False)
    rest = memoryview(STREAM)[start:]
    try:
        while rest:
            rest = rest[sock.send(rest[:65536]) :]
    except BlockingIOError:
        return len(STREAM) - start - len(rest)
    raise AssertionError("the kernel took all there is: make the stream longer")


async def fill_chain(pair: Relayed, source: Side) -> int:
    """Send until neither kernel nor hub takes more, because the other end does not read; how many bytes they hold."""
    taken = 0
    while more := fill(pair.end(source), taken):
        taken += more
        await wait_all_tasks_blocked(0.05)
    sock = pair.downstream if source is PEER else pair.upstream
    pending = pair.hub._ends[sock.fileno()].pending
    assert pending is not None
    assert len(pending) <= CAPACITY
    return taken
