"""The process that judges configuration, so that the running proxy needs neither pydantic nor a YAML reader.

Usage: python -m interceptor.discovery.judge; questions come by standard input and verdicts leave by standard output,
both as ``interceptor.discovery.conversation`` has them. It ends with its input.
"""

from __future__ import annotations

import gc
import io
import os
import sys
from typing import TYPE_CHECKING, Final

from interceptor.config.documents import Known
from interceptor.config.plain import plain_document
from interceptor.config.problems import Source
from interceptor.config.tree import MAX_CHARACTERS, chunks
from interceptor.discovery import file, push, pushed as of_pushed
from interceptor.discovery.conversation import Answer, Held, answered, applied, holding, pieces, read_question
from interceptor.discovery.paths import STDIN, look
from interceptor.discovery.verdict import Ask, Judged, Place, Seen, Start, Verdict, digest, remembered
from interceptor.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from interceptor.config.base import Document
    from interceptor.config.documents import Loaded
    from interceptor.config.problems import Problem
    from interceptor.discovery.conversation import Kind, Parts, Question


LONGEST: Final = 2000  # characters of a problem: it may name a value that has a million
# Objects between two runs of the collector: documents make many, and cycles only where one is refused.
COLLECT_AFTER: Final = 200_000


def start(paths: tuple[str, ...]) -> Start:
    """The configuration that a proxy starts with; ConfigError with every problem."""
    stdin = file.from_stdin() if STDIN in paths else None
    looks = look(paths)  # before it is read: what is written meanwhile is seen as a change
    verdict, documents = judged(Ask(paths, stdin, (), {}, None))
    if verdict.problems:
        raise ConfigError(*verdict.problems)
    return Start(paths, stdin, looks, verdict, tuple(documents))


class Session:
    """What this process holds: the version that is in force, and the one that it was last asked about."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[Held, dict[bytes, Seen]]] = {}

    def answer(self, question: Question, parts: Parts) -> Iterator[tuple[Kind, Iterable[object]] | Answer]:
        """The answer to a question, in the parts in which it is told."""
        base, seen = holding(parts) if question.whole else self._held[question.base]
        self._held = {question.base: (base, seen)}
        supplied = applied(base.supplied, parts.changed, question.supplied)
        verdict, documents = judged(
            Ask(
                *(question.paths, question.stdin, base.files, base.pushed, question.push, supplied),
                *(base.written, seen, question.keys),
            )
        )
        if verdict.problems:
            return iter((Answer(verdict.problems),))
        held = Held(
            base.files if verdict.files is None else verdict.files,
            base.pushed if verdict.pushed is None else verdict.pushed,
            *(supplied, verdict.written, verdict.order),
        )
        fresh = remembered(held.order, ((each.digest, each.line, each[2:]) for each in documents))
        there = {place.digest for place in held.order}
        known = {digest: each for digest, each in seen.items() if digest in there}
        self._held[question.number] = held, {**known, **fresh}
        return answered(base, verdict, documents, held, of_pushed.etag)


def judged(ask: Ask) -> tuple[Verdict, list[Judged]]:
    """A verdict, and the documents that were not seen before."""
    files, unreadable = _files(ask)
    problems: list[Problem] = list(unreadable)
    pushed, sources = ask.pushed, [push.source(key, text) for key, text in ask.pushed.items()]
    written = ask.written
    if ask.push is not None:
        made = push.apply(ask.pushed, *ask.push, ask.written)
        pushed, sources, written = made.documents, made.sources, made.written
        problems += made.problems
    sources += [Source(f"xds/{key}", text) for key, text in ask.supplied.items()]
    # A file that is too large is refused as one.
    fitting = ([each] if len(each.text) > MAX_CHARACTERS else chunks(each) for each in files)
    texts = [piece for pieces in fitting for piece in pieces] + sources
    digests = [digest(each) for each in texts]
    at = dict(zip(((each.name, each.line) for each in texts), digests, strict=True))

    def known(source: Source) -> Known | None:
        if (
            source.name == push.BODY
        ):  # kept in other words: what a file's same text was found to say is of no use
            return None
        seen = ask.seen.get(at[source.name, source.line])
        return None if seen is None else Known(*seen)

    keys = set(pushed)
    sidecar = any(key.startswith("Sidecar/") for key in keys)

    def replaced(name: str, kind: str, namespace: str, document: str) -> bool:
        own = not name.startswith(f"{push.BODY}/") and name != push.BODY
        return own and (f"{kind}/{namespace}/{document}" in keys or (sidecar and kind == "Sidecar"))

    loaded = file.judge(texts, sidecar_required=not problems, known=known, replaced=replaced, keys=ask.keys)
    problems += loaded.problems
    if problems:
        return Verdict(tuple(str(each)[:LONGEST] for each in problems), None, None), []
    order = _order(loaded, texts, digests)
    if ask.push is not None:
        order = list(_kept(loaded, order, pushed))
    told = None if ask.paths is None else tuple(files)
    verdict = Verdict((), told, None if ask.push is None else pushed, tuple(order), written)
    return verdict, list(_documents(loaded, order, ask.seen))


def _files(ask: Ask) -> tuple[Sequence[Source], list[Problem]]:
    if ask.paths is None:
        return ask.files, []
    return file.read(ask.paths, None if ask.stdin is None else io.BytesIO(ask.stdin))


def _order(loaded: Loaded, texts: Sequence[Source], digests: Sequence[bytes]) -> list[Place]:
    """For each document the text that it stands in."""
    order: list[Place] = []
    index = 0
    for status in loaded.documents:  # which are in the order of the texts
        while texts[index].name != status.file or not _holds(texts, index, status.line):
            index += 1
        before = texts[index].line
        order.append(Place(digests[index], status.line - before, status.file, before))
    return order


def _kept(loaded: Loaded, order: Sequence[Place], pushed: Mapping[str, str]) -> Iterator[Place]:
    """Pushed documents as they are kept and judged from then on: each in a text of its own."""
    for status, place in zip(loaded.documents, order, strict=True):
        if place.file == push.BODY or place.file.startswith(f"{push.BODY}/"):
            key = f"{status.kind}/{status.namespace}/{status.name}"
            yield Place(digest(push.source(key, pushed[key])), 1, push.name(key), 0)
        else:
            yield place


def _holds(texts: Sequence[Source], index: int, line: int) -> bool:
    text = texts[index]
    after = texts[index + 1] if index + 1 < len(texts) else None
    return line > text.line and (after is None or after.name != text.name or line <= after.line)


def _documents(loaded: Loaded, order: Sequence[Place], seen: Mapping[bytes, object]) -> Iterator[Judged]:
    # By name: of what was sent in other words than before there is a text that was seen, and a document all the same.
    accepted = {(type(each).__name__, *_name(each)): each for each in loaded.accepted}
    for status, place in zip(loaded.documents, order, strict=True):
        if place.digest not in seen:
            document = accepted[status.kind, status.namespace, status.name]
            yield Judged(place.digest, place.line, status, plain_document(document))


def _name(document: Document) -> tuple[str, str]:
    return document.metadata.namespace, document.metadata.name


def main() -> None:
    """Answer until nobody asks any more."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the user's own modules print when they are imported is no verdict
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)
    session = Session()
    while (asked := read_question(sys.stdin.buffer)) is not None:
        for piece in pieces(session.answer(*asked)):
            out.write(piece)
        out.flush()


if __name__ == "__main__":
    main()
