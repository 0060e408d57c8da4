"""YAML text becomes plain values in which every field still knows its line.

Text from outside is bounded in size, depth and number of values (aliases counted as often as they are used), so
that no file can exhaust the reader. Scalars are JSON's, not YAML 1.1's: ``on`` is text and ``12:30`` is no number,
because Kubernetes reads them so. A problem in one document does not hide those of the next.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

import yaml
from yaml.reader import Reader

from interceptor.config.problems import Problem, Source

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_CHARACTERS: Final = 1 << 20  # of one file: some 5 000 service entries, far beyond what is written by hand
MAX_DEPTH: Final = 32  # the deepest field of the schemas we know stands at 8
MAX_VALUES: Final = (
    250_000  # of one document; 1 MiB of plain YAML stays below it, a "billion laughs" does not
)
MAX_UNREADABLE: Final = 20  # documents of one file: reading on after each costs as much as reading the rest

Location: TypeAlias = "Sequence[str | int]"
Scalar: TypeAlias = "str | int | float | bool | None"

# libyaml's parser where PyYAML was built with it (its wheels are): the same events, 10 times as fast.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_WORDS: Final[dict[str, Scalar]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")  # 18 digits: fits 64 bits
_FLOAT: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,18})?(?:[eE][-+]?[0-9]{1,2})?")
_MARKER: Final = re.compile(r"^---(?=\s|$)", re.MULTILINE)
_TEXT_TAGS: Final = frozenset({"!", "tag:yaml.org,2002:str"})
_PLAIN_TAGS: Final = frozenset({None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"})


@dataclass(slots=True)
class Node:
    """A value and the line it stands on."""

    line: int
    value: (
        Scalar | dict[str, tuple[int, Node]] | list[Node]
    )  # a mapping's fields: the line of the key, the value
    size: int = 1  # how many values it holds, itself included

    def plain(self) -> object:
        """The value as plain Python: what ``json`` would have made of it."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, (_, node) in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def line_of(self, location: Location) -> int:
        """The line of the field at a location; of the nearest field around it where it is not written."""
        node, line = self, self.line
        for part in location:
            if isinstance(node.value, dict) and isinstance(part, str) and part in node.value:
                line, node = node.value[part]
            elif isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                line = node.line
            else:
                break
        return line


@dataclass(slots=True)
class Tree:
    """The documents of one source that could be read, each with the problems found while reading it."""

    documents: list[tuple[Node, list[Problem]]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)  # of no document in particular


def parse(source: Source) -> Tree:
    """Read every document of a source; where one cannot be read, say so and go on with the next."""
    tree = Tree()
    if len(source.text) > MAX_CHARACTERS:
        tree.problems.append(Problem(source.name, 0, "", too_large()))
        return tree
    if unprintable := Reader.NON_PRINTABLE.search(source.text):
        line = source.line + source.text.count("\n", 0, unprintable.start()) + 1
        message = (
            f"the character U+{ord(unprintable.group()):04X} is not allowed in YAML; is this a text file?"
        )
        tree.problems.append(Problem(source.name, line, "", message))
        return tree
    lines = source.text.split("\n")
    start = 0
    for _ in range(MAX_UNREADABLE):
        resume = _parse_from(start, lines, source, tree)
        if resume is None:
            return tree
        start = resume
    message = (
        f"{MAX_UNREADABLE} documents cannot be read, and what follows was not looked at; mend those first"
    )
    tree.problems.append(Problem(source.name, source.line + start + 1, "", message))
    return tree


def too_large() -> str:
    """The sentence for a file that is over the limit."""
    return f"the file is larger than {MAX_CHARACTERS // 1024} KiB; split it into several files"


def chunks(source: Source) -> list[Source]:
    """The same text cut before every ``---``: each piece reads alone as it does here, and most hold one document."""
    if re.search(r"^%", source.text, re.MULTILINE):  # a directive is about the document after its ``---``
        return [source]
    starts = [0, *(found.start() for found in _MARKER.finditer(source.text) if found.start())]
    made: list[Source] = []
    line = source.line
    for start, end in zip(starts, [*starts[1:], len(source.text)], strict=True):
        piece = source.text[start:end]
        made.append(Source(source.name, piece, line))
        line += piece.count("\n")
    return made


def _parse_from(start: int, lines: Sequence[str], source: Source, tree: Tree) -> int | None:
    """Read documents from a line on. Returns the line to resume at after one that could not be read."""
    file, before = source.name, source.line
    try:
        builder = _Builder("\n".join(lines[start:]), before + start, file)
        tree.documents.extend(builder.documents())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = start + (mark.line if mark else 0)
        column = mark.column if mark else 0
        message = _syntax(error, lines[line][column : column + 1] if line < len(lines) else "")
    except _RefusedError as error:
        line, message = error.line - 1 - before, str(error)
    else:
        return None
    tree.problems.append(Problem(file, before + line + 1, "", message))
    resume = range(max(line, start + 1), len(lines))
    return next((index for index in resume if re.match(r"---(?:\s|$)", lines[index])), None)


def _syntax(error: yaml.MarkedYAMLError, character: str) -> str:
    if character == "\t":
        return "this is not YAML: a tab stands where only spaces may; replace it by spaces"
    context = f" {error.context}" if error.context else ""
    return (
        f"this is not YAML: {error.problem}{context}; check indentation, quotes and brackets here and above"
    )


class _RefusedError(Exception):
    """A document goes beyond what is read at all."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


class _Builder:
    """Builds nodes from the parser's events; no event stream makes it recurse or grow without bound."""

    def __init__(self, text: str, offset: int, file: str) -> None:
        self._events: Iterator[yaml.Event] = iter(yaml.parse(text, Loader=_LOADER))
        self._offset = offset
        self._file = file
        self._anchors: dict[str, Node | None] = {}  # None while the node it names is still being read
        self._values = 0
        self._problems: list[Problem] = []

    def documents(self) -> Iterator[tuple[Node, list[Problem]]]:
        """Every document but the empty ones; raises at the first that cannot be read."""
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                self._anchors, self._values, self._problems = {}, 0, []
                node = self._node(next(self._events), depth=1)
                if node.value is not None:
                    yield node, self._problems

    def _line(self, event: yaml.Event) -> int:
        return self._offset + (event.start_mark.line if event.start_mark else 0) + 1

    def _node(self, event: yaml.Event, depth: int) -> Node:
        line = self._line(event)
        if depth > MAX_DEPTH:
            raise _RefusedError(
                line, f"values are nested more than {MAX_DEPTH} deep; write the document flatter"
            )
        if isinstance(event, yaml.AliasEvent):
            node = self._alias(str(event.anchor), line)
            self._count(node.size, line)
            return node
        self._count(1, line)
        anchor = event.anchor if isinstance(event, yaml.NodeEvent) else None
        if anchor is not None:
            self._anchors[anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node = Node(line, self._scalar(event, line))
        else:
            if isinstance(event, yaml.CollectionStartEvent) and event.tag not in _PLAIN_TAGS:
                self._problems.append(self._tag_problem(str(event.tag), line))
            mapping = isinstance(event, yaml.MappingStartEvent)
            node = self._mapping(line, depth) if mapping else self._sequence(line, depth)
        if anchor is not None:
            self._anchors[anchor] = node
        return node

    def _count(self, size: int, line: int) -> None:
        self._values += size
        if self._values > MAX_VALUES:
            raise _RefusedError(
                line,
                f"the document holds more than {MAX_VALUES} values, aliases expanded; split it or write it out",
            )

    def _alias(self, anchor: str, line: int) -> Node:
        node = self._anchors.get(anchor)
        if node is None:
            known = anchor in self._anchors
            why = "stands inside the value it names" if known else "names no anchor before it"
            raise _RefusedError(line, f"the alias '*{anchor}' {why}; write the value out")
        return node

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> Scalar:
        text = str(event.value)
        if event.tag is not None and event.tag not in _TEXT_TAGS:
            self._problems.append(self._tag_problem(event.tag, line))
        if event.tag is not None or not event.implicit[0]:  # quoted, a block, or !!str
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text):
            return int(text)
        return float(text) if _FLOAT.fullmatch(text) else text

    def _tag_problem(self, tag: str, line: int) -> Problem:
        return Problem(self._file, line, "", f"the YAML tag '{tag}' is not allowed; write a plain value")

    def _sequence(self, line: int, depth: int) -> Node:
        items = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, depth + 1))
        return Node(line, items, 1 + sum(item.size for item in items))

    def _mapping(self, line: int, depth: int) -> Node:
        fields: dict[str, tuple[int, Node]] = {}
        size = 1
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            at = self._line(event)
            if not isinstance(event, yaml.ScalarEvent):
                raise _RefusedError(
                    at, "a field's name must be plain text, not a list, a mapping or an alias"
                )
            key = str(event.value)
            self._count(1, at)
            value = self._node(next(self._events), depth + 1)
            size += value.size + 1
            if key == "<<":
                message = "merge keys ('<<') are not supported; write the fields out"
                self._problems.append(Problem(self._file, at, "", message))
            elif key in fields:
                message = f"'{key}' is given twice, first on line {fields[key][0]}; keep one of them"
                self._problems.append(Problem(self._file, at, "", message))
            else:
                fields[key] = (at, value)
        return Node(line, fields, size)
