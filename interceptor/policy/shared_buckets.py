"""PURE. The buckets of all rate limits in memory that several processes have, under a lock that they share.

A bucket stands in the table by a keyed hash of its limiter and key, at one of a few places from where the hash points to; a
place is free again when its bucket is full. Where none is free, the new keys of a limiter share one bucket, as ``rate_limit``
says, whose number is also what a new key begins with. A process that dies half-way leaves a bucket that has too much by one.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from interceptor.policy.rate_limit import after

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from interceptor.policy.rate_limit import Claim

PLACES: Final = 1 << 16  # 1 MiB, of which what is never used costs nothing
WINDOW: Final = 32  # places that a key may have
LIMITERS: Final = 256  # buckets for new keys that find no place; a limiter has one of them by its name
CELLS: Final = LIMITERS + 2 * (PLACES + WINDOW)


class SharedBuckets:
    """The store of one limiter."""

    def __init__(
        self,
        memory: memoryview[int],
        locked: Callable[[], AbstractContextManager[None]],
        secret: bytes,
        limiter: str,
    ) -> None:
        """``CELLS`` numbers, all 0 at first; without the secret nobody can make keys meet."""
        self._shared = memory[:LIMITERS]
        self._keys = memory[LIMITERS : LIMITERS + PLACES + WINDOW]
        self._tats = memory[LIMITERS + PLACES + WINDOW :]
        self._locked = locked
        self._secret = secret
        self._name = limiter.encode()
        self._own = self._hash(()) % LIMITERS

    def take(self, claims: Sequence[Claim], now: int) -> int:
        """As ``rate_limit.Store`` says."""
        hashes = [self._hash(claim.key) for claim in claims]
        with self._locked():
            wait = 0
            taken: list[tuple[int | None, int]] = []
            for claim, number in zip(claims, hashes, strict=True):
                place, tat = self._find(number, now, [place for place, _ in taken])
                missing, tat = after(tat, claim.quota, now)
                wait = max(wait, missing)
                taken.append((place, tat))
            if wait:
                return wait
            for (place, tat), number in zip(taken, hashes, strict=True):
                if place is None:
                    self._shared[self._own] = tat
                else:
                    self._keys[place], self._tats[place] = number, tat
        return 0

    def _find(self, number: int, now: int, used: Sequence[int | None]) -> tuple[int | None, int]:
        """Where a bucket is or will be, None: with others, and its TAT. A place that is about to be used is not free."""
        begin = number % PLACES
        window = self._keys[begin : begin + WINDOW].tolist()
        if number in window:
            place = begin + window.index(number)
            return place, self._tats[place]
        tats = self._tats[begin : begin + WINDOW].tolist()
        free = next((at for at, tat in enumerate(tats, begin) if tat <= now and at not in used), None)
        return free, self._shared[self._own]

    def _hash(self, key: Sequence[bytes]) -> int:
        said = b"".join(b"%d:%b" % (len(part), part) for part in (self._name, *key))
        digest = hashlib.blake2b(said, digest_size=8, key=self._secret).digest()
        return int.from_bytes(digest, "big", signed=True) or 1  # 0 is a place that was never used
