"""Dial: connect to the first upstream that takes the connection."""

from __future__ import annotations

import errno
import itertools
from typing import TYPE_CHECKING, Final

import trio

from interceptor.config.addresses import is_loopback
from interceptor.kernel import sockets
from interceptor.proxy.endings import DialError

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence

    from interceptor.model.address import SocketAddress, UpstreamAddress
    from interceptor.proxy.hub import Hub

SOURCES: Final = 64  # ports that are tried; one is in use where a program listens at it on all addresses


async def dial(
    upstreams: Sequence[UpstreamAddress],
    hub: Hub,
    *,
    timeout: float,
    hint: str = "-",
    sources: Iterator[SocketAddress] | None = None,
) -> tuple[socket.socket, UpstreamAddress]:
    """Connect in order, going on only where one refused: any other failure says nothing about the next.

    The timeout is for all of them together. Raises DialError. A connection within this machine is mostly there at
    once, and then nothing is awaited. The hint is told where every one of them refused. With sources the app sees one
    of these addresses instead of ours, unless it listens on loopback.
    """
    deadline = trio.current_time() + timeout
    for address in upstreams[:-1]:
        try:
            return await _connect(address, hub, deadline, sources), address
        except DialError as failure:
            if failure.errno != errno.ECONNREFUSED:
                raise
    try:
        return await _connect(upstreams[-1], hub, deadline, sources), upstreams[-1]
    except DialError as failure:
        if failure.errno == errno.ECONNREFUSED:
            failure.hint = hint
        raise


async def _connect(
    address: UpstreamAddress, hub: Hub, deadline: float, sources: Iterator[SocketAddress] | None
) -> socket.socket:
    try:
        upstream = _open(address, sources)
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


def _open(address: UpstreamAddress, sources: Iterator[SocketAddress] | None) -> socket.socket:
    """A socket to dial with; from the first source that is free. An answer of loopback's has no route but to loopback."""
    if sources is None or is_loopback(address.host):
        return sockets.open_upstream(address)
    for source in itertools.islice(sources, SOURCES - 1):
        try:
            return sockets.open_upstream(address, source)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    last = next(sources, None)
    if last is None:
        raise OSError(errno.EADDRNOTAVAIL, "the peer, or peers of other workers, use every port")
    return sockets.open_upstream(address, last)
