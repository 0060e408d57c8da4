"""gRPC over HTTP/2, as far as a gateway has to know it: whose answers are gRPC's, with which status, how many messages pass."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from interceptor.model.http import get

if TYPE_CHECKING:
    from interceptor.model.http import Headers, LocalReply, ResponseHead

UNKNOWN: Final = 2
LAST_STATUS: Final = 16  # UNAUTHENTICATED; a status is 0 to 16

# gRPC's doc/http-grpc-status-mapping.md: what a client makes of an answer without a grpc-status.
_HTTP: Final = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}
# Where we answer ourselves we can say what it is: RESOURCE_EXHAUSTED, UNIMPLEMENTED, DEADLINE_EXCEEDED.
_REPLY: Final = _HTTP | {413: 8, 429: 8, 431: 8, 501: 12, 504: 4}

_ENCODED: Final = re.compile(rb"[^\x20-\x24\x26-\x7e]")  # gRPC's doc/PROTOCOL-HTTP2.md, Percent-Encoded


_PREFIX: Final = 5  # bytes before each message: whether it is compressed, and its length


class _Messages:
    """Counts the messages of a body, however it is cut into pieces."""

    __slots__ = ("_left", "_prefix", "count")

    def __init__(self) -> None:
        self.count = 0  # of those whose length is known
        self._left = 0  # bytes of the message under way
        self._prefix = b""  # of the next one, where only a part of its prefix has come

    def feed(self, data: bytes) -> None:
        """Take the next piece."""
        at = self._left
        if self._prefix:
            data = self._prefix + data
            self._prefix = b""
        size = len(data)
        while at + _PREFIX <= size:
            self.count += 1
            at += _PREFIX + int.from_bytes(data[at + 1 : at + _PREFIX], "big")
        if at < size:
            self._prefix = data[at:]
            self._left = 0
        else:
            self._left = at - size


class Messages:
    """The messages of one call, both ways."""

    __slots__ = ("_requests", "_responses")

    def __init__(self) -> None:
        self._requests = _Messages()
        self._responses: _Messages | None = None

    @property
    def requests(self) -> int:
        """How many came from the client."""
        return self._requests.count

    @property
    def responses(self) -> int:
        """How many came back."""
        return 0 if self._responses is None else self._responses.count

    def asked(self, data: bytes) -> None:
        """Some of the request's body passed."""
        self._requests.feed(data)

    def answer(self, head: ResponseHead) -> None:
        """The response begins: what follows are messages, unless it is an error page."""
        if head.status == 200 and is_grpc(head.headers):
            self._responses = _Messages()

    def answered(self, data: bytes) -> None:
        """Some of the response's body passed."""
        if self._responses is not None:
            self._responses.feed(data)


def is_grpc(headers: Headers) -> bool:
    """Whether a request or a response is gRPC's, by its Content-Type; gRPC-Web is not, it is read by browsers."""
    content_type = (get(headers, b"content-type") or b"").lower()
    return content_type[:16] == b"application/grpc" and content_type[16:17] in {b"", b"+", b";", b" "}


def status_of_http(status: int) -> int:
    """What a gRPC client takes an HTTP status for."""
    return _HTTP.get(status, UNKNOWN)


def status(fields: Headers) -> str | None:
    """The grpc-status of trailers, or of a head that ends its stream, as a label: one of few values."""
    value = get(fields, b"grpc-status")
    if value is None:
        return None
    number = int(value) if value.isdigit() and len(value) <= 2 else UNKNOWN
    return str(number if number <= LAST_STATUS else UNKNOWN)


def reply_fields(reply: LocalReply) -> Headers:
    """An answer of our own to a gRPC client: a head that is its own trailers (Trailers-Only)."""
    if is_grpc(reply.headers):
        return reply.headers
    return [
        (b"content-type", b"application/grpc"),
        (b"grpc-status", b"%d" % _REPLY.get(reply.status, UNKNOWN)),
        (b"grpc-message", encode_message(reply.body.rstrip(b"\n"))),
        *((name, value) for name, value in reply.headers if name.lower() not in _OF_BODY),
    ]


def encode_message(message: bytes) -> bytes:
    """A grpc-message."""
    return _ENCODED.sub(lambda found: b"%%%02X" % found[0][0], message).strip()


_OF_BODY: Final = frozenset((b"content-type", b"content-length"))
