"""Configuration files: reads them, and says in one go everything that is wrong with them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from interceptor.config.documents import Known, Loaded, load as load_documents
from interceptor.config.problems import Problem, Source
from interceptor.config.tree import MAX_CHARACTERS, too_large
from interceptor.discovery.paths import STDIN, expand
from interceptor.errors import ConfigError
from interceptor.middleware.modules import module_problem
from interceptor.policy import peer_authentication
from interceptor.policy.selection import Workload
from interceptor.routing.references import dangling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import BinaryIO

    from interceptor.config.base import Document
    from interceptor.config.configuration import Configuration, DocumentStatus
    from interceptor.config.request_authentication import JwtRule

_MAX_BYTES: Final = MAX_CHARACTERS * 4  # the longest UTF-8 character has four; the text is measured again


@dataclass(frozen=True, slots=True)
class Report:
    """What ``interceptor check`` says: every document with its status, every problem with its place."""

    documents: tuple[DocumentStatus, ...]
    problems: tuple[Problem, ...]

    @property
    def accepted(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def lines(self) -> list[str]:
        """For a terminal: the problems, then what became of each document, with what its reader should know."""
        notes = [
            f"{document.file}:{document.line}: {note}"
            for document in self.documents
            for note in document.notes
        ]
        return [*map(str, self.problems), *map(str, self.documents), *notes]


def load(paths: Sequence[str], stdin: BinaryIO | None = None) -> Configuration:
    """The configuration in some files (``-`` is standard input); raises ConfigError with every problem."""
    sources, unreadable = read(paths, stdin)
    loaded = judge(sources, sidecar_required=not unreadable)
    if unreadable:
        raise ConfigError(*map(str, (*unreadable, *loaded.problems)))
    return loaded.configuration()


def check(paths: Sequence[str], stdin: BinaryIO | None = None) -> Report:
    """Validate files, also ones without a Sidecar; never raises for what they say."""
    sources, unreadable = read(paths, stdin)
    loaded = judge(sources, sidecar_required=False)
    return Report(tuple(_noted(loaded)), (*unreadable, *loaded.problems))


def _noted(loaded: Loaded) -> Iterator[DocumentStatus]:
    """The documents, with a note at each that decides nothing for this workload, or refers to what is not there."""
    notes: dict[tuple[str, str], list[str]] = {}
    if loaded.sidecar is not None and not loaded.problems:
        made = loaded.configuration()
        ignored = peer_authentication.ignored(made.peer_authentications, Workload.of(loaded.sidecar))
        for name, note in ignored.items():
            notes.setdefault(("PeerAuthentication", name), []).append(note)
        for kind, name, note in dangling(made.service_entries, made.destination_rules, made.virtual_services):
            notes.setdefault((kind, name), []).append(note)
    for each in loaded.documents:
        found = notes.get((each.kind, f"{each.namespace}/{each.name}"), [])
        yield replace(each, notes=(*each.notes, *found)) if found else each


def read(paths: Sequence[str], stdin: BinaryIO | None = None) -> tuple[list[Source], list[Problem]]:
    """The texts of files and of the files of directories, and what is wrong with those that cannot be read."""
    files: list[str] = []
    unreadable: list[Problem] = []
    for path in paths:
        try:
            files += expand(path)
        except OSError as error:
            unreadable.append(Problem(path, 0, "", _unreadable(error)))
        except ValueError as error:
            unreadable.append(Problem(_name(path), 0, "", str(error)))
    found = [_read(path, stdin, again=path in files[:index]) for index, path in enumerate(files)]
    unreadable += [each for each in found if isinstance(each, Problem)]
    return [each for each in found if isinstance(each, Source)], unreadable


def judge(
    sources: Sequence[Source],
    *,
    # A file that cannot be read may well hold the Sidecar: do not claim then that there is none.
    sidecar_required: bool,
    known: Callable[[Source], Known | None] = lambda _: None,
    replaced: Callable[[str, str, str, str], bool] = lambda *_: False,
    keys: Mapping[str, str] = MappingProxyType({}),  # key sets that were fetched, by their URL
) -> Loaded:
    """What some texts say, with what the documents keep in files of their own."""
    loaded = load_documents(
        sources,
        sidecar_required=sidecar_required,
        module_problem=module_problem,
        known=known,
        replaced=replaced,
    )
    return _with_keys(loaded, keys)


def _unreadable(error: OSError) -> str:
    return f"cannot be read: {error.strerror}; give the path of a file that this user may read"


def _name(path: str) -> str:
    return path if path.isprintable() else repr(path)


def _with_keys(loaded: Loaded, keys: Mapping[str, str]) -> Loaded:
    """The same, with the keys that documents keep elsewhere."""
    if all(each.kind != "RequestAuthentication" for each in loaded.documents):
        return loaded
    from interceptor.config.request_authentication import RequestAuthentication  # noqa: PLC0415 (as in documents)

    places = {(each.kind, each.namespace, each.name): each for each in loaded.documents}
    accepted: list[Document] = []
    problems: list[Problem] = []
    for document in loaded.accepted:
        if isinstance(document, RequestAuthentication):
            metadata = document.metadata
            place = places["RequestAuthentication", metadata.namespace, metadata.name]
            rules = [
                _read_keys(rule, index, place, problems, keys)
                for index, rule in enumerate(document.spec.jwtRules)
            ]
            spec = document.spec.model_copy(update={"jwtRules": tuple(rules)})
            accepted.append(document.model_copy(update={"spec": spec}))
        else:
            accepted.append(document)
    return replace(loaded, accepted=tuple(accepted), problems=(*loaded.problems, *problems))


def _read_keys(
    rule: JwtRule, index: int, place: DocumentStatus, problems: list[Problem], keys: Mapping[str, str]
) -> JwtRule:
    """A rule with its keys; without, where they are to be fetched and were not."""
    from interceptor.config.request_authentication import FILE, key_set  # noqa: PLC0415 (as above)

    if rule.jwksUri is None or not (rule.jwksUri.startswith(FILE) or rule.jwksUri in keys):
        return rule
    try:
        if rule.jwksUri in keys:
            return rule.model_copy(update={"jwks": key_set(keys[rule.jwksUri])})
        with Path(rule.jwksUri.removeprefix(FILE)).open("rb") as file:
            return rule.model_copy(update={"jwks": key_set(file.read(_MAX_BYTES).decode())})
    except OSError as error:
        message = _unreadable(error)
    except ValueError as error:
        message = str(error)
    problems.append(Problem(place.file, place.line, f"spec.jwtRules[{index}].jwksUri", message))
    return rule


def _read(path: str, stdin: BinaryIO | None, *, again: bool) -> Source | Problem:
    name = "standard input" if path == STDIN else path
    if again:
        return Problem(name, 0, "", "the file is given twice; give it once")
    try:
        data = _bytes(path, stdin)
    except OSError as error:
        return Problem(name, 0, "", _unreadable(error))
    except ValueError:  # a NUL in the path
        return Problem(repr(path), 0, "", "this is not the path of a file; give one")
    if len(data) > _MAX_BYTES:
        return Problem(name, 0, "", too_large())
    try:
        return Source(name, data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return Problem(name, line, "", "this is not UTF-8 text; save the file as UTF-8")


def from_stdin() -> bytes:
    """What standard input holds, which can be read once; a byte too much where it is too large."""
    return sys.stdin.buffer.read(_MAX_BYTES + 1)


def _bytes(path: str, stdin: BinaryIO | None) -> bytes:
    if path == STDIN:
        return (stdin or sys.stdin.buffer).read(_MAX_BYTES + 1)
    with Path(path).open("rb") as file:
        return file.read(_MAX_BYTES + 1)
