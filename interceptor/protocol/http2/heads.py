"""What a list of fields means (RFC 9113 section 8): heads and trailers, or a malformed message; and heads as fields.

Strict, because a field that two readers understand differently is how requests are smuggled: names are lower-case
tokens, values hold no control characters, nothing speaks of one connection only, and what must be there once is.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.model.http import RequestHead, ResponseHead
from interceptor.protocol.http2.codes import PROTOCOL_ERROR, StreamError
from interceptor.protocol.http2.hpack import Again

if TYPE_CHECKING:
    from interceptor.model.http import Headers
    from interceptor.protocol.http2.hpack import Block, Field


class Request(NamedTuple):
    """A request that may be passed on."""

    head: RequestHead
    length: int | None  # of its body, where it says so
    protocol: bytes | None  # of an extended CONNECT (RFC 8441)


class Response(NamedTuple):
    """A response that may be passed on."""

    head: ResponseHead
    length: int | None  # of its body, where it says so


_PLAIN, _TE, _LENGTH, _HOST, _FORBIDDEN, _BAD = range(6)  # the last two are never passed on
_KNOWN: Final = {
    **dict.fromkeys(
        (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"), _FORBIDDEN
    ),
    b"te": _TE,
    b"content-length": _LENGTH,
    b"host": _HOST,
}
_kinds: Final = dict(_KNOWN)  # and what was seen since: checked once, as names are few
_REMEMBERED: Final = 1024  # names, each at most as long as the next figure
_LONG: Final = 64

_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch  # RFC 9110's token, in lower case
_VALUE: Final = re.compile(
    rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?"
).fullmatch
_LENGTH_VALUE: Final = re.compile(rb"0|[1-9][0-9]{0,17}").fullmatch
_METHOD: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_SCHEME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+\-.]*").fullmatch
_AUTHORITY: Final = re.compile(rb"[\x21\x22\x24-\x2e\x30-\x3e\x41-\x7e]+").fullmatch  # none of # / ? @
_PATH: Final = re.compile(rb"/[\x21\x22\x24-\x7e\x80-\xff]*").fullmatch  # no #: a fragment is not sent
_STATUS: Final = re.compile(rb"[1-9][0-9]{2}").fullmatch

_REQUEST: Final = frozenset((b":method", b":scheme", b":authority", b":path", b":protocol"))
_RESPONSE: Final = frozenset((b":status",))


def request(block: Block, *, extended_connect: bool) -> Request:
    """Read a request; StreamError where it is malformed. The head is that of every request which says the same."""
    known = block.meaning
    if not isinstance(known, Request):
        known = _request(block.fields, extended_connect=extended_connect)
        if known.protocol is None:  # else it is valid only where that was offered
            block.meaning = known
    return known


def _request(fields: list[Field], *, extended_connect: bool) -> Request:
    pseudo, headers = _split(fields, _REQUEST)
    length, host = _check(headers)
    method = pseudo.get(b":method", b"")
    if not _METHOD(method):
        raise StreamError(PROTOCOL_ERROR, "a request without a valid :method")
    authority = pseudo.get(b":authority")
    if authority is None:
        authority = host or b""
    elif host is not None and host.lower() != authority.lower():
        raise StreamError(PROTOCOL_ERROR, "a request whose Host is not its :authority")
    if not _AUTHORITY(authority):
        raise StreamError(PROTOCOL_ERROR, "a request without a valid authority")
    protocol = pseudo.get(b":protocol")
    if protocol is not None and not (extended_connect and method == b"CONNECT" and _METHOD(protocol)):
        raise StreamError(PROTOCOL_ERROR, "a request with a :protocol that was not offered")
    if method == b"CONNECT" and protocol is None:
        if b":scheme" in pseudo or b":path" in pseudo or b":authority" not in pseudo:
            raise StreamError(PROTOCOL_ERROR, "a CONNECT with :scheme or :path, or without :authority")
        return Request(RequestHead(method, authority, authority, b"", b"2", headers), None, None)
    scheme, path = pseudo.get(b":scheme", b""), pseudo.get(b":path", b"")
    if not _SCHEME(scheme):
        raise StreamError(PROTOCOL_ERROR, "a request without a valid :scheme")
    if not _PATH(path) and not (path == b"*" and method == b"OPTIONS"):
        raise StreamError(PROTOCOL_ERROR, "a request without a valid :path")
    return Request(RequestHead(method, path, authority, scheme, b"2", headers), length, protocol)


def response(block: Block) -> Response:
    """Read a response, final or informational; StreamError where it is malformed. The head is that of all that say the same."""
    known = block.meaning
    if not isinstance(known, Response):
        known = block.meaning = _response(block.fields)
        known.head.fields = Again(block.fields)
    return known


def _response(fields: list[Field]) -> Response:
    pseudo, headers = _split(fields, _RESPONSE)
    length, _ = _check(headers)
    status = pseudo.get(b":status", b"")
    if not _STATUS(status) or status == b"101":
        raise StreamError(PROTOCOL_ERROR, "a response without a valid :status")
    return Response(ResponseHead(int(status), b"", headers), length)


def trailers(fields: list[Field]) -> Headers:
    """Check trailers; StreamError where they are malformed."""
    _check(fields)  # a pseudo-header is no token
    return fields


def request_fields(head: RequestHead, protocol: bytes | None = None) -> list[Field]:
    """A request as fields, with what filters made of it."""
    fields = [(b":method", head.method)]
    if head.scheme:
        fields.append((b":scheme", head.scheme))
    fields.append((b":authority", head.authority))
    if head.scheme:
        fields.append((b":path", head.target))
    if protocol is not None:
        fields.append((b":protocol", protocol))
    return _append(fields, head.headers)


def response_fields(head: ResponseHead) -> list[Field]:
    """A response as fields: as it came, or with what filters made of a copy."""
    if isinstance(head.fields, Again):
        return head.fields
    return _append([(b":status", b"%d" % head.status)], head.headers)


def trailer_fields(headers: Headers) -> list[Field]:
    """Trailers as fields, with what the user's own made of them."""
    return _append([], headers)


def _append(fields: list[Field], headers: Headers) -> list[Field]:
    kinds = _kinds
    for field in headers:
        kind = kinds.get(field[0])
        if kind is None:  # written by a filter, perhaps as HTTP/1 writes it
            name = field[0].lower()
            kind = _kind(name)
            if name != field[0]:
                field = (name, field[1])  # noqa: PLW2901 (the same field, as HTTP/2 writes it)
        if kind < _FORBIDDEN:
            fields.append(field)
    return fields


def _split(fields: list[Field], allowed: frozenset[bytes]) -> tuple[dict[bytes, bytes], Headers]:
    """Pseudo-headers, which come first and once, and the rest."""
    pseudo: dict[bytes, bytes] = {}
    for name, value in fields:
        if name[:1] != b":":
            break
        if name not in allowed or name in pseudo:
            raise StreamError(PROTOCOL_ERROR, "a pseudo-header that is unknown, misplaced or there twice")
        pseudo[name] = value
    return pseudo, fields[len(pseudo) :]


def _check(headers: Headers) -> tuple[int | None, bytes | None]:
    """Content-length and Host of valid headers."""
    length = host = None
    kinds = _kinds
    for name, value in headers:
        kind = kinds.get(name)
        if kind is None:
            kind = _kind(name)
        if not _VALUE(value):
            raise StreamError(PROTOCOL_ERROR, "a header value with a control character or outer space")
        if not kind:
            continue
        if kind == _LENGTH and length is None and _LENGTH_VALUE(value):
            length = int(value)
        elif kind == _HOST and host is None:
            host = value
        elif kind != _TE or value.lower() != b"trailers":
            raise StreamError(PROTOCOL_ERROR, _SENTENCES[kind])
    return length, host


def _kind(name: bytes) -> int:
    kind = _kinds.get(name)
    if kind is not None:
        return kind
    kind = _PLAIN if _NAME(name) else _BAD
    if kind == _PLAIN and len(name) <= _LONG:
        if len(_kinds) >= _REMEMBERED:
            _kinds.clear()
            _kinds.update(_KNOWN)
        _kinds[name] = kind
    return kind


_SENTENCES: Final = {
    _FORBIDDEN: "a header that belongs to one connection only",
    _TE: "a TE other than trailers",
    _LENGTH: "a Content-Length that is no number, or there twice",
    _HOST: "a Host that is there twice",
    _BAD: "a header name that is no lower-case token",
}
