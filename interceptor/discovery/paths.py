"""The files that paths name: themselves, or those of a directory; and what they look like from outside."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from interceptor.watching import signature

if TYPE_CHECKING:
    from collections.abc import Sequence

STDIN: Final = "-"
MAX_FILES: Final = 1000  # of one directory: looking at each, once a second, takes some 2 ms
_ENDINGS: Final = (".yaml", ".yml", ".json")


def expand(path: str) -> list[str]:
    """The files of a directory that hold documents, in their order; of anything else itself.

    Hidden ones are left out: editors and Kubernetes' ``..data`` keep there what is not meant. Raises OSError, and
    ValueError with a sentence.
    """
    if path == STDIN or not os.path.isdir(path):  # noqa: PTH112 (a path that is looked at every second)
        return [path]
    names = sorted(
        name
        for name in os.listdir(path)  # noqa: PTH208 (names alone)
        if not name.startswith(".") and name.endswith(_ENDINGS)
    )
    if not names:
        raise ValueError(f"the directory holds no file that ends in {', '.join(_ENDINGS)}; put one into it")
    if len(names) > MAX_FILES:
        raise ValueError(
            f"the directory holds more than {MAX_FILES} files of documents; put several into one"
        )
    return [os.path.join(path, name) for name in names]  # noqa: PTH118


def look(paths: Sequence[str]) -> object:
    """What all of them look like; differs when one changes, appears or vanishes."""
    seen: list[object] = []
    for path in paths:
        if path == STDIN:
            continue
        try:
            files = expand(path)
        except (OSError, ValueError) as error:
            files = []
            seen.append(str(error))
        seen += [(file, signature(file)) for file in files]
    return tuple(seen)
