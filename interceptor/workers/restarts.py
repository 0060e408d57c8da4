"""When a worker that died is replaced: at once, later where it dies again and again, and in the end not at all (PURE)."""

from __future__ import annotations

from typing import Final

YOUNG: Final = 10.0  # seconds: one that served for longer died of something that happened, not of starting
PATIENCE: Final = 8  # deaths in a row, each of a young one; some 7 seconds
_FIRST: Final = 0.1  # seconds
_LONGEST: Final = 2.0  # meanwhile connections wait in its queue


def young_deaths(before: int, lived: float) -> int:
    """How many young ones died in a row, with this one."""
    return before + 1 if lived < YOUNG else 0


def delay(deaths: int) -> float | None:
    """How long to wait after so many young deaths in a row; None: the proxy gives up."""
    if deaths > PATIENCE:
        return None
    return 0.0 if deaths < 2 else min(_LONGEST, _FIRST * 2 ** (deaths - 2))
