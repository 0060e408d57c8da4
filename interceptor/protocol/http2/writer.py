"""Frames out, for one peer: what it lets us send and what has to wait (RFC 9113 sections 4.3 and 5.2)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from interceptor.protocol.http2.codes import (
    ACK,
    CONTINUATION,
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    FLOW_CONTROL_ERROR,
    GOAWAY,
    HEADERS,
    LARGEST,
    PING,
    RST_STREAM,
    SETTINGS,
    SMALLEST_MAX_FRAME,
    WINDOW_UPDATE,
    LegError,
)
from interceptor.protocol.http2.hpack import Encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from interceptor.protocol.http2.hpack import Field
    from interceptor.protocol.http2.stream import Stream

MARK: Final = 256 * 1024  # bytes waiting for the socket from which bodies wait, too
_PIECE: Final = 65_536  # of a body, in one frame: another stream has its turn after it
_RESETS_KEPT: Final = 1024
_header: Final = struct.Struct(">BHBBL").pack
_setting: Final = struct.Struct(">HL").pack


class Writer:
    """Everything that goes to one peer, in order."""

    __slots__ = ("_left", "_out", "_ready", "_reset", "encoder", "max_frame", "size", "streams", "window")

    def __init__(self, left: Callable[[Stream], None]) -> None:
        self.streams: dict[int, Stream] = {}  # those that live
        self._left = left  # told of each that does not any more
        self._reset: dict[int, None] = {}  # streams that we reset: what was under way for them is no fault
        self.encoder = Encoder()
        self.window = DEFAULT_WINDOW  # of the connection
        self.max_frame = SMALLEST_MAX_FRAME
        self.size = 0  # bytes to be taken
        self._out: list[bytes] = []
        self._ready: dict[
            int, Stream
        ] = {}  # with something pending that its own window allows; first come first

    def take(self) -> bytes:
        """What is to be sent now; what waited for room follows with the next call."""
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out.clear()
        self.size = 0
        if self._ready:
            self.pump()
        return data

    def raw(self, data: bytes) -> None:
        """The preface."""
        self._out.append(data)
        self.size += len(data)

    def headers(self, stream: Stream, fields: list[Field], *, end: bool, more: bytes = b"") -> None:
        """A head, or trailers behind what is pending. ``more`` are fields that are encoded."""
        if stream.pending or not stream.id:
            stream.trailers = fields
            return
        block = self.encoder.encode(fields) + more
        size = len(block)
        flags = END_STREAM if end else 0
        if size <= self.max_frame:
            self._frame(HEADERS, flags | END_HEADERS, stream.id, block)
        else:
            step = self.max_frame
            self._frame(HEADERS, flags, stream.id, block[:step])
            for at in range(step, size, step):
                last = END_HEADERS if at + step >= size else 0
                self._frame(CONTINUATION, last, stream.id, block[at : at + step])
        if end:
            self._ended(stream)

    def data(self, stream: Stream, data: bytes, *, end: bool) -> None:
        """Some of a body, and perhaps its end."""
        size = len(data)
        if (
            not stream.pending
            and stream.id
            and (not size or (size <= self.max_frame and self._room(stream, size)))
        ):
            self._data(stream, data, end=end)
            return
        stream.pending += data
        stream.pending_end = end
        if stream.window > 0 and stream.id:
            self._ready[stream.id] = stream
            self.pump()

    def _room(self, stream: Stream, size: int) -> bool:
        return size <= stream.window and size <= self.window and self.size < MARK

    def open(self, stream: Stream, number: int, fields: list[Field], more: bytes = b"") -> None:
        """Give a stream its number; send its head and what was pending for it."""
        stream.id = number
        self.streams[number] = stream
        pending, stream.pending = stream.pending, bytearray()
        self.headers(stream, fields, end=stream.pending_end and not pending, more=more)
        if pending:
            stream.pending = pending
            self.grow(stream, 0)
        elif stream.trailers is not None:
            self.headers(stream, stream.trailers, end=True)

    def grow(self, stream: Stream, size: int) -> bool:
        """The peer allows so many bytes more on a stream; whether that is no fault."""
        stream.window += size
        if stream.pending and stream.window > 0:
            self._ready[stream.id] = stream
            self.pump()
        return stream.window <= LARGEST

    def grow_all(self, size: int) -> None:
        """The same for the connection."""
        self.window += size
        if self.window > LARGEST:
            raise LegError(FLOW_CONTROL_ERROR, "a connection window beyond the largest")
        self.pump()

    def pump(self) -> None:
        """Send what was pending, a piece of each stream in turn, as far as windows and the socket allow."""
        ready = self._ready
        while ready and self.window > 0 and self.size < MARK:
            number, stream = next(iter(ready.items()))
            del ready[number]
            size = min(len(stream.pending), stream.window, self.window, self.max_frame, _PIECE)
            piece = bytes(memoryview(stream.pending)[:size])
            del stream.pending[:size]
            last = not stream.pending
            self._data(stream, piece, end=last and stream.pending_end)
            if last and stream.trailers is not None:
                self.headers(stream, stream.trailers, end=True)
            elif not last and stream.window > 0:
                ready[number] = stream

    def reset(self, stream: Stream, code: int) -> None:
        """End a stream at once."""
        self.refuse(stream.id, code)
        self.forget(stream)

    def refuse(self, number: int, code: int) -> None:
        """The same for a stream that is not kept."""
        self.remember(number)
        self._frame(RST_STREAM, 0, number, code.to_bytes(4, "big"))

    def remember(self, number: int) -> None:
        """What still comes of this stream is to be ignored."""
        if len(self._reset) >= _RESETS_KEPT:
            del self._reset[next(iter(self._reset))]
        self._reset[number] = None

    def was_reset(self, number: int) -> bool:
        """Whether a stream was ended by us before its peer did."""
        return number in self._reset

    def forget(self, stream: Stream) -> None:
        """Drop a stream and what was pending for it."""
        stream.in_closed = stream.out_closed = True
        self._ready.pop(stream.id, None)
        if stream.pending:
            dropped = len(stream.pending)
            stream.pending = bytearray()
            if stream.twin is not None:
                stream.twin.source.consumed(stream.twin, dropped)
        self.close(stream)

    def close(self, stream: Stream) -> None:
        """Both sides of a stream have ended."""
        if self.streams.pop(stream.id, None) is not None:
            self._left(stream)

    def settings(self, values: Iterable[tuple[int, int]]) -> None:
        """Our settings."""
        self._frame(SETTINGS, 0, 0, b"".join(_setting(key, value) for key, value in values))

    def settings_ack(self) -> None:
        """The peer's settings are in force here."""
        self._frame(SETTINGS, ACK, 0, b"")

    def ping(self, payload: bytes, *, ack: bool) -> None:
        """Eight bytes that the peer sends back, or that it sent."""
        self._frame(PING, ACK if ack else 0, 0, payload)

    def window_update(self, number: int, size: int) -> None:
        """The peer may send more, on a stream or (0) the connection."""
        self._frame(WINDOW_UPDATE, 0, number, size.to_bytes(4, "big"))

    def goaway(self, last: int, code: int, debug: bytes) -> None:
        """No streams after the last one are served."""
        self._frame(GOAWAY, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big") + debug)

    def _data(self, stream: Stream, data: bytes, *, end: bool) -> None:
        size = len(data)
        self._frame(DATA, END_STREAM if end else 0, stream.id, data)
        stream.window -= size
        self.window -= size
        if stream.twin is not None:
            stream.twin.source.consumed(stream.twin, size)
        if end:
            self._ended(stream)

    def _ended(self, stream: Stream) -> None:
        stream.out_closed = True
        if stream.pending_reset is not None:
            self.reset(stream, stream.pending_reset)
        elif stream.in_closed:
            self.close(stream)

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        size = len(payload)
        self._out.append(_header(size >> 16, size & 0xFFFF, kind, flags, number) + payload)
        self.size += size + 9
