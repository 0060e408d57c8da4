"""The time budget of the user's own code: the clock stands while it waits for the upstream, the peer or the next one."""

from __future__ import annotations

import contextlib
import math
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from interceptor.errors import InterceptorError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

T = TypeVar("T")

_running: Final[ContextVar[Budget | None]] = ContextVar("running", default=None)


class OverBudgetError(InterceptorError):
    """The user's own code took longer than its timeout, and was cancelled."""


class Budget:
    """What one step of somebody's code may take."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.used = 0.0
        self._since = 0.0
        self._waiting = 0
        self._scope = trio.CancelScope()

    async def run(self, step: Callable[[], Awaitable[T]]) -> T:
        """Run it; OverBudgetError once it has used more than it may. It may be run once."""
        token = _running.set(self)
        self._go()
        try:
            with self._scope:
                return await step()
        finally:
            if not self._waiting:
                self._stop()
            _running.reset(token)
        raise OverBudgetError(f"it took longer than its timeout of {self._seconds:g} s")

    def wait(self) -> None:
        """From here on others are waited for; calls nest."""
        if not self._waiting:
            self._stop()
        self._waiting += 1

    def resume(self) -> None:
        """They answered."""
        self._waiting -= 1
        if not self._waiting:
            self._go()

    def _go(self) -> None:
        self._since = trio.current_time()
        self._scope.deadline = self._since + self._seconds - self.used

    def _stop(self) -> None:
        self.used += trio.current_time() - self._since
        self._scope.deadline = math.inf


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Others are waited for: stops the clock of whoever's code this task runs, if anybody's."""
    budget = _running.get()
    if budget is None:
        yield
        return
    budget.wait()
    try:
        yield
    finally:
        budget.resume()
