"""Answers of our own, as HTTP and as gRPC clients read them."""

from __future__ import annotations

import pytest

from interceptor.model.connection import ResponseFlag
from interceptor.model.http import LocalReply, RequestHead
from interceptor.protocol.http2 import replies
from interceptor.protocol.http2.stream import Call, Stream


class Nobody:
    def consumed(self, stream: Stream, size: int) -> None: ...


def call(method: bytes = b"GET", *headers: tuple[bytes, bytes]) -> Call:
    stream = Stream(1, Nobody(), 0, 0)
    return Call(RequestHead(method, b"/", b"app", b"http", b"2", list(headers)), None, stream, stream)


REPLY = LocalReply(503, ResponseFlag.UPSTREAM_FAILURE, "refused", b"why\n", [(b"retry-after", b"1")])


def test_a_reply() -> None:
    head, body = replies.as_response(call(), REPLY)
    assert (head.status, body) == (503, b"why\n")
    assert head.headers == [
        (b"retry-after", b"1"),
        (b"content-type", b"text/plain"),
        (b"content-length", b"4"),
    ]


def test_a_reply_to_head_has_no_body() -> None:
    head, body = replies.as_response(call(b"HEAD"), REPLY)
    assert (b"content-length", b"4") in head.headers
    assert body == b""


def test_a_reply_without_a_body() -> None:
    head, body = replies.as_response(call(), LocalReply(403, ResponseFlag.DENY, "denied"))
    assert (head.headers, body) == ([(b"content-length", b"0")], b"")


def test_a_grpc_client_reads_a_status() -> None:
    asked = call(b"POST", (b"content-type", b"application/grpc"))
    head, body = replies.as_response(asked, REPLY)
    assert (head.status, body) == (200, b"")
    assert (b"grpc-status", b"14") in head.headers
    assert asked.grpc_status == "14"


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (replies.unavailable(ResponseFlag.UPSTREAM_CLOSED, "gone"), 503),
        (replies.bad_gateway("broken"), 502),
        (replies.too_long(5), 413),
        (replies.TOO_LARGE, 431),
    ],
)
def test_bodies_are_one_line_that_names_us(reply: LocalReply, status: int) -> None:
    assert reply.status == status
    assert reply.body.startswith(b"interceptor: ")
    assert reply.body.count(b"\n") == 1
    assert reply.body.endswith(b"\n")
