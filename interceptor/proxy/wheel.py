"""One coarse timer wheel for all timeouts: adding and removing costs the same however many there are."""

from __future__ import annotations

from typing import Protocol


class Timed(Protocol):
    """What looks at the time now and then."""

    slot: int  # of the timer wheel

    def check_time(self, now: float) -> None:
        """Its time has come: it schedules itself again, or not."""


class Wheel:
    """What is timed, by the tick in which it is to be called."""

    def __init__(self, tick: float) -> None:
        self.tick = tick
        self._slots: dict[int, set[Timed]] = {}
        self._cursor: int | None = None

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def add(self, timed: Timed, due: float) -> None:
        """Call it at this time, or up to a tick later."""
        timed.slot = slot = int(due / self.tick) + 1
        found = self._slots.get(slot)
        if found is None:
            self._slots[slot] = {timed}
        else:
            found.add(timed)

    def hasten(self, timed: Timed, due: float) -> None:
        """What is in the wheel is called by then: it may be sooner, for it looks at the time itself."""
        if int(due / self.tick) + 1 < timed.slot:
            self.remove(timed)
            self.add(timed, due)

    def remove(self, timed: Timed) -> None:
        """Do not call it, whether or not it is in the wheel."""
        found = self._slots.get(timed.slot)
        if found is not None:
            found.discard(timed)
            if not found:
                del self._slots[timed.slot]

    def turn(self, now: float) -> list[Timed]:
        """What is to be called since the last turn; it is in the wheel no more."""
        reached = int(now / self.tick)
        first = reached if self._cursor is None else self._cursor + 1
        self._cursor = reached
        return [timed for slot in range(first, reached + 1) for timed in self._slots.pop(slot, ())]
