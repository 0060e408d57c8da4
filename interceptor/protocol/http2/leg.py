"""One connection, as its endpoint: what a peer may send, when, and how much (RFC 9113 sections 5 and 6).

A bridge owns two: towards the client (``server=True``) and towards the upstream. Faults end a stream or the connection
as the RFC says; floods end the connection, too (``patience``).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from interceptor.protocol.http2 import codes
from interceptor.protocol.http2.codes import (
    ACK,
    DEFAULT_WINDOW,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    LARGEST,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    STREAM_CLOSED,
    LegError,
    StreamError,
)
from interceptor.protocol.http2.hpack import Decoder
from interceptor.protocol.http2.patience import Patience
from interceptor.protocol.http2.reader import MAX_FRAME, Reader
from interceptor.protocol.http2.settings import PeerSettings
from interceptor.protocol.http2.stream import Stream
from interceptor.protocol.http2.writer import Writer

if TYPE_CHECKING:
    from interceptor.protocol.http2.hpack import Block, Field


class Limits(NamedTuple):
    """What a peer may make us hold."""

    streams: int = 1000  # at once; what all can hold is bounded by the window of the connection
    window: int = 256 * 1024  # of a stream
    connection_window: int = 1024 * 1024
    header_list: int = 64 * 1024  # Envoy's is 60 KiB


class Events(Protocol):
    """Who is told what a leg's peer did."""

    def headers(self, stream: Stream, block: Block, *, end: bool) -> None:
        """A head or trailers. May raise StreamError."""

    def data(self, stream: Stream, data: bytes, *, end: bool) -> None:
        """Some of a body; the stream takes it or its source's window stays closed."""

    def reset(self, stream: Stream, code: int, *, complete: bool) -> None:
        """The peer reset a stream, perhaps after its own side had ended."""

    def faulted(self, stream: Stream, fault: StreamError) -> None:
        """We reset a stream for a fault of the peer's."""

    def settings(self) -> None:
        """The peer's settings may have changed."""

    def left(self, stream: Stream) -> None:
        """A stream is over, whoever ended it."""

    def goaway(self, last: int, code: int, debug: bytes) -> None:
        """The peer serves no streams after the last one."""


_DRAIN: Final = b"drain\0\0\0"  # the PING that finds out when a client has seen the first GOAWAY
_SETTINGS: Final = 6 * 32  # bytes of one frame: nghttp2's figure, where eight settings are known
_WORK: Final = 6 * 16  # bytes times streams that cost as much as a frame
_setting: Final = struct.Struct(">HL").iter_unpack


class Leg:
    """The endpoint of one connection."""

    __slots__ = (
        "_decoder", "_events", "_handlers", "_limits", "_owed", "_patience", "_reader", "_server", "dead", "last",
        "last_served", "leaving", "next", "peer", "receivable", "streams", "writer",
    )  # fmt: skip

    def __init__(self, *, server: bool, events: Events, limits: Limits, now: float) -> None:
        self._server = server
        self._events = events
        self._limits = limits
        self._reader = Reader(preface=server, block_limit=limits.header_list)
        self._decoder = Decoder(limits.header_list)
        self._patience = Patience(now)
        self.writer = Writer(events.left)
        self.streams = self.writer.streams
        self.receivable = limits.connection_window
        self._owed = 0
        self.peer = PeerSettings(self.writer, server=server)
        self.leaving = False  # its GOAWAY came
        self.last = 0  # highest stream that a client opened
        self.next = 1  # number of the next stream that we open
        self.last_served: int | None = None  # after our GOAWAY
        self.dead: LegError | None = None
        self._handlers = {
            codes.DATA: self._data,
            codes.HEADERS: self._headers,
            codes.PRIORITY: self._priority,
            codes.RST_STREAM: self._rst_stream,
            codes.SETTINGS: self._settings,
            codes.PING: self._ping,
            codes.GOAWAY: self._goaway,
            codes.WINDOW_UPDATE: self._window_update,
        }

    def start(self) -> None:
        """Send our part of the preface. Push is refused; everything else that a peer need not know keeps its default."""
        limits = self._limits
        values = [
            (codes.INITIAL_WINDOW_SIZE, limits.window),
            (codes.MAX_FRAME_SIZE, MAX_FRAME),
            (codes.MAX_HEADER_LIST_SIZE, limits.header_list),
        ]
        if self._server:
            values.append((codes.MAX_CONCURRENT_STREAMS, limits.streams))
        else:
            self.writer.raw(codes.PREFACE)
            values.append((codes.ENABLE_PUSH, 0))
        self.writer.settings(values)
        self.writer.window_update(0, limits.connection_window - DEFAULT_WINDOW)

    def receive(self, data: bytes, now: float) -> None:
        """Take what the peer sent. A fault of its connection is answered with GOAWAY and left in ``dead``."""
        if self.dead is not None:
            return
        self._patience.now = now
        handlers = self._handlers
        try:
            for kind, flags, number, payload, size in self._reader.read(data):
                handler = handlers.get(kind)
                if handler is None:  # unknown: ignored (section 5.5)
                    self._patience.waste()
                else:
                    handler(flags, number, payload, size)
        except LegError as fault:
            self.dead = fault
            self.writer.goaway(self.last, fault.code, str(fault).encode())

    @property
    def within_head(self) -> bool:
        """Whether the peer is amid something that never takes long: all but a body."""
        return self._reader.within_head

    @property
    def can_open(self) -> bool:
        """Whether the upstream takes one more stream now."""
        return len(self.streams) < self.peer.streams and not self.leaving

    def open(self, stream: Stream, fields: list[Field], more: bytes = b"") -> None:
        """Open a stream to the upstream, with what is pending for it. ``more`` are fields that are encoded."""
        number = self.next
        self.next += 2
        stream.window = self.peer.window
        self.writer.open(stream, number, fields, more)

    def new_stream(self) -> Stream:
        """A stream that has no number yet."""
        return Stream(0, self, self.peer.window, self._limits.window)

    def reset(self, stream: Stream, code: int) -> None:
        """Reset a stream; what its peer still sends is ignored."""
        if not stream.id or self.dead is not None:
            self.writer.forget(stream)
        elif stream.id in self.streams:
            self.writer.reset(stream, code)

    def consumed(self, stream: Stream, size: int) -> None:
        """Bytes of this stream have been passed on: let its peer send as many again, in steps of half a window."""
        if self.dead is not None:
            return
        self._owed += size
        if self._owed * 2 >= self._limits.connection_window:
            self.writer.window_update(0, self._owed)
            self.receivable += self._owed
            self._owed = 0
        if not stream.in_closed:
            stream.owed += size
            if stream.owed * 2 >= self._limits.window:
                self.writer.window_update(stream.id, stream.owed)
                stream.receivable += stream.owed
                stream.owed = 0

    def allow_connect_protocol(self) -> None:
        """Tell the client that extended CONNECT is served (RFC 8441)."""
        self.writer.settings([(codes.ENABLE_CONNECT_PROTOCOL, 1)])

    def drain(self) -> None:
        """Ask the client to open no more streams; those under way are served until it has seen this."""
        if self.last_served is None:
            self.writer.goaway(LARGEST, NO_ERROR, b"")
            self.writer.ping(_DRAIN, ack=False)

    def close_after(self, code: int, debug: bytes) -> None:
        """Serve no streams after those that came; a client may send the others again elsewhere."""
        if self.last_served is None:
            self.last_served = self.last
            self.writer.goaway(self.last, code, debug)

    def _data(self, flags: int, number: int, payload: bytes, size: int) -> None:
        self.receivable -= size
        if self.receivable < 0:
            raise LegError(FLOW_CONTROL_ERROR, "more DATA than the connection's window")
        stream = self.streams.get(number)
        if stream is None:
            self._stray(number, "DATA")
            self._owe(size)
            return
        end = bool(flags & END_STREAM)
        if payload:
            self._patience.useful()
        elif not end:
            self._patience.waste()
        try:
            _admit(stream, len(payload), size, end=end)
            stream.in_closed = end
            if payload or end:
                self._events.data(stream, payload, end=end)
            if end and stream.out_closed:
                self.writer.close(stream)
        except StreamError as fault:
            self._owe(size)
            self._fault(stream, fault)
        else:
            if size != len(payload):  # padding
                self.consumed(stream, size - len(payload))

    def _headers(self, flags: int, number: int, block: bytes, _size: int) -> None:
        decoded = self._decoder.decode(block)
        stream = self.streams.get(number)
        if stream is None:
            stream = self._new(number)
            if stream is None:
                return
        end = bool(flags & END_STREAM)
        if stream.in_closed:
            self._fault(stream, StreamError(STREAM_CLOSED, "HEADERS after the end of their stream"))
            return
        try:
            stream.in_closed = end
            self._events.headers(stream, decoded, end=end)
            if end and stream.out_closed:
                self.writer.close(stream)
        except StreamError as fault:
            self._fault(stream, fault)

    def _new(self, number: int) -> Stream | None:
        """The stream that HEADERS open; None where they are to be ignored."""
        if not self._server or not number & 1 or number <= self.last:
            self._stray(number, "HEADERS")
            return None
        self.last = number
        self._patience.useful()
        if self.last_served is not None:
            self.writer.remember(number)
            return None
        if len(self.streams) >= self._limits.streams:
            self._patience.reset()
            self.writer.refuse(number, REFUSED_STREAM)
            return None
        stream = Stream(number, self, self.peer.window, self._limits.window)
        self.streams[number] = stream
        return stream

    def _priority(self, _flags: int, number: int, _payload: bytes, size: int) -> None:
        """Deprecated (section 5.3.2), and ignored."""
        self._patience.waste()
        if not number:
            raise LegError(PROTOCOL_ERROR, "PRIORITY of no stream")
        if size != 5:
            raise LegError(FRAME_SIZE_ERROR, "PRIORITY of a wrong length")

    def _rst_stream(self, _flags: int, number: int, payload: bytes, size: int) -> None:
        if size != 4:
            raise LegError(FRAME_SIZE_ERROR, "RST_STREAM of a wrong length")
        stream = self.streams.get(number)
        if stream is None:
            self._patience.waste()
            self._not_idle(number, "RST_STREAM")
            return
        if self._server:
            self._patience.reset()
        complete, stream.in_closed = stream.in_closed, True
        self._events.reset(stream, int.from_bytes(payload, "big"), complete=complete)
        self.writer.forget(stream)

    def _settings(self, flags: int, number: int, payload: bytes, size: int) -> None:
        # Each may be a new window for every stream: 64 KiB of them would take seconds.
        self._patience.waste(1 + size * len(self.streams) // _WORK)
        if number:
            raise LegError(PROTOCOL_ERROR, "SETTINGS of a stream")
        if flags & ACK:
            if size:
                raise LegError(FRAME_SIZE_ERROR, "an acknowledgement of SETTINGS with settings")
            return
        if size % 6:
            raise LegError(FRAME_SIZE_ERROR, "SETTINGS of a wrong length")
        if size > _SETTINGS:
            raise LegError(ENHANCE_YOUR_CALM, "SETTINGS of too many settings")
        for key, value in _setting(payload):
            self.peer.apply(key, value)
        self.writer.settings_ack()
        self._events.settings()

    def _ping(self, flags: int, number: int, payload: bytes, size: int) -> None:
        self._patience.waste()
        if number:
            raise LegError(PROTOCOL_ERROR, "PING of a stream")
        if size != 8:
            raise LegError(FRAME_SIZE_ERROR, "PING of a wrong length")
        if not flags & ACK:
            self.writer.ping(payload, ack=True)
        elif payload == _DRAIN:
            self.close_after(NO_ERROR, b"")

    def _goaway(self, _flags: int, number: int, payload: bytes, size: int) -> None:
        self._patience.waste()
        if number:
            raise LegError(PROTOCOL_ERROR, "GOAWAY of a stream")
        if size < 8:
            raise LegError(FRAME_SIZE_ERROR, "GOAWAY of a wrong length")
        last = int.from_bytes(payload[:4], "big") & LARGEST
        self._events.goaway(last, int.from_bytes(payload[4:8], "big"), payload[8:])

    def _window_update(self, _flags: int, number: int, payload: bytes, size: int) -> None:
        self._patience.waste()
        if size != 4:
            raise LegError(FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong length")
        increment = int.from_bytes(payload, "big") & LARGEST
        if not number:
            if not increment:
                raise LegError(PROTOCOL_ERROR, "a WINDOW_UPDATE of nothing")
            self.writer.grow_all(increment)
            return
        stream = self.streams.get(number)
        if stream is None:
            self._not_idle(number, "WINDOW_UPDATE")
        elif not increment:
            self._fault(stream, StreamError(PROTOCOL_ERROR, "a WINDOW_UPDATE of nothing"))
        elif not self.writer.grow(stream, increment):
            self._fault(stream, StreamError(FLOW_CONTROL_ERROR, "a window beyond the largest"))

    def _fault(self, stream: Stream, fault: StreamError) -> None:
        """Reset a stream for what its peer did. It counts as one that the peer reset: the cost is the same."""
        if self._server:
            self._patience.reset()
        stream.in_closed = True
        self._events.faulted(stream, fault)
        self.reset(stream, fault.code)

    def _stray(self, number: int, what: str) -> None:
        """DATA or HEADERS of no live stream: under way when we reset it, or a fault."""
        self._not_idle(number, what)
        if not self.writer.was_reset(number):
            raise LegError(STREAM_CLOSED, f"{what} of a closed stream")

    def _not_idle(self, number: int, what: str) -> None:
        """Only a client opens streams, with odd numbers, and only HEADERS do."""
        if not number & 1 or number >= (self.next if not self._server else self.last + 1):
            raise LegError(PROTOCOL_ERROR, f"{what} of an idle stream")

    def _owe(self, size: int) -> None:
        """Bytes of no live stream still count for the connection."""
        self.consumed(_NO_STREAM, size)


def _admit(stream: Stream, length: int, size: int, *, end: bool) -> None:
    """Whether a stream may have so much more of a body, sent in so many bytes."""
    if stream.in_closed:
        raise StreamError(STREAM_CLOSED, "DATA after the end of its stream")
    stream.receivable -= size
    if stream.receivable < 0:
        raise StreamError(FLOW_CONTROL_ERROR, "more DATA than the stream's window")
    if stream.remaining is not None:
        stream.remaining -= length
        if stream.remaining < 0 or (end and stream.remaining):
            raise StreamError(PROTOCOL_ERROR, "a body that is not as long as its Content-Length")


class _Nobody:
    def consumed(self, stream: Stream, size: int) -> None: ...


_NO_STREAM: Final = Stream(0, _Nobody(), 0, 0)
_NO_STREAM.in_closed = True
