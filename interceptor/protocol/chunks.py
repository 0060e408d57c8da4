"""The chunked transfer coding, strictly: RFC 9112 section 7.1 without its liberties.

Bodies are taken apart and framed anew: a chunk's size is only ever written by us, and extensions go no further.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from interceptor.protocol.http1 import HEAD_END, MalformedError, trailer_headers

if TYPE_CHECKING:
    from interceptor.model.http import Headers

MAX_LINE: Final = 1024  # a chunk's size and its extensions
MAX_EXTENSIONS: Final = 16 * 1024  # in one body: they are work for nothing
MAX_TRAILERS: Final = 8 * 1024

_PLAIN: Final = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n")
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(;[^\x00-\x08\n-\x1f\x7f]*)?")


class Chunks:
    """Reads one chunked body."""

    __slots__ = ("_extensions", "_left", "done", "trailers")

    def __init__(self) -> None:
        self._left = -1  # of the chunk, with the CR LF behind it; -1: a size comes next, -2: trailers
        self._extensions = 0
        self.done = False
        self.trailers: Headers = []

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """The body's bytes in some received ones, and how many of these were used: give the rest again with more."""
        found: list[bytes] = []
        at, size = 0, len(data)
        while not self.done and at < size:
            if self._left == -1 and (plain := _PLAIN.match(data, at)) is not None:
                start = plain.end()
                end = start + int(plain[1], 16)
                if start < end <= size - 2 and data[end : end + 2] == b"\r\n":  # all of a chunk, as most are
                    found.append(data[start:end])
                    at = end + 2
                    continue
            if self._left > 2:
                piece = data[at : at + self._left - 2]
                found.append(piece)
                self._left -= len(piece)
                at += len(piece)
                continue
            used = self._line(data, at) if self._left < 0 else self._chunk_end(data, at)
            if not used:
                break
            at += used
        return found[0] if len(found) == 1 else b"".join(found), at

    def _chunk_end(self, data: bytes, at: int) -> int:
        if not b"\r\n".startswith(data[at : at + 2]):
            raise MalformedError("bad_chunk_end")
        if len(data) < at + 2:
            return 0
        self._left = -1
        return 2

    def _line(self, data: bytes, at: int) -> int:
        """A size, or the trailers; how long it is, 0 where it is not complete."""
        if self._left == -2:
            return self._trailers(data, at)
        end = data.find(b"\r\n", at, at + MAX_LINE)
        if end < 0:
            if len(data) - at >= MAX_LINE:
                raise MalformedError("chunk_line_too_long")
            # The CR may be there already, and the LF not.
            if not _SIZE.fullmatch(data, at, len(data) - data.endswith(b"\r")):
                raise MalformedError("bad_chunk_size")
            return 0
        size = _SIZE.fullmatch(data, at, end)
        if size is None:
            raise MalformedError("bad_chunk_size")
        self._extensions += len(size[2] or b"")
        if self._extensions > MAX_EXTENSIONS:
            raise MalformedError("chunk_extensions_too_large")
        length = int(size[1], 16)
        self._left = length + 2 if length else -2
        return end + 2 - at

    def _trailers(self, data: bytes, at: int) -> int:
        if data.startswith(b"\r\n", at):
            self.done = True
            return 2
        end = data.find(HEAD_END, at, at + MAX_TRAILERS)
        if end < 0:
            if len(data) - at >= MAX_TRAILERS:
                raise MalformedError("trailers_too_large", 431)
            return 0
        self.trailers = trailer_headers(data[at : end + 2])
        self.done = True
        return end + 4 - at


def chunk(data: bytes) -> bytes:
    """Some of a body's bytes, of which there is at least one, as a chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: Headers) -> bytes:
    """The end of a body."""
    if not trailers:
        return b"0\r\n\r\n"
    return b"0\r\n%b\r\n" % b"".join(b"%b: %b\r\n" % trailer for trailer in trailers)
