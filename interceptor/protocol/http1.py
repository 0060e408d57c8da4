"""HTTP/1.0 and 1.1, strictly, as server and as client: heads in, heads out, and how long the body is.

Where RFC 9112 lets a recipient repair what a sender broke, this refuses: two programs that repair differently are what
request smuggling needs. So every head is one regular expression or it is nothing, framing is named once and in one
form, and what is not understood is an error before a byte of it is passed on.

No state: the caller finds the end of a head (``HEAD_END``), and how a body is framed is a number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.model.http import RequestHead, ResponseHead

if TYPE_CHECKING:
    from interceptor.model.http import Headers

HEAD_END: Final = b"\r\n\r\n"
MAX_HEAD: Final = 60 * 1024  # Envoy's limits: max_request_headers_kb
MAX_HEADERS: Final = 100  # max_headers_count
MAX_TARGET: Final = 16 * 1024

SEEN: Final = 256  # heads that are known again, of each kind
MAX_SEEN: Final = 1024  # bytes of such a head: half a megabyte in all

# How a body is framed: so many bytes, or one of these.
CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2  # of a response

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_VALUE: Final = rb"[^\x00-\x08\n-\x1f\x7f]*"
# What does not consist of such lines, and of nothing else, is malformed.
_HEADER: Final = re.compile(rb"(" + _TOKEN + rb"):[ \t]*(" + _VALUE + rb")\r\n")
_HEADERS: Final = re.compile(rb"(?:" + _TOKEN + rb":" + _VALUE + rb"\r\n)*")
_TOKENS: Final = re.compile(_TOKEN)
_REQUEST_LINE: Final = re.compile(rb"(" + _TOKEN + rb") ([!\"$-~\x80-\xff]+) HTTP/(1\.[01])")
_OTHER_VERSION: Final = re.compile(_TOKEN + rb" [!-~\x80-\xff]+ HTTP/([0-9](?:\.[0-9])?)")
_STATUS_LINE: Final = re.compile(rb"HTTP/(1\.[01]) ([1-5][0-9][0-9])(?: ([\t -~\x80-\xff]*))?")
_LENGTH: Final = re.compile(rb"0|[1-9][0-9]{0,17}")
_BARE: Final = re.compile(rb"(?<!\r)\n|\r[^\n]|\x00")

_NAME: Final = rb"[A-Za-z0-9._~!$&'()*+;=%-]+"
_HOST: Final = rb"(?:" + _NAME + rb"|\[[0-9A-Fa-f:.]+\])"
_AUTHORITY: Final = re.compile(rb"(?:" + _HOST + rb"(?::[0-9]{1,5})?)?")
_TUNNEL: Final = re.compile(_HOST + rb":[0-9]{1,5}")
_ABSOLUTE: Final = re.compile(rb"[Hh][Tt][Tt][Pp]://(" + _HOST + rb"(?::[0-9]{1,5})?)(?:[/?].*)?")

# What concerns one connection only: RFC 9110 section 7.6.1.
_HOP: Final = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade", b"transfer-encoding"),
        b"http2-settings",  # an upgrade to HTTP/2 would go past everything that looks at requests
    )
)
_READ: Final = _HOP | {b"host", b"content-length", b"expect"}
# Without these a message would mean something else: naming them in Connection does not take them away.
_KEPT: Final = frozenset((b"host", b"content-length", b"te"))
_UNWANTED: Final = re.compile(rb"(?i:h2|http|tls)")


class MalformedError(Exception):
    """A message that is not passed on: a word for the log, and the status to answer with."""

    def __init__(self, details: str, status: int = 400) -> None:
        super().__init__(details)
        self.details = details
        self.status = status


class Onward(NamedTuple):
    """The bytes of a request's head where nothing looks at it on its way; without an id it gets one in between."""

    before: bytes
    request_id: bytes | None
    after: bytes


@dataclass(slots=True)
class Request:
    """A request without what concerned only the connection that it came by."""

    head: RequestHead
    body: int  # so many bytes, or CHUNKED
    keep_alive: bool
    upgrade: bytes | None = None  # what it asks to change to
    onward: Onward | None = None  # once it was asked for


@dataclass(slots=True)
class Response:
    """The same of a response."""

    head: ResponseHead
    body: int  # so many bytes, CHUNKED or UNTIL_CLOSE
    keep_alive: bool
    switched: bool = False  # what follows is no HTTP: 101, or CONNECT accepted


def check_incomplete(data: bytes, looked: int = 0) -> int:
    """Refuse what cannot become a head, instead of waiting for its end; from where to look for that when there is more.

    What this answered for the bytes so far is given again with more of them: nothing is looked at twice, however small
    the pieces in which a sender lets them come.
    """
    if len(data) > MAX_HEAD:
        raise MalformedError("headers_too_large", 431)
    if _BARE.search(data, looked):
        raise MalformedError("bare_cr_lf_or_nul")
    return max(0, len(data) - len(HEAD_END) + 1)


def parse_request(block: bytes) -> Request:
    """A request's head without the empty line that ends it: lines that each end in CR LF.

    The same one may be given out again: who changes the head copies it.
    """
    return (_seen_request if len(block) <= MAX_SEEN else _request)(block)


def _request(block: bytes) -> Request:
    if len(block) > MAX_HEAD:
        raise MalformedError("headers_too_large", 431)
    end = block.find(b"\r\n")
    line = _REQUEST_LINE.fullmatch(block, 0, end)
    if line is None:
        raise _bad_request_line(block[:end])
    method, target, version = line.groups()
    headers, read = _headers(block, end + 2)
    authority = _authority(method, target, version, read.get(b"host"))
    body = _body(version, read)
    if method == b"CONNECT" and (body is not None or version == b"1.0"):
        raise MalformedError("bad_connect")
    if b"expect" in read and [value.lower() for value in read[b"expect"]] != [b"100-continue"]:
        raise MalformedError("unknown_expectation", 417)
    head = RequestHead(method, target, authority, b"http", version, headers)
    options = _options(read)
    if not options:
        return Request(head, body or 0, version == b"1.1")
    head.headers = _without(headers, options)
    keep_alive = b"close" not in options and (version == b"1.1" or b"keep-alive" in options)
    upgrade = _upgrade(read) if b"upgrade" in options and version == b"1.1" else None
    return Request(head, body or 0, keep_alive, upgrade)


def parse_response(block: bytes, method: bytes, upgrade: bytes | None = None) -> Response:
    """The head of the response to a request of this method and upgrade, in the same form."""
    return (_seen_response if len(block) <= MAX_SEEN else _response)(block, method, upgrade)


def _response(block: bytes, method: bytes, upgrade: bytes | None) -> Response:
    end = block.find(b"\r\n")
    line = _STATUS_LINE.fullmatch(block, 0, end)
    if line is None or len(block) > MAX_HEAD:
        raise MalformedError("bad_status_line" if line is None else "headers_too_large")
    version, code, reason = line.groups()
    status = int(code)
    headers, read = _headers(block, end + 2)
    options = _options(read)
    if options:
        headers = _without(headers, options)
    if status == 101 and upgrade is None:
        raise MalformedError("switched_unasked")
    if status in {101, 426} and b"upgrade" in read:
        headers.append((b"Upgrade", b", ".join(read[b"upgrade"])))
    switched = status == 101 or (method == b"CONNECT" and 200 <= status < 300)
    body = _body(version, read)
    if status < 200 or status == 204 or switched:
        if body == CHUNKED:
            raise MalformedError("transfer_encoding_without_body")
        if body is not None:
            headers = _without(headers, [b"content-length"], keep=frozenset())
        body = 0
    else:
        body = 0 if method == b"HEAD" or status == 304 else UNTIL_CLOSE if body is None else body
    kept = b"close" not in options and (version == b"1.1" or b"keep-alive" in options)
    return Response(
        ResponseHead(status, reason or b"", headers), body, kept and body != UNTIL_CLOSE, switched
    )


# A client mostly says the same again, and its upstream too within a second (Date).
_seen_request: Final = lru_cache(SEEN)(_request)


@lru_cache(SEEN)
def _seen_response(block: bytes, method: bytes, upgrade: bytes | None) -> Response:
    found = _response(block, method, upgrade)
    found.head.written = _written(found.head)
    return found


def _headers(block: bytes, start: int) -> tuple[Headers, dict[bytes, list[bytes]]]:
    """Those that go on, and the values of those that we read, by their names in lower case."""
    if not _HEADERS.fullmatch(block, start):
        raise MalformedError("bad_header")
    lines = block[start:].split(b"\r\n")
    del lines[-1]  # what is behind the last line's end: nothing
    if len(lines) > MAX_HEADERS:
        raise MalformedError("too_many_headers", 431)
    headers: Headers = []
    names = []
    for line in lines:
        name, _, value = line.partition(b":")
        headers.append((name, value.strip(b" \t")))
        names.append(name.lower())
    read: dict[bytes, list[bytes]] = {}
    if not _READ.isdisjoint(names):
        for name, header in zip(names, headers, strict=True):
            if name in _READ:
                read.setdefault(name, []).append(header[1])
        if not _HOP.isdisjoint(read):
            headers = [
                header
                for name, header in zip(names, headers, strict=True)
                if name not in _HOP or (name == b"te" and _is_trailers(header))
            ]
    return headers, read


def _is_trailers(header: tuple[bytes, bytes]) -> bool:
    """The one thing said in TE that is for everybody on the way, as gRPC asks."""
    return header[1].lower() == b"trailers"


def _body(version: bytes, read: dict[bytes, list[bytes]]) -> int | None:
    """How a message says that its body is framed; None where it says nothing."""
    lengths, codings = read.get(b"content-length"), read.get(b"transfer-encoding")
    if codings is not None:
        if len(codings) > 1 or codings[0].lower() != b"chunked" or version == b"1.0":
            raise MalformedError("bad_transfer_encoding")
        if lengths is not None:
            raise MalformedError("length_and_transfer_encoding")
        return CHUNKED
    if lengths is None:
        return None
    if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
        raise MalformedError("bad_content_length")
    return int(lengths[0])


def _authority(method: bytes, target: bytes, version: bytes, hosts: list[bytes] | None) -> bytes:
    """Whom a request is for, by its target or its Host; the target's form must be the method's."""
    if hosts is None:
        if version == b"1.1":
            raise MalformedError("missing_host")
        hosts = [b""]
    if len(hosts) > 1 or not _AUTHORITY.fullmatch(hosts[0]):
        raise MalformedError("bad_host")
    if len(target) > MAX_TARGET:
        raise MalformedError("target_too_long", 414)
    if method == b"CONNECT":
        if _TUNNEL.fullmatch(target):
            return target
    elif target[:1] == b"/" or (target == b"*" and method == b"OPTIONS"):
        return hosts[0]
    elif absolute := _ABSOLUTE.fullmatch(target):
        return absolute[1]
    raise MalformedError("bad_target")


def _options(read: dict[bytes, list[bytes]]) -> list[bytes]:
    """The tokens of Connection, in lower case. Proxy-Connection was never a standard, but clients write it."""
    values = read.get(b"connection") or read.get(b"proxy-connection")
    if values is None:
        return []
    options = [
        option for value in values for each in value.split(b",") if (option := each.strip(b" \t").lower())
    ]
    if not all(map(_TOKENS.fullmatch, options)):
        raise MalformedError("bad_connection")
    return options


def _without(headers: Headers, names: list[bytes], keep: frozenset[bytes] = _KEPT) -> Headers:
    """The headers that are not named."""
    named = set(names) - keep - _HOP  # of these there are none any more
    if not named:
        return headers
    return [header for header in headers if header[0].lower() not in named]


def _upgrade(read: dict[bytes, list[bytes]]) -> bytes | None:
    """What a client asks to change to. HTTP/2 or TLS would go past everything that looks at requests."""
    asked = [name.strip(b" \t") for name in b",".join(read.get(b"upgrade", ())).split(b",")]
    return b", ".join(name for name in asked if name and not _UNWANTED.match(name)) or None


def _bad_request_line(line: bytes) -> MalformedError:
    other = _OTHER_VERSION.fullmatch(line)
    if other is None or other[1] in {b"1.0", b"1.1"}:
        return MalformedError("bad_request_line")
    return MalformedError("unknown_version", 505)


def request_head(
    head: RequestHead, body: int, *, upgrade: bytes | None = None, keep_alive: bool = True
) -> bytes:
    """The bytes of a request's head, in the version that the client spoke."""
    lines = [b"%b %b HTTP/%b\r\n" % (head.method, head.target, head.version)]
    lines += [b"%b: %b\r\n" % header for header in head.headers]
    if body == CHUNKED:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    if upgrade is not None:
        lines.append(b"Connection: upgrade\r\nUpgrade: %b\r\n" % upgrade)
    elif keep_alive is (head.version == b"1.0"):
        lines.append(b"Connection: keep-alive\r\n" if keep_alive else b"Connection: close\r\n")
    lines.append(b"\r\n")
    return b"".join(lines)


def response_head(head: ResponseHead, body: int, connection: bytes | None = None) -> bytes:
    """The bytes of a response's head."""
    written = head.written or _written(head)
    coding = b"Transfer-Encoding: chunked\r\n" if body == CHUNKED else b""
    about = b"" if connection is None else b"Connection: %b\r\n" % connection
    return b"%b%b%b\r\n" % (written, coding, about)


def _written(head: ResponseHead) -> bytes:
    """Without what concerns one connection."""
    lines = [b"%b: %b\r\n" % header for header in head.headers]
    return b"HTTP/1.1 %d %b\r\n%b" % (head.status, head.reason, b"".join(lines))


def is_authority(value: bytes) -> bool:
    """Whether it may be a Host, which is not empty."""
    return bool(value) and _AUTHORITY.fullmatch(value) is not None


def check_headers(headers: Headers) -> None:
    """Refuse what would not be one header each, where somebody else than a peer wrote them."""
    if not all(_HEADER.fullmatch(b"%b: %b\r\n" % header) for header in headers):
        raise MalformedError("bad_header", 500)


def trailer_headers(block: bytes) -> Headers:
    """Trailers, in the form of a head's headers; none of them may change what the message means."""
    headers, read = _headers(block, 0)
    if read:
        raise MalformedError("bad_trailer")
    return headers
