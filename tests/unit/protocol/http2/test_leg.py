"""What a peer may do and when: RFC 9113 sections 5 and 6, in h2spec's order; and floods."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings as hypothesis_settings, strategies as st

from interceptor.model.connection import ResponseFlag
from interceptor.protocol.http2 import codes
from interceptor.protocol.http2.codes import (
    CANCEL,
    COMPRESSION_ERROR,
    DATA,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADERS,
    LARGEST,
    PING,
    PREFACE,
    PRIORITY,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
)
from interceptor.protocol.http2.leg import Limits
from tests.support.http2 import (
    END_HEADERS,
    GET,
    OK,
    POST,
    Bridged,
    Sent,
    frame,
    goaway,
    rst_stream,
    settings,
    window_update,
)


def ended_with(told: list[Sent], code: int) -> None:
    assert (told[-1].kind, told[-1].code) == (GOAWAY, code)


def reset_with(told: list[Sent], code: int) -> None:
    assert (told[-1].kind, told[-1].code) == (RST_STREAM, code)


def connection_error(*data: bytes, code: int) -> None:
    """A client that sends this on a fresh connection loses it."""
    pair = Bridged()
    told, _ = pair.from_client(*data)
    ended_with(told, code)
    assert pair.bridge.downstream.dead is not None


def test_our_part_of_the_preface() -> None:
    pair = Bridged(connect=False)
    pair.bridge.connected()
    _, asked = pair.hear()
    told = pair.client.heard
    assert [each.kind for each in told] == [
        SETTINGS,
        WINDOW_UPDATE,
        SETTINGS,
    ]  # the last acknowledges the client's
    values = dict(struct.iter_unpack(">HL", told[0].payload))
    assert values == {
        codes.MAX_CONCURRENT_STREAMS: 1000,
        codes.INITIAL_WINDOW_SIZE: 256 * 1024,
        codes.MAX_FRAME_SIZE: 65_536,
        codes.MAX_HEADER_LIST_SIZE: 64 * 1024,
    }
    assert dict(struct.iter_unpack(">HL", asked[0].payload))[codes.ENABLE_PUSH] == 0


@pytest.mark.parametrize("kind", [DATA, HEADERS, PRIORITY, RST_STREAM])
def test_frames_that_need_a_stream(kind: int) -> None:
    payload = {DATA: b"x", HEADERS: Bridged().client.block(GET), PRIORITY: bytes(5), RST_STREAM: bytes(4)}[
        kind
    ]
    connection_error(frame(kind, END_HEADERS if kind == HEADERS else 0, 0, payload), code=PROTOCOL_ERROR)


@pytest.mark.parametrize(("kind", "size"), [(SETTINGS, 0), (PING, 8), (GOAWAY, 8)])
def test_frames_that_need_the_connection(kind: int, size: int) -> None:
    connection_error(frame(kind, 0, 1, bytes(size)), code=PROTOCOL_ERROR)


@pytest.mark.parametrize(
    "data",
    [
        frame(PRIORITY, 0, 1, bytes(4)),
        frame(RST_STREAM, 0, 1, bytes(3)),
        frame(SETTINGS, 0, 0, bytes(7)),
        frame(SETTINGS, 1, 0, bytes(6)),
        frame(PING, 0, 0, bytes(7)),
        frame(GOAWAY, 0, 0, bytes(7)),
        frame(WINDOW_UPDATE, 0, 0, bytes(3)),
    ],
)
def test_frames_of_a_wrong_length(data: bytes) -> None:
    connection_error(data, code=FRAME_SIZE_ERROR)


@pytest.mark.parametrize(
    "data",
    [
        frame(DATA, 0, 1, b"x"),
        rst_stream(1, CANCEL),
        window_update(1, 1),
        frame(DATA, 0, 2, b"x"),
        rst_stream(2, 0),
    ],
)
def test_an_idle_stream_takes_no_frames(data: bytes) -> None:
    connection_error(data, code=PROTOCOL_ERROR)


def test_an_idle_stream_may_have_a_priority() -> None:
    pair = Bridged()
    assert pair.from_client(frame(PRIORITY, 0, 5, bytes(5))) == ([], [])


def test_a_client_opens_odd_streams_only() -> None:
    pair = Bridged()
    told, _ = pair.get(2)
    ended_with(told, PROTOCOL_ERROR)


def test_stream_numbers_grow() -> None:
    pair = Bridged()
    pair.get(5)
    told, _ = pair.get(3)
    ended_with(told, STREAM_CLOSED)


@pytest.mark.parametrize("kind", [DATA, HEADERS])
def test_a_half_closed_stream_takes_no_more(kind: int) -> None:
    pair = Bridged()
    pair.get(1)
    more = pair.client.data(1, b"x") if kind == DATA else pair.client.headers(1, [(b"t", b"1")], end=True)
    told, _ = pair.from_client(more)
    reset_with(told, STREAM_CLOSED)


@pytest.mark.parametrize("kind", [DATA, HEADERS])
@pytest.mark.parametrize("reset", [True, False])
def test_a_closed_stream_takes_no_more(kind: int, reset: bool) -> None:
    pair = Bridged()
    pair.get(1)
    if reset:
        pair.from_client(rst_stream(1, CANCEL))
    else:
        pair.from_app(pair.app.headers(1, OK, end=True))
    more = pair.client.data(1, b"x") if kind == DATA else pair.client.headers(1, GET, end=True)
    told, _ = pair.from_client(more)
    ended_with(told, STREAM_CLOSED)


def test_a_closed_stream_may_still_get_windows_and_resets() -> None:
    pair = Bridged()
    pair.get(1)
    pair.from_app(pair.app.headers(1, OK, end=True))
    assert pair.from_client(window_update(1, 5), rst_stream(1, CANCEL), frame(PRIORITY, 0, 1, bytes(5))) == (
        [],
        [],
    )


def test_what_was_under_way_when_we_reset_a_stream_is_ignored() -> None:
    limits = Limits(window=65_536, connection_window=65_536)
    pair = Bridged(limits=limits)
    told, _ = pair.from_client(pair.client.headers(1, [*POST, (b"te", b"gzip")]))
    reset_with(told, PROTOCOL_ERROR)
    told, _ = pair.from_client(
        pair.client.data(1, b"x" * 40_000), pair.client.headers(1, [(b"t", b"1")], end=True)
    )
    assert [(each.kind, each.stream) for each in told] == [(WINDOW_UPDATE, 0)]


def test_a_peer_that_is_refused_is_remembered_for_a_while_only() -> None:
    pair = Bridged(limits=Limits(streams=1))
    pair.get(1)
    for number in range(3, 2053, 2):
        pair.now += 1
        told, _ = pair.get(number)
        reset_with(told, REFUSED_STREAM)
    assert pair.from_client(pair.client.data(2051, b"x")) == ([], [])
    told, _ = pair.from_client(pair.client.data(3, b"x"))
    ended_with(told, STREAM_CLOSED)


def test_too_many_streams_are_refused() -> None:
    pair = Bridged(limits=Limits(streams=2))
    pair.get(1)
    pair.get(3)
    told, asked = pair.get(5)
    reset_with(told, REFUSED_STREAM)
    assert not asked
    pair.from_app(pair.app.headers(1, OK, end=True))
    _, asked = pair.get(7)
    assert len(asked) == 1


def test_trailers_end_their_stream() -> None:
    pair = Bridged()
    told, _ = pair.from_client(pair.client.headers(1, POST), pair.client.headers(1, [(b"t", b"1")]))
    reset_with(told, PROTOCOL_ERROR)


def test_trailers_have_no_pseudo_headers() -> None:
    pair = Bridged()
    told, _ = pair.from_client(pair.client.headers(1, POST), pair.client.headers(1, GET, end=True))
    reset_with(told, PROTOCOL_ERROR)


@pytest.mark.parametrize(
    ("length", "body", "trailers"),
    [(b"1", None, False), (b"2", b"x", False), (b"1", b"xy", False), (b"2", b"x", True)],
)
def test_a_request_of_another_length_than_it_says(length: bytes, body: bytes | None, trailers: bool) -> None:
    pair = Bridged()
    head = pair.client.headers(1, [*POST, (b"content-length", length)], end=body is None)
    told, _ = pair.from_client(
        head,
        b"" if body is None else pair.client.data(1, body, end=not trailers),
        pair.client.headers(1, [(b"t", b"1")], end=True) if trailers else b"",
    )
    reset_with(told, PROTOCOL_ERROR)
    assert not pair.bridge.upstream.streams


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [
        (codes.ENABLE_PUSH, 2, PROTOCOL_ERROR),
        (codes.INITIAL_WINDOW_SIZE, 1 << 31, FLOW_CONTROL_ERROR),
        (codes.MAX_FRAME_SIZE, 16_383, PROTOCOL_ERROR),
        (codes.MAX_FRAME_SIZE, 1 << 24, PROTOCOL_ERROR),
        (codes.ENABLE_CONNECT_PROTOCOL, 2, PROTOCOL_ERROR),
    ],
)
def test_invalid_settings(key: int, value: int, code: int) -> None:
    connection_error(settings((key, value)), code=code)


def test_settings_are_acknowledged_and_unknown_ones_ignored() -> None:
    pair = Bridged()
    told, _ = pair.from_client(settings((0x99, 7), (codes.ENABLE_PUSH, 1)), frame(SETTINGS, 1, 0))
    assert [(each.kind, each.flags, each.payload) for each in told] == [(SETTINGS, 1, b"")]


def test_pings_are_answered() -> None:
    pair = Bridged()
    told, _ = pair.from_client(frame(PING, 0, 0, b"12345678"), frame(PING, 1, 0, b"12345678"))
    assert [(each.kind, each.flags, each.payload) for each in told] == [(PING, 1, b"12345678")]


def test_unknown_frames_and_flags_are_ignored() -> None:
    pair = Bridged()
    told, asked = pair.from_client(
        frame(0x16, 0xFF, 0, b"x"), frame(0x10, 0, 3, b"\0\0\0\1u=0"), frame(PING, 0xFE, 0, bytes(8))
    )
    assert [each.kind for each in told] == [PING]
    assert not asked


def test_windows() -> None:
    connection_error(window_update(0, 0), code=PROTOCOL_ERROR)
    connection_error(window_update(0, LARGEST), code=FLOW_CONTROL_ERROR)
    pair = Bridged()
    pair.get(1)
    told, _ = pair.from_client(window_update(1, 0))
    reset_with(told, PROTOCOL_ERROR)
    pair.get(3)
    told, _ = pair.from_client(window_update(3, LARGEST))
    reset_with(told, FLOW_CONTROL_ERROR)
    pair.get(5)
    told, _ = pair.from_client(window_update(5, 10), settings((codes.INITIAL_WINDOW_SIZE, LARGEST)))
    ended_with(told, FLOW_CONTROL_ERROR)


def test_a_block_that_cannot_be_decoded() -> None:
    connection_error(frame(HEADERS, 5, 1, b"\xff\xff"), code=COMPRESSION_ERROR)


def test_another_preface() -> None:
    pair = Bridged()
    pair.bridge = type(pair.bridge)(pair.hooks, 0.0)
    told, _ = pair.from_client(b"X" * len(PREFACE))
    ended_with(told, PROTOCOL_ERROR)


# The upstream as the peer


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(HEADERS, 5, 1, b"\x88"), PROTOCOL_ERROR),  # idle
        (frame(HEADERS, 5, 2, b"\x88"), PROTOCOL_ERROR),  # pushed
        (frame(codes.PUSH_PROMISE, 4, 1, b"\0\0\0\2\x82"), PROTOCOL_ERROR),
        (settings((codes.ENABLE_PUSH, 1)), PROTOCOL_ERROR),
        (frame(DATA, 0, 1, b"x"), PROTOCOL_ERROR),
    ],
)
def test_an_upstream_breaks_the_protocol(data: bytes, code: int) -> None:
    pair = Bridged()
    _, asked = pair.from_app(data)
    ended_with(asked, code)


def test_an_upstream_takes_extended_connect_back() -> None:
    pair = Bridged(upstream=[(codes.ENABLE_CONNECT_PROTOCOL, 1)])
    _, asked = pair.from_app(settings((codes.ENABLE_CONNECT_PROTOCOL, 0)))
    ended_with(asked, PROTOCOL_ERROR)


def test_an_upstream_answers_twice() -> None:
    pair = Bridged()
    pair.get(1)
    _, asked = pair.from_app(pair.app.headers(1, OK, end=True), pair.app.headers(1, OK, end=True))
    ended_with(asked, STREAM_CLOSED)


def test_an_upstream_may_still_answer_what_was_reset() -> None:
    pair = Bridged()
    pair.get(1)
    pair.from_client(rst_stream(1, CANCEL))
    assert pair.from_app(pair.app.headers(1, OK), pair.app.data(1, b"x", end=True)) == ([], [])


# Floods


def flood(data: bytes, times: int) -> tuple[Bridged, list[Sent]]:
    pair = Bridged()
    pair.get(1)
    told: list[Sent] = []
    for _ in range(times):
        told, _ = pair.from_client(data)
        if pair.bridge.downstream.dead:
            break
    return pair, told


@pytest.mark.parametrize(
    "data",
    [
        frame(PING, 0, 0, bytes(8)) * 100,
        settings() * 100,
        frame(SETTINGS, 1, 0) * 100,
        frame(PRIORITY, 0, 3, bytes(5)) * 100,
        frame(0x77, 0, 0) * 100,
        window_update(0, 1) * 100,
        goaway(0, 0) * 100,
    ],
)
def test_a_flood_of_cheap_frames_ends_the_connection(data: bytes) -> None:
    _, told = flood(data, 101)
    ended_with(told, ENHANCE_YOUR_CALM)
    pair, _ = flood(data, 99)
    assert pair.bridge.downstream.dead is None


def test_settings_that_are_work_for_many_streams_cost_more() -> None:
    pair = Bridged()
    pair.from_client(*(pair.client.headers(number, POST) for number in range(1, 2001, 2)))
    many = settings(*[(codes.INITIAL_WINDOW_SIZE, 70_000 + at % 2) for at in range(32)])
    for _ in range(5):
        pair.from_client(many)
    assert pair.bridge.downstream.dead is None
    told, _ = pair.from_client(many)
    ended_with(told, ENHANCE_YOUR_CALM)


def test_settings_of_too_many_settings() -> None:
    connection_error(settings(*[(0x77, 0)] * 33), code=ENHANCE_YOUR_CALM)
    pair = Bridged()
    pair.from_client(settings(*[(0x77, 0)] * 32))
    assert pair.bridge.downstream.dead is None


def test_a_client_of_tiny_windows_gets_its_answer_and_little_waits_for_it() -> None:
    """CVE-2019-9511: byte by byte; what waits is not more than the app was allowed to send."""
    pair = Bridged((codes.INITIAL_WINDOW_SIZE, 0), limits=Limits(window=65_536, connection_window=65_536))
    for number in (1, 3):
        pair.get(number)
    _, asked = pair.from_app(
        *(pair.app.headers(number, OK) for number in (1, 3)),
        *(pair.app.data(number, b"x" * 30_000) for number in (1, 3)),
    )
    assert not asked
    told = []
    for _ in range(100):
        told += pair.from_client(window_update(1, 1))[0]
    assert [(each.kind, each.payload) for each in told] == [(DATA, b"x")] * 100
    assert pair.bridge.upstream.receivable == 65_536 - 60_000


def test_a_flood_of_empty_data() -> None:
    pair = Bridged()
    pair.from_client(pair.client.headers(1, POST))
    told: list[Sent] = []
    for _ in range(101):
        told, asked = pair.from_client(frame(DATA, 0, 1) * 100)
        assert not [each for each in asked if each.kind == DATA]
    ended_with(told, ENHANCE_YOUR_CALM)


def rapid(pair: Bridged, times: int, *, seconds: float = 0) -> list[Sent]:
    told: list[Sent] = []
    for _ in range(times):
        number = pair.bridge.downstream.last + 2 if pair.bridge.downstream.last else 1
        told, _ = pair.from_client(pair.client.headers(number, GET, end=True), rst_stream(number, CANCEL))
        pair.now += seconds
    return told


def test_rapid_resets_end_the_connection() -> None:
    pair = Bridged()
    assert not rapid(pair, 1000)
    ended_with(rapid(pair, 1), ENHANCE_YOUR_CALM)


def test_resets_in_the_course_of_time_are_no_flood() -> None:
    pair = Bridged()
    rapid(pair, 3000, seconds=0.05)
    assert pair.bridge.downstream.dead is None


def test_making_us_reset_is_as_good_as_resetting() -> None:
    """CVE-2025-8671."""
    pair = Bridged()
    told: list[Sent] = []
    for number in range(1, 2003, 2):
        told, _ = pair.from_client(pair.client.headers(number, GET, end=True), window_update(number, 0))
    ended_with(told, ENHANCE_YOUR_CALM)


def test_malformed_requests_count_as_reset() -> None:
    pair = Bridged()
    told: list[Sent] = []
    for number in range(1, 2003, 2):
        told, _ = pair.from_client(pair.client.headers(number, [*GET, (b"te", b"gzip")], end=True))
    ended_with(told, ENHANCE_YOUR_CALM)
    assert not pair.bridge.downstream.streams


def test_the_reader_tells_what_may_not_take_long() -> None:
    pair = Bridged()
    assert not pair.bridge.downstream.within_head
    pair.from_client(frame(HEADERS, 1, 1, b"\x82"))
    assert pair.bridge.downstream.within_head


def test_refused_streams_count_as_reset() -> None:
    pair = Bridged(limits=Limits(streams=1))
    told: list[Sent] = []
    for number in range(1, 2005, 2):
        told, _ = pair.get(number)
    ended_with(told, ENHANCE_YOUR_CALM)


def test_an_upstream_that_resets_everything_is_no_flood() -> None:
    pair = Bridged()
    for number in range(1, 3001, 2):
        pair.get(number)
        pair.from_app(rst_stream(number, REFUSED_STREAM))
    assert pair.bridge.upstream.dead is None


# Anything at all

numbers = st.sampled_from([0, 1, 1, 1, 3, 3, 5, 2, LARGEST])
chunks = st.one_of(
    st.builds(frame, st.integers(0, 11), st.integers(0, 255), numbers, st.binary(max_size=40)),
    st.builds(lambda number, fields, end: ("headers", number, fields, end), numbers, st.sampled_from([GET, POST, OK, [(b"t", b"1")], [*POST, (b"content-length", b"3")]]), st.booleans()),
    st.builds(lambda number, data, end: ("data", number, data, end), numbers, st.binary(max_size=70_000), st.booleans()),
    st.builds(window_update, numbers, st.integers(0, LARGEST)),
    st.builds(rst_stream, numbers, st.integers(0, 20)),
    st.builds(goaway, numbers, st.integers(0, 20)),
    st.builds(lambda pairs: settings(*pairs), st.lists(st.tuples(st.integers(0, 9), st.integers(0, 70_000)), max_size=2)),
    st.binary(max_size=30),
)  # fmt: skip


@hypothesis_settings(max_examples=200)
@given(st.lists(st.tuples(st.booleans(), chunks), max_size=30))
def test_whatever_both_sides_send(script: list[tuple[bool, bytes | tuple[str, int, object, bool]]]) -> None:
    """No exception, bounded memory, and each call is finished exactly once."""
    limits = Limits(streams=4, window=100_000, connection_window=200_000)
    pair = Bridged(limits=limits)
    for from_client, chunk in script:
        peer, send = (pair.client, pair.from_client) if from_client else (pair.app, pair.from_app)
        send(chunk if isinstance(chunk, bytes) else getattr(peer, chunk[0])(chunk[1], chunk[2], end=chunk[3]))
        for leg in (pair.bridge.downstream, pair.bridge.upstream):
            pending = sum(len(stream.pending) for stream in leg.streams.values())
            assert pending <= limits.connection_window
            assert len(leg.streams) <= limits.streams
            assert leg.writer.size == 0
    pair.bridge.lost_downstream(ResponseFlag.DOWNSTREAM_RESET, "over")
    assert sorted(map(id, pair.hooks.calls)) == sorted(map(id, pair.hooks.finished_calls))
