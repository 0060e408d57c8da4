"""Answers of our own on HTTP/2, in the upstream's place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from interceptor.model.connection import ResponseFlag
from interceptor.model.http import LocalReply, ResponseHead
from interceptor.protocol import grpc

if TYPE_CHECKING:
    from interceptor.protocol.http2.stream import Call


def as_response(call: Call, reply: LocalReply) -> tuple[ResponseHead, bytes]:
    """Head and body of an answer, as the client's kind reads it."""
    if call.grpc:
        head = ResponseHead(200, b"", grpc.reply_fields(reply))
        call.grpc_status = grpc.status(head.headers)
        return head, b""
    return plain(reply), b"" if call.request.method == b"HEAD" else reply.body


def plain(reply: LocalReply) -> ResponseHead:
    """The head of an answer, as anybody but gRPC reads it."""
    headers = list(reply.headers)
    if reply.body:
        headers.append((b"content-type", b"text/plain"))
    headers.append((b"content-length", b"%d" % len(reply.body)))
    return ResponseHead(reply.status, b"", headers)


def unavailable(flag: ResponseFlag, details: str) -> LocalReply:
    """There is no upstream to answer."""
    return LocalReply(503, flag, details, b"interceptor: " + details.encode() + b"\n")


def bad_gateway(details: str) -> LocalReply:
    """The upstream's answer cannot be passed on."""
    text = f"the upstream's response is not valid: {details}"
    return LocalReply(502, ResponseFlag.UPSTREAM_PROTOCOL, text, b"interceptor: " + text.encode() + b"\n")


def too_long(limit: int) -> LocalReply:
    """The request's body went over the limit."""
    details = f"the request's body is longer than {limit} bytes"
    return LocalReply(
        413, ResponseFlag.DOWNSTREAM_PROTOCOL, details, b"interceptor: " + details.encode() + b"\n"
    )


TOO_LARGE: Final = LocalReply(
    431,
    ResponseFlag.DOWNSTREAM_PROTOCOL,
    "the request's headers are too many or too long",
    b"interceptor: the request's headers are too many or too long\n",
)
