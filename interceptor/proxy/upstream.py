"""Dial: connect to the first upstream that takes the connection."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import trio

from interceptor.kernel import sockets
from interceptor.proxy.endings import DialError

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from interceptor.model.address import UpstreamAddress
    from interceptor.proxy.hub import Hub


async def dial(
    upstreams: Sequence[UpstreamAddress], hub: Hub, *, timeout: float, hint: str = "-"
) -> tuple[socket.socket, UpstreamAddress]:
    """Connect in order, going on only where one refused: any other failure says nothing about the next.

    The timeout is for all of them together. Raises DialError. A connection within this machine is mostly there at
    once, and then nothing is awaited. The hint is told where every one of them refused.
    """
    deadline = trio.current_time() + timeout
    for address in upstreams[:-1]:
        try:
            return await _connect(address, hub, deadline), address
        except DialError as failure:
            if failure.errno != errno.ECONNREFUSED:
                raise
    try:
        return await _connect(upstreams[-1], hub, deadline), upstreams[-1]
    except DialError as failure:
        if failure.errno == errno.ECONNREFUSED:
            failure.hint = hint
        raise


async def _connect(address: UpstreamAddress, hub: Hub, deadline: float) -> socket.socket:
    try:
        upstream = sockets.open_upstream(address)
    except OSError as error:
        raise DialError(address, error.errno or 0) from error
    try:
        number = sockets.start_connect(upstream, address)
        if number in {errno.EINPROGRESS, errno.EALREADY}:
            number = errno.ETIMEDOUT
            with trio.move_on_at(deadline):
                await hub.wait_writable(upstream)
                number = sockets.pending_error(upstream)
    except BaseException:
        upstream.close()
        raise
    if number:
        upstream.close()
        raise DialError(address, number)
    return upstream
