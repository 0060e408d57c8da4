"""Copies of requests for other destinations, which nobody waits for; and pages of other origins."""

from __future__ import annotations

import pytest
import trio.testing

from interceptor.proxy.http import mirror
from tests.flow.test_routed import SUBSETS, answered, ask, routes
from tests.flow.test_routed_http2 import asked, at, client_of
from tests.support.flows import wait_until
from tests.support.http_flows import OK, response
from tests.support.routed import routed_bed

MIRRORED = """
- route: [{destination: {host: shop.example, subset: v1}}]
  mirror: {host: shop.example, subset: v2}
"""
CORS = """
- corsPolicy: {allowOrigins: [{exact: "https://a.example"}], allowMethods: [PUT], exposeHeaders: [x-up]}
  ACTION
"""
ALLOWED = b"access-control-allow-origin: https://a.example\r\n"


async def test_a_copy_goes_to_the_mirror_and_nobody_waits_for_its_answer() -> None:
    async with routed_bed(SUBSETS, routes(MIRRORED)) as bed:
        client = bed.client()
        await client.send(ask("/x", body=b"hello", method="POST"))
        upstream = await bed.at("127.0.0.2")
        assert b"Host: shop.example\r\n" in await upstream.head()
        assert await upstream.exactly(5) == b"hello"
        await upstream.send(OK)
        assert (await answered(client))[0] == 200
        copy = await bed.at("127.0.0.3")
        head = await copy.head()
        assert head.startswith(b"POST /x HTTP/1.1\r\n")
        assert b"host: shop.example-shadow\r\n" in head
        assert await copy.exactly(5) == b"hello"
        # The mirror is silent: the client is served on, by another copy's connection too.
        await client.send(ask("/y"))
        await upstream.head()
        await upstream.send(OK)
        assert (await answered(client))[0] == 200
        second = await bed.at("127.0.0.3")
        assert (await second.head()).startswith(b"GET /y ")
        await second.send(response("500 Broken", "Content-Length: 3", body=b"bad"))
        # What was answered leaves its connection to the next copy.
        await trio.testing.wait_all_tasks_blocked(0.01)
        await client.send(ask("/z"))
        await upstream.head()
        await upstream.send(OK)
        assert (await answered(client))[0] == 200
        assert (await second.head()).startswith(b"GET /z ")
        records = await bed.requests(3)
        # A proxy that ends waits for no copy.
        bed.running.proxy.stop_accepting()
        with pytest.raises(ConnectionResetError):
            await copy.rest()
    assert [record.status for record in records] == [200, 200, 200]
    assert bed.records.mirrors == [True, True, True]


async def test_a_request_of_http2_is_copied_too() -> None:
    async with routed_bed(SUBSETS, routes(MIRRORED)) as bed, client_of(bed) as client:
        await client.say(client.peer.headers(1, asked("/x", method=b"POST")))
        await client.say(client.peer.data(1, b"one", end=True))
        upstream = await bed.at("127.0.0.2")
        await upstream.until(b"0\r\n\r\n")
        await upstream.send(OK)
        assert (await client.fields(1))[b":status"] == b"200"
        copy = await bed.at("127.0.0.3")
        head = await copy.head()
        assert head.startswith(b"POST /x HTTP/1.1\r\n")
        assert b"host: shop.example-shadow\r\n" in head
        assert b"content-length: 3\r\n" in head
        assert await copy.exactly(3) == b"one"


async def test_a_mirror_that_speaks_http2_gets_its_copy_on_a_stream() -> None:
    async with routed_bed(SUBSETS, routes(MIRRORED), protocol="HTTP2") as bed, client_of(bed) as client:
        await client.say(client.peer.headers(1, asked("/x", method=b"POST")))
        await client.say(client.peer.data(1, b"one", end=True))
        upstream = await at(bed, "127.0.0.2")
        assert (await upstream.fields(1))[b":authority"] == b"shop.example"
        await upstream.answer(1, b"one")
        assert (await client.fields(1))[b":status"] == b"200"
        copy = await at(bed, "127.0.0.3")
        assert (await copy.fields(1))[b":authority"] == b"shop.example-shadow"
        assert await copy.body(1) == b"one"
        await copy.answer(1, b"ignored")
        assert await client.body(1) == b"one"
        await bed.requests()


async def test_what_is_too_long_or_has_nowhere_to_go_is_not_copied() -> None:
    text = """
    - match: [{uri: {exact: /gone}}]
      route: [{destination: {host: shop.example, subset: v1}}]
      mirrors: [{destination: {host: gone.example}}, {destination: {host: shop.example, subset: v9}}]
    - route: [{destination: {host: shop.example, subset: v1}}]
      mirrors: [{destination: {host: shop.example, subset: v2}}, {destination: {host: shop.example}, percentage: {value: 0}}]
    """
    async with routed_bed(SUBSETS, routes(text)) as bed:
        client = bed.client()
        body = bytes(70_000)
        await client.send(ask("/", body=body, method="POST"))
        upstream = await bed.at("127.0.0.2")
        await upstream.head()
        assert await upstream.exactly(len(body)) == body
        await upstream.send(OK)
        assert (await answered(client))[0] == 200
        await client.send(ask("/gone"))
        await upstream.head()
        await upstream.send(OK)
        assert (await answered(client))[0] == 200
        await bed.requests(2)
    assert bed.records.mirrors == [False, False, False]


async def test_copies_under_way_are_bounded_and_an_answer_that_is_late_or_long_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mirror, "MOST", 1)
    monkeypatch.setattr(mirror, "SECONDS", 0.2)
    async with routed_bed(SUBSETS, routes(MIRRORED)) as bed:
        client = bed.client()
        await client.send(ask("/1"))
        upstream = await bed.at("127.0.0.2")
        for path in ("/2", "/3"):
            await upstream.head()
            await upstream.send(OK)
            await answered(client)
            await client.send(ask(path))
        await upstream.head()
        await wait_until(lambda: len(bed.records.mirrors) == 2)
        copy = await bed.at("127.0.0.3")
        await copy.head()
        with pytest.raises(ConnectionResetError):
            await copy.rest()  # it never answered
        await upstream.send(OK)
        await answered(client)
        copy = await bed.at("127.0.0.3")
        await copy.head()
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await copy.send(response("200 OK", "Content-Length: 99999999") + bytes(99_999_999))
    assert bed.records.mirrors == [True, False, True]


async def test_a_preflight_is_answered_here_and_responses_say_who_may_read_them() -> None:
    text = CORS.replace("ACTION", "route: [{destination: {host: shop.example, subset: v1}}]")
    async with routed_bed(SUBSETS, routes(text)) as bed:
        client = bed.client()
        origin = "Origin: https://a.example"
        await client.send(ask("/", origin, "Access-Control-Request-Method: PUT", method="OPTIONS"))
        status, head, _ = await answered(client)
        assert status == 200
        assert ALLOWED in head
        assert b"access-control-allow-methods: PUT\r\n" in head
        assert bed.no_upstream()
        await client.send(ask("/", origin))
        upstream = await bed.at("127.0.0.2")
        await upstream.head()
        await upstream.send(response("200 OK", "Content-Length: 0", "Vary: accept"))
        head = (await answered(client))[1]
        for line in (
            ALLOWED,
            b"access-control-expose-headers: x-up\r\n",
            b"Vary: accept\r\n",
            b"vary: origin\r\n",
        ):
            assert line in head
        await client.send(ask("/", "Origin: https://b.example"))
        await upstream.head()
        await upstream.send(OK)
        assert b"access-control" not in (await answered(client))[1]
        first, *_ = await bed.requests(3)
    assert (first.status, first.details, first.head.method) == (200, "cors_response", b"OPTIONS")


async def test_an_answer_of_ours_says_it_too_and_http2_as_well() -> None:
    text = CORS.replace("ACTION", "directResponse: {status: 418}")
    async with routed_bed(SUBSETS, routes(text)) as bed, client_of(bed) as over_http2:
        client = bed.client()
        await client.send(ask("/", "Origin: https://a.example"))
        status, head, _ = await answered(client)
        assert status == 418
        assert ALLOWED in head
        origin = (b"origin", b"https://a.example")
        await over_http2.ask(
            1, asked("/", origin, (b"access-control-request-method", b"PUT"), method=b"OPTIONS")
        )
        fields = await over_http2.fields(1)
        assert (fields[b":status"], fields[b"access-control-allow-methods"]) == (b"200", b"PUT")
        await over_http2.ask(3, asked("/", origin))
        fields = await over_http2.fields(3)
        assert (fields[b":status"], fields[b"access-control-allow-origin"]) == (b"418", b"https://a.example")
