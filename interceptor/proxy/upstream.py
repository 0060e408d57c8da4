"""Dial: connect to the first upstream that takes the connection."""

from __future__ import annotations

import errno
import itertools
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from interceptor.config.addresses import is_loopback
from interceptor.kernel import sockets
from interceptor.proxy.endings import DialError, TlsDialError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Sequence

    from interceptor.model.address import SocketAddress, UpstreamAddress
    from interceptor.model.connection import Flow, ProtocolName
    from interceptor.proxy.loop import Leg
    from interceptor.proxy.transport import Transport
    from interceptor.proxy.waits import Waits
    from interceptor.routing.destinations import Decision

UNDER_WAY: Final = frozenset((0, errno.EINPROGRESS, errno.EALREADY))  # of a connect that did not fail so far
SOURCES: Final = 64  # ports that are tried; one is in use where a program listens at it on all addresses


class Dial(NamedTuple):
    """A connection that was begun."""

    sock: socket.socket
    address: UpstreamAddress
    errno: int  # 0: it is there; EINPROGRESS or EALREADY: under way


def begin(
    address: UpstreamAddress, sources: Iterator[SocketAddress] | None = None, *, local: bool = False
) -> Dial:
    """Begin to connect, without waiting: within this machine the connection is mostly there at once.

    With sources the app sees one of these addresses instead of ours, unless it listens on loopback. Local: the upstream
    is an app of this host. Raises DialError.
    """
    try:
        sock = _open(address, sources)
    except OSError as error:
        raise DialError(address, error.errno or 0) from error
    try:
        if local:
            sockets.stay_local(sock)
        return Dial(sock, address, sockets.start_connect(sock, address))
    except BaseException:
        sock.close()
        raise


async def dial(
    upstreams: Sequence[UpstreamAddress],
    hub: Waits,
    *,
    timeout: float,
    hint: str = "-",
    begin: Callable[[UpstreamAddress], Dial] = begin,
    begun: Dial | None = None,
) -> tuple[socket.socket, UpstreamAddress]:
    """Connect in order, going on only where one refused: any other failure says nothing about the next.

    The timeout is for all of them together. Raises DialError; the hint is told where every one of them refused. The
    first may have been begun already.
    """
    deadline = trio.current_time() + timeout
    for left, address in zip(range(len(upstreams) - 1, -1, -1), upstreams, strict=True):
        try:
            return await _complete(begun or begin(address), hub, deadline), address
        except DialError as failure:
            if failure.errno != errno.ECONNREFUSED:
                raise
            if not left:
                failure.hint = hint
                raise
            begun = None
    raise AssertionError  # the last one returned or raised


async def secured(
    sock: socket.socket,
    address: UpstreamAddress,
    flow: Flow,
    decision: Decision,
    transport: Transport | None,
    *,
    protocol: ProtocolName,
) -> Leg:
    """An upstream's connection as it is to be spoken to: in the clear, or by TLS. Raises TlsDialError."""
    if decision.tls is None:
        return sock
    if transport is None:
        sockets.reset(sock)
        raise TlsDialError(
            address, f"{decision.tls.policy} asks for TLS, which this proxy was started without"
        )
    return await transport.connect(flow, sock, address, decision.tls, protocol)


async def _complete(dial: Dial, hub: Waits, deadline: float) -> socket.socket:
    number = dial.errno
    try:
        if number in {errno.EINPROGRESS, errno.EALREADY}:
            number = errno.ETIMEDOUT
            with trio.move_on_at(deadline):
                await hub.wait_writable(dial.sock)
                number = sockets.pending_error(dial.sock)
    except BaseException:
        dial.sock.close()
        raise
    if number:
        dial.sock.close()
        raise DialError(dial.address, number)
    return dial.sock


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
