"""One socket of an HTTP/2 session, driven by the hub: what arrives goes to the bridge, what it wants sent is sent."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Final, Protocol

from interceptor.protocol.http2.writer import MARK

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.protocol.http2.writer import Writer
    from interceptor.proxy.hub import Hub
    from interceptor.proxy.loop import Leg

_DRAIN: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR | select.EPOLLPRI


class Owner(Protocol):
    """The session."""

    def may_read(self, side: Side) -> bool:
        """Whether what it says can be taken now; if not, the session reads it again later."""

    def end_of_stream(self, side: Side) -> None:
        """It has nothing more to say."""

    def broken(self, side: Side) -> None:
        """Its connection is no more."""

    def turned(self, side: Side) -> None:
        """Its turn is over."""

    def fail(self, error: Exception) -> None:
        """A fault of ours."""


class Side:
    """The socket, and what the kernel did not take."""

    __slots__ = (
        "_blocked",
        "_hub",
        "_owner",
        "_received",
        "_writer",
        "drain",
        "fd",
        "moved",
        "sent",
        "sock",
        "unread",
    )

    def __init__(
        self, hub: Hub, sock: Leg, writer: Writer, received: Callable[[bytes, float], None], owner: Owner
    ) -> None:
        self._hub = hub
        self.sock = sock
        self.fd = sock.fileno()
        self._writer = writer
        self._received = received
        self._owner = owner
        self._blocked: memoryview | None = None
        self.drain = False  # read until nothing comes: a short read proves nothing
        self.unread = False  # there may be something to read
        self.moved = 0  # bytes read from it
        self.sent = 0  # and written to it
        hub.watch(sock, self)

    @property
    def backlog(self) -> int:
        """Bytes that wait for the kernel."""
        return self._writer.size + (0 if self._blocked is None else len(self._blocked))

    @property
    def due(self) -> bool:
        """Whether there is something to send that the kernel has not refused."""
        return self._writer.size > 0 and self._blocked is None

    def handle(self, event: int) -> None:
        """Something happened at the socket."""
        if event & _DRAIN:
            self.drain = True
        if self._blocked is not None and event & select.EPOLLOUT:
            blocked, self._blocked = self._blocked, None
            if self._send(blocked):
                self.flush()
        if event & ~select.EPOLLOUT or self.drain:
            self._read()
        self._owner.turned(self)

    def fail(self, error: Exception) -> None:
        """A fault of ours."""
        self._owner.fail(error)

    def flush(self) -> None:
        """Send what there is, until the kernel has no room."""
        writer = self._writer
        while writer.size and self._blocked is None and self._send(writer.take()):
            pass

    def _send(self, data: bytes | memoryview) -> bool:
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._owner.broken(self)
            return False
        self.sent += sent
        if sent == len(data):
            return True
        self._blocked = memoryview(data)[sent:]
        return False

    def _read(self) -> None:
        if not self._hub.watches(self.fd, self):
            return
        if not self._owner.may_read(self):
            self.unread = True
            return
        self.unread = False
        hub = self._hub
        try:
            size = self.sock.recv_into(hub.buffer)
        except BlockingIOError:
            self.drain = False
            return
        except OSError:
            self._owner.broken(self)
            return
        if not size:
            self._owner.end_of_stream(self)
            return
        self.moved += size
        self.unread = size == len(hub.buffer) or self.drain
        self._received(hub.view[:size].tobytes(), hub.now)


def room(side: Side | None, limit: int = MARK) -> bool:
    """Whether a side has little to send: then what makes more of it may be read."""
    return side is None or side.backlog <= limit
