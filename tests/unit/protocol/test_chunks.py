"""Chunked bodies in pieces of any size, and what is no chunk."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, strategies as st

from interceptor.protocol.chunks import MAX_EXTENSIONS, MAX_LINE, MAX_TRAILERS, Chunks, chunk, last_chunk
from interceptor.protocol.http1 import MalformedError


def feed_all(pieces: list[bytes]) -> tuple[bytes, Chunks, bytes]:
    """The body, the reader, and what was behind the body."""
    chunks, body, rest = Chunks(), b"", b""
    for piece in pieces:
        rest += piece
        if not chunks.done:
            found, used = chunks.feed(rest)
            body += found
            rest = rest[used:]
    return body, chunks, rest


@given(st.lists(st.binary(min_size=1, max_size=50)), st.booleans(), st.data())
def test_a_body_in_pieces_of_any_size(bodies: list[bytes], trailing: bool, data: st.DataObject) -> None:
    trailers = [(b"a", b"b")] if trailing else []
    stream = b"".join(map(chunk, bodies)) + last_chunk(trailers) + b"NEXT"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    body, chunks, rest = feed_all(pieces)
    assert (body, chunks.done, chunks.trailers, rest) == (b"".join(bodies), True, trailers, b"NEXT")


def test_byte_by_byte_with_extensions() -> None:
    stream = b'3;name="v"\r\nabc\r\nA\r\n0123456789\r\n0;x\r\nt: 1\r\nu: 2\r\n\r\n'
    body, chunks, _ = feed_all([bytes([byte]) for byte in stream])
    assert (body, chunks.trailers) == (b"abc0123456789", [(b"t", b"1"), (b"u", b"2")])
    assert chunks.done


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"x\r\n",
            b"\r\n",
            b"-1\r\n",
            b"+1\r\n",
            b"0x1\r\n",
            b" 1\r\n",
            b"1 \r\n",
            b"1\t;a\r\n",
            b"1\n",
            b"1\r",
            b"1_0\r\n",
        ),
        *(b"1" * 16 + b"\r\n", b"\xb2\r\n", b"1;a\nb\r\n", b"1;\x00\r\n", b"1;a\rb\r\n", b"1,1\r\n"),
        *(b"1\r\naX", b"1\r\na\n", b"1\r\na\rX", b"3\r\nabcd\r\n"),
        b"1;" + b"a" * MAX_LINE + b"\r\n",
        b"1" + b";a" * MAX_LINE,
        b"0\r\nContent-Length: 1\r\n\r\n",
        b"0\r\n bad\r\n\r\n",
        b"0\r\na: " + b"b" * MAX_TRAILERS,
    ],
)
def test_what_is_refused(data: bytes) -> None:
    if data == b"1\r":  # may go on
        assert Chunks().feed(data) == (b"", 0)
        return
    with pytest.raises(MalformedError):
        Chunks().feed(data + (b"" if data.endswith(b"\n") else b"z"))


def test_extensions_are_bounded_over_the_whole_body() -> None:
    chunks, one = Chunks(), b"1;" + b"a" * 1000 + b"\r\nx\r\n"
    for _ in range(MAX_EXTENSIONS // 1001):
        chunks.feed(one)
    with pytest.raises(MalformedError):
        chunks.feed(one)


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_anything_at_all_is_understood_or_refused(pieces: list[bytes]) -> None:
    with contextlib.suppress(MalformedError):
        feed_all(pieces)
