"""Connections on their way to the hub that no task waits for: who stops the proxy has to know of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.model.connection import Flow
    from interceptor.proxy.hub import Hub


class Abortable(Protocol):
    """What is on its way."""

    def abort(self) -> None:
        """It must end now: the flow is recorded as what the proxy aborted."""


class Underway:
    """All that are, in one worker."""

    def __init__(self) -> None:
        self._live: set[Abortable] = set()
        self._emptied = trio.Event()

    def __len__(self) -> int:
        return len(self._live)

    def add(self, step: Abortable) -> None:
        """It set out."""
        self._live.add(step)

    def discard(self, step: Abortable) -> None:
        """It has arrived, or failed."""
        self._live.discard(step)
        if not self._live:
            self._emptied.set()

    async def wait_empty(self) -> None:
        """Wait until none is left."""
        while self._live:
            self._emptied = trio.Event()
            await self._emptied.wait()

    def abort_all(self) -> None:
        """End every one."""
        for step in tuple(self._live):
            step.abort()


class Way(NamedTuple):
    """One connection's."""

    flow: Flow
    hub: Hub
    underway: Underway
    timeout: float  # of its first step
    aborted: Callable[[], None]  # called where the proxy ends before it is over
