"""A request and its response as every HTTP version, filter and policy sees them: heads, and replies of our own.

Heads are changed in place by filters; one that several requests share is copied for that. Names and values are bytes, with the order and the case that they came with.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from interceptor.model.connection import ResponseFlag

Headers: TypeAlias = list[tuple[bytes, bytes]]


@dataclass(slots=True)
class RequestHead:
    """What a client asked. ``authority`` is the Host header's, or that of an absolute target; empty where there is none."""

    method: bytes
    target: (
        bytes  # as the client wrote it, and as it is forwarded: ``/path?query``, ``http://host/path``, ``*``
    )
    authority: bytes
    scheme: bytes
    version: bytes  # b"1.0", b"1.1" or b"2"
    headers: Headers
    line: tuple[str, str, str | None, str] | None = field(
        default=None, compare=False, repr=False
    )  # see request_lines
    onward: object = field(default=None, compare=False, repr=False)  # see http2_requests

    def copy(self) -> RequestHead:
        """Another one, to be changed."""
        return RequestHead(
            self.method, self.target, self.authority, self.scheme, self.version, self.headers.copy()
        )

    @property
    def path(self) -> bytes:
        """The target without an absolute form's scheme and authority, with its query."""
        if self.target[:1] == b"/" or b"://" not in self.target:
            return self.target
        after = self.target.partition(b"://")[2]
        begin = min((at for at in (after.find(b"/"), after.find(b"?")) if at >= 0), default=len(after))
        path = after[begin:]
        return path if path[:1] == b"/" else b"/" + path


@dataclass(slots=True)
class ResponseHead:
    """What was answered; the reason is empty where the version has none."""

    status: int
    reason: bytes
    headers: Headers
    written: bytes | None = field(
        default=None, compare=False, repr=False
    )  # of one that is never changed: see http1
    fields: object = field(default=None, compare=False, repr=False)  # the same: see http2

    def copy(self) -> ResponseHead:
        """Another one, to be changed."""
        return ResponseHead(self.status, self.reason, self.headers.copy())


@dataclass(slots=True)
class LocalReply:
    """An answer of our own in the upstream's place. The details are for the log, the body is for the client."""

    status: int
    flag: ResponseFlag
    details: str
    body: bytes = b""
    headers: Headers = field(default_factory=list)


def get(headers: Headers, name: bytes) -> bytes | None:
    """The value of the first header of this name, which is given in lower case."""
    for each, value in headers:
        if each.lower() == name:
            return value
    return None


def get_all(headers: Headers, name: bytes) -> list[bytes]:
    """Every value of a header, in order; the name is given in lower case."""
    return [value for each, value in headers if each.lower() == name]


def remove(headers: Headers, name: bytes) -> None:
    """Drop every header of this name, which is given in lower case."""
    headers[:] = [header for header in headers if header[0].lower() != name]


def put(headers: Headers, name: bytes, value: bytes) -> None:
    """Set a header to one value, in the place of whatever it had; the name is written as it is given."""
    remove(headers, name.lower())
    headers.append((name, value))
