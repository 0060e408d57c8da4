"""Bytes into frames (RFC 9113 sections 3.4, 4 and 6.10): the preface, lengths, padding, header blocks in one piece.

What a peer can make us hold is one frame and one header block, both of bounded size.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.protocol.http2.codes import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FRAME_SIZE_ERROR,
    HEADERS,
    LARGEST,
    PADDED,
    PREFACE,
    PRIORITIZED,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    SETTINGS,
    LegError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER: Final = 9  # bytes before a frame's payload
MAX_FRAME: Final = 65_536  # what we take, and tell peers: a quarter of the frames of the default for a bulk
PIECES: Final = 64  # frames of one header block
_HEADER: Final = struct.Struct(">BHHL").unpack_from  # a type and its flags as one number

# Most frames are what they are: whole, without padding and priority.
_AS_IT_IS: Final = frozenset(
    kind << 8 | flags | end for kind, flags in ((DATA, 0), (HEADERS, END_HEADERS)) for end in (0, END_STREAM)
)


class Frame(NamedTuple):
    """One frame. Padding and priority are taken off; HEADERS have their whole block, END_HEADERS or not."""

    kind: int
    flags: int
    stream: int
    payload: bytes
    size: int  # of the payload as it was sent: what flow control counts


class Reader:
    """Cuts what one peer sends into frames."""

    __slots__ = (
        "_block",
        "_block_flags",
        "_block_limit",
        "_block_stream",
        "_pieces",
        "_preface",
        "_rest",
        "_settled",
    )

    def __init__(self, *, preface: bool, block_limit: int) -> None:
        self._preface = preface  # still to come
        self._settled = False  # SETTINGS came, which must be the first frame
        self._rest = b""
        self._block_limit = block_limit
        self._block: bytearray | None = None  # a header block that is not complete
        self._block_stream = self._block_flags = self._pieces = 0

    @property
    def within_head(self) -> bool:
        """Whether the preface, a header block or any frame but DATA has begun and is not complete: that never takes long."""
        rest = self._rest
        return (
            self._preface
            or self._block is not None
            or (bool(rest) and (len(rest) < HEADER or rest[3] != DATA))
        )

    def read(self, data: bytes) -> Iterator[Frame | tuple[int, int, int, bytes, int]]:
        """The frames that these bytes complete. Raises LegError, after the frames before the fault."""
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        if self._preface:
            if data[: len(PREFACE)] != PREFACE[:end]:
                raise LegError(PROTOCOL_ERROR, "the connection does not begin with HTTP/2's preface")
            if end < len(PREFACE):
                self._rest = data
                return
            self._preface = False
            at = len(PREFACE)
        while end - at >= HEADER:
            high, low, what, stream = _HEADER(data, at)
            size = high << 16 | low
            if size > MAX_FRAME:
                raise LegError(FRAME_SIZE_ERROR, f"a frame of {size} bytes, where {MAX_FRAME} are allowed")
            begin = at + HEADER
            if end - begin < size:
                break
            at = begin + size
            if what in _AS_IT_IS and self._settled and self._block is None:
                yield what >> 8, what & 0xFF, stream & LARGEST, data[begin:at], size
                continue
            frame = self._frame(Frame(what >> 8, what & 0xFF, stream & LARGEST, data[begin:at], size))
            if frame is not None:
                yield frame
        self._rest = data[at:]

    def _frame(self, frame: Frame) -> Frame | None:
        kind = frame.kind
        if self._block is not None:
            return self._continued(frame)
        if not self._settled:
            if kind != SETTINGS or frame.flags & END_STREAM:  # the flag is ACK here
                raise LegError(PROTOCOL_ERROR, "the first frame is not SETTINGS")
            self._settled = True
        if kind == DATA:
            return frame if not frame.flags & PADDED else frame._replace(payload=_unpadded(frame))
        if kind == HEADERS:
            return self._headers(frame)
        if kind == CONTINUATION:
            raise LegError(PROTOCOL_ERROR, "a CONTINUATION without a header block to continue")
        if kind == PUSH_PROMISE:  # no client may send one, and servers are told not to
            raise LegError(PROTOCOL_ERROR, "a PUSH_PROMISE, where push is off")
        return frame

    def _headers(self, frame: Frame) -> Frame | None:
        block = frame.payload
        if frame.flags & PADDED:
            block = _unpadded(frame)
        if frame.flags & PRIORITIZED:
            if len(block) < 5:
                raise LegError(FRAME_SIZE_ERROR, "HEADERS too short for their priority")
            block = block[5:]
        if frame.flags & END_HEADERS:
            return frame._replace(payload=block)
        self._block = bytearray(block)
        self._block_stream, self._block_flags, self._pieces = frame.stream, frame.flags, 1
        return None

    def _continued(self, frame: Frame) -> Frame | None:
        block = self._block
        assert block is not None
        if frame.kind != CONTINUATION or frame.stream != self._block_stream:
            raise LegError(PROTOCOL_ERROR, "a frame between the pieces of a header block")
        block += frame.payload
        self._pieces += 1
        if len(block) > self._block_limit or self._pieces > PIECES:
            raise LegError(ENHANCE_YOUR_CALM, "a header block of too many frames or bytes")
        if not frame.flags & END_HEADERS:
            return None
        self._block = None
        return Frame(HEADERS, self._block_flags, self._block_stream, bytes(block), len(block))


def _unpadded(frame: Frame) -> bytes:
    payload = frame.payload
    if not payload:
        raise LegError(FRAME_SIZE_ERROR, "a padded frame without the length of its padding")
    padding = payload[0]
    if padding >= len(payload):
        raise LegError(PROTOCOL_ERROR, "a frame with more padding than payload")
    return payload[1 : len(payload) - padding]
