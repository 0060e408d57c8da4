"""Requests and responses through a bridge, as a client and an upstream see them."""

from __future__ import annotations

import pytest

from interceptor.model.connection import ResponseFlag
from interceptor.model.http import LocalReply
from interceptor.protocol.http2 import codes
from interceptor.protocol.http2.codes import (
    CANCEL,
    DATA,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    HEADERS,
    INTERNAL_ERROR,
    LARGEST,
    NO_ERROR,
    PING,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
)
from interceptor.protocol.http2.hooks import WAIT
from interceptor.protocol.http2.leg import Limits
from interceptor.protocol.http2.writer import MARK
from tests.support.http2 import (
    GET,
    GRPC,
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

UNAVAILABLE = LocalReply(503, ResponseFlag.UPSTREAM_FAILURE, "refused", b"interceptor: refused\n")


def kinds(sent: list[Sent]) -> list[int]:
    return [each.kind for each in sent]


def test_a_request_and_its_response() -> None:
    pair = Bridged()
    _, asked = pair.get(1)
    assert kinds(asked) == [HEADERS]
    assert asked[0].ends
    assert pair.app.fields(asked[0]) == dict(GET)
    answered, _ = pair.from_app(
        pair.app.headers(1, [*OK, (b"x", b"y")]), pair.app.data(1, b"hello", end=True)
    )
    assert kinds(answered) == [HEADERS, DATA]
    assert pair.client.fields(answered[0]) == {b":status": b"200", b"x": b"y"}
    assert (answered[1].payload, answered[1].ends) == (b"hello", True)
    (call,) = pair.hooks.finished_calls
    assert (call.status, call.bytes_sent, call.flag) == (200, 5, ResponseFlag.NONE)
    assert not pair.bridge.downstream.streams
    assert not pair.bridge.upstream.streams


def test_bodies_and_trailers_go_both_ways() -> None:
    pair = Bridged()
    trailer = [(b"x-sum", b"1")]
    _, asked = pair.from_client(
        pair.client.headers(1, POST), pair.client.data(1, b"ab"), pair.client.headers(1, trailer, end=True)
    )
    assert kinds(asked) == [HEADERS, DATA, HEADERS]
    pair.app.fields(asked[0])
    assert pair.app.fields(asked[2]) == dict(trailer)
    assert asked[2].ends
    answered, _ = pair.from_app(
        pair.app.headers(1, OK), pair.app.data(1, b"cd"), pair.app.headers(1, [(b"x-end", b"2")], end=True)
    )
    assert kinds(answered) == [HEADERS, DATA, HEADERS]
    pair.client.fields(answered[0])
    assert pair.client.fields(answered[2]) == {b"x-end": b"2"}
    (call,) = pair.hooks.finished_calls
    assert (call.bytes_received, call.bytes_sent) == (2, 2)


def test_streams_are_independent() -> None:
    pair = Bridged()
    pair.get(1)
    pair.get(3)
    answered, _ = pair.from_app(pair.app.headers(3, OK, end=True))
    assert [each.stream for each in answered] == [3]
    answered, _ = pair.from_app(pair.app.headers(1, OK, end=True))
    assert [each.stream for each in answered] == [1]


def test_informational_responses_pass() -> None:
    pair = Bridged()
    pair.get(1)
    answered, _ = pair.from_app(
        pair.app.headers(1, [(b":status", b"103")]), pair.app.headers(1, OK, end=True)
    )
    assert [pair.client.fields(each)[b":status"] for each in answered] == [b"103", b"200"]


def test_the_status_of_grpc_is_read_from_trailers_and_from_a_head_alone() -> None:
    pair = Bridged()
    pair.from_client(pair.client.headers(1, GRPC, end=True), pair.client.headers(3, GRPC, end=True))
    pair.from_app(
        pair.app.headers(1, OK),
        pair.app.headers(1, [(b"grpc-status", b"5")], end=True),
        pair.app.headers(3, [*OK, (b"grpc-status", b"7")], end=True),
    )
    assert [call.grpc_status for call in pair.hooks.finished_calls] == ["5", "7"]


def test_a_header_that_is_never_indexed_stays_so() -> None:
    pair = Bridged()
    block = pair.client.encoder.encode([*((*field, False) for field in GET), (b"x-secret", b"1", True)])
    _, asked = pair.from_client(frame(HEADERS, 5, 1, block))
    decoded = pair.app.decoder.decode(asked[0].payload, raw=True)
    assert [field.indexable for field in decoded] == [True] * 4 + [False]


def test_long_heads_are_continued() -> None:
    pair = Bridged()
    _, asked = pair.from_client(pair.client.headers(1, [*GET, (b"x", b"v" * 40_000)], end=True))
    assert pair.app.fields(asked[0])[b"x"] == b"v" * 40_000


# Flow control


def test_a_body_waits_for_the_windows_of_the_other_side() -> None:
    pair = Bridged(upstream=[(codes.INITIAL_WINDOW_SIZE, 10)])
    _, asked = pair.from_client(pair.client.headers(1, POST), pair.client.data(1, b"x" * 25, end=True))
    assert [len(each.payload) for each in asked[1:]] == [10]
    _, asked = pair.from_app(window_update(1, 5))
    assert [(len(each.payload), each.ends) for each in asked] == [(5, False)]
    _, asked = pair.from_app(settings((codes.INITIAL_WINDOW_SIZE, 20)))
    assert [(len(each.payload), each.ends) for each in asked] == [
        (10, True),
        (0, True),
    ]  # and the acknowledgement


def test_a_smaller_window_can_be_negative() -> None:
    pair = Bridged(upstream=[(codes.INITIAL_WINDOW_SIZE, 10)])
    pair.from_client(pair.client.headers(1, POST), pair.client.data(1, b"x" * 10))
    pair.from_app(settings((codes.INITIAL_WINDOW_SIZE, 0)))
    _, asked = pair.from_client(pair.client.data(1, b"y"))
    assert not asked
    _, asked = pair.from_app(window_update(1, 10))
    assert not asked
    _, asked = pair.from_app(window_update(1, 1))
    assert [each.payload for each in asked] == [b"y"]


def test_the_window_of_the_connection_is_shared_in_turn() -> None:
    pair = Bridged()
    pair.from_client(pair.client.headers(1, POST), pair.client.headers(3, POST))
    body = b"x" * 16_384
    for _ in range(4):
        pair.from_client(pair.client.data(1, body))
    pair.from_client(pair.client.data(1, body), pair.client.data(3, body))
    _, asked = pair.from_app(window_update(1, 30_000), window_update(0, 30_000))
    sent = [(each.stream, len(each.payload)) for each in asked if each.kind == DATA]
    assert [number for number, _ in sent][:2] == [3, 1]
    assert sum(size for _, size in sent) == 30_000


def test_a_sender_gets_a_new_window_only_for_what_was_passed_on() -> None:
    limits = Limits(window=100_000, connection_window=200_000)
    pair = Bridged(upstream=[(codes.INITIAL_WINDOW_SIZE, 0)], limits=limits)
    piece = pair.client.data(1, b"x" * 10_000)
    told, _ = pair.from_client(pair.client.headers(1, POST), *([piece] * 10))
    assert not told
    told, _ = pair.from_app(window_update(1, 49_999))
    assert not told
    told, _ = pair.from_app(window_update(1, 1))
    assert [(each.kind, each.stream, each.payload) for each in told] == [
        (WINDOW_UPDATE, 1, (50_000).to_bytes(4, "big"))
    ]
    told, _ = pair.from_client(pair.client.data(1, b"x" * 50_001))
    assert (told[-1].kind, told[-1].code) == (RST_STREAM, codes.FLOW_CONTROL_ERROR)


def test_more_than_the_connections_window_ends_it() -> None:
    limits = Limits(window=100_000, connection_window=100_000)
    pair = Bridged(upstream=[(codes.INITIAL_WINDOW_SIZE, 0)], limits=limits)
    pieces = [pair.client.data(number, b"x" * 60_000) for number in (1, 3)]
    told, _ = pair.from_client(pair.client.headers(1, POST), pair.client.headers(3, POST), *pieces)
    assert (told[-1].kind, told[-1].code) == (GOAWAY, codes.FLOW_CONTROL_ERROR)


def test_padding_is_given_back() -> None:
    limits = Limits(window=65_536, connection_window=65_536)
    pair = Bridged(upstream=[(codes.INITIAL_WINDOW_SIZE, 0)], limits=limits)
    padded = frame(DATA, 0x8, 1, b"\xff" + b"x" + b"\0" * 255)
    told, _ = pair.from_client(pair.client.headers(1, POST), *([padded] * 128))
    assert [each.kind for each in told] == [WINDOW_UPDATE, WINDOW_UPDATE]


def test_what_was_pending_for_a_stream_that_was_reset_is_given_back() -> None:
    limits = Limits(window=60_000, connection_window=100_000)
    pair = Bridged(upstream=[(codes.INITIAL_WINDOW_SIZE, 0)], limits=limits)
    pair.from_client(pair.client.headers(1, POST), pair.client.data(1, b"x" * 50_000))
    told, _ = pair.from_client(rst_stream(1, CANCEL))
    assert [(each.kind, each.stream) for each in told] == [(WINDOW_UPDATE, 0)]


def test_bodies_wait_for_the_socket() -> None:
    pair = Bridged((codes.INITIAL_WINDOW_SIZE, LARGEST))
    pair.from_client(window_update(0, LARGEST - codes.DEFAULT_WINDOW))
    pair.get(1)
    pair.bridge.receive_upstream(pair.app.headers(1, OK), 0.0)
    piece = pair.app.data(1, b"x" * 16_384)
    for _ in range(16):
        pair.bridge.receive_upstream(piece, 0.0)
    writer = pair.bridge.downstream.writer
    assert MARK <= writer.size < MARK + 16_384
    pair.bridge.receive_upstream(piece, 0.0)
    assert len(pair.bridge.downstream.streams[1].pending) > 0
    writer.take()
    assert writer.size >= 16_384
    assert not pair.bridge.downstream.streams[1].pending


# Resets, and answers of our own


def test_a_reset_of_the_client_passes_with_its_code() -> None:
    pair = Bridged()
    pair.get(1)
    _, asked = pair.from_client(rst_stream(1, CANCEL))
    assert [(each.kind, each.code) for each in asked] == [(RST_STREAM, CANCEL)]
    (call,) = pair.hooks.finished_calls
    assert (call.flag, call.status) == (ResponseFlag.DOWNSTREAM_RESET, 0)
    told, _ = pair.from_app(pair.app.headers(1, OK, end=True))  # it was under way
    assert not told
    assert pair.bridge.upstream.dead is None


def test_a_reset_of_the_upstream_passes_with_its_code() -> None:
    pair = Bridged()
    pair.get(1)
    told, _ = pair.from_app(rst_stream(1, 0x77))
    assert [(each.kind, each.code) for each in told] == [(RST_STREAM, 0x77)]
    assert pair.hooks.finished_calls[0].flag is ResponseFlag.UPSTREAM_RESET


def test_a_reset_behind_a_complete_response_comes_behind_it() -> None:
    pair = Bridged((codes.INITIAL_WINDOW_SIZE, 3))
    pair.from_client(pair.client.headers(1, POST))
    pair.from_app(pair.app.headers(1, OK), pair.app.data(1, b"hello", end=True), rst_stream(1, NO_ERROR))
    told, _ = pair.from_client(window_update(1, 10))
    assert [(each.kind, each.payload) for each in told] == [(DATA, b"lo"), (RST_STREAM, b"\0\0\0\0")]
    assert pair.hooks.finished_calls[0].flag is ResponseFlag.NONE


def test_a_reset_behind_an_early_response_passes() -> None:
    """So a server says that it does not want the rest of the request (RFC 9113 section 8.1)."""
    pair = Bridged()
    pair.from_client(pair.client.headers(1, POST))
    told, _ = pair.from_app(pair.app.headers(1, OK, end=True), rst_stream(1, NO_ERROR))
    assert [(each.kind, each.code) for each in told[1:]] == [(RST_STREAM, NO_ERROR)]
    assert pair.hooks.finished_calls[0].flag is ResponseFlag.NONE


def test_the_end_of_a_body_may_come_alone() -> None:
    pair = Bridged()
    _, asked = pair.from_client(pair.client.headers(1, POST), pair.client.data(1, b"", end=True))
    assert [(each.kind, each.ends) for each in asked] == [(HEADERS, False), (DATA, True)]


def test_an_early_response_lets_the_request_go_on() -> None:
    pair = Bridged()
    pair.from_client(pair.client.headers(1, POST))
    pair.from_app(pair.app.headers(1, OK, end=True))
    assert not pair.hooks.finished_calls
    _, asked = pair.from_client(pair.client.data(1, b"rest", end=True))
    assert [each.payload for each in asked] == [b"rest"]
    assert pair.hooks.finished_calls[0].bytes_received == 4
    assert not pair.bridge.upstream.streams


def test_an_answer_of_our_own() -> None:
    pair = Bridged()
    pair.hooks.verdict = LocalReply(
        429, ResponseFlag.RATE_LIMITED, "slow down", b"interceptor: slow down\n", [(b"Retry-After", b"1")]
    )
    told, asked = pair.get(1)
    assert not asked
    assert pair.client.fields(told[0]) == {
        b":status": b"429",
        b"retry-after": b"1",
        b"content-type": b"text/plain",
        b"content-length": b"23",
    }
    assert (told[1].payload, told[1].ends) == (b"interceptor: slow down\n", True)
    (call,) = pair.hooks.finished_calls
    assert (call.status, call.flag, call.bytes_sent) == (429, ResponseFlag.RATE_LIMITED, 23)


def test_an_answer_to_a_request_whose_body_is_still_coming() -> None:
    pair = Bridged()
    pair.hooks.verdict = LocalReply(403, ResponseFlag.DENY, "denied")
    told, _ = pair.from_client(pair.client.headers(1, POST))
    assert kinds(told) == [HEADERS, RST_STREAM]
    assert told[1].code == NO_ERROR
    told, _ = pair.from_client(pair.client.data(1, b"under way", end=True))
    assert not told


def test_a_head_request_is_answered_without_a_body() -> None:
    pair = Bridged()
    pair.hooks.verdict = UNAVAILABLE
    told, _ = pair.from_client(pair.client.headers(1, [(b":method", b"HEAD"), *GET[1:]], end=True))
    assert kinds(told) == [HEADERS]
    assert pair.client.fields(told[0])[b"content-length"] == b"21"


def test_a_grpc_client_gets_a_grpc_status() -> None:
    pair = Bridged()
    pair.hooks.verdict = UNAVAILABLE
    told, _ = pair.from_client(pair.client.headers(1, GRPC, end=True))
    assert kinds(told) == [HEADERS]
    assert told[0].ends
    assert pair.client.fields(told[0]) == {
        b":status": b"200",
        b"content-type": b"application/grpc",
        b"grpc-status": b"14",
        b"grpc-message": b"interceptor: refused",
    }
    assert pair.hooks.finished_calls[0].grpc_status == "14"


def test_a_request_is_held_until_it_is_forwarded() -> None:
    pair = Bridged()
    pair.hooks.verdict = WAIT
    _, asked = pair.from_client(
        pair.client.headers(1, POST),
        pair.client.data(1, b"body"),
        pair.client.headers(1, [(b"t", b"1")], end=True),
    )
    assert not asked
    pair.bridge.forward(pair.hooks.calls[0])
    _, asked = pair.hear()
    assert kinds(asked) == [HEADERS, DATA, HEADERS]
    assert asked[2].ends


def test_a_held_request_without_a_body_may_have_trailers() -> None:
    pair = Bridged()
    pair.hooks.verdict = WAIT
    pair.from_client(pair.client.headers(1, POST), pair.client.headers(1, [(b"t", b"1")], end=True))
    pair.bridge.forward(pair.hooks.calls[0])
    _, asked = pair.hear()
    assert [each.ends for each in asked] == [False, True]


def test_a_held_request_may_be_gone_before_it_is_decided() -> None:
    pair = Bridged()
    pair.hooks.verdict = WAIT
    pair.from_client(pair.client.headers(1, POST), rst_stream(1, CANCEL))
    pair.bridge.forward(pair.hooks.calls[0])
    pair.bridge.reply(pair.hooks.calls[0], UNAVAILABLE)
    assert pair.hear() == ([], [])
    assert len(pair.hooks.finished_calls) == 1


def test_a_reply_after_the_response_has_begun_resets_the_stream() -> None:
    pair = Bridged()
    pair.get(1)
    pair.from_app(pair.app.headers(1, OK))
    pair.bridge.reply(pair.hooks.calls[0], LocalReply(504, ResponseFlag.UPSTREAM_TIMEOUT, "too slow"))
    told, asked = pair.hear()
    assert [(each.kind, each.code) for each in told] == [(RST_STREAM, INTERNAL_ERROR)]
    assert [(each.kind, each.code) for each in asked] == [(RST_STREAM, CANCEL)]
    assert pair.hooks.finished_calls[0].flag is ResponseFlag.UPSTREAM_TIMEOUT


def test_a_body_over_its_limit_is_refused() -> None:
    pair = Bridged()
    pair.hooks.body_limit = 5
    told, asked = pair.from_client(pair.client.headers(1, POST), pair.client.data(1, b"123456"))
    assert pair.client.fields(told[0])[b":status"] == b"413"
    assert kinds(asked) == [HEADERS, RST_STREAM]


def test_headers_over_the_limit_are_answered_with_431() -> None:
    pair = Bridged(limits=Limits(header_list=500))
    told, asked = pair.from_client(pair.client.headers(1, [*GET, (b"x", b"v" * 400)], end=True))
    assert pair.client.fields(told[0])[b":status"] == b"431"
    assert not asked
    assert pair.hooks.finished_calls[0].status == 431


def test_a_malformed_request_is_reset_and_noted() -> None:
    pair = Bridged()
    told, asked = pair.from_client(pair.client.headers(1, [*GET, (b"connection", b"close")], end=True))
    assert [(each.kind, each.code) for each in told] == [(RST_STREAM, PROTOCOL_ERROR)]
    assert not asked
    assert len(pair.hooks.refused) == 1
    assert not pair.hooks.calls


# A misbehaving upstream


@pytest.mark.parametrize(
    ("fields", "end", "status"),
    [
        ([(b":status", b"200"), (b"connection", b"close")], True, b"502"),
        ([(b":status", b"100")], True, b"502"),
        ([(b":status", b"200"), (b"content-length", b"3")], True, b"502"),
        ([(b":status", b"200"), (b"x", b"v" * 70_000)], False, b"502"),
    ],
)
def test_a_response_that_is_not_valid_becomes_502(
    fields: list[tuple[bytes, bytes]], end: bool, status: bytes
) -> None:
    pair = Bridged()
    pair.get(1)
    block = pair.app.block(fields)
    pieces = [block[at : at + 16_000] for at in range(0, len(block), 16_000)]
    data = frame(HEADERS, (1 if end else 0) | (4 if len(pieces) == 1 else 0), 1, pieces[0])
    for number, piece in enumerate(pieces[1:], 2):
        data += frame(codes.CONTINUATION, 4 if number == len(pieces) else 0, 1, piece)
    told, asked = pair.from_app(data)
    if len(block) > 65_536:  # not to be decoded at all
        assert (asked[0].kind, asked[0].code) == (GOAWAY, ENHANCE_YOUR_CALM)
        status = b"503"
    else:
        assert [(each.kind, each.code) for each in asked] == [(RST_STREAM, PROTOCOL_ERROR)]
    assert pair.client.fields(told[0])[b":status"] == status
    assert pair.hooks.finished_calls[0].flag is ResponseFlag.UPSTREAM_PROTOCOL


def test_a_list_of_response_headers_over_the_limit() -> None:
    pair = Bridged(limits=Limits(header_list=300))
    pair.from_client(pair.client.headers(1, GET, end=True))
    told, _ = pair.from_app(pair.app.headers(1, [*OK, (b"x", b"v" * 290)]))
    assert pair.client.fields(told[0])[b":status"] == b"502"


def test_a_response_that_begins_with_its_body() -> None:
    pair = Bridged()
    pair.get(1)
    told, asked = pair.from_app(pair.app.data(1, b"hello"))
    assert pair.client.fields(told[0])[b":status"] == b"502"
    assert [(each.kind, each.code) for each in asked] == [(RST_STREAM, PROTOCOL_ERROR)]


@pytest.mark.parametrize(
    ("length", "body", "trailers"),
    [(b"3", b"toolong", False), (b"30", b"short", False), (b"30", b"short", True)],
)
def test_a_response_of_another_length_is_never_taken_for_complete(
    length: bytes, body: bytes, trailers: bool
) -> None:
    pair = Bridged()
    pair.get(1)
    pair.from_app(pair.app.headers(1, [*OK, (b"content-length", length)]))
    told, asked = pair.from_app(
        pair.app.data(1, body, end=not trailers),
        pair.app.headers(1, [(b"t", b"1")], end=True) if trailers else b"",
    )
    assert (told[-1].kind, told[-1].code) == (RST_STREAM, INTERNAL_ERROR)
    assert (asked[-1].kind, asked[-1].code) == (RST_STREAM, PROTOCOL_ERROR)


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", b"200"), (b"GET", b"304")])
def test_a_length_without_a_body(method: bytes, status: bytes) -> None:
    pair = Bridged()
    pair.from_client(pair.client.headers(1, [(b":method", method), *GET[1:]], end=True))
    told, _ = pair.from_app(pair.app.headers(1, [(b":status", status), (b"content-length", b"9")], end=True))
    assert pair.client.fields(told[0])[b"content-length"] == b"9"


def test_a_tunnel() -> None:
    pair = Bridged()
    connect = [(b":method", b"CONNECT"), (b":authority", b"db:1")]
    _, asked = pair.from_client(pair.client.headers(1, connect), pair.client.data(1, b"ping"))
    assert pair.app.fields(asked[0]) == dict(connect)
    told, _ = pair.from_app(pair.app.headers(1, [*OK, (b"content-length", b"1")]), pair.app.data(1, b"pong"))
    assert told[1].payload == b"pong"


def test_extended_connect_is_offered_where_the_upstream_offers_it() -> None:
    pair = Bridged(connect=False)
    pair.bridge.connected()
    told, _ = pair.from_app(settings((codes.ENABLE_CONNECT_PROTOCOL, 1)))
    assert [each.payload for each in told if each.kind == SETTINGS] == [b"\0\x08\0\0\0\1"]
    told, _ = pair.from_app(settings((codes.ENABLE_CONNECT_PROTOCOL, 1)))
    assert not told
    websocket = [(b":method", b"CONNECT"), *GET[1:], (b":protocol", b"websocket")]
    _, asked = pair.from_client(pair.client.headers(1, websocket))
    assert pair.app.fields(asked[0]) == dict(websocket)


def test_two_final_heads() -> None:
    pair = Bridged()
    pair.get(1)
    told, asked = pair.from_app(pair.app.headers(1, OK), pair.app.headers(1, OK))
    assert kinds(told) == [HEADERS, RST_STREAM]
    assert asked[-1].code == PROTOCOL_ERROR


def test_trailers_over_the_limit() -> None:
    pair = Bridged(limits=Limits(header_list=200))
    pair.get(1)
    told, _ = pair.from_app(pair.app.headers(1, OK), pair.app.headers(1, [(b"x", b"v" * 190)], end=True))
    assert kinds(told) == [HEADERS, RST_STREAM]


def test_an_upstream_that_does_not_speak_http2() -> None:
    pair = Bridged(connect=False)
    pair.get(1)
    pair.bridge.connected()
    told, asked = pair.from_app(b"HTTP/1.1 400 Bad Request\r\n\r\n" + b" " * 5_000_000)
    assert (asked[-1].kind, asked[-1].code) == (GOAWAY, codes.FRAME_SIZE_ERROR)
    assert pair.client.fields(told[0])[b":status"] == b"503"
    assert (told[-1].kind, told[-1].code) == (GOAWAY, NO_ERROR)
    assert pair.bridge.ended


# The upstream's connection


def test_requests_wait_for_the_upstream() -> None:
    pair = Bridged(connect=False)
    _, asked = pair.from_client(pair.client.headers(1, POST), pair.client.data(1, b"x", end=True))
    assert not asked
    pair.bridge.connected()
    _, asked = pair.hear()
    assert kinds(asked) == [SETTINGS, WINDOW_UPDATE, HEADERS, DATA]


def test_requests_are_answered_where_there_is_no_upstream() -> None:
    pair = Bridged(connect=False)
    pair.get(1)
    pair.bridge.lost_upstream(UNAVAILABLE)
    pair.bridge.lost_upstream(UNAVAILABLE)
    told, _ = pair.hear()
    assert pair.client.fields(told[0])[b":status"] == b"503"
    assert kinds(told) == [HEADERS, DATA, GOAWAY]
    assert pair.bridge.ended
    told, _ = pair.get(3)  # may be sent again elsewhere
    assert not told


def test_the_first_request_is_told_why_there_is_no_upstream() -> None:
    pair = Bridged(connect=False)
    pair.bridge.lost_upstream(UNAVAILABLE)
    assert not pair.bridge.ended
    told, _ = pair.get(1)
    assert pair.client.fields(told[0])[b":status"] == b"503"
    assert kinds(told) == [HEADERS, DATA, GOAWAY]
    assert pair.bridge.ended


def test_a_held_request_is_answered_when_it_is_let_go() -> None:
    pair = Bridged()
    pair.hooks.verdict = WAIT
    pair.get(1)
    pair.bridge.lost_upstream(UNAVAILABLE)
    assert not pair.bridge.ended
    pair.bridge.forward(pair.hooks.calls[0])
    told, _ = pair.hear()
    assert pair.client.fields(told[1])[b":status"] == b"503"
    assert pair.bridge.ended


def test_a_complete_response_survives_its_upstream() -> None:
    pair = Bridged((codes.INITIAL_WINDOW_SIZE, 2))
    pair.from_client(pair.client.headers(1, POST))
    pair.from_app(pair.app.headers(1, OK), pair.app.data(1, b"hello", end=True))
    pair.bridge.lost_upstream(UNAVAILABLE)
    pair.from_client(pair.client.data(1, b"rest", end=True))
    told, _ = pair.from_client(window_update(1, 9))
    assert [(each.kind, each.payload, each.ends) for each in told] == [(DATA, b"llo", True)]
    assert pair.bridge.ended


def test_no_more_streams_than_the_upstream_takes() -> None:
    pair = Bridged(upstream=[(codes.MAX_CONCURRENT_STREAMS, 1)])
    _, asked = pair.from_client(*(pair.client.headers(number, GET, end=True) for number in (1, 3, 5)))
    assert kinds(asked) == [HEADERS]
    pair.from_client(rst_stream(3, CANCEL))
    _, asked = pair.from_app(pair.app.headers(1, OK, end=True))
    assert [(each.kind, each.stream) for each in asked] == [(HEADERS, 3)]
    told, _ = pair.from_app(pair.app.headers(3, OK, end=True))
    assert [each.stream for each in told] == [5]


def test_the_upstreams_goaway_passes() -> None:
    pair = Bridged(upstream=[(codes.MAX_CONCURRENT_STREAMS, 2)])
    pair.from_client(*(pair.client.headers(number, GET, end=True) for number in (1, 3, 5)))
    told, _ = pair.from_app(goaway(1, ENHANCE_YOUR_CALM, b"too much"))
    assert [(each.kind, each.stream) for each in told] == [(RST_STREAM, 3), (RST_STREAM, 5), (GOAWAY, 0)]
    assert [each.code for each in told] == [REFUSED_STREAM, REFUSED_STREAM, ENHANCE_YOUR_CALM]
    assert told[2].payload[8:] == b"too much"
    assert int.from_bytes(told[2].payload[:4], "big") == 5
    told, _ = pair.get(7)
    assert not told
    told, _ = pair.from_app(pair.app.headers(3, OK, end=True))  # it should not, but may have been under way
    assert not told
    told, _ = pair.from_app(pair.app.headers(1, OK, end=True))
    assert [each.stream for each in told] == [1]
    assert pair.bridge.ended


def test_the_clients_goaway_passes() -> None:
    pair = Bridged()
    pair.get(1)
    _, asked = pair.from_client(goaway(0, NO_ERROR, b"bye"))
    assert [(each.kind, each.payload[8:]) for each in asked] == [(GOAWAY, b"bye")]
    told, _ = pair.from_app(pair.app.headers(1, OK, end=True))
    assert kinds(told) == [HEADERS]


def test_the_clients_goaway_without_an_upstream() -> None:
    pair = Bridged(connect=False)
    assert pair.from_client(goaway(0, NO_ERROR)) == ([], [])


def test_draining_lets_what_is_under_way_come() -> None:
    pair = Bridged()
    pair.get(1)
    pair.bridge.drain()
    told, _ = pair.hear()
    assert kinds(told) == [GOAWAY, PING]
    assert int.from_bytes(told[0].payload[:4], "big") == LARGEST
    _, asked = pair.get(3)
    assert kinds(asked) == [HEADERS]
    told, _ = pair.from_client(frame(PING, 1, 0, told[1].payload))
    assert int.from_bytes(told[0].payload[:4], "big") == 3
    assert not pair.bridge.ended
    pair.bridge.drain()
    assert pair.hear() == ([], [])
    _, asked = pair.get(5)
    assert not asked
    pair.from_app(pair.app.headers(1, OK, end=True), pair.app.headers(3, OK, end=True))
    assert pair.bridge.ended


def test_the_first_cause_is_the_one() -> None:
    pair = Bridged()
    pair.hooks.verdict = LocalReply(403, ResponseFlag.DENY, "denied", b"no")
    pair.from_client(settings((codes.INITIAL_WINDOW_SIZE, 0)), pair.client.headers(1, GET, end=True))
    pair.from_client(rst_stream(1, CANCEL))
    (call,) = pair.hooks.finished_calls
    assert (call.flag, call.details) == (ResponseFlag.DENY, "denied")


def test_a_lost_client_cancels_what_it_asked() -> None:
    pair = Bridged()
    pair.get(1)
    pair.bridge.lost_downstream(ResponseFlag.DOWNSTREAM_RESET, "gone")
    _, asked = pair.hear()
    assert [(each.kind, each.code) for each in asked] == [(RST_STREAM, CANCEL), (GOAWAY, NO_ERROR)]
    (call,) = pair.hooks.finished_calls
    assert (call.flag, call.details) == (ResponseFlag.DOWNSTREAM_RESET, "gone")


def test_a_client_that_breaks_the_protocol_loses_its_connection() -> None:
    pair = Bridged()
    pair.get(1)
    told, asked = pair.from_client(frame(DATA, 0, 0, b""))
    assert (told[-1].kind, told[-1].code) == (GOAWAY, PROTOCOL_ERROR)
    assert kinds(asked) == [RST_STREAM, GOAWAY]
    assert pair.hooks.finished_calls[0].flag is ResponseFlag.DOWNSTREAM_PROTOCOL
    assert pair.bridge.ended
    assert pair.get(3) == ([], [])


def test_a_client_that_breaks_the_protocol_before_there_is_an_upstream() -> None:
    pair = Bridged(connect=False)
    pair.get(1)
    told, asked = pair.from_client(frame(DATA, 0, 0, b""))
    assert kinds(told) == [GOAWAY]
    assert not asked


def test_trailers_of_a_request_that_was_answered_are_ignored() -> None:
    pair = Bridged()
    pair.hooks.body_limit = 1
    pair.from_client(pair.client.headers(1, POST))
    pair.from_app(pair.app.headers(1, OK, end=True))
    pair.bridge.lost_upstream(UNAVAILABLE)
    pair.from_client(pair.client.data(1, b"xyz"), pair.client.headers(1, [(b"t", b"1")], end=True))
    assert len(pair.hooks.finished_calls) == 1
    assert pair.bridge.ended
