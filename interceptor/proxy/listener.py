"""The accept loop, shared by both directions: it never ends by itself, and one flow's failure stays its own."""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING, Final

import trio

from interceptor.kernel import sockets
from interceptor.model.address import PeerAddress, from_sockaddr
from interceptor.proxy.connection import intercept

if TYPE_CHECKING:
    import socket

    from interceptor.model.connection import Direction, Flow
    from interceptor.proxy.connection import Services

_log: Final = logging.getLogger(__name__)

BATCH: Final = 64  # connections accepted before other tasks run: about a millisecond
BACK_OFF: Final = 0.1  # seconds; trio's figure for the same purpose (SLEEP_TIME of serve_listeners)

# The connection is gone, not the listener: accept(2) passes on errors that were already pending on the new socket.
_LOST: Final = frozenset(
    (
        errno.ECONNABORTED,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENONET,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.EPERM,
        errno.EPROTO,
    )
)


class Listener:
    """Accepts on one listening socket and serves each connection in a task of its own."""

    def __init__(
        self, direction: Direction, sock: socket.socket, services: Services, flows: trio.Nursery
    ) -> None:
        self._direction = direction
        self._sock = sock
        self._services = services
        self._flows = flows
        self._starved = False  # in an episode of failing accepts, which is logged once

    async def run(self) -> None:
        """Accept until cancelled; what is queued by then is still accepted before the socket is closed."""
        try:
            while True:
                if self._accept_batch():
                    await trio.lowlevel.checkpoint()
                elif self._starved:
                    await trio.sleep(BACK_OFF)
                else:
                    await self._services.hub.wait_readable(self._sock)
        finally:
            for _ in range(sockets.BACKLOG // BATCH):  # as many as the kernel's queue held
                if not self._accept_batch():
                    break
            self._sock.close()

    def _accept_batch(self) -> bool:
        """Accept a bounded number of connections; whether there may be more to accept at once."""
        for _ in range(BATCH):
            try:
                accepted, sockaddr = self._sock.accept()
            except BlockingIOError:
                self._starved = False
                return False
            except OSError as error:
                if error.errno in _LOST:
                    continue
                self._starve(error)
                return False
            peer = PeerAddress(from_sockaddr(sockaddr))
            try:
                self._take(accepted, peer)
            except Exception:  # noqa: BLE001 (the one function that may: see _fault)
                self._fault(peer)
        return True

    def _starve(self, error: OSError) -> None:
        """Note that accepting failed: out of descriptors or memory, or something as lasting."""
        self._services.recorder.accept_error(error.errno or 0)
        if not self._starved:
            self._starved = True
            _log.error(
                "cannot accept %s connections (%s); they wait in the kernel's queue, and accepting is tried again every "
                "%s s: raise RLIMIT_NOFILE or lower spec.limits.connections",
                self._direction.value,
                error.strerror,
                BACK_OFF,
            )

    def _take(self, accepted: socket.socket, peer: PeerAddress) -> None:
        """Register the connection's flow and start its task, or refuse it where the limit is reached."""
        tracker = self._services.tracker
        flow = tracker.admit(self._direction, peer)
        if flow is None:
            sockets.reset(accepted)
            tracker.refuse(self._direction, peer)
            return
        accepted.settimeout(0)
        self._flows.start_soon(self._serve, flow, accepted)

    async def _serve(self, flow: Flow, accepted: socket.socket) -> None:
        try:
            await intercept(flow, accepted, self._services)
        except Exception:  # noqa: BLE001 (the one function that may: see _fault)
            self._fault(flow.peer, flow.id)

    def _fault(self, peer: PeerAddress, flow: int | None = None) -> None:
        """The last resort: a fault while serving one connection is logged and counted, and ends no other."""
        self._services.recorder.internal_error()
        _log.exception("flow %s from %s failed by a fault of the proxy", flow or "-", peer)
