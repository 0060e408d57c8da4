"""Holds the current snapshot. Whoever publishes one wakes everybody who waits for a change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.state.snapshot import Snapshot


class Store:
    """The current snapshot; written by discovery, read by the proxy."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._current = snapshot
        self._changed = trio.Event()
        self._watchers: list[Callable[[Snapshot], None]] = []

    @property
    def current(self) -> Snapshot:
        """The snapshot that a new flow is decided by."""
        return self._current

    def publish(self, snapshot: Snapshot) -> None:
        """Make a snapshot the current one; one of the same version changes nothing."""
        if snapshot.version == self._current.version:
            return
        before, self._current = self._current, snapshot
        for watcher in self._watchers:
            watcher(before)
        self._changed.set()
        self._changed = trio.Event()

    def watch(self, watcher: Callable[[Snapshot], None]) -> None:
        """Have a function called within each change, with the snapshot before: no task runs between the two."""
        self._watchers.append(watcher)

    async def wait_changed(self, version: str) -> Snapshot:
        """Wait until the current snapshot is of another version, and return it; at once where it is already."""
        while self._current.version == version:
            await self._changed.wait()
        return self._current
