"""PURE. Work that may be done in turns: it stops between two steps, so that whoever does it can serve others meanwhile."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")
D = TypeVar("D")

Work: TypeAlias = Generator[None, None, T]

STEP: Final = 100  # documents between two stops: some 0.1 - 0.5 ms


def done(work: Work[T]) -> T:
    """What comes of some work, all at once."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            made: T = end.value
            return made


def steps(items: Sequence[D], size: int = STEP) -> Iterator[Sequence[D]]:
    """Items, so many at a time as are dealt with between two stops."""
    return (items[at : at + size] for at in range(0, len(items), size))


class Kept(Generic[D, T]):
    """What was made of each document, found again by the document's very object: of thousands a change touches few."""

    def __init__(self, before: Kept[D, T] | None = None) -> None:
        self._before = {} if before is None else before.made
        self.made: dict[int, tuple[D, object, T]] = {}

    def of(self, document: D, depends: object, make: Callable[[], T]) -> T:
        """What was made of a document, and of what it depends on besides, or what is made of it now."""
        key = id(document)
        known = self._before.get(key)
        if known is None or known[0] is not document or known[1] != depends:
            known = document, depends, make()
        self.made[key] = known
        return known[2]

    def close(self) -> None:
        """Everything was asked for: what nobody asked for is forgotten."""
        self._before = {}
