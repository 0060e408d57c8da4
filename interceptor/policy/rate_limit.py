"""PURE. Rate limits by GCRA, the leaky bucket of ATM: one number a key, and time is an argument.

A bucket is its *theoretical arrival time* (TAT): when it will be full again. Taking one moves it by the interval of the
rate; one is refused while the TAT lies further ahead than the burst allows. Times are whole nanoseconds: nothing is
ever rounded in anybody's favour.

The number of keys is bounded, and so is what any one of them gets, whatever is forgotten: only a full bucket is
dropped, which loses nothing; where there is none to drop, all new keys share one bucket; and as long as that one is not
full, a key that gets a bucket of its own begins with what the shared one has left.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SECOND: Final = 1_000_000_000
SWEEP: Final = 4  # buckets looked at for a full one before a new key is put with the others

Key: TypeAlias = tuple[bytes, ...]

_TOTAL: Final[Key] = (b"total",)
_SHARED: Final[Key] = (b"shared",)


@dataclass(frozen=True, slots=True)
class Quota:
    """A steady rate, as the time between two, and how many may come at once."""

    interval: int
    burst: int

    @classmethod
    def of(cls, number: int, seconds: float, burst: int | None = None) -> Quota:
        """So many in so many seconds; the burst is as many unless it is given."""
        interval = -(-int(seconds * SECOND) // number)  # rounded up: never more than the rate
        return cls(interval, number if burst is None else burst)


class Claim(NamedTuple):
    """One to be taken from a key's bucket. The bucket of a pinned key, which configuration names, is never dropped."""

    key: Key
    quota: Quota
    pinned: bool


class Store(Protocol):
    """Where buckets are kept. The one method is atomic, so that processes can share a store (``shared_buckets``)."""

    def take(self, claims: Sequence[Claim], now: int) -> int:
        """Take one from every bucket and answer 0, or take none and answer after how long it would be worth a try."""


def after(tat: int, quota: Quota, now: int) -> tuple[int, int]:
    """How long until one may be taken, which is not above 0 where it may, and the TAT once it was."""
    tat = max(tat, now)
    return tat - (quota.burst - 1) * quota.interval - now, tat + quota.interval


class LocalStore:
    """The buckets of one limiter in this process; those that are not pinned all have one quota."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._pinned: dict[Key, int] = {}  # and the shared bucket
        self._tats: OrderedDict[Key, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tats)

    def take(self, claims: Sequence[Claim], now: int) -> int:
        """As the protocol says."""
        wait = 0
        taken: list[tuple[dict[Key, int], Key, int]] = []
        for claim in claims:
            where, key, tat = self._find(claim, now)
            missing, tat = after(tat, claim.quota, now)
            wait = max(wait, missing)
            taken.append((where, key, tat))
        if wait:
            return wait
        for where, key, tat in taken:
            where[key] = tat
        return 0

    def _find(self, claim: Claim, now: int) -> tuple[dict[Key, int], Key, int]:
        """A key's bucket: where it is or will be, under which key, and its TAT."""
        if claim.pinned:
            return self._pinned, claim.key, self._pinned.get(claim.key, 0)
        tat = self._tats.get(claim.key)
        if tat is not None:
            return self._tats, claim.key, tat
        shared = self._pinned.get(_SHARED, 0)
        if self._has_room(now):
            return self._tats, claim.key, shared
        return self._pinned, _SHARED, shared

    def _has_room(self, now: int) -> bool:
        """Whether a bucket can be added, after dropping a full one where need be; the oldest are looked at in turn."""
        if len(self._tats) < self._capacity:
            return True
        for _ in range(SWEEP):
            key = next(iter(self._tats))
            if self._tats[key] <= now:
                del self._tats[key]
                return True
            self._tats.move_to_end(key)
        return False


class Limiter:
    """One limit for all together, one for each key, and exceptions for some keys; each is optional."""

    def __init__(
        self, store: Store, *, total: Quota | None, per_key: Quota | None, overrides: Mapping[Key, Quota]
    ) -> None:
        self._store = store
        self._total = total
        self._per_key = per_key
        self._overrides = overrides

    def admit(self, key: Key, now: int) -> int:
        """0 where it may pass, else the nanoseconds after which one would; what is refused takes from no bucket."""
        claims = [] if self._total is None else [Claim(_TOTAL, self._total, pinned=True)]
        override = self._overrides.get(key)
        if override is not None:
            claims.append(Claim((b"override", *key), override, pinned=True))
        elif self._per_key is not None:
            claims.append(Claim(key, self._per_key, pinned=False))
        return self._store.take(claims, now)
