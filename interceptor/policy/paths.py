"""What a path is before policies compare it; the same bytes are forwarded, so that nobody decides about another path.

Envoy's steps in Envoy's order: with DECODE_AND_MERGE_SLASHES encoded slashes are decoded; always backslashes become
slashes, escapes of unreserved characters are decoded and dot segments taken out; then, but for BASE, slashes merge.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from interceptor.model.http import RequestHead

Normalization: TypeAlias = Literal["DEFAULT", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"]

# Nothing to do, but for slashes beside each other. (Python 3.11 gets a possessive quantifier wrong here.)
_PLAIN: Final = re.compile(rb"(?:/(?!\.)[!$&-.0-;=@-Z^-z|~_]*)+")
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})?")
_SLASH: Final = re.compile(rb"%(?:2[Ff]|5[Cc])")
_SLASHES: Final = re.compile(rb"/{2,}")
_UNRESERVED: Final = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
)  # RFC 3986, 2.3
_REFUSED: Final = re.compile(rb"[\x00-\x20\x7f#]")


def normalise(head: RequestHead, how: Normalization) -> None:
    """Put the path of a request's target into its one form; ValueError, a sentence, where it has none."""
    if head.target == b"*" or head.method == b"CONNECT":
        return
    path, question, query = head.path.partition(b"?")
    form = normalised(path, how)
    if form == path and head.target[:1] == b"/":
        return
    before = head.target[: len(head.target) - len(head.path)] if head.target.endswith(head.path) else b""
    if not before and head.target[:1] != b"/":  # an absolute form without a path
        before = head.target.partition(b"?")[0]
    head.target = before + form + question + query


def normalised(path: bytes, how: Normalization) -> bytes:
    """A path, which begins with a slash and has no query, in its one form."""
    if _PLAIN.fullmatch(path) and (b"//" not in path or how in {"DEFAULT", "BASE"}):
        return path
    if path[:1] != b"/":
        raise ValueError("the path does not begin with '/'")
    if _REFUSED.search(path):
        raise ValueError("the path holds a control character, a space or a '#'")
    if how == "DECODE_AND_MERGE_SLASHES":
        path = _SLASH.sub(b"/", path)
    path = _without_dots(_ESCAPE.sub(_decoded, path.replace(b"\\", b"/")))
    return path if how in {"DEFAULT", "BASE"} else _SLASHES.sub(b"/", path)


def _decoded(escape: re.Match[bytes]) -> bytes:
    digits = escape.group(1)
    if digits is None:
        raise ValueError("the path holds a '%' that two hexadecimal digits do not follow")
    number = int(digits, 16)
    if not number:
        raise ValueError("the path holds an encoded NUL")
    return bytes((number,)) if number in _UNRESERVED else escape.group()


def _without_dots(path: bytes) -> bytes:
    """RFC 3986, 5.2.4; nothing climbs above the root."""
    kept: list[bytes] = []
    *directories, last = path.split(b"/")[1:]
    for segment in directories:
        if segment == b"..":
            del kept[-1:]
        elif segment != b".":
            kept.append(segment)
    if last == b"..":
        del kept[-1:]
    kept.append(b"" if last in {b".", b".."} else last)
    return b"/" + b"/".join(kept)
