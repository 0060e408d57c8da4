"""Which messages are well formed: the rules of RFC 9113 section 8, one case each."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from interceptor.model.http import RequestHead, ResponseHead
from interceptor.protocol.http2 import heads
from interceptor.protocol.http2.codes import PROTOCOL_ERROR, StreamError
from interceptor.protocol.http2.hpack import Block, NeverIndexed

Fields = list[tuple[bytes, bytes]]

GET: Fields = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"app:80"), (b":path", b"/a?b=c")]
CONNECT: Fields = [(b":method", b"CONNECT"), (b":authority", b"db:5432")]


def block(fields: Fields) -> Block:
    return Block(fields, fits=True)


def without(*names: bytes) -> Fields:
    return [field for field in GET if field[0] not in names]


def test_a_request_is_read() -> None:
    secret = NeverIndexed((b"authorization", b"x"))
    request = heads.request(
        block([*GET, (b"content-length", b"7"), (b"te", b"trailers"), secret]), extended_connect=False
    )
    assert request.head == RequestHead(
        b"GET", b"/a?b=c", b"app:80", b"http", b"2", [(b"content-length", b"7"), (b"te", b"trailers"), secret]
    )
    assert (request.length, request.protocol) == (7, None)
    assert request.head.headers[-1] is secret


def test_host_is_the_authority_where_there_is_no_other() -> None:
    request = heads.request(block([*without(b":authority"), (b"host", b"h")]), extended_connect=False)
    assert request.head.authority == b"h"
    heads.request(block([*GET, (b"host", b"APP:80")]), extended_connect=False)


def test_options_may_ask_about_the_server() -> None:
    fields = [(b":method", b"OPTIONS"), *without(b":method", b":path"), (b":path", b"*")]
    assert heads.request(block(fields), extended_connect=False).head.target == b"*"


def test_a_connect_has_an_authority_only() -> None:
    request = heads.request(block(CONNECT), extended_connect=False)
    assert (request.head.target, request.head.authority, request.head.scheme) == (b"db:5432", b"db:5432", b"")
    assert heads.request_fields(request.head) == CONNECT


def test_an_extended_connect_where_it_was_offered() -> None:
    fields = [(b":method", b"CONNECT"), *without(b":method"), (b":protocol", b"websocket")]
    request = heads.request(block(fields), extended_connect=True)
    assert request.protocol == b"websocket"
    assert heads.request_fields(request.head, request.protocol) == fields
    with pytest.raises(StreamError):
        heads.request(block(fields), extended_connect=False)
    with pytest.raises(StreamError):
        heads.request(block([*GET, (b":protocol", b"websocket")]), extended_connect=True)


MALFORMED: dict[str, Fields] = {
    "no method": without(b":method"),
    "empty method": [(b":method", b""), *without(b":method")],
    "method with a space": [(b":method", b"GET /"), *without(b":method")],
    "no scheme": without(b":scheme"),
    "no path": without(b":path"),
    "empty path": [*without(b":path"), (b":path", b"")],
    "path without slash": [*without(b":path"), (b":path", b"a")],
    "path with a space": [*without(b":path"), (b":path", b"/a b")],
    "path with a line break": [*without(b":path"), (b":path", b"/a\r\nx: y")],
    "path with a fragment": [*without(b":path"), (b":path", b"/a#b")],
    "asterisk of a GET": [*without(b":path"), (b":path", b"*")],
    "no authority": without(b":authority"),
    "empty authority": [(b":authority", b""), *without(b":authority")],
    "authority with userinfo": [(b":authority", b"u@app"), *without(b":authority")],
    "authority with a path": [(b":authority", b"app/x"), *without(b":authority")],
    "two hosts": [*GET, (b"host", b"app:80"), (b"host", b"app:80")],
    "another host": [*GET, (b"host", b"other")],
    "a method twice": [*GET, (b":method", b"GET")],
    "a path twice": [*GET, (b":path", b"/a?b=c")],
    "a pseudo-header of responses": [*GET, (b":status", b"200")],
    "an unknown pseudo-header": [*GET, (b":test", b"ok")],
    "a pseudo-header behind a header": [(b"x", b"y"), *GET],
    "upper case": [*GET, (b"X-Test", b"ok")],
    "an empty name": [*GET, (b"", b"ok")],
    "a name with a space": [*GET, (b"x test", b"ok")],
    "a name with a colon": [*GET, (b"x:test", b"ok")],
    "a name with a control character": [*GET, (b"x\x00", b"ok")],
    "a name with a high byte": [*GET, ("chun\u212aed".encode(), b"ok")],
    "a value with NUL": [*GET, (b"x", b"a\0b")],
    "a value with LF": [*GET, (b"x", b"a\nb")],
    "a value with CR": [*GET, (b"x", b"a\rb")],
    "a value ending with LF": [*GET, (b"x", b"a\n")],
    "a value with DEL": [*GET, (b"x", b"a\x7f")],
    "a value with a leading space": [*GET, (b"x", b" a")],
    "a value with a trailing tab": [*GET, (b"x", b"a\t")],
    "connection": [*GET, (b"connection", b"keep-alive")],
    "proxy-connection": [*GET, (b"proxy-connection", b"keep-alive")],
    "keep-alive": [*GET, (b"keep-alive", b"1")],
    "transfer-encoding": [*GET, (b"transfer-encoding", b"chunked")],
    "upgrade": [*GET, (b"upgrade", b"h2c")],
    "te": [*GET, (b"te", b"trailers, deflate")],
    "two lengths": [*GET, (b"content-length", b"1"), (b"content-length", b"1")],
    "a list of lengths": [*GET, (b"content-length", b"1, 1")],
    "a signed length": [*GET, (b"content-length", b"+1")],
    "a length with a leading zero": [*GET, (b"content-length", b"01")],
    "an empty length": [*GET, (b"content-length", b"")],
    "a length with a line break": [*GET, (b"content-length", b"1\n")],
    "a length that is too long": [*GET, (b"content-length", b"9" * 19)],
    "a connect with a path": [*CONNECT, (b":path", b"/")],
    "a connect with a scheme": [*CONNECT, (b":scheme", b"http")],
    "a connect by host": [(b":method", b"CONNECT"), (b"host", b"db:1")],
    "an invalid protocol": [(b":method", b"CONNECT"), *without(b":method"), (b":protocol", b"web socket")],
    "nothing": [],
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_request(name: str) -> None:
    with pytest.raises(StreamError) as error:
        heads.request(block(MALFORMED[name]), extended_connect=True)
    assert error.value.code == PROTOCOL_ERROR


def test_a_response_is_read() -> None:
    head, length = heads.response(block([(b":status", b"404"), (b"content-length", b"0")]))
    assert head == ResponseHead(404, b"", [(b"content-length", b"0")])
    assert length == 0


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [(b":status", b"")],
        [(b":status", b"20")],
        [(b":status", b"099")],
        [(b":status", b"2000")],
        [(b":status", b"200\n")],
        [(b":status", "\uff1200".encode())],
        [(b":status", b"101")],
        [(b":status", b"200"), (b":status", b"200")],
        [(b":status", b"200"), (b":path", b"/")],
        [(b":status", b"200"), (b"connection", b"close")],
        [(b":status", b"200"), (b"te", b"gzip")],
        [(b":status", b"200"), (b"content-length", b"-1")],
    ],
)
def test_a_malformed_response(fields: Fields) -> None:
    with pytest.raises(StreamError):
        heads.response(block(fields))


def test_trailers_have_no_pseudo_headers() -> None:
    assert heads.trailers([(b"grpc-status", b"0")]) == [(b"grpc-status", b"0")]
    with pytest.raises(StreamError):
        heads.trailers([(b":status", b"200")])


def test_what_a_filter_wrote_becomes_http2() -> None:
    secret = NeverIndexed((b"cookie", b"x"))
    head = ResponseHead(
        200, b"OK", [(b"X-Upper", b"1"), (b"Connection", b"close"), (b"bad name", b"1"), secret]
    )
    fields = heads.response_fields(head)
    assert fields == [(b":status", b"200"), (b"x-upper", b"1"), secret]
    assert fields[-1] is secret


def test_names_are_remembered_up_to_a_number() -> None:
    for number in range(3000):
        heads.trailers([(b"x-%d" % number, b"")])
    assert len(heads._kinds) <= 1024
    with pytest.raises(StreamError):
        heads.trailers([(b"connection", b"close")])
    heads.trailers([(b"x" * 200, b"")])
    assert b"x" * 200 not in heads._kinds


@given(st.lists(st.tuples(st.sampled_from([b":method", b":path", b"host", b"te", b"x"]) | st.binary(max_size=9), st.binary(max_size=9)), max_size=8))  # fmt: skip
def test_any_fields_are_a_request_or_a_stream_error(fields: Fields) -> None:
    try:
        request = heads.request(block(fields), extended_connect=True)
    except StreamError:
        return
    assert heads.request(block(heads.request_fields(*request[::2])), extended_connect=True)[1:] == request[1:]


def test_a_head_that_comes_again_is_the_same() -> None:
    again = block([*GET, (b"x", b"y")])
    assert (
        heads.request(again, extended_connect=False).head is heads.request(again, extended_connect=False).head
    )
    answer = block([(b":status", b"200"), (b"x", b"y")])
    head = heads.response(answer).head
    assert heads.response(answer).head is head
    assert heads.response_fields(head) is heads.response_fields(head)


def test_a_copy_of_a_response_is_written_as_it_has_become() -> None:
    copy = heads.response(block([(b":status", b"200"), (b"x", b"y")])).head.copy()
    copy.status = 404
    assert heads.response_fields(copy) == [(b":status", b"404"), (b"x", b"y")]


def test_an_extended_connect_that_comes_again_is_asked_again() -> None:
    again = block([(b":method", b"CONNECT"), *without(b":method"), (b":protocol", b"websocket")])
    heads.request(again, extended_connect=True)
    with pytest.raises(StreamError):
        heads.request(again, extended_connect=False)
