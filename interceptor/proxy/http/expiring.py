"""Connections whose peers proved who they are by a certificate: when that expires they take no further request.

What they carry is served to its end. A peer that has a newer certificate comes again with it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interceptor.proxy.http.roles import Live
    from interceptor.proxy.hub import Hub


class Expiring:
    """All of one proxy, and when each expires, by the hub's clock."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._until: dict[Live, float] = {}
        self._due = math.inf
        self.slot = 0  # of the hub's timer wheel

    def add(self, session: Live, until: float) -> None:
        """Let it take requests until then."""
        if until < math.inf:
            self._until[session] = until
            self._look_at(until)

    def discard(self, session: Live) -> None:
        """It has ended."""
        self._until.pop(session, None)

    def check_time(self, now: float) -> None:
        """End those whose time is over, as soon as they carry nothing."""
        self._hub.unschedule(self)
        self._due = math.inf
        over = [session for session, until in self._until.items() if until <= now]
        for session in over:
            self.discard(session)
            session.drain_now()
        if self._until:
            self._look_at(min(self._until.values()))

    def _look_at(self, due: float) -> None:
        if due < self._due:
            self._hub.unschedule(self)
            self._due = due
            self._hub.schedule(self, due)
