"""Which endpoints are unhealthy by active checks: written by the prober, read by whoever balances, dumps or explains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.model.health import Unhealthy


class Board:
    """What is known now. It outlives snapshots: an endpoint does not recover because a document changed."""

    def __init__(self) -> None:
        self.current: Unhealthy = {}
        self._changed = trio.Event()
        self._watchers: list[Callable[[Unhealthy], None]] = []

    def publish(self, unhealthy: Unhealthy) -> None:
        """Something changed."""
        self.current = unhealthy
        for watcher in self._watchers:
            watcher(unhealthy)
        self._changed.set()
        self._changed = trio.Event()

    def watch(self, watcher: Callable[[Unhealthy], None]) -> None:
        """Have a function called within each change."""
        self._watchers.append(watcher)

    async def wait_changed(self, known: Unhealthy) -> Unhealthy:
        """Wait until there is another state than this one, and return it; at once where there is already."""
        while self.current is known:
            await self._changed.wait()
        return self.current
