"""Whose turn it is: the hub and trio share one thread.

Where nothing moves trio is the outer loop, and the hub waits in it as any task does. Where bytes move it is the other
way round: trio's own epoll set is a member of the hub's, so that one wait of the kernel is for both, and trio has the
thread only when it has something to do: a task can run, a descriptor of its is ready, a deadline has come.

How the hub waits is measured (round trips between two processes on two processors of a virtual machine):

- A wait of 1 ms made the 99th percentile 3.2 - 3.7 ms in two runs of four, one of 50 ms or without end 0.15 - 0.25.
- Of a round trip's 95 us 70 are two processors waking up. A hub that looks again instead of sleeping makes it 25, so
  it looks for a while where its last waits were all short: there is a lone client that asks as soon as it is answered.
  Beside bulk it is a loss: between two gateways with TLS it cost a tenth of the throughput.
"""

from __future__ import annotations

import contextlib
import os
import select
from typing import TYPE_CHECKING, Final

import trio
from trio._core import _run  # the one look into trio's inside; test_turns.py fails where it is not as it was
from trio.abc import Instrument

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BATCH: Final = 256  # events taken from the kernel at once
SILENCE: Final = 0.02  # seconds without an event, after which trio is the outer loop again
LOOK: Final = 0.0002  # seconds: time for an answer of a program that has to wake up, and that is a short wait
SHORT_WAITS: Final = 8  # in a row, before the hub looks: a request now and then makes fewer

Events = list[tuple[int, int]]


class Turns(Instrument):
    """Waits for the hub, and knows when trio must have the thread. One hub in a thread can have it.

    As an instrument of trio's it knows the tasks that can run: scheduled, and their step has not begun.
    """

    def __init__(self, epoll: select.epoll, clock: Callable[[], float]) -> None:
        self.now = 0.0  # when the last wait ended
        self._epoll = epoll
        self.clock = clock
        self._runnable: set[trio.lowlevel.Task] = set()
        self._asked = False  # a descriptor of trio's is ready
        self._due = 0.0  # trio's next deadline
        self._short_waits = 0  # in a row

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        """Trio says that a task can run."""
        self._runnable.add(task)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Trio says that a task runs now."""
        self._runnable.discard(task)

    def ask(self) -> None:
        """Trio's epoll set was among the events."""
        self._asked = True

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Know which tasks can run."""
        trio.lowlevel.add_instrument(self)
        try:
            yield
        finally:
            trio.lowlevel.remove_instrument(self)

    @contextlib.contextmanager
    def outermost(self) -> Iterator[int]:
        """Be the outer loop: a wait in this block is for trio's epoll set too, whose descriptor this is."""
        trio.lowlevel.notify_closing(
            self._epoll
        )  # else it stays in trio's set, and the kernel refuses a circle
        inner = _run.GLOBAL_RUN_CONTEXT.runner.io_manager._epoll.fileno()  # noqa: SLF001 (see the import)
        self._epoll.register(inner, select.EPOLLIN)
        self._note_due()
        try:
            yield inner
        finally:
            self._epoll.unregister(inner)

    def sleep_next(self) -> None:
        """Do not look again and again before the next waits: much comes, and the longer it gathers the less a byte costs."""
        self._short_waits = 0

    def wait(self, *, busy: bool) -> Events:
        """What is ready; nothing after a silence, or when trio's deadline has come. Busy, or when a task can run, only look."""
        if busy or self._runnable:
            events = self._epoll.poll(0, BATCH)
            self.now = self.clock()
            return events
        began = self.clock()
        events = self._look(began) if self._short_waits >= SHORT_WAITS else []
        if not events:
            events = self._epoll.poll(max(0.0, min(SILENCE, self._due - began)), BATCH)
        self.now = self.clock()
        alone_and_soon = len(events) == 1 and self.now - began < LOOK
        self._short_waits = self._short_waits + 1 if alone_and_soon else 0
        return events

    def _look(self, began: float) -> Events:
        """Look again and again for a while, whenever no other process wants the processor."""
        until = min(began + LOOK, self._due)
        while self.clock() < until:
            if events := self._epoll.poll(0, BATCH):
                return events
            os.sched_yield()
        return []

    @property
    def of_trio(self) -> bool:
        """Whether trio has something to do: it should have a turn."""
        return bool(self._runnable) or self._asked or self.now >= self._due

    async def give(self) -> None:
        """Let trio have its turn."""
        self._asked = False
        await trio.lowlevel.checkpoint()
        self._note_due()

    def _note_due(self) -> None:
        self._due = self.clock() + trio.lowlevel.current_statistics().seconds_to_next_deadline
