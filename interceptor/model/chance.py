"""Randomness as an argument: what pure decisions ask of ``random.Random``, so that a test can seed it."""

from __future__ import annotations

from typing import Protocol


class Chance(Protocol):
    """A source of randomness; ``random.Random`` is one."""

    def random(self) -> float: ...

    def uniform(self, a: float, b: float) -> float: ...

    def randrange(self, start: int) -> int: ...

    def getrandbits(self, k: int) -> int: ...
