"""Connections to upstreams that wait for another exchange: the one that waited least is used first."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.proxy.http.client import Connection

if TYPE_CHECKING:
    from collections.abc import Collection

    from interceptor.model.address import UpstreamAddress
    from interceptor.proxy.http.client import Dialled
    from interceptor.proxy.hub import Hub
    from interceptor.routing.reuse import KeepAlive, Reuse

MOST_IDLE: Final = 1024  # of all upstreams together: a descriptor each


class Bounded(NamedTuple):
    """A key of connections that a DestinationRule says how to use again."""

    key: object
    reuse: Reuse


def patience(key: object, usual: float) -> float:
    """For how long a connection may wait for another request."""
    return key.reuse.idle or usual if isinstance(key, Bounded) else usual


def expiry(key: object, made: float) -> float:
    """When a connection that was made at a time may take nothing more."""
    longest = key.reuse.longest if isinstance(key, Bounded) else None
    return math.inf if longest is None else made + longest


def keepalive(key: object) -> KeepAlive | None:
    """The options of the kernel's that a connection is to have."""
    return key.reuse.keepalive if isinstance(key, Bounded) else None


def worn(key: object, carried: int) -> bool:
    """Whether a connection has carried all the requests that it may."""
    return isinstance(key, Bounded) and key.reuse.requests is not None and carried >= key.reuse.requests


class Pool:
    """Keeps idle connections by what they may be used for, for a time below the app's own keep-alive."""

    def __init__(self, hub: Hub, idle_timeout: float) -> None:
        self._hub = hub
        self.timeout = idle_timeout
        self._idle: dict[object, deque[Connection]] = {}
        self._count = 0
        self._due = math.inf  # when it looks for what has waited for too long
        self._left: dict[UpstreamAddress, None] = {}  # endpoints that are none any more, the last of them
        self.slot = 0  # of the hub's timer wheel

    def take(self, key: object) -> Connection | None:
        """A connection that waits, if one does."""
        idle = self._idle.get(key)
        if not idle:
            return None
        if self._hub.now >= idle[-1].until or (isinstance(key, Bounded) and key.reuse.longest is not None):
            self._close_old(key, idle)
            if not idle:
                return None
        self._count -= 1
        connection = idle.pop()
        connection.waits = False
        return connection

    def _close_old(self, key: object, idle: deque[Connection]) -> None:
        for connection in [each for each in idle if self._hub.now >= min(expiry(key, each.made), each.until)]:
            connection.close()

    def adopt(self, key: object, dialled: Dialled) -> Connection:
        """A connection that was just dialled, for whoever asked for it."""
        return Connection(self._hub, self, key, dialled)

    def keep(self, connection: Connection) -> None:
        """Let it wait."""
        if self._count >= MOST_IDLE or (self._left and connection.address in self._left):
            connection.close()
            return
        connection.carried += 1
        until = min(expiry(connection.key, connection.made), connection.until)
        if worn(connection.key, connection.carried) or self._hub.now >= until:
            connection.close()
            return
        connection.idle_since = self._hub.now
        connection.waits = True
        self._count += 1
        self._look_at(self._hub.now + patience(connection.key, self.timeout))
        idle = self._idle.get(connection.key)
        if idle is None:
            self._idle[connection.key] = deque((connection,))
        else:
            idle.append(connection)

    def drop(self, connection: Connection) -> None:
        """It ends."""
        if connection.waits:
            connection.waits = False
            self._count -= 1
            self._idle[connection.key].remove(connection)

    def _look_at(self, due: float) -> None:
        """Be called then, if that is not done before."""
        if due < self._due:
            self._hub.unschedule(self)
            self._due = due
            self._hub.schedule(self, due)

    def check_time(self, now: float) -> None:
        """Close what has waited for too long."""
        self._hub.unschedule(self)
        self._due = math.inf
        for key, idle in list(self._idle.items()):
            timeout = patience(key, self.timeout)
            if isinstance(key, Bounded):
                self._close_old(key, idle)
            while idle and now - idle[0].idle_since >= timeout:
                idle[0].close()
            if idle:
                self._look_at(idle[0].idle_since + timeout)
            else:
                del self._idle[key]

    def leave(self, gone: Collection[UpstreamAddress], there: Collection[UpstreamAddress]) -> None:
        """Some addresses are endpoints no more: nothing waits for their sake. Others are there again."""
        for address in there:
            self._left.pop(address, None)
        self._left.update(dict.fromkeys(gone))
        for address in list(self._left)[:-MOST_IDLE]:
            del self._left[address]
        for idle in list(self._idle.values()):
            for connection in [each for each in idle if each.address in gone]:
                connection.close()

    def close(self) -> None:
        """Close every connection that waits."""
        for idle in list(self._idle.values()):
            while idle:
                idle[0].close()
