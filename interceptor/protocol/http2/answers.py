"""What comes of an upstream on a stream, as the answer to a request (RFC 9113 section 8.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.protocol.http2 import heads
from interceptor.protocol.http2.codes import PROTOCOL_ERROR, StreamError

if TYPE_CHECKING:
    from interceptor.protocol.http2.heads import Response
    from interceptor.protocol.http2.hpack import Block
    from interceptor.protocol.http2.stream import Stream


def read(stream: Stream, block: Block, method: bytes, *, end: bool) -> Response:
    """A head, final or informational, of the answer to a request of this method; StreamError where it is malformed."""
    head, length = heads.response(block)
    if not block.fits:
        raise StreamError(PROTOCOL_ERROR, "a response with too many or too long headers")
    if head.status < 200:
        if end:
            raise StreamError(PROTOCOL_ERROR, "an informational response that ends its stream")
        return heads.Response(head, None)
    if method == b"HEAD" or head.status in {204, 304}:
        length = 0  # whatever it announces: it has no body
    elif method == b"CONNECT" and head.status < 300:
        length = None
    if end and length:
        raise StreamError(PROTOCOL_ERROR, "a response without the body that its Content-Length announces")
    stream.remaining = length
    return heads.Response(head, length)


def check_trailers(stream: Stream, *, fits: bool, end: bool) -> None:
    """Trailers end their stream, and the body before them was as long as it announced; else StreamError."""
    if not end:
        raise StreamError(PROTOCOL_ERROR, "a second head, or trailers that do not end their stream")
    if not fits:
        raise StreamError(PROTOCOL_ERROR, "too many or too long trailers")
    if stream.remaining:
        raise StreamError(PROTOCOL_ERROR, "a body that is not as long as its Content-Length")
