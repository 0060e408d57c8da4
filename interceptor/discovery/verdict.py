"""What the proxy and the process that judges configuration tell each other: plain data, which costs nothing to load."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from interceptor.config.configuration import assembling
from interceptor.model.work import Work, done, steps

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from interceptor.config.base import Document
    from interceptor.config.configuration import Configuration, DocumentStatus
    from interceptor.config.problems import Source

# The Sidecar is compared with others, and a RequestAuthentication may have its keys in a file.
_SEEN_ONCE: Final = frozenset({"Sidecar", "RequestAuthentication"})


class Seen(NamedTuple):
    """An accepted document whose text was judged before: who it is, its line there, whether it needs the workload's identity."""

    kind: str
    namespace: str
    name: str
    line: int
    uses_identity: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """What is to be judged: files that are read now or were read before, what was pushed and supplied, and what came in."""

    paths: tuple[str, ...] | None  # None: the texts of ``files``
    stdin: bytes | None
    files: tuple[Source, ...]
    pushed: dict[str, str]
    push: tuple[str, bytes] | None  # a content type and a body
    supplied: dict[str, str] = field(default_factory=dict)  # the control plane's documents, by key
    written: dict[bytes, str] = field(
        default_factory=dict
    )  # digests of texts that were pushed, with the keys of what they say
    seen: dict[bytes, Seen] = field(default_factory=dict)  # by the digest of a text
    keys: dict[str, str] = field(default_factory=dict)  # key sets that were fetched, by their URL


class Place(NamedTuple):
    """Where a document stands: the digest of its text, its line in there, the file, and the line the text begins after."""

    digest: bytes
    line: int
    file: str
    before: int


class Judged(NamedTuple):
    """An accepted document, as plain data."""

    digest: bytes
    line: int
    status: DocumentStatus
    document: Document


class Verdict(NamedTuple):
    """What came of it; the documents that were not seen before are told beside it."""

    problems: tuple[str, ...]
    files: tuple[Source, ...] | None  # None: as before
    pushed: dict[str, str] | None  # None: as before
    order: tuple[Place, ...] = ()  # of each document
    written: dict[bytes, str] = {}  # noqa: RUF012 (never changed) (as in a question)
    etag: str = ""  # of what is pushed, where that has changed
    kept: tuple[int, int] = (0, 0)  # so many places at the beginning and the end are as they were


class Start(NamedTuple):
    """What the proxy is started with: where documents come from, what those places looked like, and what was judged."""

    paths: tuple[str, ...]
    stdin: bytes | None
    looks: object
    verdict: Verdict
    documents: tuple[Judged, ...]


def digest(source: Source) -> bytes:
    """Of a document's text."""
    return blake2b(source.text.encode(), digest_size=16).digest()


def by_place(documents: Iterable[Judged]) -> dict[tuple[bytes, int], Judged]:
    """Documents by where they stand in their texts."""
    return {(each.digest, each.line): each for each in documents}


def remembered(order: Iterable[Place], *found: Iterable[tuple[bytes, int, Placed]]) -> dict[bytes, Seen]:
    """Which texts need not be judged again, of those that hold one document each, and what they said.

    ``found`` are documents with their texts' digests and their lines there.
    """
    alone = Counter(place.digest for place in order)
    return {
        digest: Seen(
            *(status.kind, status.namespace, status.name, line), getattr(document, "uses_identity", False)
        )
        for some in found
        for digest, line, (status, document) in some
        if status.kind not in _SEEN_ONCE and alone[digest] == 1
    }


Placed: TypeAlias = "tuple[DocumentStatus, Document]"


def composed(documents: Mapping[tuple[bytes, int], Judged], order: Sequence[Place]) -> Configuration:
    """The configuration that documents make in an order."""
    return done(assembling(done(placing(documents, order))))


def placing(
    documents: Mapping[tuple[bytes, int], Judged], order: Sequence[Place]
) -> Work[tuple[Placed, ...]]:
    """Documents in an order, each with the place that it has now."""
    found: list[Placed] = []
    for some in steps(order):
        yield
        for place in some:
            each = documents[place.digest, place.line]
            found.append((placed(each.status, place), each.document))
    return tuple(found)


def placed(status: DocumentStatus, place: Place) -> DocumentStatus:
    """The status of a document that stands at a place."""
    line = place.before + place.line
    return (
        status
        if (status.file, status.line) == (place.file, line)
        else replace(status, file=place.file, line=line)
    )
