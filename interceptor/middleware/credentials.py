"""PURE. What the filters that ask who a client is have in common: their refusal, and files with a name a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.model.connection import ResponseFlag
from interceptor.model.http import LocalReply

if TYPE_CHECKING:
    from collections.abc import Iterator


def refused(reason: str, details: str, challenge: bytes, status: int = 401) -> LocalReply:
    """The client is told what is wrong and how to ask, and nothing of what it sent is repeated."""
    body = f"interceptor: {reason}\n".encode()
    headers = [(b"www-authenticate", challenge)]
    return LocalReply(status, ResponseFlag.EXTERNAL_DENIAL, details, body, headers)


def named_lines(data: bytes, what: str) -> Iterator[tuple[int, str, str]]:
    """The lines ``name:value`` of a file, each with its number; empty ones and comments (#) are left out.

    ValueError names the line that is wrong and repeats nothing of it.
    """
    try:
        lines = data.decode().splitlines()
    except UnicodeDecodeError:
        raise ValueError("this is not UTF-8 text; save the file as UTF-8") from None
    names: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, separator, value = text.partition(":")
        if not name or not separator or not value:
            raise ValueError(f"line {number} is not {what}")
        if not (name.isascii() and name.isprintable()):
            raise ValueError(
                f"line {number}: a name is of printable ASCII characters, to be told in a header"
            )
        if (first := names.setdefault(name, number)) != number:
            raise ValueError(f"line {number} gives the name of line {first} again; keep one of them")
        yield number, name, value
