"""HTTP/1 through the proxy, on loopback: what reaches the upstream, what reaches the client, what is recorded."""

from __future__ import annotations

import contextlib
import re

import pytest
import trio

from interceptor.model.connection import ProtocolName, ResponseFlag
from interceptor.model.http import LocalReply
from interceptor.proxy.http import dialling, http1
from interceptor.proxy.http.client import Dialled
from interceptor.proxy.http.serve import Service
from tests.support.flows import reset, settings, wait_until
from tests.support.http_flows import OK, Wire, http_bed, request, response

ADDED = re.compile(
    rb"x-request-id: [0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\r\nx-forwarded-proto: http\r\n"
)


def plain(head: bytes) -> bytes:
    """A request's head without what the gateway adds."""
    assert len(ADDED.findall(head)) == 1, head
    return ADDED.sub(b"", head)


async def ask(client: Wire, upstream: Wire, sent: bytes, answer: bytes = OK) -> tuple[bytes, bytes]:
    """One exchange with a body-less request: the head that arrived, and what came back for it."""
    await client.send(sent)
    head = await upstream.head()
    await upstream.send(answer)
    return head, await client.exactly(len(answer))


async def test_a_request_and_its_response_arrive_as_they_were() -> None:
    async with http_bed() as bed:
        client = bed.client()
        await client.send(request("GET", "/a?b", "X-Mine: 1", "Connection: keep-alive"))
        upstream = await bed.upstream()
        assert plain(await upstream.head()) == request("GET", "/a?b", "X-Mine: 1")
        await upstream.send(
            response("200 Fine", "Content-Length: 5", "Keep-Alive: timeout=5", "X: y", body=b"hello")
        )
        assert await client.until(b"hello") == response(
            "200 Fine", "Content-Length: 5", "X: y", body=b"hello"
        )
        (record,) = await bed.requests()
    assert (record.status, record.flag, record.details) == (200, ResponseFlag.NONE, "via_upstream")
    assert (record.bytes_received, record.bytes_sent) == (0, 5)
    assert record.head.path == b"/a?b"
    assert record.upstream is not None


async def test_connections_of_both_sides_are_kept_and_shared() -> None:
    async with http_bed() as bed:
        first, second = bed.client(), bed.client()
        await first.send(request())
        upstream = await bed.upstream()
        await upstream.head()
        await upstream.send(OK)
        assert await first.exactly(len(OK)) == OK
        for _ in range(5):
            for client in (first, second):
                assert (await ask(client, upstream, request()))[1] == OK
        assert bed.no_upstream()
        assert len(await bed.requests(11)) == 11


async def test_an_id_and_a_trace_that_are_there_are_kept() -> None:
    async with http_bed() as bed:
        client = bed.client()
        trace = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        sent = request(
            "GET", "/", "X-Request-Id: mine", trace, "X-Forwarded-Proto: https", "X-Forwarded-For: 1.2.3.4"
        )
        await client.send(sent)
        assert await (await bed.upstream()).head() == sent


async def test_identity_that_a_client_claims_is_taken_away() -> None:
    async with http_bed() as bed:
        client = bed.client()
        await client.send(
            request(
                "GET", "/", "X-Forwarded-Client-Cert: By=me", "l5d-client-id: x", "x-envoy-peer-metadata: y"
            )
        )
        assert plain(await (await bed.upstream()).head()) == request()


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with http_bed() as bed:
        client = bed.client()
        await client.send(b"".join(request("GET", f"/{n}") for n in range(30)))
        upstream = await bed.upstream()
        for n in range(30):
            assert (await upstream.head()).startswith(b"GET /%d " % n)
            assert not upstream.held
            await upstream.send(response("200 OK", "Content-Length: 2", body=b"%02d" % n))
        received = b"".join([await client.exactly(len(OK)) for _ in range(30)])
        assert re.findall(rb"\r\n\r\n(\d\d)", received) == [b"%02d" % n for n in range(30)]


async def test_many_pipelined_requests_that_are_answered_by_us_do_not_end_us() -> None:
    async with http_bed() as bed:
        serving = bed.running.proxy._services.http
        serving.looks = lambda _flow: True
        serving.authorize = lambda _flow, _head: LocalReply(403, ResponseFlag.DENY, "denied", b"no\n")
        client = bed.client()
        number = 3000
        await client.send(request() * number)
        received = b""
        while received.count(b"\r\n\r\n") < number or not received.endswith(b"no\n"):
            received += await client.some()
        assert received.count(b"HTTP/1.1 403 Forbidden\r\n") == number
        assert bed.no_upstream()
        assert {record.flag for record in await bed.requests(number)} == {ResponseFlag.DENY}


async def test_pipelined_requests_are_all_answered_to_who_has_ended_his_side() -> None:
    """As ``printf ... | nc -N`` does: the end is behind the requests, however many turns these take."""
    async with http_bed() as bed:
        serving = bed.running.proxy._services.http
        serving.looks = lambda _flow: True
        serving.authorize = lambda _flow, _head: LocalReply(403, ResponseFlag.DENY, "denied", b"no\n")
        client = bed.client()
        await client.send(request() * 100)
        client.finish()
        assert (await client.rest()).count(b"HTTP/1.1 403 Forbidden\r\n") == 100


@pytest.mark.parametrize("piece", [1, 7, 1000])
async def test_bodies_arrive_in_pieces_of_any_size(piece: int) -> None:
    body = bytes(range(256)) * 4
    async with http_bed() as bed:
        client = bed.client()
        sent = request("POST", "/", f"Content-Length: {len(body)}", body=body)
        answer = response("200 OK", f"Content-Length: {len(body)}", body=body)
        async with trio.open_nursery() as nursery:

            async def dribble(wire: Wire, data: bytes) -> None:
                for at in range(0, len(data), piece):
                    await wire.send(data[at : at + piece])
                    await trio.lowlevel.checkpoint()

            nursery.start_soon(dribble, client, sent)
            upstream = await bed.upstream()
            await upstream.head()
            assert await upstream.exactly(len(body)) == body
            nursery.start_soon(dribble, upstream, answer)
            assert await client.exactly(len(answer)) == answer
        (record,) = await bed.requests()
        assert (record.bytes_received, record.bytes_sent) == (len(body), len(body))


async def test_chunked_bodies_and_trailers_pass_both_ways() -> None:
    async with http_bed() as bed:
        client = bed.client()
        await client.send(request("POST", "/", "Transfer-Encoding: chunked", body=b"3;ext=1\r\nabc\r\n"))
        upstream = await bed.upstream()
        assert b"Transfer-Encoding: chunked\r\n" in await upstream.head()
        assert await upstream.until(b"abc\r\n") == b"3\r\nabc\r\n"
        await client.send(b"2\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n")
        assert await upstream.until(b"\r\n\r\n") == b"2\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n"
        await upstream.send(
            response("200 OK", "Transfer-Encoding: chunked", body=b"1\r\na\r\n0\r\ngrpc-status: 0\r\n\r\n")
        )
        await client.head()
        assert await client.until(b"\r\n\r\n") == b"1\r\na\r\n0\r\ngrpc-status: 0\r\n\r\n"
        assert (await ask(client, upstream, request()))[1] == OK
        assert (await bed.requests())[0].bytes_received == 5


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("HEAD", response("200 OK", "Content-Length: 500")),
        ("GET", response("304 Not Modified", "Content-Length: 500")),
        ("GET", response("204 No Content")),
        ("POST", response("200 OK", "Content-Length: 0")),
    ],
)
async def test_responses_without_a_body_leave_the_connection_usable(method: str, answer: bytes) -> None:
    async with http_bed() as bed:
        client = bed.client()
        await client.send(request(method))
        upstream = await bed.upstream()
        head = await upstream.head()
        assert b"content-length" not in head.lower()
        assert b"transfer-encoding" not in head.lower()
        await upstream.send(answer)
        assert await client.exactly(len(answer)) == answer
        assert (await ask(client, upstream, request()))[1] == OK


async def test_a_response_that_ends_with_its_connection_does_so_for_the_client() -> None:
    async with http_bed() as bed:
        client = bed.client()
        await client.send(request())
        upstream = await bed.upstream()
        await upstream.head()
        await upstream.send(response("200 OK", body=b"some"))
        assert await client.until(b"some") == response("200 OK", "Connection: close", body=b"some")
        await upstream.send(b" more")
        upstream.finish()
        assert await client.rest() == b" more"
        (record,) = await bed.requests()
        assert (record.flag, record.bytes_sent) == (ResponseFlag.NONE, 9)


@pytest.mark.parametrize("piece", [b"some", b""])
async def test_a_response_that_breaks_off_is_never_made_to_look_complete(piece: bytes) -> None:
    for answer in (
        response("200 OK", "Content-Length: 10", body=piece),
        response("200 OK", "Transfer-Encoding: chunked", body=piece and b"4\r\nsome\r\n"),
        response("200 OK", "Connection: close", "Content-Length: 10", body=piece),
    ):
        async with http_bed() as bed:
            client = bed.client()
            await client.send(request())
            upstream = await bed.upstream()
            await upstream.head()
            await upstream.send(answer)
            await client.head()
            upstream.close()
            with pytest.raises(ConnectionResetError):
                await client.rest()
            (record,) = await bed.requests()
            assert (record.status, record.flag) == (200, ResponseFlag.UPSTREAM_CLOSED)


async def test_an_upstream_that_resets_a_response_without_length_resets_the_client() -> None:
    async with http_bed() as bed:
        client = bed.client()
        await client.send(request())
        upstream = await bed.upstream()
        await upstream.head()
        await upstream.send(response("200 OK", body=b"some"))
        await client.until(b"some")
        reset(upstream.sock)
        with pytest.raises(ConnectionResetError):
            await client.rest()


async def test_an_upstream_that_closes_without_an_answer_is_503() -> None:
    async with http_bed() as bed:
        client = bed.client()
        await client.send(request("POST", "/", "Content-Length: 2", body=b"hi"))
        upstream = await bed.upstream()
        await upstream.head()
        upstream.close()
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert (
            await client.until(b"\n")
            == b"interceptor: the upstream closed the connection before it had answered\n"
        )
        (record,) = await bed.requests()
        assert (record.status, record.flag) == (503, ResponseFlag.UPSTREAM_CLOSED)
        # the client's connection can be used again
        await client.send(request())
        upstream = await bed.upstream()
        await upstream.head()
        await upstream.send(OK)
        assert await client.exactly(len(OK)) == OK


async def test_an_upstream_that_refuses_is_503_uf() -> None:
    for protocol in ("http", "auto"):
        async with http_bed(protocol) as bed:
            bed.server.close()
            client = bed.client()
            await client.send(request())
            assert (await client.head()).startswith(b"HTTP/1.1 503 ")
            assert b"refused the connection" in await client.until(b"\n")
            (record,) = await bed.requests()
            assert (record.status, record.flag) == (503, ResponseFlag.UPSTREAM_FAILURE)


async def test_an_upstream_that_speaks_no_http_is_502() -> None:
    for answer in (
        b"SSH-2.0-OpenSSH\r\n\r\n",
        response("200 OK", "Content-Length: 1", "Content-Length: 2"),
        b"\n\n",
    ):
        async with http_bed() as bed:
            client = bed.client()
            await client.send(request())
            upstream = await bed.upstream()
            await upstream.head()
            await upstream.send(answer)
            assert (await client.head()).startswith(b"HTTP/1.1 502 ")
            (record,) = await bed.requests()
            assert (record.status, record.flag) == (502, ResponseFlag.UPSTREAM_PROTOCOL)
            with pytest.raises(ConnectionResetError):
                await upstream.rest()


async def test_what_an_upstream_adds_to_its_answer_is_nobodys() -> None:
    async with http_bed() as bed:
        client = bed.client()
        await client.send(request())
        upstream = await bed.upstream()
        await upstream.head()
        await upstream.send(OK + response("200 OK", "Content-Length: 5", body=b"split"))
        assert await client.exactly(len(OK)) == OK
        await client.send(request())
        other = await bed.upstream()
        await other.head()
        await other.send(OK)
        assert await client.exactly(len(OK)) == OK
        assert not client.held


@pytest.mark.parametrize(
    "bad",
    [
        request(
            "POST",
            "/",
            "Content-Length: 3",
            "Transfer-Encoding: chunked",
            body=b"0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
        ),
        request("POST", "/", "Content-Length: 1", "Content-Length: 2"),
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"garbage\r\n\r\n",
    ],
)
async def test_what_is_refused_is_not_forwarded_and_ends_the_connection(bad: bytes) -> None:
    async with http_bed() as bed:
        client = bed.client()
        await client.send(bad + request("GET", "/smuggled"))
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"Connection: close\r\n" in answer
        assert answer.count(b"HTTP/1.1") == 1
        assert bed.no_upstream()
        (record,) = await bed.requests()
        assert (record.status, record.flag) == (400, ResponseFlag.DOWNSTREAM_PROTOCOL)


async def test_a_bad_chunk_ends_the_request_and_both_connections() -> None:
    async with http_bed() as bed:
        client = bed.client()
        await client.send(request("POST", "/", "Transfer-Encoding: chunked", body=b"1\r\na\r\n"))
        upstream = await bed.upstream()
        await upstream.until(b"a\r\n")
        await client.send(b"-1\r\n" + request("GET", "/smuggled"))
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1") == 1
        with pytest.raises(ConnectionResetError):
            await upstream.rest()
        assert bed.no_upstream()


async def test_expect_continue_is_between_client_and_upstream() -> None:
    async with http_bed() as bed:
        client = bed.client()
        await client.send(request("POST", "/", "Expect: 100-continue", "Content-Length: 2"))
        upstream = await bed.upstream()
        assert b"Expect: 100-continue\r\n" in await upstream.head()
        await upstream.send(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
        assert await client.head() == b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"hi")
        assert await upstream.exactly(2) == b"hi"
        await upstream.send(OK)
        assert await client.exactly(len(OK)) == OK


async def test_an_answer_before_the_request_is_complete_ends_the_connection_after_it() -> None:
    async with http_bed() as bed:
        client = bed.client()
        await client.send(request("POST", "/", "Content-Length: 1000000", body=b"some"))
        upstream = await bed.upstream()
        await upstream.until(b"some")
        await upstream.send(response("413 Too Large", "Content-Length: 2", body=b"no"))
        assert await client.until(b"no") == response(
            "413 Too Large", "Content-Length: 2", "Connection: close", body=b"no"
        )
        await client.send(b"x" * 100_000)  # it may go on for a while, and reads its answer all the same
        assert await client.rest() == b""


async def test_an_answer_followed_by_a_reset_reaches_the_client() -> None:
    async with http_bed() as bed:
        client = bed.client()
        await client.send(request("POST", "/", "Content-Length: 8000000", body=b"x" * 4_000_000))
        upstream = await bed.upstream()
        await upstream.head()
        await upstream.send(response("413 Too Large", "Content-Length: 2", body=b"no"))
        upstream.close()  # with what was not read: a RST
        assert await client.until(b"no") == response(
            "413 Too Large", "Content-Length: 2", "Connection: close", body=b"no"
        )


@pytest.mark.parametrize(
    ("headers", "kept"), [((), False), (("Connection: keep-alive",), True), (("Connection: close",), False)]
)
async def test_http_1_0(headers: tuple[str, ...], kept: bool) -> None:
    async with http_bed() as bed:
        client = bed.client()
        await client.send(request("GET", "/", *headers, version="1.0"))
        upstream = await bed.upstream()
        head = plain(await upstream.head())
        assert head == request("GET", "/", "Connection: keep-alive", version="1.0")
        await upstream.send(response("200 OK", "Content-Length: 2", "Connection: keep-alive", body=b"ok"))
        said = "Connection: keep-alive" if kept else "Connection: close"
        assert await client.until(b"ok") == response("200 OK", "Content-Length: 2", said, body=b"ok")
        if kept:
            await client.send(request("GET", "/", version="1.0"))
            await upstream.head()
            await upstream.send(OK)
        assert (await client.rest())[-2:] == (b"ok" if kept else b"")


async def test_a_chunked_response_to_http_1_0_ends_with_its_connection() -> None:
    async with http_bed() as bed:
        client = bed.client()
        await client.send(request("GET", "/", "Connection: keep-alive", version="1.0"))
        upstream = await bed.upstream()
        await upstream.head()
        await upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await upstream.send(response("200 OK", "Transfer-Encoding: chunked", body=b"2\r\nok\r\n0\r\n\r\n"))
        assert await client.rest() == response("200 OK", "Connection: close", body=b"ok")


async def test_requests_without_a_host_share_no_connection() -> None:
    async with http_bed() as bed:
        for _ in range(2):
            client = bed.client()
            await client.send(b"GET / HTTP/1.0\r\n\r\n")
            upstream = await bed.upstream()
            await upstream.head()
            await upstream.send(response("200 OK", "Content-Length: 2", body=b"ok"))
            assert (await client.rest()).endswith(b"ok")


@pytest.mark.parametrize("kind", ["upgrade", "connect"])
async def test_what_is_no_http_any_more_is_relayed_both_ways(kind: str) -> None:
    async with http_bed() as bed:
        client = bed.client()
        if kind == "upgrade":
            sent = request(
                "GET", "/chat", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x"
            )
            answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"
        else:
            sent = b"CONNECT b.example:443 HTTP/1.1\r\nHost: b.example:443\r\n\r\n"
            answer = b"HTTP/1.1 200 OK\r\n\r\n"
        await client.send(sent + b"early")
        upstream = await bed.upstream()
        head = await upstream.head()
        if kind == "upgrade":
            assert b"Connection: upgrade\r\nUpgrade: websocket\r\n" in head
        await upstream.send(answer + b"first")
        assert await client.until(b"first") == answer + b"first"
        assert await upstream.exactly(5) == b"early"
        await client.send(b"ping")
        assert await upstream.exactly(4) == b"ping"
        await upstream.send(b"pong")
        assert await client.exactly(4) == b"pong"
        client.finish()
        assert await upstream.rest() == b""
        upstream.finish()
        assert await client.rest() == b""
        (record,) = await bed.requests()
        assert record.status == (101 if kind == "upgrade" else 200)
        assert (record.bytes_received, record.bytes_sent) == (9, 9)
        assert (await bed.records.wait_closed())[0].http


async def test_an_upgrade_that_is_refused_leaves_http() -> None:
    async with http_bed() as bed:
        client = bed.client()
        await client.send(request("GET", "/chat", "Connection: Upgrade", "Upgrade: websocket"))
        upstream = await bed.upstream()
        await upstream.head()
        await upstream.send(OK)
        assert await client.exactly(len(OK)) == OK
        assert (await ask(client, upstream, request()))[1] == OK


async def test_a_pooled_connection_that_the_upstream_closed_is_not_used() -> None:
    async with http_bed() as bed:
        client = bed.client()
        await client.send(request())
        first = await bed.upstream()
        await first.head()
        await first.send(OK)
        assert await client.exactly(len(OK)) == OK
        first.close()
        pool = bed.running.proxy._services.http.pool
        await wait_until(lambda: pool._count == 0)
        await client.send(request("POST", "/", "Content-Length: 2", body=b"hi"))
        second = await bed.upstream()
        await second.until(b"hi")
        await second.send(OK)
        assert await client.exactly(len(OK)) == OK


async def test_a_connection_that_was_stale_is_replaced_where_nothing_was_seen() -> None:
    """The upstream closes just when the next request is on its way: it is sent again, whatever its method."""
    async with http_bed() as bed:
        client = bed.client()
        await client.send(request())
        first = await bed.upstream()
        await first.head()
        await first.send(OK)
        assert await client.exactly(len(OK)) == OK
        # The proxy's next batch has both: the end of the upstream's connection, and a request that is served first.
        (connection,) = next(iter(bed.running.proxy._services.http.pool._idle.values()))
        connection._hub.release(connection.fd)  # it does not notice the end
        first.close()
        await client.send(request("POST", "/", "Content-Length: 2", body=b"hi"))
        connection_fd = connection.fd
        await wait_until(lambda: bool(connection._exchange))
        connection._hub.watch(connection.sock, connection)
        assert connection_fd == connection.fd
        second = await bed.upstream()
        assert (await second.until(b"hi")).startswith(b"POST / ")
        await second.send(OK)
        assert await client.exactly(len(OK)) == OK
        assert [record.status for record in await bed.requests(2)] == [200, 200]


async def test_a_request_that_was_seen_is_not_sent_again() -> None:
    async with http_bed() as bed:
        client = bed.client()
        await client.send(request())
        first = await bed.upstream()
        await first.head()
        await first.send(OK)
        assert await client.exactly(len(OK)) == OK
        await client.send(request())
        await first.head()
        reset(first.sock)
        assert (await client.head()).startswith(b"HTTP/1.1 503 ")
        assert bed.no_upstream()


async def test_an_attempt_that_was_given_up_while_it_was_dialled_sends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Given up in the very turn in which the upstream took the connection: the task has not run since."""
    dial = dialling.dial

    async def late(service: Service, timeout: float, protocol: ProtocolName) -> Dialled:
        dialled = await dial(service, timeout, protocol)
        (session,) = service.all.live
        assert isinstance(session, http1.Session)
        assert session._exchange is not None
        session._exchange.drop_attempt()
        return dialled

    monkeypatch.setattr(dialling, "dial", late)
    async with http_bed() as bed:
        client = bed.client()
        await client.send(request())
        upstream = await bed.upstream()
        with pytest.raises(ConnectionResetError):
            await upstream.rest()
        reset(client.sock)
        await bed.records.wait_closed()


async def test_a_client_that_goes_away_ends_the_upstreams_work() -> None:
    async with http_bed() as bed:
        client = bed.client()
        await client.send(request())
        upstream = await bed.upstream()
        await upstream.head()
        reset(client.sock)
        with pytest.raises(ConnectionResetError):
            await upstream.rest()
        (record,) = await bed.requests()
        assert (record.status, record.flag) == (0, ResponseFlag.DOWNSTREAM_RESET)


async def test_a_client_that_ends_its_side_still_gets_its_answer() -> None:
    async with http_bed() as bed:
        client = bed.client()
        await client.send(request())
        client.finish()
        upstream = await bed.upstream()
        await upstream.head()
        assert await upstream.rest() == b""  # it is told, and may decide that nobody waits
        await upstream.send(OK)
        assert await client.rest() == OK


@pytest.mark.parametrize("cut", range(0, 60, 3))
async def test_a_client_that_ends_in_the_middle_of_a_request(cut: int) -> None:
    sent = request("POST", "/", "Content-Length: 20", body=b"0123456789")[:cut]
    async with http_bed() as bed:
        client = bed.client()
        await client.send(sent)
        client.finish()
        with contextlib.suppress(ConnectionResetError):
            assert await client.rest() == b""
        await bed.records.wait_closed()


@pytest.mark.parametrize("cut", range(len(OK)))
async def test_an_upstream_that_ends_at_any_byte_of_its_answer(cut: int) -> None:
    async with http_bed() as bed:
        client = bed.client()
        await client.send(request())
        upstream = await bed.upstream()
        await upstream.head()
        await upstream.send(OK[:cut])
        upstream.close()
        try:
            answer = await client.head()
        except ConnectionResetError:
            answer = b""
        if b"\r\n\r\n" in OK[:cut]:
            with pytest.raises(ConnectionResetError):
                await client.rest()
        else:
            assert answer.startswith(b"HTTP/1.1 503 ")
        assert (await bed.requests())[0].flag is ResponseFlag.UPSTREAM_CLOSED


async def test_a_large_body_is_bounded_by_who_does_not_read_it() -> None:
    size = 300_000_000
    for way in ("up", "down"):
        async with http_bed() as bed:
            client = bed.client()
            if way == "up":
                await client.send(request("POST", "/", f"Content-Length: {size}"))
                upstream = await bed.upstream()
                await upstream.head()
                source, sink = client, upstream
            else:
                await client.send(request())
                upstream = await bed.upstream()
                await upstream.head()
                await upstream.send(response("200 OK", f"Content-Length: {size}"))
                await client.head()
                source, sink = upstream, client
            block, taken = bytes(1 << 20), 0
            with trio.move_on_after(0.3):
                while True:
                    await source.send(block)
                    taken += len(block)
            assert taken < 64 << 20  # what the kernel's buffers of both legs hold, and one buffer of ours
            pieces = 0
            while pieces < taken:
                pieces += len(await sink.some())
            assert pieces >= taken


async def test_a_slow_head_is_refused_in_time() -> None:
    given = settings()
    given.spec.timeouts.__dict__["requestHead"] = 0.2
    async with http_bed("http", given) as bed:
        client = bed.client()
        await client.send(b"GET / HTTP/1.1\r\n")
        assert (await client.rest()).startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        (record,) = await bed.requests()
        assert (record.status, record.flag) == (408, ResponseFlag.IDLE_TIMEOUT)


async def test_a_slow_upstream_is_given_up_where_a_time_is_set() -> None:
    given = settings()
    given.spec.timeouts.__dict__["request"] = 0.2
    async with http_bed("http", given) as bed:
        client = bed.client()
        await client.send(request())
        upstream = await bed.upstream()
        await upstream.head()
        assert (await client.head()).startswith(b"HTTP/1.1 504 Gateway Timeout\r\n")
        (record,) = await bed.requests()
        assert (record.status, record.flag) == (504, ResponseFlag.UPSTREAM_TIMEOUT)
        with pytest.raises(ConnectionResetError):
            await upstream.rest()


async def test_idle_connections_to_the_upstream_are_closed_before_it_closes_them() -> None:
    given = settings()
    given.spec.timeouts.__dict__["upstreamIdle"] = 0.2
    async with http_bed("http", given) as bed:
        client = bed.client()
        await client.send(request())
        upstream = await bed.upstream()
        await upstream.head()
        await upstream.send(OK)
        assert await client.exactly(len(OK)) == OK
        assert await upstream.rest() == b""


async def test_draining_ends_idle_connections_and_the_others_after_their_response() -> None:
    async with http_bed() as bed:
        idle, busy = bed.client(), bed.client()
        await idle.send(request())
        upstream = await bed.upstream()
        await upstream.head()
        await upstream.send(OK)
        assert await idle.exactly(len(OK)) == OK
        await busy.send(request())
        await upstream.head()
        bed.running.proxy.stop_accepting()
        assert await idle.rest() == b""
        await upstream.send(OK)
        assert await busy.rest() == response("200 OK", "Content-Length: 2", "Connection: close", body=b"ok")
        with trio.fail_after(5):
            await bed.running.proxy.wait_drained()


async def test_aborting_ends_a_request_and_records_it() -> None:
    async with http_bed() as bed:
        client = bed.client()
        await client.send(request())
        upstream = await bed.upstream()
        await upstream.head()
        bed.running.proxy.abort_all("enough")
        with pytest.raises(ConnectionResetError):
            await client.rest()
        with pytest.raises(ConnectionResetError):
            await upstream.rest()
        with trio.fail_after(5):
            await bed.running.proxy.wait_drained()
        (record,) = await bed.requests()
        assert record.flag is ResponseFlag.LOCAL_RESET


async def test_a_flow_is_counted_with_its_bytes_and_not_as_tcp() -> None:
    async with http_bed("auto") as bed:
        client = bed.client()
        await client.send(request())
        upstream = await bed.upstream()
        await upstream.head()
        await upstream.send(OK)
        assert await client.exactly(len(OK)) == OK
        client.close()
        (flow,) = await bed.records.wait_closed()
        assert (flow.http, flow.relay, flow.flag) == (True, "http", ResponseFlag.NONE)
        assert (flow.bytes_received, flow.bytes_sent) == (len(request()), len(OK))
        assert bed.records.detections == ["http1"]


async def test_a_slow_client_gets_all_of_a_response_whose_upstream_is_gone() -> None:
    body = bytes(30_000_000)
    async with http_bed() as bed:
        client = bed.client()
        await client.send(request())
        upstream = await bed.upstream()
        await upstream.head()
        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                await upstream.send(response("200 OK", f"Content-Length: {len(body)}", body=body))
                upstream.finish()

            nursery.start_soon(answer)
            await client.head()
            assert await client.exactly(len(body)) == body
