"""PURE. What a push makes of the pushed documents."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.config.problems import Problem, Source
from interceptor.config.tree import MAX_DEPTH, chunks, parse
from interceptor.discovery.pushed import JSON, PATCH, YAML
from interceptor.discovery.verdict import digest

if TYPE_CHECKING:
    from collections.abc import Mapping

BODY: Final = "push"  # stands for a file where a problem is in what was sent
_NAMELESS: Final = "default"


class Pushed(NamedTuple):
    """What a push asks for: the texts to judge, the documents by key where they could be told, and what is wrong."""

    sources: list[Source]
    documents: dict[str, str]
    problems: list[Problem]
    written: dict[bytes, str]  # digests of the texts that were sent, with the key of what each says


def apply(
    current: Mapping[str, str], content_type: str, body: bytes, written: Mapping[bytes, str] | None = None
) -> Pushed:
    """What the documents are after a push. ``written``: texts that the current ones were sent as, which are not read again."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return _refused(body.count(b"\n", 0, error.start) + 1, "this is not UTF-8 text; send UTF-8")
    if content_type in YAML:
        return _written(Source(BODY, text), current, written or {})
    try:
        given = json.loads(text)
    except json.JSONDecodeError as error:
        return _refused(error.lineno, f"this is not JSON: {error.msg}")
    except RecursionError:
        return _refused(1, "values are nested too deep; write the documents flatter")
    except ValueError:  # Python's own bound
        return _refused(1, "a number has thousands of digits; write one that fits 64 bits")
    if content_type == JSON and not (isinstance(given, dict) and "documents" in given):
        return _written(Source(BODY, text), current, written or {})
    if (
        not isinstance(given, dict)
        or given.keys() != {"documents"}
        or not isinstance(given["documents"], dict)
    ):
        return _refused(1, 'must be {"documents": {"Kind/namespace/name": {...}}}, as GET /config answers')
    made = _patched(current if content_type == PATCH else {}, given["documents"])
    same = {digest: key for digest, key in (written or {}).items() if made.documents.get(key) == current[key]}
    return made._replace(written=same)


def _refused(line: int, message: str) -> Pushed:
    return Pushed([], {}, [Problem(BODY, line, "", message)], {})


def _written(body: Source, current: Mapping[str, str], before: Mapping[bytes, str]) -> Pushed:
    """Documents as in a file; an empty body is none of them."""
    sources: list[Source] = []
    documents: dict[str, str] = {}
    written: dict[bytes, str] = {}
    for chunk in chunks(body):
        said = digest(chunk)
        known = before.get(said)
        if known is not None and known not in documents:
            documents[known], written[said] = current[known], known
            sources.append(source(known, current[known]))
            continue
        tree = parse(chunk)
        for node, _ in tree.documents:
            plain = node.plain()
            documents[key := _key(plain)] = _text(plain)
            if len(tree.documents) == 1:
                written[said] = key
        if tree.documents or tree.problems:
            sources.append(chunk)
    return Pushed(sources, documents, [], written)


def _patched(current: Mapping[str, str], changes: Mapping[str, object]) -> Pushed:
    """RFC 7396: null takes a document out, a mapping changes its fields, what is not named stays."""
    documents = dict(current)
    problems: list[Problem] = []
    for key, change in changes.items():
        if change is None:
            documents.pop(key, None)
            continue
        try:
            made = merged(json.loads(documents[key]) if key in documents else {}, change)
        except ValueError as error:
            problems.append(Problem(name(key), 0, "", str(error)))
            continue
        documents[key] = _text(made)
        if (own := _key(made)) != key:
            message = f"the document is {own} by its kind and metadata; send it by that key"
            problems.append(Problem(name(key), 0, "", message))
    return Pushed([source(key, text) for key, text in documents.items()], documents, problems, {})


def source(key: str, text: str) -> Source:
    """A pushed document as a source to judge."""
    return Source(name(key), text)


def name(key: str) -> str:
    """What stands for a file where a problem is in a pushed document."""
    return f"{BODY}/{key}"


def merged(target: object, patch: object, depth: int = 1) -> object:
    """A value after a JSON merge patch. Raises ValueError where it is nested too deep."""
    if depth > MAX_DEPTH:
        raise ValueError(f"values are nested more than {MAX_DEPTH} deep; write the document flatter")
    if not isinstance(patch, dict):
        return patch
    made = dict(target) if isinstance(target, dict) else {}
    for field, value in patch.items():
        if value is None:
            made.pop(field, None)
        else:
            made[field] = merged(made.get(field), value, depth + 1)
    return made


def _key(plain: object) -> str:
    """Who a document says it is; what says nothing of use is refused when it is judged."""
    document = plain if isinstance(plain, dict) else {}
    given = document.get("metadata")
    metadata = given if isinstance(given, dict) else {}
    return f"{document.get('kind', '?')}/{metadata.get('namespace', _NAMELESS)}/{metadata.get('name', '?')}"


def _text(plain: object) -> str:
    return json.dumps(plain, indent=1, ensure_ascii=False)
