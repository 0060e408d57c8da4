"""Connections to upstreams that wait for another exchange: the one that waited least is used first."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from interceptor.proxy.http.client import Connection

if TYPE_CHECKING:
    from collections.abc import Collection

    from interceptor.model.address import UpstreamAddress
    from interceptor.proxy.http.client import Dialled
    from interceptor.proxy.hub import Hub

MOST_IDLE: Final = 1024  # of all upstreams together: a descriptor each


class Pool:
    """Keeps idle connections by what they may be used for, for a time below the app's own keep-alive."""

    def __init__(self, hub: Hub, idle_timeout: float) -> None:
        self._hub = hub
        self.timeout = idle_timeout
        self._idle: dict[object, deque[Connection]] = {}
        self._count = 0
        self._scheduled = False
        self._left: dict[UpstreamAddress, None] = {}  # endpoints that are none any more, the last of them
        self.slot = 0  # of the hub's timer wheel

    def take(self, key: object) -> Connection | None:
        """A connection that waits, if one does."""
        idle = self._idle.get(key)
        if not idle:
            return None
        self._count -= 1
        connection = idle.pop()
        connection.waits = False
        return connection

    def adopt(self, key: object, dialled: Dialled) -> Connection:
        """A connection that was just dialled, for whoever asked for it."""
        return Connection(self._hub, self, key, dialled)

    def keep(self, connection: Connection) -> None:
        """Let it wait."""
        if self._count >= MOST_IDLE or (self._left and connection.address in self._left):
            connection.close()
            return
        connection.idle_since = self._hub.now
        connection.waits = True
        self._count += 1
        if not self._scheduled:
            self._scheduled = True
            self._hub.schedule(self, self._hub.now + self.timeout)
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

    def check_time(self, now: float) -> None:
        """Close what has waited for too long."""
        for key, idle in list(self._idle.items()):
            while idle and now - idle[0].idle_since >= self.timeout:
                idle[0].close()
            if not idle:
                del self._idle[key]
        self._hub.unschedule(self)
        self._scheduled = bool(self._idle)
        if self._scheduled:
            oldest = min(idle[0].idle_since for idle in self._idle.values())
            self._hub.schedule(self, oldest + self.timeout)

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
