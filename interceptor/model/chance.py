"""Randomness as an argument: what pure decisions ask of ``random.Random``, so that a test can seed it; and backoff."""

from __future__ import annotations

from typing import Final, Protocol

# Seconds until a server that is gone is tried again, and what they double up to.
FIRST_DELAY: Final = 0.5
LONGEST_DELAY: Final = 30.0


class Chance(Protocol):
    """A source of randomness; ``random.Random`` is one."""

    def random(self) -> float: ...

    def uniform(self, a: float, b: float) -> float: ...

    def randrange(self, start: int) -> int: ...

    def getrandbits(self, k: int) -> int: ...


def backoff(failures: int, chance: float) -> float:
    """Seconds before the next connection after so many failures in a row; ``chance`` is from 0 to 1."""
    return min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(failures - 1, 16)) * (0.5 + chance)
