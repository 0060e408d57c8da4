"""What is gRPC, and what its clients are told."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from interceptor.model.connection import ResponseFlag
from interceptor.model.http import LocalReply, ResponseHead
from interceptor.protocol import grpc

GRPC_HEADERS = [(b"content-type", b"application/grpc+proto")]


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"Application/GRPC;charset=utf-8", True),
        (b"application/grpc-web", False),
        (b"application/grpcx", False),
        (b"application/json", False),
        (None, False),
    ],
)
def test_a_request_is_grpc_by_its_content_type(content_type: bytes | None, expected: bool) -> None:
    headers = [] if content_type is None else [(b"content-type", content_type)]
    assert grpc.is_grpc(headers) is expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, 13),
        (401, 16),
        (403, 7),
        (404, 12),
        (429, 14),
        (502, 14),
        (503, 14),
        (504, 14),
        (200, 2),
        (500, 2),
    ],
)
def test_an_http_status_means_what_grpc_documents(status: int, expected: int) -> None:
    assert grpc.status_of_http(status) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([], None),
        ([(b"grpc-status", b"0")], "0"),
        ([(b"other", b"1"), (b"grpc-status", b"16")], "16"),
        ([(b"grpc-status", b"17")], "2"),
        ([(b"grpc-status", b"007")], "2"),
        ([(b"grpc-status", b"-1")], "2"),
        ([(b"grpc-status", b"")], "2"),
        ([(b"grpc-status", "²".encode())], "2"),
    ],
)
def test_a_grpc_status_is_one_of_few_labels(fields: list[tuple[bytes, bytes]], expected: str | None) -> None:
    assert grpc.status(fields) == expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [(403, b"7"), (401, b"16"), (429, b"8"), (503, b"14"), (504, b"4"), (413, b"8"), (418, b"2")],
)
def test_our_own_answer_is_a_grpc_status(status: int, expected: bytes) -> None:
    reply = LocalReply(
        status,
        ResponseFlag.NONE,
        "why",
        b"RBAC: 100% denied\n",
        [(b"Retry-After", b"1"), (b"Content-Type", b"text/x")],
    )
    assert grpc.reply_fields(reply) == [
        (b"content-type", b"application/grpc"),
        (b"grpc-status", expected),
        (b"grpc-message", b"RBAC: 100%25 denied"),
        (b"Retry-After", b"1"),
    ]


@given(st.binary())
def test_a_message_is_printable_and_can_be_read_back(message: bytes) -> None:
    encoded = grpc.encode_message(message)
    assert all(0x20 <= byte <= 0x7E for byte in encoded)
    out, at = bytearray(), 0
    while at < len(encoded):
        if encoded[at] == ord("%"):
            out.append(int(encoded[at + 1 : at + 3], 16))
            at += 3
        else:
            out.append(encoded[at])
            at += 1
    assert bytes(out) == message.strip(b" ")


def messages(*bodies: bytes) -> bytes:
    return b"".join(b"\0" + len(body).to_bytes(4, "big") + body for body in bodies)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[low:high] for low, high in pairwise(edges)]


@given(
    asked=st.lists(st.binary(max_size=20)),
    told=st.lists(st.binary(max_size=20)),
    cuts=st.lists(st.integers(min_value=0), max_size=30),
)
def test_messages_are_counted_however_they_are_cut(
    asked: list[bytes], told: list[bytes], cuts: list[int]
) -> None:
    counted = grpc.Messages()
    counted.answer(ResponseHead(200, b"OK", GRPC_HEADERS))
    for piece in pieces(messages(*asked), cuts):
        counted.asked(piece)
    for piece in pieces(messages(*told), cuts):
        counted.answered(piece)
    assert (counted.requests, counted.responses) == (len(asked), len(told))


def test_a_message_counts_once_its_length_is_known() -> None:
    counted = grpc.Messages()
    seen = []
    for byte in messages(b"ab", b"", b"c")[:-1]:
        counted.asked(bytes((byte,)))
        seen.append(counted.requests)
    assert seen == [0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3]


@pytest.mark.parametrize(
    "head",
    [
        ResponseHead(503, b"", [(b"content-type", b"application/grpc")]),
        ResponseHead(200, b"", [(b"content-type", b"text/html")]),
    ],
)
def test_an_error_page_has_no_messages(head: ResponseHead) -> None:
    counted = grpc.Messages()
    counted.answer(head)
    counted.answered(messages(b"a", b"b"))
    assert counted.responses == 0
