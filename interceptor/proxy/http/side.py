"""One socket of HTTP/2, driven by the hub: what arrives goes to a leg, what that wants sent is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from interceptor.protocol.http2.writer import MARK
from interceptor.proxy.http.half import DRAIN, OUT, READ, Half

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.protocol.http2.writer import Writer
    from interceptor.proxy.hub import Hub
    from interceptor.proxy.loop import Leg

LITTLE: Final = 16 * 1024  # bytes that wait until the hub has read all that is ready


class Owner(Protocol):
    """Whose connection it is."""

    def may_read(self, side: Side) -> bool:
        """Whether what it says can be taken now; if not, the owner reads it again later."""

    def end_of_stream(self, side: Side) -> None:
        """It has nothing more to say."""

    def broken(self, side: Side) -> None:
        """Its connection is no more."""

    def settle(self) -> None:
        """A turn is over: what came of it is to be sent."""

    def fail(self, error: Exception) -> None:
        """A fault of ours."""


class Gathering:
    """What sends by sides, once for many messages: who waits at the other end is woken once for them."""

    __slots__ = ("_due", "_hub")

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._due = False  # to be settled when the hub has read all that is ready

    @property
    def _backlog(self) -> int:
        """Bytes to be sent."""
        raise NotImplementedError

    def _settle(self) -> None:
        """Send what there is to be sent, and what follows from it."""
        raise NotImplementedError

    def fail(self, error: Exception) -> None:
        """A fault of ours."""
        raise NotImplementedError

    def settle(self) -> None:
        """Send what there is, but when the hub has read all that is ready."""
        senders = self._hub.senders
        if senders is None or self._backlog > LITTLE:
            self._settle()
        elif not self._due:
            self._due = True
            senders.append(self)

    def send_due(self) -> None:
        """All that was ready has been read."""
        self._due = False
        self._settle()


class Side(Half):
    """The socket, what the kernel did not take, and the writer that has the rest."""

    __slots__ = ("_owner", "_received", "_writer", "moved", "unread")

    def __init__(
        self, hub: Hub, sock: Leg, writer: Writer, received: Callable[[bytes, float], None], owner: Owner
    ) -> None:
        super().__init__(hub, sock)
        self._writer = writer
        self._received = received
        self._owner = owner
        self.unread = False  # there may be something to read
        self.moved = 0  # bytes read from it
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
        if event & DRAIN:
            self.drain = True
        if self._blocked is not None and event & OUT and self._retry():
            self.flush()
        if event & READ or self.drain:
            self._read()
        self._owner.settle()

    def fail(self, error: Exception) -> None:
        """A fault of ours."""
        self._owner.fail(error)

    def flush(self) -> None:
        """Send what there is, until the kernel has no room."""
        writer = self._writer
        while writer.size and self._blocked is None and self._send(writer.take()):
            pass

    def _broken(self) -> bool:
        self._owner.broken(self)
        return False

    def _read(self) -> None:
        hub = self._hub
        if not hub.watches(self.fd, self):
            return
        if not self._owner.may_read(self):
            self.unread = True
            return
        self.unread = False
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
