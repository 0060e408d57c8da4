"""Bytes into frames, whatever pieces they come in."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from interceptor.protocol.http2.codes import (
    CONTINUATION,
    DATA,
    ENHANCE_YOUR_CALM,
    FRAME_SIZE_ERROR,
    HEADERS,
    PREFACE,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    SETTINGS,
    LegError,
)
from interceptor.protocol.http2.reader import MAX_FRAME, PIECES, Frame, Reader
from tests.support.http2 import END_HEADERS, frame, settings

PADDED, PRIORITY = 0x8, 0x20


def reader() -> Reader:
    made = Reader(preface=False, block_limit=1000)
    assert [each[0] for each in made.read(settings())] == [SETTINGS]
    return made


def fault(*data: bytes, code: int, fresh: bool = False) -> None:
    with pytest.raises(LegError) as error:
        list((Reader(preface=True, block_limit=1000) if fresh else reader()).read(b"".join(data)))
    assert error.value.code == code


@given(st.lists(st.integers(0, 60), max_size=8))
def test_the_pieces_do_not_matter(cuts: list[int]) -> None:
    data = PREFACE + settings() + frame(DATA, 0, 1, b"abc") + frame(HEADERS, END_HEADERS, 3, b"block")
    made = Reader(preface=True, block_limit=1000)
    got: list[tuple[int, int, int, bytes, int]] = []
    begin = 0
    for cut in [*sorted(cuts), len(data)]:
        got += made.read(data[begin:cut])
        begin = max(begin, cut)
    assert got == [
        Frame(SETTINGS, 0, 0, b"", 0),
        Frame(DATA, 0, 1, b"abc", 3),
        Frame(HEADERS, END_HEADERS, 3, b"block", 5),
    ]


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", PREFACE[:-1] + b"X", b"\x16\x03\x01"])
def test_another_preface(data: bytes) -> None:
    fault(data, code=PROTOCOL_ERROR, fresh=True)


@pytest.mark.parametrize("first", [frame(DATA, 0, 1), frame(SETTINGS, 1, 0), frame(99, 0, 0)])
def test_the_first_frame_is_settings(first: bytes) -> None:
    fault(PREFACE, first, code=PROTOCOL_ERROR, fresh=True)


def test_a_frame_is_bounded() -> None:
    assert next(reader().read(frame(DATA, 0, 1, b"x" * MAX_FRAME)))[4] == MAX_FRAME
    fault(frame(DATA, 0, 1, b"x" * (MAX_FRAME + 1)), code=FRAME_SIZE_ERROR)


def test_the_reserved_bit_is_ignored() -> None:
    assert next(reader().read(frame(DATA, 0, 1 << 31 | 5)))[2] == 5


def test_padding_and_priority_are_taken_off() -> None:
    assert list(reader().read(frame(DATA, PADDED, 1, b"\x02ab\0\0"))) == [Frame(DATA, PADDED, 1, b"ab", 5)]
    (headers,) = reader().read(frame(HEADERS, PADDED | PRIORITY | END_HEADERS, 1, b"\x01\0\0\0\0\x10block\0"))
    assert headers[3] == b"block"
    (nothing,) = reader().read(frame(DATA, PADDED, 1, b"\x03\0\0\0"))
    assert nothing[3] == b""


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(DATA, PADDED, 1), FRAME_SIZE_ERROR),
        (frame(DATA, PADDED, 1, b"\x01"), PROTOCOL_ERROR),
        (frame(HEADERS, PADDED | END_HEADERS, 1, b"\x05abcd"), PROTOCOL_ERROR),
        (frame(HEADERS, PRIORITY | END_HEADERS, 1, b"abcd"), FRAME_SIZE_ERROR),
        (frame(CONTINUATION, END_HEADERS, 1, b""), PROTOCOL_ERROR),
        (frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2"), PROTOCOL_ERROR),
        (frame(HEADERS, 0, 1) + frame(DATA, 0, 1), PROTOCOL_ERROR),
        (frame(HEADERS, 0, 1) + frame(HEADERS, END_HEADERS, 1), PROTOCOL_ERROR),
        (frame(HEADERS, 0, 1) + frame(99, 0, 1), PROTOCOL_ERROR),
        (frame(HEADERS, 0, 1) + frame(CONTINUATION, END_HEADERS, 3), PROTOCOL_ERROR),
        (frame(HEADERS, 0, 1, b"x" * 600) + frame(CONTINUATION, 0, 1, b"x" * 600), ENHANCE_YOUR_CALM),
        (frame(HEADERS, 0, 1) + frame(CONTINUATION, 0, 1) * PIECES, ENHANCE_YOUR_CALM),
    ],
)
def test_faults_end_the_connection(data: bytes, code: int) -> None:
    fault(data, code=code)


def test_a_header_block_comes_in_one_piece() -> None:
    made = reader()
    assert not list(made.read(frame(HEADERS, 1, 7, b"a") + frame(CONTINUATION, 0, 7, b"b")))
    assert made.within_head
    assert list(made.read(frame(CONTINUATION, END_HEADERS, 7, b"c"))) == [Frame(HEADERS, 1, 7, b"abc", 3)]
    assert not made.within_head


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", False),
        (b"\0\0", True),
        (frame(HEADERS, 5, 1, b"xyz")[:-1], True),
        (frame(DATA, 0, 1, b"xyz")[:-1], False),
        (frame(DATA, 0, 1, b"xyz"), False),
    ],
)
def test_a_body_may_take_its_time_and_nothing_else(data: bytes, expected: bool) -> None:
    made = reader()
    list(made.read(data))
    assert made.within_head is expected


def test_the_preface_may_not_take_its_time() -> None:
    made = Reader(preface=True, block_limit=10)
    assert made.within_head
    list(made.read(PREFACE))
    assert not made.within_head


def test_frames_before_a_fault_are_given() -> None:
    frames = reader().read(frame(DATA, 0, 1, b"x") + frame(CONTINUATION, 0, 1))
    assert next(frames)[0] == DATA
    with pytest.raises(LegError):
        next(frames)


@given(st.lists(st.binary(max_size=100)))
def test_any_bytes_are_frames_or_a_fault(pieces: list[bytes]) -> None:
    made = reader()
    held = 0
    try:
        for piece in pieces:
            held += len(piece)
            list(made.read(piece))
    except LegError:
        return
    assert len(made._rest) <= MAX_FRAME + 9
