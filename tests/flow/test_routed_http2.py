"""Requests of HTTP/2 on the routes of documents, to upstreams of either version; and HTTP/1 to an upstream of HTTP/2."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from interceptor.model.connection import ResponseFlag
from interceptor.model.request import RequestRecord
from interceptor.protocol.http2 import codes
from interceptor.protocol.http2.codes import (
    CANCEL,
    DATA,
    HEADERS,
    INTERNAL_ERROR,
    PREFACE,
    REFUSED_STREAM,
    RST_STREAM,
    WINDOW_UPDATE,
)
from interceptor.proxy.http.trunks import Trunks
from tests.flow.test_routed import SUBSETS, routes
from tests.support.flows import wait_until
from tests.support.http2 import OK, Wire, goaway, rst_stream, settings as frame_settings
from tests.support.http_flows import OK as HELLO, SECONDS, http_bed, response
from tests.support.routed import RoutedBed, routed_bed

V1 = "- route: [{destination: {host: shop.example, subset: v1}}]"
FIELDS = [
    (b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"shop.example"), (b":path", b"/")
]  # fmt: skip


def asked(
    path: str = "/", *headers: tuple[bytes, bytes], method: bytes = b"GET"
) -> list[tuple[bytes, bytes]]:
    return [(b":method", method), *FIELDS[1:3], (b":path", path.encode()), *headers]


GRPC = asked("/pkg.Svc/Do", (b"content-type", b"application/grpc"), (b"te", b"trailers"), method=b"POST")


@asynccontextmanager
async def client_of(bed: RoutedBed) -> AsyncIterator[Wire]:
    client = Wire(bed.running.connect())
    with client.sock:
        await client.say(PREFACE, frame_settings())
        yield client


async def at(bed: RoutedBed, host: str, *pairs: tuple[int, int]) -> Wire:
    """The next connection of HTTP/2 that reaches an upstream."""
    app = Wire((await bed.at(host)).sock)
    await app.say(frame_settings(*pairs))
    return app


async def grpc_answer(client: Wire, number: int = 1) -> dict[bytes, bytes]:
    fields = await client.fields(number)
    assert fields[b":status"] == b"200"
    return fields


async def only(bed: RoutedBed) -> RequestRecord:
    (record,) = await bed.requests()
    return record


async def test_each_stream_takes_its_own_route_and_one_connection_serves_many() -> None:
    text = """
    - match: [{uri: {prefix: /v2}}]
      name: second
      rewrite: {uri: /new}
      headers: {request: {set: {x-route: two}}, response: {add: {x-served: two}}}
      route: [{destination: {host: shop.example, subset: v2}}]
    - route: [{destination: {host: shop.example, subset: v1}}]
    """
    async with routed_bed(SUBSETS, routes(text), protocol="HTTP2") as bed, client_of(bed) as client:
        await client.ask(1, asked("/v2/x"))
        await client.ask(3, asked("/"))
        second, first = await at(bed, "127.0.0.3"), await at(bed, "127.0.0.2")
        await client.ask(5, asked("/other"))
        seen = await second.fields(1)
        assert (seen[b":path"], seen[b"x-route"], seen[b"x-envoy-original-path"]) == (
            b"/new/x",
            b"two",
            b"/v2/x",
        )
        # Both wait for the connection, and who goes first then is nobody's promise.
        streams = {(await first.fields(number))[b":path"]: number for number in (1, 3)}
        assert streams.keys() == {b"/", b"/other"}
        await second.answer(1, b"two")
        await first.answer(streams[b"/other"], b"other")
        await first.answer(streams[b"/"], b"one")
        assert (await client.fields(1))[b"x-served"] == b"two"
        assert [await client.body(number) for number in (1, 3, 5)] == [b"two", b"one", b"other"]
        records = await bed.requests(3)
    assert {each.destination.route for each in records if each.destination} == {"second", "http[1]"}
    assert {(each.status, each.head.version, each.details) for each in records} == {
        (200, b"2", "via_upstream")
    }


async def test_a_request_for_an_upstream_of_http1_is_said_in_http1() -> None:
    async with routed_bed(SUBSETS, routes(V1)) as bed, client_of(bed) as client:
        fields = asked("/a?b", (b"cookie", b"a=1"), (b"te", b"trailers"), (b"cookie", b"b=2"), method=b"POST")
        await client.say(client.peer.headers(1, fields), client.peer.data(1, b"one"))
        await client.say(client.peer.data(1, b"two", end=True))
        app = await bed.at("127.0.0.2")
        head = await app.head()
        assert head.startswith(b"POST /a?b HTTP/1.1\r\nhost: shop.example\r\n")
        assert b"\r\ncookie: a=1; b=2\r\n" in head
        assert b"\r\nTransfer-Encoding: chunked\r\n" in head
        assert await app.until(b"0\r\n\r\n") in {
            b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n",
            b"6\r\nonetwo\r\n0\r\n\r\n",
        }
        await app.send(
            response("200 OK", "Transfer-Encoding: chunked", "Keep-Alive: 5", "X-Up: 1")
            + b"5\r\nhello\r\n0\r\nX-Sum: 9\r\n\r\n"
        )
        got = await client.fields(1)
        assert (got[b":status"], got[b"x-up"]) == (b"200", b"1")
        assert b"keep-alive" not in got
        assert (await client.hear(DATA, 1)).payload == b"hello"
        assert (await client.fields(1)) == {b"x-sum": b"9"}
        # The connection to the upstream is kept for another stream.
        await client.ask(3, asked("/again"))
        assert (await app.head()).startswith(b"GET /again HTTP/1.1\r\n")
        await app.send(response("204 No Content"))
        assert (await client.hear(HEADERS, 3)).ends


async def test_without_routes_a_port_declared_http_takes_http2_as_well() -> None:
    async with routed_bed() as bed, client_of(bed) as client:
        await client.ask(1, asked("/x"))
        _, app = await bed.any()
        assert (await app.head()).startswith(b"GET /x HTTP/1.1\r\nhost: shop.example\r\n")
        await app.send(HELLO)
        assert (await client.fields(1))[b":status"] == b"200"
        assert await client.body(1) == b"ok"


async def test_a_connection_that_no_document_is_about_is_served_so_too() -> None:
    async with http_bed("http") as bed:
        client = Wire(bed.running.connect())
        with client.sock:
            await client.say(PREFACE[:9])
            await client.say(PREFACE[9:], frame_settings(), client.peer.headers(1, asked("/x"), end=True))
            app = await bed.upstream()
            assert (await app.head()).startswith(b"GET /x HTTP/1.1\r\n")
            await app.send(HELLO)
            assert await client.body(1) == b"ok"
            record = (await bed.requests())[0]
            client.sock.close()
        (flow,) = await bed.records.wait_closed()
    assert record.head.version == b"2"
    assert flow.bytes_received > len(PREFACE)


async def test_grpc_is_not_sent_to_an_upstream_of_http1() -> None:
    async with routed_bed(SUBSETS, routes(V1)) as bed, client_of(bed) as client:
        await client.say(client.peer.headers(1, GRPC), client.peer.data(1, b"\0\0\0\0\0", end=True))
        assert (await grpc_answer(client))[b"grpc-status"] == b"12"
        record = await only(bed)
        assert bed.no_upstream()
    assert (record.grpc_status, record.details) == ("12", "grpc_needs_http2")


async def test_grpc_keeps_its_trailers_and_its_status_is_recorded() -> None:
    async with routed_bed(SUBSETS, routes(V1), protocol="GRPC") as bed, client_of(bed) as client:
        await client.say(client.peer.headers(1, GRPC), client.peer.data(1, b"\0\0\0\0\1a", end=True))
        app = await at(bed, "127.0.0.2")
        assert (await app.fields(1))[b"te"] == b"trailers"
        assert await app.body(1) == b"\0\0\0\0\1a"
        await app.say(
            app.peer.headers(1, [*OK, (b"content-type", b"application/grpc")]),
            app.peer.data(1, b"\0\0\0\0\1b"),
            app.peer.headers(1, [(b"grpc-status", b"5")], end=True),
        )
        assert (await client.fields(1))[b":status"] == b"200"
        assert (await client.fields(1))[b"grpc-status"] == b"5"
        record = await only(bed)
    assert (record.grpc_status, record.status, record.bytes_sent) == ("5", 200, 6)
    assert record.messages is not None
    assert (record.messages.requests, record.messages.responses) == (1, 1)


async def test_a_grpc_status_that_the_policy_names_is_tried_again() -> None:
    text = V1 + "\n  retries: {attempts: 1, retryOn: resource-exhausted}"
    async with routed_bed(SUBSETS, routes(text), protocol="GRPC") as bed, client_of(bed) as client:
        await client.say(client.peer.headers(1, GRPC), client.peer.data(1, b"\0\0\0\0\1a", end=True))
        app = await at(bed, "127.0.0.2")
        assert await app.body(1) == b"\0\0\0\0\1a"
        exhausted = [*OK, (b"content-type", b"application/grpc"), (b"grpc-status", b"8")]
        await app.say(app.peer.headers(1, exhausted, end=True))
        again = await app.fields(3)
        assert again[b"x-envoy-attempt-count"] == b"2"
        assert await app.body(3) == b"\0\0\0\0\1a"
        await app.say(app.peer.headers(3, [*OK, (b"grpc-status", b"0")], end=True))
        assert (await client.fields(1))[b"grpc-status"] == b"0"
        record = await only(bed)
    assert record.grpc_status == "0"


async def test_a_head_goes_on_where_nothing_of_a_body_comes() -> None:
    """A call of gRPC may wait for the server to speak first, also on a connection that is there already."""
    async with routed_bed(SUBSETS, routes(V1), protocol="GRPC") as bed, client_of(bed) as client:
        await client.say(client.peer.headers(1, GRPC))
        app = await at(bed, "127.0.0.2")
        for number in (1, 3):
            if number == 3:
                await client.say(client.peer.headers(3, GRPC))
            assert (await app.fields(number))[b"te"] == b"trailers"
            await app.say(app.peer.headers(number, [*OK, (b"grpc-status", b"0")], end=True))
            assert (await client.fields(number))[b"grpc-status"] == b"0"


async def test_a_refused_stream_is_tried_again_elsewhere() -> None:
    text = "- route: [{destination: {host: shop.example}}]"
    async with routed_bed(routes(text), protocol="HTTP2") as bed, client_of(bed) as client:
        await client.ask(1, asked())
        host, wire = await bed.any()
        first = Wire(wire.sock)
        await first.say(frame_settings())
        await first.fields(1)
        await first.say(rst_stream(1, REFUSED_STREAM))
        second = await at(bed, "127.0.0.3" if host == "127.0.0.2" else "127.0.0.2")
        await second.fields(1)
        await second.answer(1, b"yes")
        assert (await client.fields(1))[b":status"] == b"200"
        assert await client.body(1) == b"yes"


async def test_goaway_refuses_what_came_too_late_and_lets_the_others_end() -> None:
    async with routed_bed(SUBSETS, routes(V1), protocol="HTTP2") as bed, client_of(bed) as client:
        await client.ask(1, asked("/1"))
        old = await at(bed, "127.0.0.2")
        await old.fields(1)
        await client.ask(3, asked("/3"))
        await old.fields(3)
        await old.say(goaway(1, 0))
        new = await at(bed, "127.0.0.2")
        assert (await new.fields(1))[b":path"] == b"/3"
        await new.answer(1, b"new")
        await old.answer(1, b"old")
        assert (await client.body(1), await client.body(3)) == (b"old", b"new")
        assert await old.end() == "fin"


async def test_the_code_of_a_reset_passes_where_the_answer_had_begun() -> None:
    async with routed_bed(SUBSETS, routes(V1), protocol="HTTP2") as bed, client_of(bed) as client:
        await client.ask(1, asked())
        app = await at(bed, "127.0.0.2")
        await app.fields(1)
        await app.say(app.peer.headers(1, OK), app.peer.data(1, b"some"))
        assert (await client.fields(1))[b":status"] == b"200"
        await app.say(rst_stream(1, codes.ENHANCE_YOUR_CALM))
        assert (await client.hear(RST_STREAM, 1)).code == codes.ENHANCE_YOUR_CALM
        record = await only(bed)
        await client.ask(3, asked())  # the connections live
        await app.fields(3)
        await app.answer(3)
        assert (await client.fields(3))[b":status"] == b"200"
    assert (record.flag, record.status) == (ResponseFlag.UPSTREAM_RESET, 200)


async def test_a_reset_before_the_answer_is_answered_in_its_place() -> None:
    text = V1 + "\n  retries: {attempts: 0}"
    async with routed_bed(SUBSETS, routes(text), protocol="HTTP2") as bed, client_of(bed) as client:
        await client.ask(1, asked())
        app = await at(bed, "127.0.0.2")
        await app.fields(1)
        await app.say(rst_stream(1, INTERNAL_ERROR))
        assert (await client.fields(1))[b":status"] == b"503"
        assert b"INTERNAL_ERROR" in await client.body(1)
        record = await only(bed)
    assert record.flag is ResponseFlag.UPSTREAM_RESET


async def test_a_client_that_resets_its_stream_resets_the_upstreams() -> None:
    async with routed_bed(SUBSETS, routes(V1), protocol="HTTP2") as bed, client_of(bed) as client:
        await client.ask(1, asked())
        app = await at(bed, "127.0.0.2")
        await app.fields(1)
        await client.say(rst_stream(1, CANCEL))
        assert (await app.hear(RST_STREAM, 1)).code == CANCEL
        record = await only(bed)
    assert (record.flag, record.status) == (ResponseFlag.DOWNSTREAM_RESET, 0)


async def test_the_routes_timeout_fault_redirect_and_limit_hold() -> None:
    text = """
    - match: [{uri: {exact: /late}}]
      timeout: 0.05s
      route: [{destination: {host: shop.example, subset: v1}}]
    - match: [{uri: {exact: /fault}}]
      fault: {abort: {httpStatus: 418, percentage: {value: 100}}}
      route: [{destination: {host: shop.example, subset: v1}}]
    - match: [{uri: {exact: /there}}]
      redirect: {uri: /here}
    """
    async with routed_bed(SUBSETS, routes(text), protocol="HTTP2") as bed, client_of(bed) as client:
        await client.ask(1, asked("/late"))
        await client.ask(3, asked("/fault"))
        await client.ask(5, asked("/there"))
        await client.ask(7, asked("/nowhere"))
        app = await at(bed, "127.0.0.2")
        await app.fields(1)
        statuses = [(await client.fields(number))[b":status"] for number in (3, 5, 7, 1)]
        assert (await app.hear(RST_STREAM, 1)).code == CANCEL
        records = await bed.requests(4)
    assert statuses == [b"418", b"301", b"404", b"504"]
    flags = {each.head.target: each.flag for each in records}
    assert flags == {
        b"/late": ResponseFlag.UPSTREAM_TIMEOUT,
        b"/fault": ResponseFlag.FAULT_INJECTED,
        b"/there": ResponseFlag.NONE,
        b"/nowhere": ResponseFlag.NO_ROUTE,
    }


async def test_no_more_streams_than_the_upstream_takes_go_on_one_connection() -> None:
    async with routed_bed(SUBSETS, routes(V1), protocol="HTTP2") as bed, client_of(bed) as client:
        await client.ask(1, asked("/1"))
        first = await at(bed, "127.0.0.2", (codes.MAX_CONCURRENT_STREAMS, 1))
        await first.fields(1)
        await first.answer(1)
        await client.fields(1)
        await client.ask(3, asked("/3"))
        await first.fields(3)
        await client.ask(5, asked("/5"))
        second = await at(bed, "127.0.0.2")
        assert (await second.fields(1))[b":path"] == b"/5"


async def test_a_rule_bounds_the_streams_and_the_requests_of_a_connection() -> None:
    rule = (
        "DestinationRule",
        (
            "host: shop.example\nsubsets: [{name: v1, labels: {version: v1}}]\n"
            "trafficPolicy: {connectionPool: {http: {maxConcurrentStreams: 1, maxRequestsPerConnection: 2}}}"
        ),
    )
    async with routed_bed(rule, routes(V1), protocol="HTTP2") as bed, client_of(bed) as client:
        await client.ask(1, asked("/1"))
        first = await at(bed, "127.0.0.2")
        await first.fields(1)
        await client.ask(3, asked("/3"))
        second = await at(bed, "127.0.0.2")
        assert (await second.fields(1))[b":path"] == b"/3"
        await first.answer(1)
        await client.body(1)
        await client.ask(5, asked("/5"))
        assert (await first.fields(3))[b":path"] == b"/5"
        await first.answer(3)
        assert await client.body(5) == b"hello"
        with trio.fail_after(SECONDS):
            await first.hear(codes.GOAWAY)
            assert await first.end() == "fin"
        await second.answer(1)
        assert await client.body(3) == b"hello"


async def test_a_shared_connection_lasts_no_longer_than_its_rule_says() -> None:
    policy = "trafficPolicy: {connectionPool: {tcp: {maxConnectionDuration: 60s}}}"
    rule = (
        "DestinationRule",
        f"host: shop.example\nsubsets: [{{name: v1, labels: {{version: v1}}}}]\n{policy}",
    )
    async with routed_bed(rule, routes(V1), protocol="HTTP2") as bed, client_of(bed) as client:
        await client.ask(1, asked("/1"))
        first = await at(bed, "127.0.0.2")
        await first.fields(1)
        trunks = bed.running.proxy._services.http.trunks
        assert isinstance(trunks, Trunks)
        [[trunk]] = trunks._trunks.values()
        trunk.expires -= 61  # a minute later
        await client.ask(3, asked("/3"))
        second = await at(bed, "127.0.0.2")
        assert (await second.fields(1))[b":path"] == b"/3"
        await first.answer(1)
        assert await client.body(1) == b"hello", "what it carries is carried to its end"
        trunks.check_time(trunks._all.hub.now)
        with trio.fail_after(SECONDS):
            assert await first.end() == "fin"
        await second.answer(1)
        assert await client.body(3) == b"hello"


async def test_a_fault_of_grpc_is_a_status_of_grpc() -> None:
    text = """
    - fault: {abort: {grpcStatus: NOT_FOUND}}
      route: [{destination: {host: shop.example, subset: v1}}]
    """
    async with routed_bed(SUBSETS, routes(text), protocol="HTTP2") as bed, client_of(bed) as client:
        await client.ask(1, GRPC)
        fields = await grpc_answer(client)
        assert (fields[b"grpc-status"], fields[b"grpc-message"]) == (b"5", b"fault filter abort")
        record = await only(bed)
    assert (record.grpc_status, record.flag) == ("5", ResponseFlag.FAULT_INJECTED)


async def test_a_client_that_does_not_take_its_answer_holds_up_nobody_else() -> None:
    async with routed_bed(SUBSETS, routes(V1), protocol="HTTP2") as bed, client_of(bed) as client:
        await client.ask(1, asked("/slow"))
        app = await at(bed, "127.0.0.2")
        await app.fields(1)
        await app.say(app.peer.headers(1, OK), app.peer.data(1, bytes(16_384)))
        for _ in range(15):
            await app.say(app.peer.data(1, bytes(16_384)))
        assert (await client.fields(1))[b":status"] == b"200"
        received = 0
        while received < 65_535:  # the window that a client has without asking
            received += len((await client.hear(DATA, 1)).payload)
        await client.ask(3, asked("/quick"))
        await app.fields(3)
        await app.say(app.peer.headers(3, [*OK, (b"content-length", b"0")], end=True))
        assert (await client.fields(3))[b"content-length"] == b"0"
        assert not [sent for sent in app.frames if sent.kind == WINDOW_UPDATE and sent.stream == 1]
        await client.give(1, 1 << 20)
        while received < 262_144:
            received += len((await client.hear(DATA, 1)).payload)
        await app.hear(WINDOW_UPDATE, 1)


async def test_a_long_request_waits_for_an_upstream_that_does_not_read() -> None:
    async with routed_bed(SUBSETS, routes(V1), protocol="HTTP2") as bed, client_of(bed) as client:
        await client.say(client.peer.headers(1, asked(method=b"POST")))
        app = await at(bed, "127.0.0.2")
        await app.fields(1)
        for _ in range(16):  # all that the stream's window allows
            await client.say(client.peer.data(1, bytes(16_384)))
        received = 0
        while received < 65_535:
            received += len((await app.hear(DATA, 1)).payload)
        with trio.move_on_after(0.1):
            await client.hear(WINDOW_UPDATE, 1)
            raise AssertionError("a window was given for what has not gone on")
        await app.give(1, 1 << 20)
        while received < 16 * 16_384:
            received += len((await app.hear(DATA, 1)).payload)
        await client.hear(WINDOW_UPDATE, 1)
        await app.answer(1)
        assert await client.body(1) == b"hello"


async def test_an_upstream_that_breaks_http2_costs_its_requests_an_answer_and_no_more() -> None:
    text = V1 + "\n  retries: {attempts: 0}"
    async with routed_bed(SUBSETS, routes(text), protocol="HTTP2") as bed, client_of(bed) as client:
        await client.ask(1, asked())
        app = await at(bed, "127.0.0.2")
        await app.fields(1)
        await app.say(app.peer.data(1, b"first"))  # a body without a head: a fault of the stream
        assert (await client.fields(1))[b":status"] == b"502"
        await client.ask(3, asked())
        await app.fields(3)
        await app.say(b"\0\0\1\6\0\0\0\0\0x")  # a PING of one byte: a fault of the connection
        assert (await client.fields(3))[b":status"] == b"503"
        assert await app.end() == "fin"
        records = await bed.requests(2)
    assert {each.flag for each in records} == {ResponseFlag.UPSTREAM_PROTOCOL}


async def test_an_upstream_that_is_gone_is_answered_for_and_dialled_anew() -> None:
    text = V1 + "\n  retries: {attempts: 0}"
    async with routed_bed(SUBSETS, routes(text), protocol="HTTP2") as bed, client_of(bed) as client:
        await client.ask(1, asked())
        app = await at(bed, "127.0.0.2")
        await app.fields(1)
        app.sock.close()
        assert (await client.fields(1))[b":status"] == b"503"
        await client.ask(3, asked())
        again = await at(bed, "127.0.0.2")
        await again.fields(1)
        await again.answer(1)
        assert (await client.fields(3))[b":status"] == b"200"


async def test_requests_of_http1_go_to_an_upstream_of_http2_where_the_rule_says_so() -> None:
    rule = (
        "DestinationRule",
        """
        host: shop.example
        trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: UPGRADE}}}
        subsets: [{name: v1, labels: {version: v1}}]
        """,
    )
    async with routed_bed(rule, routes(V1)) as bed:
        client = bed.client()
        await client.send(
            b"POST /a HTTP/1.1\r\nHost: shop.example\r\nX-Case: Kept\r\nContent-Length: 5\r\n\r\nhello"
        )
        app = await at(bed, "127.0.0.2")
        seen = await app.fields(1)
        assert (seen[b":authority"], seen[b":path"], seen[b"x-case"]) == (b"shop.example", b"/a", b"Kept")
        assert b"host" not in seen
        assert await app.body(1) == b"hello"
        await app.answer(1, b"world")
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\nTransfer-Encoding: chunked\r\n" in head
        assert await client.until(b"0\r\n\r\n") == b"5\r\nworld\r\n0\r\n\r\n"
        await client.send(b"GET /b HTTP/1.1\r\nHost: shop.example\r\n\r\n")
        assert (await app.fields(3))[b":path"] == b"/b"
        await app.say(app.peer.headers(3, [(b":status", b"204")], end=True))
        assert (await client.head()).startswith(b"HTTP/1.1 204 No Content\r\n")


async def test_a_connection_without_streams_is_closed_after_a_time() -> None:
    async with routed_bed(SUBSETS, routes(V1), protocol="HTTP2") as bed, client_of(bed) as client:
        bed.running.proxy._services.http.pool.timeout = 0.05
        await client.ask(1, asked())
        app = await at(bed, "127.0.0.2")
        await app.fields(1)
        await app.answer(1)
        await client.body(1)
        with trio.fail_after(SECONDS):
            await app.hear(codes.GOAWAY)
            assert await app.end() == "fin"
        await client.ask(3, asked())
        again = await at(bed, "127.0.0.2")
        await again.fields(1)
        await again.answer(1)
        assert await client.body(3) == b"hello"


async def test_many_requests_wait_for_one_connection() -> None:
    async with routed_bed(SUBSETS, routes(V1), protocol="HTTP2") as bed, client_of(bed) as client:
        numbers = range(1, 301, 2)
        await client.say(*(client.peer.headers(number, asked(), end=True) for number in numbers))
        first, second = await at(bed, "127.0.0.2"), await at(bed, "127.0.0.2")
        for app, count in ((first, 100), (second, 50)):
            for number in range(1, 2 * count, 2):
                await app.fields(number)
                await app.answer(number)
        for number in numbers:
            assert await client.body(number) == b"hello"
        assert bed.no_upstream()
        await wait_until(lambda: len(bed.records.requests) == len(numbers))


async def test_an_endpoint_that_leaves_ends_its_streams_and_takes_no_other() -> None:
    text = "- route: [{destination: {host: shop.example}}]"
    only_one = [("127.0.0.2", "v1")]
    async with (
        routed_bed(routes(text), protocol="HTTP2", versions=only_one) as bed,
        client_of(bed) as client,
    ):
        await client.ask(1, asked("/runs"))
        old = await at(bed, "127.0.0.2")
        await old.fields(1)
        bed.change(("127.0.0.3", "v1"))
        await client.ask(3, asked("/next"))
        new = await at(bed, "127.0.0.3")
        assert (await new.fields(1))[b":path"] == b"/next"
        await old.answer(1, b"old")
        assert await client.body(1) == b"old"
        await new.answer(1, b"new")
        assert await client.body(3) == b"new"
        assert await old.end() == "fin"


CONNECT = [(b":method", b"CONNECT"), (b":authority", b"shop.example")]
WEBSOCKET = [CONNECT[0], (b":protocol", b"websocket"), *FIELDS[1:]]


async def test_a_connect_takes_no_route_that_matches_paths() -> None:
    """As Envoy's: 404, for it has no path."""
    text = """
    - match: [{uri: {prefix: /}}]
      route: [{destination: {host: shop.example, subset: v1}}]
    """
    async with routed_bed(SUBSETS, routes(text), protocol="HTTP2") as bed, client_of(bed) as client:
        await client.say(client.peer.headers(1, CONNECT))
        assert (await client.fields(1))[b":status"] == b"404"
        record = await only(bed)
        assert bed.no_upstream()
    assert (record.flag, record.details) == (ResponseFlag.NO_ROUTE, "route_not_found")


async def test_a_connect_is_a_tunnel_on_a_route_that_takes_everything() -> None:
    async with routed_bed(SUBSETS, routes(V1), protocol="HTTP2") as bed, client_of(bed) as client:
        await client.say(client.peer.headers(1, CONNECT))
        app = await at(bed, "127.0.0.2")
        seen = await app.fields(1)
        assert {name: value for name, value in seen.items() if name[:2] != b"x-"} == dict(CONNECT)
        assert seen[b"x-forwarded-proto"] == b"http"
        await app.say(app.peer.headers(1, OK), app.peer.data(1, b"hello"))
        assert (await client.fields(1))[b":status"] == b"200"
        assert (await client.hear(DATA, 1)).payload == b"hello"
        await client.say(client.peer.data(1, b"ping", end=True))
        assert await app.body(1) == b"ping"
        await app.say(app.peer.data(1, b"pong", end=True))
        assert await client.body(1) == b"pong"


async def test_an_upstream_of_http1_takes_no_connect() -> None:
    async with routed_bed(SUBSETS, routes(V1)) as bed, client_of(bed) as client:
        await client.say(client.peer.headers(1, CONNECT))
        assert (await client.fields(1))[b":status"] == b"501"
        record = await only(bed)
        assert bed.no_upstream()
    assert record.details == "connect_needs_http2"


async def test_routes_take_no_extended_connect_and_do_not_offer_it() -> None:
    """As Envoy in Istio's proxies: what was not offered is an error of the stream, and the others live."""
    async with routed_bed(SUBSETS, routes(V1), protocol="HTTP2") as bed, client_of(bed) as client:
        await client.say(client.peer.headers(1, WEBSOCKET))
        assert (await client.hear(RST_STREAM, 1)).code == codes.PROTOCOL_ERROR
        offered = (await client.hear(codes.SETTINGS)).payload
        assert codes.ENABLE_CONNECT_PROTOCOL not in {key for key, _ in struct.iter_unpack(">HL", offered)}
        await client.ask(3, asked())
        app = await at(bed, "127.0.0.2")
        await app.fields(1)
        await app.answer(1)
        assert await client.body(3) == b"hello"
        records = await bed.requests(2)
    assert [(each.flag, each.status) for each in records] == [
        (ResponseFlag.DOWNSTREAM_PROTOCOL, 0),
        (ResponseFlag.NONE, 200),
    ]


async def test_what_the_connections_own_upstream_offers_does_not_lead_past_the_routes() -> None:
    async with (
        routed_bed(SUBSETS, routes(V1), protocol="HTTP2", dialled="127.0.0.4") as bed,
        client_of(bed) as client,
    ):
        await client.ask(1, [*FIELDS[:2], (b":authority", b"own.example"), FIELDS[3]])
        app = await at(bed, "127.0.0.4", (codes.ENABLE_CONNECT_PROTOCOL, 1))
        await client.hear(codes.SETTINGS)
        offered = await client.hear(codes.SETTINGS)
        while offered.flags:
            offered = await client.hear(codes.SETTINGS)
        assert offered.payload == struct.pack(">HL", codes.ENABLE_CONNECT_PROTOCOL, 1)
        await client.say(client.peer.headers(3, WEBSOCKET))
        assert (await client.fields(3))[b":status"] == b"501"
        await client.say(
            client.peer.headers(5, [*WEBSOCKET[:3], (b":authority", b"own.example"), WEBSOCKET[4]])
        )
        await app.fields(1)
        assert (await app.fields(3))[b":protocol"] == b"websocket"
        (record,) = await bed.requests()
    assert (record.status, record.details) == (501, "extended_connect_not_routed")
