"""What the proxy and the process that judges configuration tell each other: plain data, which costs nothing to load."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.config.configuration import assembled

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import BinaryIO

    from interceptor.config.base import Document
    from interceptor.config.configuration import Configuration, DocumentStatus
    from interceptor.config.problems import Source

BATCH: Final = 20  # documents a piece: reading one in takes some 2 ms
SEEN: Final = 500  # of those seen before a piece: the same
LENGTH: Final = 8  # bytes before each piece


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
    """What came of it; the documents that were not seen before follow in pieces, then an empty one."""

    problems: tuple[str, ...]
    files: tuple[Source, ...] | None  # None: as before
    pushed: dict[str, str] | None  # None: as before
    order: tuple[Place, ...] = ()  # of each document
    written: dict[bytes, str] = {}  # noqa: RUF012 (never changed) (as in a question)


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


def composed(documents: Mapping[tuple[bytes, int], Judged], order: Iterable[Place]) -> Configuration:
    """The configuration that documents make in an order."""

    def found() -> Iterator[tuple[DocumentStatus, Document]]:
        for place in order:
            each = documents[place.digest, place.line]
            yield replace(each.status, file=place.file, line=place.before + place.line), each.document

    return assembled(found())


def framed(value: object) -> bytes:
    """A piece as it is sent."""
    data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    return len(data).to_bytes(LENGTH, "big") + data


def asked(ask: Ask) -> Iterator[bytes]:
    """A question as it is sent, in pieces that are made when they are taken: none holds up the data path for long."""
    yield framed(replace(ask, seen={}))
    seen = iter(ask.seen.items())
    while piece := tuple(islice(seen, SEEN)):
        yield framed([(digest, tuple(each)) for digest, each in piece])
    yield framed([])


def read_ask(stream: BinaryIO) -> Ask | None:
    """The next question, waiting for it; None where the other process is gone."""
    data = read(stream)
    if data is None:
        return None
    ask: Ask = pickle.loads(data)  # noqa: S301 (from the proxy that started this process)
    while (data := read(stream)) is not None:
        piece = pickle.loads(data)  # noqa: S301 (as above)
        if not piece:
            return ask
        ask.seen.update((digest, Seen(*each)) for digest, each in piece)
    return None


def read(stream: BinaryIO) -> bytes | None:
    """The bytes of the next piece, waiting for it; None where the other process is gone."""
    length = stream.read(LENGTH)
    size = int.from_bytes(length, "big")
    data = stream.read(size) if len(length) == LENGTH else b""
    return data if len(length) == LENGTH and len(data) == size else None
