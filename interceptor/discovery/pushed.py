"""PURE. The pushed documents: JSON texts by ``Kind/namespace/name``, so that a push changes only what it names."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

YAML: Final = ("application/yaml", "application/x-yaml", "text/yaml")
JSON: Final = "application/json"
PATCH: Final = "application/merge-patch+json"
TYPES: Final = (*YAML, JSON, PATCH)


def etag(documents: Mapping[str, str]) -> str:
    """Of a set of pushed documents."""
    said = sha256()
    for key, text in sorted(documents.items()):
        said.update(f"{len(key)} {len(text)} {key}{text}".encode())
    return f'"{said.hexdigest()[:32]}"'


def shown(documents: Mapping[str, str]) -> str:
    """The pushed documents as GET gives them, and PUT takes them."""
    inside = ",\n".join(f"{json.dumps(key)}: {text}" for key, text in sorted(documents.items()))
    return f'{{"documents": {{\n{inside}\n}}}}\n'
