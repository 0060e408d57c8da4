"""HTTP/2 as a peer speaks it: frames by hand, header blocks by the hpack library, which knows nothing of ours."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import hpack
import trio

from interceptor.model.http import LocalReply, ResponseHead
from interceptor.protocol.http2 import codes
from interceptor.protocol.http2.bridge import Bridge
from interceptor.protocol.http2.hooks import Wait
from interceptor.protocol.http2.leg import Leg, Limits
from interceptor.protocol.http2.stream import Call

Fields = Iterable[tuple[bytes, bytes]]

GET = ((b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"app"), (b":path", b"/"))
POST = ((b":method", b"POST"), *GET[1:])
GRPC = ((b":method", b"POST"), *GET[1:3], (b":path", b"/pkg.Svc/Do"), (b"content-type", b"application/grpc"))
OK = ((b":status", b"200"),)

STREAM, SETTINGS_ACK, END = 0x1, 0x1, 0x1
END_HEADERS = 0x4


def frame(kind: int, flags: int, number: int, payload: bytes = b"") -> bytes:
    return struct.pack(">BHBBL", len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, number) + payload


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(codes.SETTINGS, 0, 0, b"".join(struct.pack(">HL", *pair) for pair in pairs))


def window_update(number: int, size: int) -> bytes:
    return frame(codes.WINDOW_UPDATE, 0, number, struct.pack(">L", size))


def rst_stream(number: int, code: int) -> bytes:
    return frame(codes.RST_STREAM, 0, number, struct.pack(">L", code))


def goaway(last: int, code: int, debug: bytes = b"") -> bytes:
    return frame(codes.GOAWAY, 0, 0, struct.pack(">LL", last, code) + debug)


class Sent(NamedTuple):
    """One frame that we sent, as its receiver understands it."""

    kind: int
    flags: int
    stream: int
    payload: bytes
    decoded: dict[bytes, bytes] | None = None  # of HEADERS, where they have to be decoded as they come

    @property
    def ends(self) -> bool:
        return bool(self.flags & END)

    @property
    def code(self) -> int:
        """Of a RST_STREAM or a GOAWAY."""
        return int.from_bytes(
            self.payload[-4:] if self.kind == codes.RST_STREAM else self.payload[4:8], "big"
        )


def frames(data: bytes) -> Iterator[Sent]:
    at = 0
    if data.startswith(codes.PREFACE):
        at = len(codes.PREFACE)
    while at < len(data):
        high, low, kind, flags, number = struct.unpack_from(">BHBBL", data, at)
        end = at + 9 + (high << 16 | low)
        assert end <= len(data), "half a frame was sent"
        yield Sent(kind, flags, number, data[at + 9 : end])
        at = end


class Peer:
    """One end of a connection to us: encodes what it says and understands what it hears."""

    def __init__(self) -> None:
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self.heard: list[Sent] = []

    def headers(self, number: int, fields: Fields, *, end: bool = False) -> bytes:
        return frame(codes.HEADERS, END_HEADERS | (END if end else 0), number, self.block(fields))

    def block(self, fields: Fields) -> bytes:
        return self.encoder.encode(list(fields))

    def data(self, number: int, data: bytes, *, end: bool = False) -> bytes:
        return frame(codes.DATA, END if end else 0, number, data)

    def hear(self, data: bytes) -> list[Sent]:
        """New frames, header blocks in one piece and decoded by ``fields``."""
        new: list[Sent] = []
        block: Sent | None = None
        for sent in frames(data):
            if block is not None:
                assert (sent.kind, sent.stream) == (codes.CONTINUATION, block.stream)
                block = block._replace(payload=block.payload + sent.payload, flags=block.flags | sent.flags)
            elif sent.kind == codes.HEADERS:
                block = sent
            else:
                new.append(sent)
                continue
            if block.flags & END_HEADERS:
                new.append(block)
                block = None
        assert block is None
        self.heard += new
        return new

    def fields(self, sent: Sent) -> dict[bytes, bytes]:
        assert sent.kind == codes.HEADERS
        return {bytes(name): bytes(value) for name, value in self.decoder.decode(sent.payload, raw=True)}


@dataclass
class Deciding:
    """Hooks that do as they are told, and note what happened."""

    verdict: LocalReply | Wait | None = None
    calls: list[Call] = field(default_factory=list)
    finished_calls: list[Call] = field(default_factory=list)
    heads: list[ResponseHead] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    body_limit: int | None = None

    def request(self, call: Call) -> LocalReply | Wait | None:
        self.calls.append(call)
        call.body_limit = self.body_limit
        return self.verdict

    def response(self, call: Call, head: ResponseHead) -> ResponseHead:
        self.heads.append(head)
        return head

    def malformed(self, details: str) -> None:
        self.refused.append(details)

    def finished(self, call: Call) -> None:
        assert call not in self.finished_calls
        self.finished_calls.append(call)


class Bridged:
    """A client, a bridge and an upstream."""

    def __init__(
        self,
        *pairs: tuple[int, int],
        upstream: Iterable[tuple[int, int]] = (),
        limits: Limits | None = None,
        connect: bool = True,
    ) -> None:
        self.hooks = Deciding()
        self.now = 0.0
        self.bridge = Bridge(self.hooks, self.now, limits or Limits())
        self.client, self.app = Peer(), Peer()
        if connect:
            self.bridge.connected()
            self.from_app(settings(*upstream))
        self.from_client(codes.PREFACE + settings(*pairs))

    def from_client(self, *data: bytes) -> tuple[list[Sent], list[Sent]]:
        """What the client, then what the app hears of it."""
        self.bridge.receive_downstream(b"".join(data), self.now)
        return self.hear()

    def from_app(self, *data: bytes) -> tuple[list[Sent], list[Sent]]:
        self.bridge.receive_upstream(b"".join(data), self.now)
        return self.hear()

    def hear(self) -> tuple[list[Sent], list[Sent]]:
        return self.client.hear(_all(self.bridge.downstream)), self.app.hear(_all(self.bridge.upstream))

    def get(self, number: int) -> tuple[list[Sent], list[Sent]]:
        return self.from_client(self.client.headers(number, GET, end=True))


def _all(leg: Leg) -> bytes:
    out = b""
    while data := leg.writer.take():
        out += data
    return out


class Wire:
    """One end of a real connection that speaks HTTP/2."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.peer = Peer()
        self.frames: list[Sent] = []  # heard, and not asked for yet
        self.window = 0  # the sum of all that the connection's window was ever enlarged by
        self._rest = b""

    async def say(self, *data: bytes) -> None:
        view = memoryview(b"".join(data))
        while view:
            try:
                view = view[self.sock.send(view) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.sock)

    async def hear(self, kind: int, number: int | None = None) -> Sent:
        """The next frame of a kind, of a stream if it matters; what came before it and is not of it is kept."""
        with trio.fail_after(10):
            while True:
                for at, sent in enumerate(self.frames):
                    if sent.kind == kind and number in {None, sent.stream}:
                        return self.frames.pop(at)
                assert await self.more(), f"the connection ended before a frame {kind}: {self.frames}"

    async def fields(self, number: int | None = None) -> dict[bytes, bytes]:
        decoded = (await self.hear(codes.HEADERS, number)).decoded
        assert decoded is not None
        return decoded

    async def body(self, number: int) -> bytes:
        """The whole body of a stream."""
        out = b""
        while True:
            sent = await self.hear(codes.DATA, number)
            out += sent.payload
            if sent.ends:
                return out

    async def end(self) -> str:
        """How the connection ends."""
        with trio.fail_after(10):
            try:
                while await self.more():
                    pass
            except ConnectionResetError:
                return "reset"
            return "fin"

    async def more(self) -> bool:
        await trio.lowlevel.wait_readable(self.sock)
        data = self.sock.recv(1 << 18)
        self._take(data)
        return bool(data)

    def _take(self, data: bytes) -> None:
        data = self._rest + data
        at = 0
        if data.startswith(codes.PREFACE):
            at = len(codes.PREFACE)
        while len(data) - at >= 9 and len(data) - at >= 9 + int.from_bytes(data[at : at + 3], "big"):
            end = at + 9 + int.from_bytes(data[at : at + 3], "big")
            (sent,) = frames(data[at:end])
            if sent.kind == codes.WINDOW_UPDATE and not sent.stream:
                self.window += int.from_bytes(sent.payload, "big")
            if sent.kind == codes.HEADERS:
                sent = sent._replace(decoded=self.peer.fields(sent))
            self.frames.append(sent)
            at = end
        self._rest = data[at:]

    async def give(self, number: int, size: int) -> None:
        """Let so many bytes more come, on a stream and the connection."""
        await self.say(window_update(0, size), window_update(number, size))

    async def ask(self, number: int, fields: Fields = GET) -> None:
        await self.say(self.peer.headers(number, fields, end=True))

    async def answer(self, number: int, body: bytes = b"hello", fields: Fields = OK) -> None:
        await self.say(self.peer.headers(number, fields), self.peer.data(number, body, end=True))
