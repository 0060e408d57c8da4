"""What a client speaks, from the first bytes it sent: HTTP/1, HTTP/2, TLS, or something we relay as it is.

A decision is made as soon as the bytes allow it, and "not yet" is an outcome of its own. Certainty goes before speed
only where waiting is bounded: what begins like a request line is looked at until its end, and the caller has a
timeout. Availability goes before certainty: in doubt a flow is opaque, where policies for requests fail closed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from interceptor.protocol import client_hello
from interceptor.protocol.client_hello import ClientHello, NoHello

Kind: TypeAlias = Literal["http1", "http2", "tls", "opaque"]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113 section 3.4
MAX_LINE: Final = 8 * 1024  # a longer request line is taken for one: the server answers 414
# As much as has to be looked at before everything is decided.
MAX_BYTES: Final = max(client_hello.MAX_BYTES, MAX_LINE + 4)

# A method's letters as nginx takes them. Methods of other letters are HTTP too, and known by a whole line: to wait for
# its end would keep waiting whoever sends a word and expects an answer.
_METHOD: Final = re.compile(rb"[A-Z_-]{1,32}")
# The head of a SETTINGS frame: RFC 9113 section 6.5.
_SETTINGS: Final = re.compile(rb"\0..\x04\0\0\0\0\0", re.DOTALL)
_BINARY: Final = re.compile(rb"[\x00-\x0c\x0e-\x1f]")
_LINE: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32} [!-~\x80-\xff]+ HTTP/1\.[0-9]\r?")


@dataclass(frozen=True, slots=True)
class Detected:
    """What a client speaks."""

    kind: Kind
    hello: ClientHello | None = None  # of TLS


HTTP1: Final = Detected("http1")
HTTP2: Final = Detected("http2")
OPAQUE: Final = Detected("opaque")


def detect(data: bytes) -> Detected | None:
    """What the bytes that a client has sent so far say; None: more of them are needed."""
    if not data:
        return None
    if data[0] == 0x16:  # a TLS handshake record
        hello = client_hello.parse(data)
        if isinstance(hello, ClientHello):
            return Detected("tls", hello)
        return None if hello is NoHello.INCOMPLETE and len(data) < MAX_BYTES else OPAQUE
    if data[:24] == PREFACE[: len(data)]:
        return HTTP2 if len(data) >= len(PREFACE) else None
    return _http1(data)


def is_http2_server(data: bytes) -> bool:
    """Whether a server's first bytes are its part of HTTP/2's preface, which it may send before the client's has come."""
    return _SETTINGS.match(data) is not None and int.from_bytes(data[1:3], "big") % 6 == 0


def _http1(data: bytes) -> Detected | None:
    if data[:1] == b"\r":  # an empty line before a request is to be overlooked: RFC 9112 section 2.2
        if data[:2] not in {b"\r", b"\r\n"}:
            return OPAQUE
        data = data[2:]
        if not data:
            return None
    end = data.find(b"\n")
    if end >= 0:
        return HTTP1 if _LINE.fullmatch(data, 0, end) else OPAQUE
    method = _METHOD.match(data)
    if method is None:
        return OPAQUE
    after = data[method.end() : method.end() + 1]
    if after not in {b"", b" "}:
        return OPAQUE
    if _BINARY.search(data):  # which has lines by chance only
        return OPAQUE
    return None if len(data) < MAX_LINE else HTTP1
