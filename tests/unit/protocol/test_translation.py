"""Requests said in the other version of HTTP."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from interceptor.model.connection import ProtocolName
from interceptor.model.http import Headers, RequestHead
from interceptor.protocol import http1
from interceptor.protocol.http1 import CHUNKED, MalformedError
from interceptor.protocol.http2 import heads
from interceptor.protocol.http2.codes import StreamError
from interceptor.protocol.http2.hpack import Block
from interceptor.protocol.translation import multiplexes, to_http1, to_http2


def head(
    *headers: tuple[bytes, bytes],
    method: bytes = b"GET",
    target: bytes = b"/a?b",
    authority: bytes = b"shop:80",
    version: bytes = b"2",
) -> RequestHead:
    return RequestHead(method, target, authority, b"http", version, list(headers))


def test_to_http1() -> None:
    asked = head((b"cookie", b"a=1"), (b"x", b"1"), (b"Cookie", b"b=2"), (b"http2-settings", b"AA"))
    said = to_http1(asked)
    assert (said.version, said.target, said.authority) == (b"1.1", b"/a?b", b"shop:80")
    assert said.headers == [(b"host", b"shop:80"), (b"x", b"1"), (b"cookie", b"a=1; b=2")]
    assert asked.version == b"2"


def test_a_host_that_a_route_wrote_is_the_one_that_is_asked_for() -> None:
    assert to_http1(head((b"Host", b"other"))).headers == [(b"host", b"other")]
    assert to_http2(head((b"Host", b"other"))).authority == b"other"


@pytest.mark.parametrize(
    ("asked", "details", "status"),
    [
        (head(method=b"CONNECT"), "connect_needs_http2", 501),
        (head((b"content-type", b"application/grpc")), "grpc_needs_http2", 501),
        (head(authority=b'a"b'), "bad_host", 400),
        (head(authority=b""), "bad_host", 400),
    ],
)
def test_what_http1_cannot_say(asked: RequestHead, details: str, status: int) -> None:
    with pytest.raises(MalformedError) as error:
        to_http1(asked)
    assert (error.value.details, error.value.status) == (details, status)


@pytest.mark.parametrize(
    ("asked", "target"),
    [
        (head((b"HOST", b"ignored"), (b"X", b"1"), version=b"1.1"), b"/a?b"),
        (head((b"X", b"1"), target=b"http://shop:80/x", version=b"1.1"), b"/x"),
        (head((b"X", b"1"), target=b"shop:80", method=b"CONNECT", version=b"1.1"), b"shop:80"),
    ],
)
def test_to_http2(asked: RequestHead, target: bytes) -> None:
    said = to_http2(asked)
    assert (said.version, said.target, said.authority, said.headers) == (
        b"2",
        target,
        b"shop:80",
        [(b"X", b"1")],
    )


@pytest.mark.parametrize(
    ("declared", "version", "upgrade", "expected"),
    [
        ("http", b"2", None, False),
        ("http", b"1.1", None, False),
        ("http2", b"1.1", None, True),
        ("grpc", b"2", None, True),
        ("auto", b"2", None, True),
        ("auto", b"1.1", None, False),
        ("http2", b"1.1", b"websocket", False),
    ],
)
def test_which_version_an_upstream_is_spoken_to(
    declared: ProtocolName, version: bytes, upgrade: bytes | None, expected: bool
) -> None:
    assert multiplexes(declared, head(version=version), upgrade) is expected


TEXT = st.binary(max_size=12)
FIELDS = st.lists(
    st.tuples(
        st.sampled_from([b"host", b"cookie", b"te", b"x", b"content-length", b"transfer-encoding"]), TEXT
    )
)


@given(FIELDS, TEXT, TEXT, TEXT)
def test_whatever_is_a_request_of_http2_is_one_request_of_http1(
    fields: Headers, method: bytes, authority: bytes, path: bytes
) -> None:
    pseudo = [
        (b":method", method),
        (b":scheme", b"http"),
        (b":authority", authority),
        (b":path", b"/" + path),
    ]
    try:
        asked = heads.request(Block(pseudo + fields, fits=True), extended_connect=False)
        said = to_http1(asked.head)
    except (StreamError, MalformedError):
        return
    body = CHUNKED if asked.length is None else asked.length
    block = http1.request_head(said, body)
    assert block.count(b"\r\n\r\n") == 1
    assert block.endswith(b"\r\n\r\n")
    read = http1.parse_request(block[:-2])
    assert (read.head.method, read.head.target, read.head.authority, read.body) == (
        method,
        b"/" + path,
        said.authority,
        body,
    )
