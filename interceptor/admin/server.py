"""Serves an ASGI app on a listening socket: Hypercorn speaks HTTP, this module bounds what a client may cost.

Hypercorn's own worker has no limit on connections, lets a fault in one connection end the server, and shields its
writes from cancellation; so its connection class is run here, under trio's accept loop.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

if TYPE_CHECKING:
    import socket

    from hypercorn.typing import ASGIFramework
    from starlette.types import ASGIApp

MAX_CONNECTIONS: Final = 64  # a few scrapers, probes and people
IDLE_SECONDS: Final = 5  # between requests, and for the head of a request to be complete
WRITE_SECONDS: Final = 10.0  # Prometheus gives a scrape 10 s by default: whoever reads slower has given up

_log = logging.getLogger(__name__)


async def serve(
    app: ASGIApp, sock: socket.socket, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve until cancelled, and then end at once. The socket is bound and listening; it is closed here."""
    framework = ASGIWrapper(
        cast("ASGIFramework", app)
    )  # one protocol, annotated by each library in its own way
    config = _config()
    context = WorkerContext(None)
    live: dict[trio.SocketStream, None] = {}  # oldest first

    async def handle(stream: trio.SocketStream) -> None:
        if len(live) >= MAX_CONNECTIONS:
            # The oldest makes room: whoever holds many connections open cannot keep a probe from its answer.
            oldest = next(iter(live))
            del live[oldest]
            oldest.socket.close()
        live[stream] = None
        # Hypercorn annotates TLS streams only and tells plain ones by their attributes.
        plain = cast("trio.SSLStream[trio.SocketStream]", _Stream(stream))
        try:
            await TCPServer(framework, config, context, ConnectionState({}), plain)
        except Exception:  # noqa: BLE001 (the last resort: such a fault must not end the proxy)
            _log.exception("an HTTP connection was closed by a fault of the server")
        finally:
            live.pop(stream, None)

    sock.setblocking(False)  # noqa: FBT003 (stdlib's signature)
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    async with listener, trio.open_nursery() as nursery:
        try:
            task_status.started()
            # Where accept fails for want of descriptors, trio logs it and tries again.
            await trio.serve_listeners(handle, [listener], handler_nursery=nursery)
        finally:
            for stream in live:
                stream.socket.close()  # wakes the writes that Hypercorn shields from cancellation


def _config() -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = _log
    config.include_server_header = False
    config.h11_max_incomplete_size = 8 * 1024  # a request head: no caller of ours has cookies
    config.keep_alive_timeout = IDLE_SECONDS
    return config


class _Stream:
    """A connection as Hypercorn uses it, where a client that does not read is given up."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.socket = stream.socket
        self.receive_some = stream.receive_some
        self.send_eof = stream.send_eof
        self.aclose = stream.aclose
        self._send_all = stream.send_all

    async def send_all(self, data: bytes) -> None:
        with trio.move_on_after(WRITE_SECONDS) as scope:
            await self._send_all(data)
        if scope.cancelled_caught:
            self.socket.close()
            raise trio.BrokenResourceError
