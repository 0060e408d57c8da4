"""PURE. How long, and for how much, connections to the endpoints of a cluster are kept, as a DestinationRule says it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from interceptor.config.destination_rule import ConnectionPool, TCPKeepalive


class KeepAlive(NamedTuple):
    """How the kernel finds out that an endpoint has vanished; None: as the kernel has it."""

    time: int | None = None  # seconds of silence before the first probe
    interval: int | None = None  # between two
    probes: int | None = None  # that go unanswered


class Reuse(NamedTuple):
    """What connections are kept by; None: as everywhere."""

    idle: float | None = None  # seconds without a request
    requests: int | None = None
    streams: int | None = None  # of HTTP/2, at a time
    keepalive: KeepAlive | None = None
    longest: float | None = None  # seconds from when it was made


def of_pool(pool: ConnectionPool) -> Reuse | None:
    """What a rule says; None where that is nothing."""
    http, asked = pool.http, pool.tcp.tcpKeepalive
    made = Reuse(
        http.idleTimeout,
        http.maxRequestsPerConnection or None,
        http.maxConcurrentStreams,
        None if asked is None else _keepalive(asked),
        pool.tcp.maxConnectionDuration,
    )
    return None if made == Reuse() else made


def idle_timeout(pool: ConnectionPool) -> float | None:
    """For how long an opaque flow may be silent; None: as everywhere."""
    given = pool.tcp.idleTimeout
    return math.inf if given == 0 else given


def _keepalive(asked: TCPKeepalive) -> KeepAlive:
    return KeepAlive(
        None if asked.time is None else int(asked.time),
        None if asked.interval is None else int(asked.interval),
        asked.probes or None,
    )
