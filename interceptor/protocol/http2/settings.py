"""What one peer's SETTINGS say (RFC 9113 section 6.5.2, RFC 8441 section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.protocol.http2 import codes
from interceptor.protocol.http2.codes import FLOW_CONTROL_ERROR, LARGEST, PROTOCOL_ERROR, LegError

if TYPE_CHECKING:
    from interceptor.protocol.http2.writer import Writer


class PeerSettings:
    """The values in force; those that only sending has to do with are the writer's."""

    __slots__ = ("_server", "_writer", "connect_protocol", "streams", "window")

    def __init__(self, writer: Writer, *, server: bool) -> None:
        self._writer = writer
        self._server = server  # whether we are
        self.window = codes.DEFAULT_WINDOW  # of a new stream
        self.streams = 100  # at once, until it says more: the least that the RFC advises
        self.connect_protocol = False

    def apply(self, key: int, value: int) -> None:
        """Take one setting; LegError where it is invalid. One that is unknown means nothing."""
        if key == codes.HEADER_TABLE_SIZE:
            self._writer.encoder.limit(value)
        elif key == codes.ENABLE_PUSH:
            if value > self._server:  # a server may not even allow it
                raise LegError(PROTOCOL_ERROR, "an invalid SETTINGS_ENABLE_PUSH")
        elif key == codes.MAX_CONCURRENT_STREAMS:
            self.streams = value
        elif key == codes.INITIAL_WINDOW_SIZE:
            self._resize_windows(value)
        elif key == codes.MAX_FRAME_SIZE:
            if not codes.SMALLEST_MAX_FRAME <= value <= codes.LARGEST_MAX_FRAME:
                raise LegError(PROTOCOL_ERROR, "an invalid SETTINGS_MAX_FRAME_SIZE")
            self._writer.max_frame = value
        elif key == codes.ENABLE_CONNECT_PROTOCOL:
            if value > 1 or value < self.connect_protocol:
                raise LegError(PROTOCOL_ERROR, "an invalid SETTINGS_ENABLE_CONNECT_PROTOCOL")
            self.connect_protocol = bool(value)

    def _resize_windows(self, window: int) -> None:
        """Section 6.9.2: what streams already have changes by the difference."""
        if window > LARGEST:
            raise LegError(FLOW_CONTROL_ERROR, "an initial window beyond the largest")
        difference = window - self.window
        self.window = window
        for stream in tuple(self._writer.streams.values()):
            if not self._writer.grow(stream, difference):
                raise LegError(FLOW_CONTROL_ERROR, "a stream's window beyond the largest")
