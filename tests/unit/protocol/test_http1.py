"""HTTP/1 heads: what is understood, what is written, and every form of smuggling that is refused."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import example, given, strategies as st

from interceptor.model.http import RequestHead, ResponseHead
from interceptor.protocol.http1 import (
    CHUNKED,
    HEAD_END,
    MAX_HEAD,
    MAX_HEADERS,
    MAX_TARGET,
    UNTIL_CLOSE,
    MalformedError,
    check_headers,
    check_incomplete,
    parse_request,
    parse_response,
    request_head,
    response_head,
    trailer_headers,
)


def request(*lines: bytes, line: bytes = b"GET / HTTP/1.1", host: bytes | None = b"a.example") -> bytes:
    hosts = [] if host is None else [b"Host: " + host]
    return b"\r\n".join([line, *hosts, *lines, b""])


def response(*lines: bytes, line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join([line, *lines, b""])


def refused(block: bytes) -> tuple[int, str]:
    with pytest.raises(MalformedError) as caught:
        parse_request(block)
    return caught.value.status, caught.value.details


def test_a_request_keeps_the_order_and_the_case_of_its_headers() -> None:
    found = parse_request(
        request(b"X-One:  1 ", b"x-ONE:\t2\t", b"Empty:", b"Obs: \xff", line=b"PUT /a?b HTTP/1.1")
    )
    assert found.head == RequestHead(
        b"PUT",
        b"/a?b",
        b"a.example",
        b"http",
        b"1.1",
        [(b"Host", b"a.example"), (b"X-One", b"1"), (b"x-ONE", b"2"), (b"Empty", b""), (b"Obs", b"\xff")],
    )
    assert (found.body, found.keep_alive, found.upgrade) == (0, True, None)


@pytest.mark.parametrize(
    ("line", "host", "authority"),
    [
        (b"GET http://b.example:80/c HTTP/1.1", b"a.example", b"b.example:80"),
        (b"GET HTTP://[::1] HTTP/1.1", b"a.example", b"[::1]"),
        (b"GET http://b.example?c HTTP/1.1", b"a.example", b"b.example"),
        (b"OPTIONS * HTTP/1.1", b"a.example:1", b"a.example:1"),
        (b"CONNECT b.example:443 HTTP/1.1", b"a.example", b"b.example:443"),
        (b"CONNECT [::1]:443 HTTP/1.1", b"a.example", b"[::1]:443"),
        (b"GET / HTTP/1.1", b"", b""),
        (b"GET / HTTP/1.0", None, b""),
        (b"GET / HTTP/1.1", b"[fd00::1]:8080", b"[fd00::1]:8080"),
    ],
)
def test_the_authority_is_the_targets_or_the_hosts(line: bytes, host: bytes | None, authority: bytes) -> None:
    assert parse_request(request(line=line, host=host)).head.authority == authority


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        ((), 0),
        ((b"Content-Length: 0",), 0),
        ((b"Content-Length: 12",), 12),
        ((b"Transfer-Encoding: chunked",), CHUNKED),
        ((b"transfer-encoding: Chunked",), CHUNKED),
    ],
)
def test_how_a_requests_body_is_framed(lines: tuple[bytes, ...], body: int) -> None:
    found = parse_request(request(*lines, line=b"POST / HTTP/1.1"))
    assert found.body == body
    kept = [name for name, _ in found.head.headers]
    assert kept == [b"Host", *(line.partition(b":")[0] for line in lines if line.startswith(b"Content"))]


SMUGGLING = [
    # framing named twice, or in more than one way
    (b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    (b"Transfer-Encoding: chunked", b"Content-Length: 5"),
    (b"Content-Length: 5", b"Content-Length: 5"),
    (b"Content-Length: 5", b"Content-Length: 6"),
    (b"Content-Length: 5, 5",),
    (b"Content-Length: 5,6",),
    (b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    (b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"),
    (b"Transfer-Encoding: identity",),
    (b"Transfer-Encoding: chunked, identity",),
    (b"Transfer-Encoding: gzip, chunked",),
    (b"Transfer-Encoding: xchunked",),
    (b"Transfer-Encoding: chunked,",),
    (b"Transfer-Encoding: ,chunked",),
    (b"Transfer-Encoding:",),
    (b'Transfer-Encoding: "chunked"',),
    (b"Transfer-Encoding: chunked;q=1",),
    (b"Transfer-Encoding: \x0bchunked",),
    (b"Transfer-Encoding: chun\xe2\x84\xaaed",),  # the Kelvin sign
    (b"Transfer-Encoding: chunKed\xa0",),
    # lengths that some parse and others do not
    *((b"Content-Length: " + value,) for value in (
        b"", b"+5", b"-5", b"05", b"0x5", b"5 5", b"5.0", b"5e1", b"\xb2", b"5;", b"1_000", b"9" * 19, b"\x005",
    )),
    # lines that some take for a header and others do not
    (b"X: a", b" Transfer-Encoding: chunked"),  # obs-fold
    (b"X: a", b"\tTransfer-Encoding: chunked"),
    (b"Transfer-Encoding : chunked",),
    (b"Transfer-Encoding\t: chunked",),
    (b"Transfer\x00-Encoding: chunked",),
    (b"Content-Length\x20\x0b: 5",),
    (b": empty",),
    (b"no colon",),
    (b"Transfer_Encoding\xff: chunked",),
    (b"X: a\rTransfer-Encoding: chunked",),
    (b"X: a\nTransfer-Encoding: chunked",),
    (b"X: a\n\nGET /smuggled HTTP/1.1",),
    (b"X: \x00",),
    (b"X: \x7f",),
    (b"X: a\x0b",),
    (b"\xef\xbb\xbfX: a",),
    (b"X(): a",),
    # hosts
    (b"Host: b.example",),
]  # fmt: skip


@pytest.mark.parametrize("lines", SMUGGLING)
def test_smuggling_is_refused(lines: tuple[bytes, ...]) -> None:
    assert refused(request(*lines, line=b"POST / HTTP/1.1"))[0] == 400


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"GET",
        b"GET /",
        b"GET / ",
        b"GET  / HTTP/1.1",
        b"GET /  HTTP/1.1",
        b" GET / HTTP/1.1",
        b"GET / HTTP/1.1 ",
        b"GET\t/ HTTP/1.1",
        b"GET / http/1.1",
        b"GET / HTTP/1.1\x0b",
        b"GET /a b HTTP/1.1",
        b"GET /\x00 HTTP/1.1",
        b"GET /#fragment HTTP/1.1",
        b"G(T / HTTP/1.1",
        b"GET / HTTP/1.10",
        b"GET / HTTP/01.1",
        b"GET / HTTP/1,1",
        b"GET * HTTP/1.1",
        b"GET a.example HTTP/1.1",
        b"GET https://a.example/ HTTP/1.1",
        b"GET ftp://a.example/ HTTP/1.1",
        b"GET http:///a HTTP/1.1",
        b"GET http://user@a.example/ HTTP/1.1",
        b"CONNECT / HTTP/1.1",
        b"CONNECT a.example HTTP/1.1",
        b"CONNECT a.example:443 HTTP/1.0",
        b"GET a.example:443 HTTP/1.1",
        b"GET \\ HTTP/1.1",
    ],
)
def test_a_bad_request_line_is_refused(line: bytes) -> None:
    assert refused(request(line=line))[0] == 400


@pytest.mark.parametrize("version", [b"2", b"2.0", b"1.2", b"0.9", b"3"])
def test_another_version_is_said_to_be_one(version: bytes) -> None:
    assert refused(request(line=b"GET / HTTP/" + version)) == (505, "unknown_version")


@pytest.mark.parametrize(
    "host",
    [None, b"a b", b"a/b", b"a@b", b"a,b", b"a:b", b"a:123456", b"[::1", b"::1", b"a\xff", b"?", b"a#"],
)
def test_a_bad_host_is_refused(host: bytes | None) -> None:
    assert refused(request(host=host))[0] == 400


@pytest.mark.parametrize(
    ("block", "status"),
    [
        (request(b"Expect: 200-ok"), 417),
        (request(line=b"GET /" + b"a" * MAX_TARGET + b" HTTP/1.1"), 414),
        (request(*[b"a: b"] * MAX_HEADERS), 431),
        (request(b"a: " + b"b" * MAX_HEAD), 431),
        (request(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.0"), 400),
        (request(b"Content-Length: 0", line=b"CONNECT a:1 HTTP/1.1"), 400),
        (request(b"Transfer-Encoding: chunked", line=b"CONNECT a:1 HTTP/1.1"), 400),
        (request(b"Connection: a b"), 400),
    ],
)
def test_what_else_is_refused(block: bytes, status: int) -> None:
    assert refused(block)[0] == status


@pytest.mark.parametrize(
    ("version", "lines", "kept"),
    [
        (b"1.1", (), True),
        (b"1.1", (b"Connection: close",), False),
        (b"1.1", (b"Connection: keep-alive, Close",), False),
        (b"1.1", (b"Connection: x", b"Connection: close"), False),
        (b"1.0", (), False),
        (b"1.0", (b"Connection: Keep-Alive",), True),
        (b"1.0", (b"Proxy-Connection: keep-alive",), True),
        (b"1.0", (b"Connection: keep-alive, close",), False),
    ],
)
def test_whether_a_connection_is_kept(version: bytes, lines: tuple[bytes, ...], kept: bool) -> None:
    assert parse_request(request(*lines, line=b"GET / HTTP/" + version)).keep_alive is kept
    assert (
        parse_response(
            response(b"Content-Length: 0", *lines, line=b"HTTP/" + version + b" 200 OK"), b"GET"
        ).keep_alive
        is kept
    )


def test_what_concerns_one_connection_goes_no_further() -> None:
    hop = (
        *(
            b"Connection: X-Mine, host, content-length,, te",
            b"X-Mine: 1",
            b"Keep-Alive: 5",
            b"Proxy-Connection: x",
        ),
        *(b"TE: gzip", b"te: trailers", b"Upgrade: x", b"HTTP2-Settings: x", b"Content-Length: 3", b"Via: a"),
    )
    found = parse_request(request(*hop))
    assert found.head.headers == [
        (b"Host", b"a.example"), (b"te", b"trailers"), (b"Content-Length", b"3"), (b"Via", b"a"),
    ]  # fmt: skip
    answer = parse_response(
        response(b"Connection: x-mine", b"X-Mine: 1", b"Content-Length: 0", b"Upgrade: x"), b"GET"
    )
    assert answer.head.headers == [(b"Content-Length", b"0")]


@pytest.mark.parametrize(
    ("lines", "upgrade"),
    [
        ((b"Connection: Upgrade", b"Upgrade: websocket"), b"websocket"),
        ((b"Connection: keep-alive, upgrade", b"Upgrade: a, b", b"Upgrade: c"), b"a, b, c"),
        ((b"Upgrade: websocket",), None),
        ((b"Connection: upgrade",), None),
        ((b"Connection: upgrade, http2-settings", b"Upgrade: h2c", b"HTTP2-Settings: x"), None),
        ((b"Connection: upgrade", b"Upgrade: H2C, websocket, TLS/1.0"), b"websocket"),
    ],
)
def test_what_a_client_may_change_to(lines: tuple[bytes, ...], upgrade: bytes | None) -> None:
    assert parse_request(request(*lines)).upgrade == upgrade
    assert parse_request(request(*lines, line=b"GET / HTTP/1.0")).upgrade is None


@pytest.mark.parametrize(
    ("method", "line", "lines", "body"),
    [
        (b"GET", b"HTTP/1.1 200 OK", (b"Content-Length: 7",), 7),
        (b"GET", b"HTTP/1.1 200", (), UNTIL_CLOSE),
        (b"GET", b"HTTP/1.0 200 ", (), UNTIL_CLOSE),
        (b"GET", b"HTTP/1.1 200 OK", (b"Transfer-Encoding: chunked",), CHUNKED),
        (b"HEAD", b"HTTP/1.1 200 OK", (b"Content-Length: 7",), 0),
        (b"HEAD", b"HTTP/1.1 200 OK", (b"Transfer-Encoding: chunked",), 0),
        (b"GET", b"HTTP/1.1 304 Not Modified", (b"Content-Length: 7",), 0),
        (b"GET", b"HTTP/1.1 204 No Content", (b"Content-Length: 7",), 0),
        (b"GET", b"HTTP/1.1 100 Continue", (), 0),
        (b"CONNECT", b"HTTP/1.1 200 OK", (b"Content-Length: 7",), 0),
        (b"CONNECT", b"HTTP/1.1 404 No", (b"Content-Length: 7",), 7),
    ],
)
def test_how_a_responses_body_is_framed(
    method: bytes, line: bytes, lines: tuple[bytes, ...], body: int
) -> None:
    found = parse_response(response(*lines, line=line), method)
    assert found.body == body
    assert found.switched is (method == b"CONNECT" and found.head.status == 200)
    announced = [value for name, value in found.head.headers if name == b"Content-Length"]
    assert announced == (
        [b"7"] if b"7" in b"".join(lines) and found.head.status != 204 and not found.switched else []
    )


@pytest.mark.parametrize(
    "block",
    [
        *(response(*lines) for lines in SMUGGLING if b"Host" not in lines[0]),
        *(
            response(line=line)
            for line in (
                *(
                    b"",
                    b"HTTP/1.1",
                    b"HTTP/1.1 2000 OK",
                    b"HTTP/1.1 20 OK",
                    b"HTTP/2 200 OK",
                    b"HTTP/1.1  200 OK",
                ),
                *(
                    b"HTTP/1.1 600 OK",
                    b"HTTP/1.1 099 OK",
                    b"ICY 200 OK",
                    b"HTTP/1.1 200\tOK",
                    b"HTTP/1.1 200 O\x00K",
                ),
            )
        ),
        response(b"Transfer-Encoding: chunked", line=b"HTTP/1.0 200 OK"),
        response(b"Transfer-Encoding: chunked", line=b"HTTP/1.1 204 OK"),
        response(b"Transfer-Encoding: chunked", line=b"HTTP/1.1 100 OK"),
        response(b"Upgrade: websocket", line=b"HTTP/1.1 101 OK"),
        response(b"a: " + b"b" * MAX_HEAD),
    ],
)
def test_a_misbehaving_upstream_is_refused(block: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_response(block, b"GET")


def test_a_switch_that_was_asked_for_is_passed_on() -> None:
    found = parse_response(
        response(b"Connection: upgrade", b"Upgrade: websocket", line=b"HTTP/1.1 101 Switching"),
        b"GET",
        b"websocket",
    )
    assert found.switched
    assert found.head.headers == [(b"Upgrade", b"websocket")]


def test_what_cannot_become_a_head_is_not_waited_for() -> None:
    check_incomplete(b"GET / HTTP/1.1\r\nHost: a\r")
    for data in (b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\rX", b"\x00", b"a" * (MAX_HEAD + 1)):
        with pytest.raises(MalformedError):
            check_incomplete(data)


@given(st.text("ab:\r\n\0", max_size=40).map(str.encode), st.lists(st.integers(0, 40)))
def test_a_head_in_pieces_is_refused_where_all_of_it_would_be(data: bytes, cuts: list[int]) -> None:
    """As a caller does it: with what came before in front, and from where it was told to look."""

    def outcome(edges: list[int]) -> int | None:
        looked = 0
        for edge in edges:
            if (end := data.find(HEAD_END, looked, edge)) >= 0:
                return end
            looked = check_incomplete(data[:edge], looked)
        return -1

    edges = sorted(cut for cut in cuts if cut < len(data))
    malformed = re.search(rb"(?<!\r)\n|\r[^\n]|\0", data)
    end = data.find(HEAD_END)
    if malformed is not None and (end < 0 or malformed.start() < end):
        with contextlib.suppress(MalformedError):
            assert outcome([*edges, len(data)]) == end >= 0  # only where what is bad came with the end
        return
    assert outcome([*edges, len(data)]) == end


@pytest.mark.parametrize(
    ("version", "body", "upgrade", "keep_alive", "tail"),
    [
        (b"1.1", 0, None, True, b""),
        (b"1.1", 0, None, False, b"Connection: close\r\n"),
        (b"1.0", 0, None, True, b"Connection: keep-alive\r\n"),
        (b"1.0", 0, None, False, b""),
        (b"1.1", CHUNKED, None, True, b"Transfer-Encoding: chunked\r\n"),
        (b"1.1", 0, b"websocket", True, b"Connection: upgrade\r\nUpgrade: websocket\r\n"),
    ],
)
def test_what_is_written_of_a_request(
    version: bytes, body: int, upgrade: bytes | None, keep_alive: bool, tail: bytes
) -> None:
    head = RequestHead(b"GET", b"/a", b"b", b"http", version, [(b"Host", b"b")])
    written = request_head(head, body, upgrade=upgrade, keep_alive=keep_alive)
    assert written == b"GET /a HTTP/" + version + b"\r\nHost: b\r\n" + tail + b"\r\n"
    again = parse_request(written[:-2])
    assert (again.head, again.body, again.upgrade, again.keep_alive) == (head, body, upgrade, keep_alive)


@pytest.mark.parametrize(
    ("body", "connection", "tail"),
    [
        (3, None, b""),
        (CHUNKED, None, b"Transfer-Encoding: chunked\r\n"),
        (0, b"close", b"Connection: close\r\n"),
    ],
)
def test_what_is_written_of_a_response(body: int, connection: bytes | None, tail: bytes) -> None:
    written = response_head(ResponseHead(200, b"OK", [(b"A", b"b")]), body, connection)
    assert written == b"HTTP/1.1 200 OK\r\nA: b\r\n" + tail + b"\r\n"


def test_headers_of_others_must_be_headers() -> None:
    check_headers([(b"a", b"b"), (b"c", b"")])
    for header in ((b"a", b"b\r\nc: d"), (b"a b", b""), (b"", b"")):
        with pytest.raises(MalformedError):
            check_headers([header])


def test_trailers_may_not_frame_anything() -> None:
    assert trailer_headers(b"grpc-status: 0\r\n") == [(b"grpc-status", b"0")]
    for trailer in (
        b"Content-Length: 1\r\n",
        b"transfer-encoding: chunked\r\n",
        b"Host: a\r\n",
        b" a: b\r\n",
    ):
        with pytest.raises(MalformedError):
            trailer_headers(trailer)


HEADER = st.tuples(
    st.text("abcXYZ-!~0", min_size=1).map(str.encode),
    st.text("aB 1,;=/\t\xff", max_size=20).map(lambda text: text.encode("latin-1")),
)


@given(st.sampled_from([b"GET", b"POST", b"X-Y"]), st.lists(HEADER, max_size=20))
def test_what_is_understood_is_written_as_it_was(method: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    plain = [(name, value.strip(b" \t")) for name, value in headers]
    head = RequestHead(method, b"/", b"a", b"http", b"1.1", [(b"Host", b"a"), *plain])
    block = b"".join(b"%b:%b\r\n" % header for header in headers)
    found = parse_request(b"%b / HTTP/1.1\r\nHost: a\r\n%b" % (method, block))
    assert found.head == head
    assert parse_request(request_head(found.head, found.body)[:-2]).head == head


@given(st.binary(max_size=200), st.lists(st.binary(max_size=40), max_size=5))
@example(b"GET / HTTP/1.1", [b"Host: a", b"\r"])
def test_anything_at_all_is_understood_or_refused(line: bytes, lines: list[bytes]) -> None:
    block = b"\r\n".join([line, *lines, b""])
    for parse in (parse_request, lambda data: parse_response(data, b"GET")):
        with contextlib.suppress(MalformedError):
            found = parse(block)
            assert b"\n" not in b"".join(name + value for name, value in found.head.headers)
