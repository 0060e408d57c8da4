"""What has to be over in so many seconds, for all requests: one task waits for the earliest of them.

Those that have the same number of seconds are late in the order in which they began, so nothing is sorted, and what is over
in time, as nearly all are, leaves nothing behind.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import trio

if TYPE_CHECKING:
    from collections.abc import Callable


class Limited(Protocol):
    """What has a deadline."""

    def late(self) -> None:
        """It has passed. This must not raise."""


class Deadlines:
    """Those of all requests."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock  # trio's
        self._due: dict[float, dict[Limited, float]] = {}  # by how many seconds there are
        self._next = math.inf  # when it looks
        self._scope = trio.CancelScope()

    def add(self, limited: Limited, seconds: float) -> None:
        """It has so many seconds from now; one deadline of a length at a time."""
        due = self.clock() + seconds
        waiting = self._due.get(seconds)
        if waiting is None:
            waiting = self._due[seconds] = {}
        waiting[limited] = due
        if due < self._next:
            self._look_at(due)

    def remove(self, limited: Limited, seconds: float) -> float | None:
        """It is over; when it would have been late, where it was not yet."""
        waiting = self._due.get(seconds)
        return None if waiting is None else waiting.pop(limited, None)

    async def run(self) -> None:
        """Tell who is late, until cancelled."""
        while True:
            with trio.CancelScope(deadline=self._next) as self._scope:
                await trio.sleep_forever()
            self._look(self.clock())

    def _look_at(self, due: float) -> None:
        self._next = self._scope.deadline = due

    def _look(self, now: float) -> None:
        self._next = math.inf
        for seconds, waiting in list(self._due.items()):
            while waiting:
                limited, due = next(iter(waiting.items()))
                if due > now:
                    self._next = min(self._next, due)
                    break
                del waiting[limited]
                limited.late()
            if not waiting:
                del self._due[seconds]
