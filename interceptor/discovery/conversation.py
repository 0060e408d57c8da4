"""PURE. What the proxy and the process that judges tell each other: what the other does not hold already, in small pieces.

Both hold what was accepted last; the process that judges also what it answered last, which may be in force by the next
question. So a change of one among thousands of documents is one document on its way, and none of what follows walks
through all of them. A process that has just been started holds nothing, and is told everything.
"""

from __future__ import annotations

import operator
import pickle
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias, TypeVar

from interceptor.discovery.verdict import Place, Seen, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import BinaryIO

    from interceptor.config.problems import Source
    from interceptor.discovery.verdict import Judged

K = TypeVar("K")

LENGTH: Final = 8  # bytes before each piece
# How much is in a piece: reading one in takes 2 ms at most.
SIZES: Final = {
    "files": 1,
    "pushed": 200,
    "supplied": 200,
    "written": 1000,
    "order": 1000,
    "seen": 1000,
    "changed": 200,
    "documents": 20,
}
Kind: TypeAlias = Literal["files", "pushed", "supplied", "written", "order", "seen", "changed", "documents"]


class Held(NamedTuple):
    """An accepted version, as both hold it."""

    files: tuple[Source, ...] = ()
    pushed: dict[str, str] = {}  # noqa: RUF012 (never changed, here and below)
    supplied: dict[str, str] = {}  # noqa: RUF012 (as above)
    written: dict[bytes, str] = {}  # noqa: RUF012 (as above)
    order: tuple[Place, ...] = ()
    keys: dict[str, str] = {}  # noqa: RUF012 (as above; in each question: they are few)


class Delta(NamedTuple):
    """What makes one dictionary of another, but for the values that are new or others."""

    removed: tuple[object, ...] = ()
    order: tuple[object, ...] | None = None  # of the keys, where it does not follow


class Question(NamedTuple):
    """What is asked; before it come the pieces of what it is about."""

    number: int  # of this question
    base: int  # of the one whose answer is in force
    whole: bool  # what is in force was told too
    paths: tuple[str, ...] | None
    stdin: bytes | None
    push: tuple[str, bytes] | None
    supplied: Delta
    keys: dict[str, str] = {}  # noqa: RUF012 (never changed)


class Answer(NamedTuple):
    """What came of it; before it come the pieces."""

    problems: tuple[str, ...]
    files: tuple[int | None, ...] | None = (
        None  # by place: the file that it is as before; None: as before, all of them
    )
    pushed: Delta | None = None
    written: Delta = Delta()
    etag: str = ""
    kept: tuple[int, int] = (0, 0)  # so many places at the beginning and at the end are as before


@dataclass(slots=True)
class Parts:
    """The pieces before a question or an answer."""

    files: list[Source] = field(default_factory=list)
    pushed: list[tuple[str, str]] = field(default_factory=list)
    supplied: list[tuple[str, str]] = field(default_factory=list)
    written: list[tuple[bytes, str]] = field(default_factory=list)
    order: list[Place] = field(default_factory=list)
    seen: list[tuple[bytes, Seen]] = field(default_factory=list)
    changed: list[tuple[str, str]] = field(default_factory=list)  # of what is supplied
    documents: list[Judged] = field(default_factory=list)

    def take(self, kind: Kind, items: list[object]) -> None:
        """One more piece."""
        getattr(self, kind).extend(items)


def difference(before: Mapping[K, str], after: Mapping[K, str]) -> tuple[dict[K, str], Delta]:
    """The values that are new or others, and what else makes one dictionary of another."""
    changed = {
        key: value for key, value in after.items() if (was := before.get(key)) is not value and was != value
    }
    made = {**before, **changed}
    removed = () if len(made) == len(after) else tuple(key for key in before if key not in after)
    for key in removed:
        del made[key]
    alike = all(map(operator.eq, made, after))
    return changed, Delta(removed, None if alike else tuple(after))


def applied(before: dict[K, str], changed: Iterable[tuple[K, str]], delta: Delta) -> dict[K, str]:
    """The other dictionary."""
    made = dict(before)
    made.update(changed)
    for key in delta.removed:
        del made[key]  # type: ignore[arg-type]  # keys are what they were
    return made if delta.order is None else {key: made[key] for key in delta.order}  # type: ignore[index, misc]


def kept(before: Sequence[Place], after: Sequence[Place]) -> tuple[int, int]:
    """How many places are the same at the beginning, and at the end."""
    most = min(len(before), len(after))
    first = sum(1 for _ in takewhile(lambda at: before[at] == after[at], range(most)))
    last = sum(1 for _ in takewhile(lambda at: before[-1 - at] == after[-1 - at], range(most - first)))
    return first, last


def spliced(before: Sequence[K], ends: tuple[int, int], middle: Iterable[K]) -> tuple[K, ...]:
    """What stands between the ends that are kept, and these."""
    first, last = ends
    return (*before[:first], *middle, *before[len(before) - last :])


def told(held: Held, seen: Mapping[bytes, Seen]) -> Iterator[tuple[Kind, Iterable[object]]]:
    """All that is in force, for a process that holds nothing."""
    yield "files", held.files
    yield "pushed", held.pushed.items()
    yield "supplied", held.supplied.items()
    yield "written", held.written.items()
    yield "order", held.order
    yield "seen", seen.items()


def holding(parts: Parts) -> tuple[Held, dict[bytes, Seen]]:
    """What was told."""
    held = Held(
        tuple(parts.files), dict(parts.pushed), dict(parts.supplied), dict(parts.written), tuple(parts.order)
    )
    return held, dict(parts.seen)


def answered(
    base: Held,
    verdict: Verdict,
    documents: Sequence[Judged],
    held: Held,
    etag: Callable[[Mapping[str, str]], str],
) -> Iterator[tuple[Kind, Iterable[object]] | Answer]:
    """An accepted verdict as it is told to who holds the version before; ``held`` is the version that it makes."""
    files: tuple[int | None, ...] | None = None
    if verdict.files is not None and verdict.files != base.files:
        known = {each: index for index, each in enumerate(base.files)}
        files = tuple(known.get(each) for each in verdict.files)
        yield "files", (each for each in verdict.files if each not in known)
    pushed: Delta | None = None
    said = ""
    if verdict.pushed is not None:
        changed, pushed = difference(base.pushed, held.pushed)
        said = etag(held.pushed)
        yield "pushed", changed.items()
    changed_words, written = difference(base.written, held.written)
    yield "written", changed_words.items()
    first, last = ends = kept(base.order, held.order)
    yield "order", held.order[first : len(held.order) - last]
    yield "documents", documents
    yield Answer((), files, pushed, written, said, ends)


def verdict_of(base: Held, answer: Answer, parts: Parts) -> Verdict:
    """The verdict that was told."""
    if answer.problems:
        return Verdict(answer.problems, None, None)
    files = pushed = None
    if answer.files is not None:
        fresh = iter(parts.files)
        files = tuple(next(fresh) if each is None else base.files[each] for each in answer.files)
    if answer.pushed is not None:
        pushed = applied(base.pushed, parts.pushed, answer.pushed)
    written = applied(base.written, parts.written, answer.written)
    order = spliced(base.order, answer.kept, parts.order)
    return Verdict((), files, pushed, order, written, answer.etag, answer.kept)


def pieces(found: Iterable[tuple[Kind, Iterable[object]] | Question | Answer]) -> Iterator[bytes]:
    """A question or an answer as it is sent, each piece made when it is taken: none holds up the data path for long."""
    for each in found:
        if isinstance(each, Question | Answer):
            yield framed(each)
            continue
        kind, items = each
        rest = iter(items)
        while some := list(islice(rest, SIZES[kind])):
            yield framed((kind, some))


def framed(value: object) -> bytes:
    """A piece as it is sent."""
    data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    return len(data).to_bytes(LENGTH, "big") + data


def read_question(stream: BinaryIO) -> tuple[Question, Parts] | None:
    """The next question, waiting for it; None where the other process is gone."""
    parts = Parts()
    while (data := _read(stream)) is not None:
        piece = pickle.loads(data)  # noqa: S301 (from the proxy that started this process)
        if isinstance(piece, Question):
            return piece, parts
        parts.take(*piece)
    return None


def _read(stream: BinaryIO) -> bytes | None:
    length = stream.read(LENGTH)
    size = int.from_bytes(length, "big")
    data = stream.read(size) if len(length) == LENGTH else b""
    return data if len(length) == LENGTH and len(data) == size else None
