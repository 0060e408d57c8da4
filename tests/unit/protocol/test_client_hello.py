"""ClientHellos as clients send them, cut and mangled in every way."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given, strategies as st

from interceptor.protocol.client_hello import MAX_RECORDS, ClientHello, NoHello, parse
from tests.support.client_hellos import hello, name_list, record, vector


def openssl(server_name: str | None, alpn: list[str]) -> bytes:
    """What OpenSSL sends."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if alpn:
        context.set_alpn_protocols(alpn)
    sent = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=server_name).do_handshake()
    return sent.read()


@pytest.mark.parametrize("name", [None, "shop.example.com", "localhost"])
@pytest.mark.parametrize("alpn", [[], ["h2", "http/1.1"], ["istio-peer-exchange", "istio"]])
def test_what_openssl_sends_is_understood(name: str | None, alpn: list[str]) -> None:
    data = openssl(name, alpn)
    assert parse(data) == ClientHello(name, tuple(each.encode() for each in alpn))
    assert parse(data + b"early data") == parse(data)


def test_every_cut_is_incomplete() -> None:
    data = openssl("shop.example.com", ["h2"])
    assert {parse(data[:end]) for end in range(len(data))} == {NoHello.INCOMPLETE}


def test_a_hello_in_several_records() -> None:
    message = hello((0, name_list(b"a.b")))
    pieces = [message[at : at + 2] for at in range(0, len(message), 2)]
    data = b"".join(map(record, pieces))
    assert parse(data) == ClientHello("a.b")
    assert {parse(data[:end]) for end in range(len(data))} == {NoHello.INCOMPLETE}


def in_records_of_one_byte(message: bytes) -> bytes:
    return b"".join(record(message[at : at + 1]) for at in range(len(message)))


def test_too_many_records_are_not_waited_for() -> None:
    assert len(hello()) < MAX_RECORDS
    assert parse(in_records_of_one_byte(hello())) == ClientHello()
    assert parse(in_records_of_one_byte(hello((21, bytes(100))))) is NoHello.NOT_TLS


def test_names_are_lower_case_without_a_trailing_dot() -> None:
    assert parse(record(hello((0, name_list(b"Shop.Example.COM."))))) == ClientHello("shop.example.com")


def test_a_hello_without_extensions() -> None:
    body = b"\x03\x01" + bytes(32) + b"\x00" + vector(2, b"\x00\x2f") + vector(1, b"\x00")
    assert parse(record(b"\x01" + vector(3, body))) == ClientHello()


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x02",  # SSL 2
        b"\x17\x03\x03\x00\x01\x00",  # application data
        b"\x16\x03\x01\x00\x00",  # an empty record
        b"\x16\x03\x01\xff\xff",  # longer than a record may be
        record(b"\x02" + vector(3, b"")),  # a ServerHello
        record(b"\x01\xff\xff\xff"),  # 16 MB
        record(b"\x01" + vector(3, b"\x03\x03" + bytes(31))),
        record(hello(session=bytes(33))),
        record(hello(suites=b"")),
        record(hello(suites=b"\x13")),
        record(b"\x01" + vector(3, b"\x03\x03" + bytes(32) + b"\x00" + vector(2, b"\x13\x01") + b"\x00")),
        record(hello(tail=b"x")),
        record(hello((0, b""))),
        record(hello((0, vector(2, b"")))),
        record(hello((0, name_list(b"")))),
        record(hello((0, name_list(b"a", kind=1)))),
        record(hello((0, name_list(b"a") + b"x"))),
        record(hello((0, vector(2, b"\x00\x00\x01a\x00\x00\x01b")))),  # two names
        record(hello((0, name_list(b"a\nb")))),
        record(hello((0, name_list("ä".encode())))),
        record(hello((0, name_list(b"a" * 300)))),
        record(hello((0, name_list(b"a")), (0, name_list(b"b")))),  # twice
        record(hello((16, vector(2, b"")))),
        record(hello((16, vector(2, b"\x00")))),
        record(hello((16, vector(2, b"\x05ab")))),
        record(hello((16, vector(2, b"\x02h2") + b"x"))),
    ],
)
def test_what_is_no_hello(data: bytes) -> None:
    assert parse(data) is NoHello.NOT_TLS


@given(st.binary(max_size=300), st.binary(max_size=2000))
def test_anything_at_all_has_an_answer(start: bytes, rest: bytes) -> None:
    for data in (start, record(start), b"\x16\x03\x01" + start, record(b"\x01" + vector(3, rest))):
        assert isinstance(parse(data), ClientHello | NoHello)


@given(st.data())
def test_a_mangled_hello_has_an_answer_and_never_changes_its_mind(data: st.DataObject) -> None:
    original = bytearray(
        record(hello((0, name_list(b"shop.example")), (16, vector(2, b"\x02h2\x08http/1.1"))))
    )
    for at in data.draw(st.lists(st.integers(0, len(original) - 1), max_size=4)):
        original[at] = data.draw(st.integers(0, 255))
    answers = [parse(bytes(original[:end])) for end in range(len(original) + 1)]
    decided = [answer for answer in answers if answer is not NoHello.INCOMPLETE]
    assert len(set(decided)) <= 1
    assert answers[len(answers) - len(decided) :] == decided
