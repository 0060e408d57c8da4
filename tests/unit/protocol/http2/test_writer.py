"""What is sent when: windows, turns, and what waits for the socket."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from interceptor.protocol.http2.codes import (
    CANCEL,
    CONTINUATION,
    DATA,
    HEADERS,
    LARGEST,
    NO_ERROR,
    RST_STREAM,
    LegError,
)
from interceptor.protocol.http2.stream import Stream
from interceptor.protocol.http2.writer import MARK, Writer
from tests.support.http2 import END_HEADERS, OK, Sent, frames


class Source:
    """Notes what was passed on."""

    def __init__(self) -> None:
        self.passed = 0

    def consumed(self, stream: Stream, size: int) -> None:
        self.passed += size


class Sending:
    """A writer with streams, and where they came from."""

    def __init__(self, *numbers: int, window: int = 65_535) -> None:
        self.left: list[int] = []
        self.writer = Writer(lambda stream: self.left.append(stream.id))
        self.source = Source()
        self.streams = [self.stream(number, window) for number in numbers]

    def stream(self, number: int, window: int) -> Stream:
        made = Stream(number, self.source, window, 0)
        made.twin = Stream(number, self.source, 0, 0)
        if number:
            self.writer.streams[number] = made
        return made

    def sent(self) -> list[Sent]:
        out = b""
        while data := self.writer.take():
            out += data
        return list(frames(out))


def test_a_body_goes_at_once_where_there_is_room() -> None:
    sending = Sending(1)
    (stream,) = sending.streams
    sending.writer.data(stream, b"abc", end=False)
    stream.in_closed = True
    sending.writer.data(stream, b"", end=True)
    assert [(each.kind, each.payload, each.ends) for each in sending.sent()] == [
        (DATA, b"abc", False),
        (DATA, b"", True),
    ]
    assert sending.source.passed == 3
    assert sending.left == [1]


def test_the_end_of_a_body_needs_no_window() -> None:
    sending = Sending(1, window=-5)
    sending.writer.data(sending.streams[0], b"", end=True)
    assert sending.sent()[0].ends
    assert not sending.left  # the peer has not ended its side


def test_what_waits_is_sent_a_piece_of_each_stream_in_turn() -> None:
    sending = Sending(1, 3, window=LARGEST)
    sending.writer.window = 0
    for stream in sending.streams:
        sending.writer.data(stream, b"x" * 40_000, end=True)
    sending.writer.grow_all(80_000)
    order = [(each.stream, len(each.payload), each.ends) for each in sending.sent()]
    assert order == [(1, 16_384, False), (3, 16_384, False)] * 2 + [(1, 7232, True), (3, 7232, True)]


def test_trailers_come_behind_what_waits() -> None:
    sending = Sending(1, window=2)
    (stream,) = sending.streams
    sending.writer.data(stream, b"abcd", end=False)
    sending.writer.headers(stream, [(b"t", b"1")], end=True)
    assert sending.writer.grow(stream, 10)
    assert [(each.kind, each.ends) for each in sending.sent()] == [
        (DATA, False),
        (DATA, False),
        (HEADERS, True),
    ]


def test_a_reset_comes_behind_what_waits() -> None:
    sending = Sending(1, window=2)
    (stream,) = sending.streams
    stream.pending_reset = NO_ERROR
    sending.writer.data(stream, b"abcd", end=True)
    sending.writer.grow(stream, 10)
    assert [each.kind for each in sending.sent()] == [DATA, DATA, RST_STREAM]
    assert sending.left == [1]
    assert sending.writer.was_reset(1)


def test_a_stream_without_a_number_keeps_everything() -> None:
    sending = Sending(0)
    (stream,) = sending.streams
    sending.writer.data(stream, b"ab", end=False)
    sending.writer.data(stream, b"", end=False)
    sending.writer.headers(stream, [(b"t", b"1")], end=True)
    assert not sending.sent()
    sending.writer.open(stream, 7, list(OK))
    assert [(each.kind, each.stream, each.ends) for each in sending.sent()] == [
        (HEADERS, 7, False),
        (DATA, 7, False),
        (HEADERS, 7, True),
    ]


def test_what_is_forgotten_counts_as_passed_on() -> None:
    sending = Sending(1, window=0)
    (stream,) = sending.streams
    sending.writer.data(stream, b"abcd", end=True)
    sending.writer.reset(stream, CANCEL)
    sending.writer.forget(stream)
    assert sending.source.passed == 4
    assert sending.left == [1]
    sending.writer.grow_all(1)
    assert [each.kind for each in sending.sent()] == [RST_STREAM]


def test_a_stream_without_a_twin() -> None:
    sending = Sending(1, window=3)
    (stream,) = sending.streams
    stream.twin = None
    sending.writer.data(stream, b"abcde", end=True)
    sending.writer.forget(stream)
    assert [each.payload for each in sending.sent()] == [b"abc"]


def test_bodies_wait_for_the_socket_and_the_rest_does_not() -> None:
    sending = Sending(1, window=LARGEST)
    (stream,) = sending.streams
    sending.writer.window = LARGEST
    for _ in range(40):
        sending.writer.data(stream, b"x" * 16_384, end=False)
    assert MARK <= sending.writer.size <= MARK + 16_384 + 9
    sending.writer.ping(bytes(8), ack=True)
    first = list(frames(sending.writer.take()))
    assert len([each for each in first if each.kind == DATA]) == 16
    assert sum(len(each.payload) for each in sending.sent()) == 24 * 16_384


def test_a_long_head_is_continued() -> None:
    sending = Sending(1)
    sending.writer.headers(sending.streams[0], [(b"x", b"v" * 40_000)], end=True)
    sent = sending.sent()
    assert [(each.kind, each.flags & END_HEADERS, each.ends) for each in sent] == [
        (HEADERS, 0, True),
        (CONTINUATION, 0, False),
        (CONTINUATION, END_HEADERS, False),
    ]


def test_windows_have_a_limit() -> None:
    sending = Sending(1)
    assert not sending.writer.grow(sending.streams[0], LARGEST)
    with pytest.raises(LegError):
        sending.writer.grow_all(LARGEST)


def test_resets_are_remembered_up_to_a_number() -> None:
    writer = Writer(lambda stream: None)
    for number in range(1, 4001, 2):
        writer.remember(number)
    assert not writer.was_reset(1)
    assert writer.was_reset(3999)
    assert len(writer._reset) == 1024


actions = st.one_of(
    st.tuples(st.just("data"), st.integers(0, 2), st.integers(0, 40_000)),
    st.tuples(st.just("grow"), st.integers(0, 2), st.integers(0, 40_000)),
    st.tuples(st.just("all"), st.just(0), st.integers(0, 40_000)),
    st.tuples(st.just("take"), st.just(0), st.just(0)),
)


@given(st.lists(actions, max_size=40))
def test_bytes_arrive_in_order_and_within_the_windows(script: list[tuple[str, int, int]]) -> None:
    sending = Sending(1, 3, 5, window=1000)
    writer = sending.writer
    writer.window = 5000
    allowed, given_bytes = {1: 1000, 3: 1000, 5: 1000}, {1: b"", 3: b"", 5: b""}
    everything = 5000
    got = {1: b"", 3: b"", 5: b""}
    for what, index, size in script:
        stream = sending.streams[index]
        if what == "data":
            piece = bytes((len(given_bytes[stream.id]) + at) % 251 for at in range(size))
            given_bytes[stream.id] += piece
            writer.data(stream, piece, end=False)
        elif what == "grow":
            allowed[stream.id] += size
            writer.grow(stream, size)
        elif what == "all":
            everything += size
            writer.grow_all(size)
        else:
            for each in frames(writer.take()):
                got[each.stream] += each.payload
    for each in sending.sent():
        got[each.stream] += each.payload
    total = sum(map(len, got.values()))
    assert total <= everything
    for number, stream in zip((1, 3, 5), sending.streams, strict=True):
        assert given_bytes[number].startswith(got[number])
        assert len(got[number]) <= allowed[number]
        assert got[number] + stream.pending == given_bytes[number]
        stuck = bool(stream.pending)
        assert not stuck or len(got[number]) == allowed[number] or total == everything
    assert sending.source.passed == total
