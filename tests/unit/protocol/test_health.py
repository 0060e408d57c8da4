"""What an endpoint's bytes mean to a health check."""

from __future__ import annotations

import hpack
import pytest
from hypothesis import given, strategies as st

from interceptor.model.health import HEALTHY, Outcome, Result
from interceptor.protocol import protobuf
from interceptor.protocol.health import (
    LARGEST,
    GrpcConversation,
    Http1Conversation,
    Http2Conversation,
    TcpConversation,
    serving_status,
)
from interceptor.protocol.http2 import codes
from tests.support.http2 import END, END_HEADERS, frame, goaway, rst_stream, settings


def network(details: str) -> Result:
    return Result(Outcome.NETWORK_FAILURE, details)


def http1() -> Http1Conversation:
    made = Http1Conversation(b"shop.example", b"/healthz", (200,))
    assert made.start() == (
        b"GET /healthz HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: interceptor/health-check\r\nConnection: close\r\n\r\n"
    )
    return made


def test_a_connection_is_enough_where_nothing_is_expected() -> None:
    talk = TcpConversation(b"x")
    assert (talk.start(), talk.result) == (b"x", HEALTHY)


def test_bytes_are_expected_in_order_whatever_is_between() -> None:
    talk = TcpConversation(b"PING", (b"PO", b"NG"))
    assert (talk.start(), talk.result) == (b"PING", None)
    for byte in b"+P.PO..":
        talk.receive(bytes([byte]))
    assert talk.result is None
    talk.receive(b"NG")
    assert talk.result == HEALTHY


def test_other_bytes_are_no_answer() -> None:
    talk = TcpConversation(b"", (b"PONG",))
    talk.end()
    assert talk.result == network("it closed the connection before all that is expected had come")
    talk = TcpConversation(b"", (b"PONG",))
    talk.receive(b"x" * (LARGEST + 1))
    assert talk.result == network("its answer is too long")


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", HEALTHY),
        (b"HTTP/1.0 200 OK\r\n\r\n", HEALTHY),
        (b"HTTP/1.1 100 \r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", HEALTHY),
        (b"HTTP/1.1 503 no\r\n\r\n", Result(Outcome.FAILURE, "it answered 503")),
        (b"HTTP/1.1 101 no\r\n\r\n", network("its answer is not HTTP: switched_unasked")),
        (b"220 mail.test ESMTP\r\n\r\n", network("its answer is not HTTP: bad_status_line")),
        (b"HTTP/1.1 200 OK\r\n", network("it closed the connection without an answer")),
        (b"", network("it closed the connection without an answer")),
    ],
)
def test_an_answer_of_http(answer: bytes, result: Result) -> None:
    for step in (1, len(answer) or 1):
        talk = http1()
        for at in range(0, len(answer), step):
            if talk.result is None:
                assert talk.receive(answer[at : at + step]) == b""
        talk.end()
        assert talk.result == result


def test_a_head_without_end_is_no_answer() -> None:
    talk = http1()
    talk.receive(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000)
    assert talk.result is not None
    assert talk.result.outcome is Outcome.NETWORK_FAILURE


def block(*fields: tuple[bytes, bytes]) -> bytes:
    return bytes(hpack.Encoder().encode(fields))


def head(*fields: tuple[bytes, bytes], end: bool = False) -> bytes:
    return frame(codes.HEADERS, END_HEADERS | (END if end else 0), 1, block(*fields))


def http2(talk: Http2Conversation, *answers: bytes) -> Result | None:
    assert talk.start().startswith(codes.PREFACE)
    for answer in (settings(), *answers):
        talk.receive(answer)
    return talk.result


def by_http2() -> Http2Conversation:
    return Http2Conversation(b"shop.example", b"/", (200,))


@pytest.mark.parametrize(
    ("answers", "result"),
    [
        ([head((b":status", b"200"), end=True)], HEALTHY),
        ([head((b":status", b"103")), head((b":status", b"200"))], HEALTHY),
        ([head((b":status", b"500"))], Result(Outcome.FAILURE, "it answered 500")),
        ([rst_stream(1, codes.REFUSED_STREAM)], network("it reset the stream with REFUSED_STREAM")),
        ([goaway(0, codes.NO_ERROR)], network("it closed its connection with NO_ERROR")),
        ([goaway(1, codes.NO_ERROR), head((b":status", b"200"))], HEALTHY),
        ([frame(codes.DATA, 0, 1, b"x")], network("its answer is malformed: a response that begins with its body (PROTOCOL_ERROR)")),
        ([head((b"status", b"200"))], None),
        ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], None),
    ],
)  # fmt: skip
def test_an_answer_of_http2(answers: list[bytes], result: Result | None) -> None:
    found = http2(by_http2(), *answers)
    if result is not None:
        assert found == result
    else:
        assert found is not None
        assert found.outcome is Outcome.NETWORK_FAILURE


def test_http2_without_an_answer() -> None:
    talk = by_http2()
    assert http2(talk) is None
    talk.end()
    assert talk.result == network("it closed the connection without an answer")
    assert http2(by_http2(), *[frame(codes.PING, 0, 0, bytes(8))] * 10_000) is not None


def grpc(message: bytes, status: bytes = b"0") -> list[bytes]:
    framed = b"\0" + len(message).to_bytes(4, "big") + message
    return [
        head((b":status", b"200"), (b"content-type", b"application/grpc")),
        frame(codes.DATA, 0, 1, framed),
        head((b"grpc-status", status), end=True),
    ]


@pytest.mark.parametrize(
    ("answers", "result"),
    [
        (grpc(b"\x08\x01"), HEALTHY),
        (grpc(b"\x12\x01x\x08\x01"), HEALTHY),
        (grpc(b"\x08\x02"), Result(Outcome.FAILURE, "it is NOT_SERVING")),
        (grpc(b""), Result(Outcome.FAILURE, "it is UNKNOWN")),
        (grpc(b"\x08\x09"), Result(Outcome.FAILURE, "it is 9")),
        (grpc(b"\x08"), network("its message is not a HealthCheckResponse")),
        (grpc(b"\x08\x01", b"14"), Result(Outcome.FAILURE, "it answered with grpc-status 14")),
        (
            [head((b":status", b"200"), (b"grpc-status", b"12"), end=True)],
            Result(Outcome.FAILURE, "it answered with grpc-status 12"),
        ),
        ([head((b":status", b"200"), end=True)], Result(Outcome.FAILURE, "it answered with no grpc-status")),
        ([head((b":status", b"404"))], Result(Outcome.FAILURE, "it answered 404")),
        (
            [grpc(b"")[0], frame(codes.DATA, END, 1, b"\0\0\0\0\2\x08\x01")],
            network("its answer has no grpc-status"),
        ),
    ],
)
def test_an_answer_of_grpc(answers: list[bytes], result: Result) -> None:
    assert http2(GrpcConversation(b"shop.example", b"shop.Basket"), *answers) == result


def test_the_service_is_named_in_the_request() -> None:
    sent = GrpcConversation(b"a", b"shop.Basket").start()
    assert b"\0\0\0\0\x0d\x0a\x0bshop.Basket" in sent
    assert b"\0\0\0\0\0" in GrpcConversation(b"a", b"").start()


@given(st.integers(0, 2**64 - 1))
def test_a_number_is_read_as_it_is_written(value: int) -> None:
    message = b"\x08" + protobuf.number(value)
    assert serving_status(b"\0" + len(message).to_bytes(4, "big") + message) == value


@given(st.binary(max_size=64))
def test_whatever_comes_is_a_status_or_none(data: bytes) -> None:
    framed = b"\0" + len(data).to_bytes(4, "big") + data
    for given_ in (data, framed):
        found = serving_status(given_)
        assert found is None or found >= 0


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_hostile_bytes_end_in_a_result_or_in_waiting(pieces: list[bytes]) -> None:
    for talk in (http1(), by_http2(), GrpcConversation(b"a", b"")):
        if not isinstance(talk, Http1Conversation):
            talk.start()
        for piece in pieces:
            if talk.result is None:
                talk.receive(piece)
        talk.end()
        assert talk.result is not None
