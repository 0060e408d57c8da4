"""Answers to requests: which heads are valid, and what body follows them."""

from __future__ import annotations

import pytest

from interceptor.protocol.http2 import answers
from interceptor.protocol.http2.codes import StreamError
from interceptor.protocol.http2.hpack import Block
from interceptor.protocol.http2.stream import Stream


class Nobody:
    def consumed(self, stream: Stream, size: int) -> None: ...


def block(*fields: tuple[bytes, bytes], fits: bool = True) -> Block:
    return Block(list(fields), fits=fits)


def status(code: bytes, *fields: tuple[bytes, bytes]) -> Block:
    return block((b":status", code), *fields)


def stream() -> Stream:
    return Stream(1, Nobody(), 0, 0)


LENGTH = (b"content-length", b"5")


@pytest.mark.parametrize(
    ("head", "method", "length"),
    [
        (status(b"200"), b"GET", None),
        (status(b"200", LENGTH), b"GET", 5),
        (status(b"200", LENGTH), b"HEAD", 0),
        (status(b"304", LENGTH), b"GET", 0),
        (status(b"204"), b"GET", 0),
        (status(b"200", LENGTH), b"CONNECT", None),
        (status(b"403", LENGTH), b"CONNECT", 5),
    ],
)
def test_how_long_a_body_is(head: Block, method: bytes, length: int | None) -> None:
    on = stream()
    assert answers.read(on, head, method, end=False).length == length
    assert on.remaining == length


def test_an_informational_head_says_nothing_of_the_body() -> None:
    on = stream()
    assert answers.read(on, status(b"103", LENGTH), b"GET", end=False).head.status == 103
    assert on.remaining is None


@pytest.mark.parametrize(
    ("head", "end", "said"),
    [
        (block((b":status", b"200"), fits=False), False, "too many"),
        (status(b"100"), True, "informational"),
        (status(b"200", LENGTH), True, "without the body"),
    ],
)
def test_malformed_heads(head: Block, end: bool, said: str) -> None:
    with pytest.raises(StreamError, match=said):
        answers.read(stream(), head, b"GET", end=end)


@pytest.mark.parametrize(
    ("fits", "end", "remaining", "said"),
    [
        (True, False, None, "second head"),
        (False, True, None, "too many"),
        (True, True, 1, "not as long"),
    ],
)
def test_malformed_trailers(fits: bool, end: bool, remaining: int | None, said: str) -> None:
    on = stream()
    on.remaining = remaining
    with pytest.raises(StreamError, match=said):
        answers.check_trailers(on, fits=fits, end=end)


def test_valid_trailers() -> None:
    answers.check_trailers(stream(), fits=True, end=True)
