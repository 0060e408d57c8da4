"""The accept loop, shared by both directions: it never ends by itself, and one flow's failure stays its own."""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING, Final

import trio

from interceptor.kernel import sockets
from interceptor.model.address import LocalAddress
from interceptor.proxy.connection import intercept

if TYPE_CHECKING:
    import socket

    from interceptor.model.address import PeerAddress
    from interceptor.model.connection import Direction
    from interceptor.proxy.services import Services

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
    """Accepts on one listening socket and serves each connection."""

    def __init__(
        self, direction: Direction, sock: socket.socket, services: Services, flows: trio.Nursery
    ) -> None:
        self._direction = direction
        self._sock = sock
        # And so are the connections that it accepts, until somebody knows better.
        sockets.reset_on_close(sock)
        self._services = services
        self._flows = flows
        self._starved = False  # in an episode of failing accepts, which is logged once
        self._out_of_means = trio.Event()
        self._fit = sockets.flows_that_fit()

    async def run(self) -> None:
        """Accept until cancelled; what is queued by then is still accepted before the socket is closed."""
        try:
            while True:
                self._services.hub.accept_on(self._sock, self._accept_batch)
                try:
                    await self._out_of_means.wait()
                finally:
                    self._services.hub.accept_no_more(self._sock)
                self._out_of_means = trio.Event()
                await trio.sleep(BACK_OFF)
        finally:
            for _ in range(sockets.BACKLOG // BATCH):  # as many as the kernel's queue held
                if not self._accept_batch():
                    break
            self._sock.close()

    def _accept_batch(self) -> bool:
        """Accept a bounded number of connections; whether there may be more to accept at once."""
        for _ in range(BATCH):
            if self._services.tracker.active >= self._fit:
                # The last descriptors are for the upstreams of those that were accepted: all of them would fail.
                self._starve(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
                return False
            try:
                accepted, peer = sockets.accept(self._sock)
            except BlockingIOError:
                self._starved = False
                return False
            except OSError as error:
                if error.errno in _LOST:
                    continue
                self._starve(error)
                return False
            try:
                self._take(accepted, peer)
            except Exception:  # noqa: BLE001 (see fault)
                self._services.fault(peer)
        return True

    def _starve(self, error: OSError) -> None:
        """Note that accepting failed: out of descriptors or memory, or something as lasting."""
        self._services.recorder.accept_error(error.errno or 0)
        self._out_of_means.set()
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
        """Register the connection's flow and serve it, or refuse it where the limit is reached."""
        tracker = self._services.tracker
        flow = tracker.admit(self._direction, peer)
        if flow is None:
            local = LocalAddress(sockets.local_address(accepted))
            sockets.reset(accepted)
            tracker.refuse(self._direction, peer, local)
            return
        try:
            intercept(flow, accepted, self._services, self._flows)
        except Exception:  # noqa: BLE001 (see fault)
            self._services.fault(peer, flow.id)
