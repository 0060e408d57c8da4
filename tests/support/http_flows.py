"""A client, the proxy and an upstream that says what a test tells it to, on loopback."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from interceptor.config.sidecar import Sidecar
from interceptor.middleware.build import Stack
from interceptor.model.connection import ProtocolName
from interceptor.model.request import RequestRecord
from tests.support.flows import FixedView, Records, Running, listening, running_proxy, wait_until

SECONDS = 10.0


@dataclass
class Wire:
    """One end of a connection."""

    sock: socket.socket
    held: bytes = b""

    async def send(self, data: bytes) -> None:
        rest = memoryview(data)
        with trio.fail_after(SECONDS):
            while rest:
                try:
                    rest = rest[self.sock.send(rest) :]
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self.sock)

    async def some(self) -> bytes:
        """What comes next; nothing at the end."""
        with trio.fail_after(SECONDS):
            while True:
                try:
                    return self.sock.recv(65536)
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(self.sock)

    async def until(self, mark: bytes) -> bytes:
        """All up to and with a mark."""
        while mark not in self.held:
            data = await self.some()
            assert data, f"ended after {self.held!r}"
            self.held += data
        end = self.held.index(mark) + len(mark)
        found, self.held = self.held[:end], self.held[end:]
        return found

    async def head(self) -> bytes:
        return await self.until(b"\r\n\r\n")

    async def exactly(self, size: int) -> bytes:
        received = bytearray(self.held)
        while len(received) < size:
            data = await self.some()
            assert data, f"ended after {len(received)} of {size} bytes"
            received += data
        self.held = bytes(received[size:])
        return bytes(received[:size])

    async def rest(self) -> bytes:
        """All until an orderly end; ConnectionResetError at any other."""
        received = bytearray(self.held)
        self.held = b""
        while data := await self.some():
            received += data
        return bytes(received)

    def finish(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.sock.close()


@dataclass
class Bed:
    """A proxy in front of a listening upstream."""

    running: Running
    server: socket.socket
    wires: list[Wire] = field(default_factory=list)

    @property
    def records(self) -> Records:
        return self.running.records

    def client(self) -> Wire:
        sock = self.running.connect()
        sock.setblocking(False)
        return self._wire(sock)

    async def upstream(self) -> Wire:
        """The next connection that reaches the upstream."""
        self.server.setblocking(False)
        with trio.fail_after(SECONDS):
            while True:
                try:
                    sock, _ = self.server.accept()
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(self.server)
                    continue
                sock.setblocking(False)
                return self._wire(sock)

    def no_upstream(self) -> bool:
        """Whether no connection has reached the upstream."""
        self.server.setblocking(False)
        try:
            self.server.accept()
        except BlockingIOError:
            return True
        return False

    async def requests(self, number: int = 1) -> list[RequestRecord]:
        """Wait until so many requests were recorded."""
        await wait_until(lambda: len(self.records.requests) >= number)
        return self.records.requests

    def _wire(self, sock: socket.socket) -> Wire:
        wire = Wire(sock)
        self.wires.append(wire)
        return wire


@asynccontextmanager
async def http_bed(
    protocol: ProtocolName = "http", given: Sidecar | None = None, middleware: Stack | None = None
) -> AsyncIterator[Bed]:
    """A proxy before an upstream; nothing of ours has failed at the end."""
    server, address = listening()
    view = FixedView((address,), protocol=protocol)
    async with running_proxy(view, given, middleware=middleware) as running:
        bed = Bed(running, server)
        try:
            yield bed
        finally:
            for wire in bed.wires:
                wire.close()
            server.close()
    assert bed.records.faults == 0


def request(
    method: str = "GET", path: str = "/", *headers: str, body: bytes = b"", version: str = "1.1"
) -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: a.example", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def response(status: str = "200 OK", *headers: str, body: bytes = b"", version: str = "1.1") -> bytes:
    return "\r\n".join([f"HTTP/{version} {status}", *headers, "", ""]).encode("latin-1") + body


OK = response("200 OK", "Content-Length: 2", body=b"ok")
