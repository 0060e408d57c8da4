"""Compiles a snapshot off to the side: the data path goes on meanwhile."""

from __future__ import annotations

import functools
import gc
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from interceptor.config.configuration import PLACES
from interceptor.state.snapshot import take

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from interceptor.config.configuration import Configuration
    from interceptor.state.snapshot import Snapshot

T = TypeVar("T")

FEW: Final = 100  # documents: a snapshot of them takes some 5 ms, and a thread for it would only cost memory
# Seconds for which the thread keeps the interpreter when the data path wants it. Python's own 5 ms are waited for after
# each system call, several times a request.
_TURN: Final = 0.0002


async def take_aside(
    configuration: Configuration,
    resolved: Mapping[str, Sequence[str]],
    *,
    former: Mapping[str, Sequence[str]] | None = None,
    places: Mapping[str, int] | None = None,
    before: Snapshot,
) -> Snapshot:
    """What ``take`` returns."""
    work = functools.partial(take, configuration, resolved, former=former, places=places, before=before)
    size = sum(len(getattr(configuration, place)) for place in PLACES.values())
    return await aside(work, size)


async def aside(work: Callable[[], T], size: int) -> T:
    """What some work over so many documents returns."""
    if size <= FEW:
        return work()
    usual = sys.getswitchinterval()
    sys.setswitchinterval(_TURN)
    try:
        with uncollected():
            return await trio.to_thread.run_sync(work)
    finally:
        sys.setswitchinterval(usual)


@contextmanager
def uncollected() -> Iterator[None]:
    """Make what stays, thousands of documents and what follows from them, without the collector.

    It would walk all of them while the data path waits: 0.3 s for 5 000 services. They leave no cycles, so it need not know
    them: what is there at the end it leaves alone for good, and what of that is used no more is freed all the same.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was:
            gc.enable()
