"""One socket of an HTTP/1 exchange, the client's or the upstream's, and what it is to be sent."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from interceptor.proxy.hub import Hub
    from interceptor.proxy.loop import Leg

DRAIN: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR | select.EPOLLPRI
OUT: Final = select.EPOLLOUT
READ: Final = ~select.EPOLLOUT
LIMIT: Final = 64 * 1024  # of one read: a response of this length, or a head, is one


class Half:
    """The socket, and what the kernel did not take. The hub calls ``handle``, and ``send_due`` at the end of a batch."""

    __slots__ = ("_blocked", "_hub", "_out", "drain", "fd", "sent", "sock")

    def __init__(self, hub: Hub, sock: Leg) -> None:
        self._hub = hub
        self.sock = sock
        self.fd = sock.fileno()
        self.drain = False  # read until nothing comes: a short read proves nothing
        self.sent = 0  # bytes that the kernel took, ever
        self._out: list[bytes] = []
        self._blocked: memoryview | None = None  # what the kernel did not take

    def _push(self) -> bool:
        """Send what there is; whether the kernel took all of it."""
        if self._blocked is not None:
            return False
        out = self._out
        if not out:
            return True
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return self._send(data)

    def _send(self, data: bytes | memoryview) -> bool:
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._blocked = None
            return self._broken()
        self.sent += sent
        self._blocked = memoryview(data)[sent:] if sent < len(data) else None
        return self._blocked is None

    def _broken(self) -> bool:
        """The connection takes nothing any more; whether that may be found out later."""
        raise NotImplementedError
