"""First bytes, and what they say."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from interceptor.protocol.client_hello import ClientHello
from interceptor.protocol.detect import (
    HTTP1,
    HTTP2,
    MAX_BYTES,
    MAX_LINE,
    OPAQUE,
    PREFACE,
    Detected,
    detect,
    is_http2_server,
)
from tests.support.client_hellos import hello, name_list, record

TLS = record(hello((0, name_list(b"a.example"))))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"GET / HTTP/1.1\r\n", HTTP1),
        (b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", HTTP1),
        (b"\r\nPOST http://a/b?c HTTP/1.1\n", HTTP1),
        (b"M-SEARCH * HTTP/1.1\r\n", HTTP1),
        (b"GET /\xc3\xa4 HTTP/1.1\r\n", HTTP1),
        (b"get / HTTP/1.1\r\n", HTTP1),  # a method all the same; of half a line nobody can tell
        (b"get /", OPAQUE),
        (b"set key value\r\n", OPAQUE),
        (b"GET /" + b"a" * MAX_LINE, HTTP1),
        (PREFACE + b"\x00\x00\x00", HTTP2),
        (TLS, Detected("tls", ClientHello("a.example"))),
        (b"GET /\r\n", OPAQUE),  # HTTP/0.9
        (b"GET  / HTTP/1.1\r\n", OPAQUE),
        (b"GET / HTTP/2.0\r\n", OPAQUE),
        (b"GET / HTTP/1.1 \r\n", OPAQUE),
        (b"DESCRIBE rtsp://a RTSP/1.0\r\n", OPAQUE),
        (b"SSH-2", OPAQUE),
        (b"EHLO a.example\r\n", OPAQUE),
        (b"PING\r\n", OPAQUE),
        (b"*1\r\n$4\r\nPING\r\n", OPAQUE),
        (b"hello", OPAQUE),
        (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", OPAQUE),  # PostgreSQL asks for TLS
        (b"\n", OPAQUE),
        (b"\r\r", OPAQUE),
        (b"\r\nx", OPAQUE),
        (b"GET \x00", OPAQUE),
        (PREFACE[:20] + b"xx", OPAQUE),
        (b"\x16\x03\x01\xff\xff", OPAQUE),
        (b"A" * 33, OPAQUE),
    ],
)
def test_what_is_decided(data: bytes, found: Detected) -> None:
    assert detect(data) == found


@pytest.mark.parametrize(
    "data",
    [b"", b"G", b"GET", b"GET ", b"GET /a", b"\r", b"\r\n", b"\r\nGET", PREFACE[:23], TLS[:-1], b"\x16"],
)
def test_what_needs_more(data: bytes) -> None:
    assert detect(data) is None


@given(
    st.one_of(st.binary(), st.sampled_from([b"GET / HTTP/1.1\r\n", PREFACE, TLS]), st.text("GET /P\r\n1."))
)
def test_a_decision_once_made_stands(data: bytes | str) -> None:
    whole = data.encode() if isinstance(data, str) else data
    decided = None
    for end in range(len(whole) + 1):
        found = detect(whole[:end])
        assert decided is None or found == decided
        decided = found


@given(
    st.sampled_from([b"GET /", b"\r\nGET /", b"\x16\x03\x01\x00\x02\x01\x00"]),
    st.sampled_from(b"aA/ \x16\x00\x01"),
)
def test_what_is_looked_at_is_bounded(start: bytes, filler: int) -> None:
    assert detect((start + bytes([filler]) * MAX_BYTES)[:MAX_BYTES]) is not None


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\0\0\x12\x04\0\0\0\0\0", True),
        (b"\0\0\0\x04\0\0\0\0\0\0\0\0\x08", True),
        (b"\0\0\x0a\x04\0\0\0\0\0", False),
        (b"\0\0\x12\x04\x01\0\0\0\0", False),
        (b"\0\0\x12\x04\0\0\0\0\x01", False),
        (b"\0\0\x12\x04", False),
        (b"220 mail.example ESMTP\r\n", False),
    ],
)
def test_a_server_that_greets_in_http2(data: bytes, expected: bool) -> None:
    assert is_http2_server(data) is expected
