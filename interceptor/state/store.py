"""Holds the current snapshot. Whoever publishes one wakes everybody who waits for a change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from interceptor.state.snapshot import Snapshot


class Store:
    """The current snapshot; written by discovery, read by the proxy."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._current = snapshot
        self._changed = trio.Event()

    @property
    def current(self) -> Snapshot:
        """The snapshot that a new flow is decided by."""
        return self._current

    def publish(self, snapshot: Snapshot) -> None:
        """Make a snapshot the current one; one of the same version changes nothing."""
        if snapshot.version == self._current.version:
            return
        self._current = snapshot
        self._changed.set()
        self._changed = trio.Event()

    async def wait_changed(self, version: str) -> Snapshot:
        """Wait until the current snapshot is of another version, and return it; at once where it is already."""
        while self._current.version == version:
            await self._changed.wait()
        return self._current
