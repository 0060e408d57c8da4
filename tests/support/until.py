"""Waiting for what sends no event: files, counters, log lines."""

from __future__ import annotations

from collections.abc import Callable

import trio


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Return once the condition holds; TooSlowError when it does not in time."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 (there is no event to wait for)
            await trio.sleep(0.002)
