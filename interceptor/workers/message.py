"""What the main process and its workers tell each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from interceptor.config.configuration import PLACES, Configuration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from interceptor.config.base import Document
    from interceptor.config.sidecar import Sidecar

Kind: TypeAlias = Literal[
    "publish",
    "health",
    "collect",
    "connections",
    "clusters",
    "plaintext",
    "drain",
    "abort",
    "log_level",
    "reopen_log",
    "svids",
    "secrets",
]


@dataclass(frozen=True, slots=True)
class Message:
    """A request of the main process, or the worker's answer to the last one of that kind."""

    kind: Kind
    value: object = None


@dataclass(frozen=True, slots=True)
class Change:
    """A configuration as what is new beside one that both have: thousands of documents are not sent for one of them."""

    sidecar: Sidecar
    documents: Mapping[str, Sequence[Document | int]]  # by place; a number: the one that stood there


def change(before: Configuration, after: Configuration) -> Change:
    """What makes the one of the other, without the documents' statuses, which the main process alone tells."""
    found: dict[str, Sequence[Document | int]] = {}
    for place in PLACES.values():
        old = {id(each): index for index, each in enumerate(getattr(before, place))}
        found[place] = [old.get(id(each), each) for each in getattr(after, place)]
    return Change(after.sidecar, found)


def changed(before: Configuration, made: Change) -> Configuration:
    """The configuration that a change leads to."""
    fields: dict[str, tuple[Document, ...]] = {}
    for place, documents in made.documents.items():
        old = getattr(before, place)
        fields[place] = tuple(old[each] if isinstance(each, int) else each for each in documents)
    return Configuration(made.sidecar, **fields)  # type: ignore[arg-type]  # by PLACES


@dataclass(frozen=True, slots=True)
class Handover:
    """What a worker makes the next snapshot of; of one version in all of them."""

    configuration: Change | None  # None: the one that the worker has
    resolved: Mapping[str, tuple[str, ...]]
    former: Mapping[str, tuple[str, ...]]
    places: Mapping[str, int]
