"""Waiting for what sends no event: files, counters, log lines."""

from __future__ import annotations

import os
from collections.abc import Callable

import trio

PATIENCE = float(
    os.environ.get("INTERCEPTOR_PATIENCE", "1")
)  # how many times slower than usual this machine is


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Return once the condition holds; TooSlowError when it does not in time."""
    with trio.fail_after(seconds * PATIENCE):
        while not condition():  # noqa: ASYNC110 (there is no event to wait for)
            await trio.sleep(0.002)
