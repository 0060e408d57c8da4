"""What every connection is served with."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from interceptor.kernel import sockets

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from interceptor.middleware.build import Stack
    from interceptor.model.address import OriginalDestination, PeerAddress
    from interceptor.model.forwarding import Presented
    from interceptor.proxy.course import Courses
    from interceptor.proxy.http.serve import Serving
    from interceptor.proxy.hub import Hub
    from interceptor.proxy.permission import SnapshotView
    from interceptor.proxy.tracker import Recorder, Tracker
    from interceptor.proxy.underway import Underway

_log: Final = logging.getLogger(__name__)


@dataclass(slots=True)
class Services:
    """What every connection is served with."""

    snapshot: Callable[[], SnapshotView]
    tracker: Tracker
    recorder: Recorder
    hub: Hub
    http: Serving
    courses: Courses
    underway: Underway
    connect_timeout: float
    handshake_timeout: float
    detect_timeout: float | None  # None: nothing is detected
    ports: frozenset[int]  # that our listeners accept on
    original_destination: Callable[[socket.socket, PeerAddress], OriginalDestination | None] = (
        sockets.original_destination
    )
    middleware: Stack | None = None
    transparent: bool = False  # ingress: peers' addresses and ports reach us, and the app, unchanged
    unproved: Presented | None = None  # what the app is told of peers that prove nothing
    abort_reason: str = "the proxy was stopped"

    def fault(self, peer: PeerAddress, flow: int | None = None) -> None:
        """The last resort: a fault while serving one connection is logged and counted, and ends no other."""
        self.recorder.internal_error()
        _log.exception("flow %s from %s failed by a fault of the proxy", flow or "-", peer)
