"""One socket of HTTP, the client's or the upstream's, and what it is to be sent; that of HTTP/2 is a ``Side``."""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING, Final

from interceptor.kernel.splice import Pipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.proxy.hub import Hub
    from interceptor.proxy.loop import Leg

DRAIN: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR | select.EPOLLPRI
OUT: Final = select.EPOLLOUT
READ: Final = ~select.EPOLLOUT
LIMIT: Final = 64 * 1024  # of one read: a response of this length, or a head, is one
LITTLE: Final = 32 * 1024  # a splice of less than this ends a bulk


class Half:
    """The socket, and what the kernel did not take. The hub calls ``handle``, and ``send_due`` at the end of a batch."""

    __slots__ = ("_blocked", "_bulk", "_hub", "_out", "drain", "fd", "sent", "sock")

    def __init__(self, hub: Hub, sock: Leg) -> None:
        self._hub = hub
        self.sock = sock
        self.fd = sock.fileno()
        self.drain = False  # read until nothing comes: a short read proves nothing
        self.sent = 0  # bytes that the kernel took, ever
        self._out: list[bytes] = []
        self._blocked: memoryview | Pipe | None = None  # what the kernel did not take
        self._bulk = False  # there was more than one read takes

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

    def _retry(self) -> bool:
        """Send what was not taken, when the kernel has room again; whether all of it was taken."""
        blocked = self._blocked
        if isinstance(blocked, Pipe):
            return self._pour(blocked)
        return blocked is None or self._send(blocked)

    @property
    def ready(self) -> bool:
        """Whether it takes bytes past us: nothing is to be sent before them, and no TLS."""
        return self._blocked is None and not self._out and isinstance(self.sock, socket.SocketType)

    def relay(self, source: int, most: int) -> int | None:
        """Send what another socket has, without looking at it; how much that was, 0 at its end.

        None where the kernel has no pipe for us. Raises what reading the other socket says.
        """
        pipe = self._hub.pipes.take()
        if pipe is None:
            return None
        try:
            size = pipe.take_from(source, most)
        except OSError:
            self._hub.pipes.give_back(pipe)
            raise
        self._pour(pipe)
        return size

    def _pass_on(self, sink: Half | None, most: int, passed: Callable[[int], None]) -> bool:
        """Let the kernel give the other half what there is of a body nobody looks at; False where it cannot."""
        if sink is None or not isinstance(self.sock, socket.SocketType):
            return False
        try:
            size = sink.relay(self.fd, most)
        except BlockingIOError:
            self.drain = False
        except OSError:
            self._gone()
        else:
            if size is None:
                return False
            if size:
                passed(size)
            else:
                self._end_of_stream()
        return True

    def _pour(self, pipe: Pipe) -> bool:
        try:
            while len(pipe):
                self.sent += pipe.give_to(self.fd)
        except BlockingIOError:
            self._blocked = pipe
            return False
        except OSError:
            self._blocked = None
            pipe.close()
            return self._broken()
        self._blocked = None
        self._hub.pipes.give_back(pipe)
        return True

    def _let_go(self) -> None:
        """What was not sent never will be."""
        if isinstance(self._blocked, Pipe):
            self._blocked.close()
            self._blocked = None

    def _broken(self) -> bool:
        """The connection takes nothing any more; whether that may be found out later."""
        raise NotImplementedError

    def _gone(self) -> None:
        """The connection is not there any more."""
        raise NotImplementedError

    def _end_of_stream(self) -> None:
        """There is no more to read."""
        raise NotImplementedError
