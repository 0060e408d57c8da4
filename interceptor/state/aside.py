"""Does long work beside the data path: in turns, with everybody else's between two of them, and without the collector.

Not in a thread: Python gives a thread the interpreter at each system call of the data path, several times a request, and
takes it back late. With 5 000 services that cost half of all requests while a version was made.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.model.work import Work

T = TypeVar("T")

FEW: Final = 100  # documents: the collector may look at them and what follows from them
TURN: Final = 0.001  # seconds: as long as the hub takes for a batch of some ten requests


async def in_turns(work: Work[T]) -> T:
    """What comes of some work, done whenever it is this task's turn."""
    until = trio.current_time() + TURN
    while True:
        try:
            next(work)
        except StopIteration as end:
            made: T = end.value
            return made
        if trio.current_time() >= until:
            await trio.lowlevel.checkpoint()
            until = trio.current_time() + TURN


@contextmanager
def uncollected(documents: int) -> Iterator[None]:
    """Make what stays, thousands of documents and what follows from them, without the collector.

    It would walk all of them while the data path waits: 0.3 s for 5 000 services. They leave no cycles, so it need not know
    them: what is there at the end it leaves alone for good, and what of that is used no more is freed all the same.
    """
    if documents <= FEW:
        yield
        return
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was:
            gc.enable()
