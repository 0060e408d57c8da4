"""What a flow carries where nothing is declared: the first bytes of both sides race."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from interceptor.model.connection import ResponseFlag
from interceptor.protocol.detect import PREFACE
from tests.support.flows import reset, settings, wait_until
from tests.support.http_flows import OK, http_bed, request
from tests.unit.protocol.test_client_hello import openssl


async def test_a_server_that_speaks_first_is_heard_at_once() -> None:
    async with http_bed("auto") as bed:
        client = bed.client()
        upstream = await bed.upstream()
        with trio.fail_after(1):
            await upstream.send(b"220 mail.example ESMTP\r\n")
            assert await client.until(b"\n") == b"220 mail.example ESMTP\r\n"
        await client.send(b"EHLO a\r\n")
        assert await upstream.until(b"\n") == b"EHLO a\r\n"
        client.close()
        upstream.close()
        await bed.records.wait_closed()
        assert bed.records.detections == ["opaque"]
        assert bed.records.requests == []


@pytest.mark.parametrize("said_first", [True, False])
@pytest.mark.parametrize(
    ("data", "result"),
    [
        (b"PING\r\n", "opaque"),
        (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", "opaque"),
        (openssl("shop.example", ["h2"]), "tls"),
    ],
)
async def test_what_is_no_http_is_relayed_as_it_is(data: bytes, result: str, said_first: bool) -> None:
    async with http_bed("auto") as bed:
        client = bed.client()
        if said_first:
            await client.send(data)
            upstream = await bed.upstream()
        else:
            upstream = await bed.upstream()
            await client.send(data)
        assert await upstream.exactly(len(data)) == data
        client.close()
        upstream.close()
        (flow,) = await bed.records.wait_closed()
        assert bed.records.detections == [result]
        assert flow.server_name == ("shop.example" if result == "tls" else None)
        assert not flow.http


async def test_a_request_in_pieces_is_understood() -> None:
    async with http_bed("auto") as bed:
        client = bed.client()
        upstream = await bed.upstream()
        for byte in request():
            await client.send(bytes([byte]))
            await trio.lowlevel.checkpoint()
        assert b"x-request-id" in await upstream.head()
        await upstream.send(OK)
        assert await client.exactly(len(OK)) == OK
        assert bed.no_upstream()  # the one that was dialled meanwhile is used
        assert bed.records.detections == ["http1"]


async def test_one_who_begins_and_does_not_go_on_is_relayed_after_a_time() -> None:
    given = settings()
    given.spec.timeouts.__dict__["detect"] = 0.2
    async with http_bed("auto", given) as bed:
        client = bed.client()
        await client.send(b"GET ")
        upstream = await bed.upstream()
        assert await upstream.exactly(4) == b"GET "
        assert bed.records.detections == ["timeout"]


async def test_silence_decides_nothing() -> None:
    given = settings()
    given.spec.timeouts.__dict__["detect"] = 0.05
    async with http_bed("auto", given) as bed:
        client = bed.client()
        upstream = await bed.upstream()
        await trio.testing.wait_all_tasks_blocked(0.3)
        assert bed.records.detections == []
        await client.send(request())
        assert b"x-request-id" in await upstream.head()


async def test_an_end_is_passed_on_before_anything_was_said() -> None:
    async with http_bed("auto") as bed:
        client = bed.client()
        upstream = await bed.upstream()
        client.finish()
        assert await upstream.rest() == b""
        upstream.finish()
        assert await client.rest() == b""
        assert (await bed.records.wait_closed())[0].flag is ResponseFlag.NONE


@pytest.mark.parametrize("which", ["client", "upstream"])
async def test_a_reset_is_passed_on_before_anything_was_said(which: str) -> None:
    async with http_bed("auto") as bed:
        client = bed.client()
        upstream = await bed.upstream()
        await wait_until(lambda: bool(bed.running.proxy._services.http.live))
        first, other = (client, upstream) if which == "client" else (upstream, client)
        reset(first.sock)
        with pytest.raises(ConnectionResetError):
            await other.rest()
        expected = ResponseFlag.DOWNSTREAM_RESET if which == "client" else ResponseFlag.UPSTREAM_RESET
        assert (await bed.records.wait_closed())[0].flag is expected


async def test_an_upstream_that_refuses_resets_who_speaks_no_http() -> None:
    async with http_bed("auto") as bed:
        bed.server.close()
        client = bed.client()
        with pytest.raises(ConnectionResetError):
            await client.rest()
        assert (await bed.records.wait_closed())[0].flag is ResponseFlag.UPSTREAM_FAILURE


async def test_the_preface_of_http_2_is_found() -> None:
    async with http_bed("auto") as bed:
        client = bed.client()
        await client.send(PREFACE)
        await wait_until(lambda: bed.records.detections == ["http2"])


@pytest.mark.parametrize("how", ["declared", "off"])
async def test_nothing_is_looked_at_where_it_is_not_wanted(how: str) -> None:
    given = settings()
    if how == "off":
        given.spec.__dict__["detection"] = False
    async with http_bed("tcp" if how == "declared" else "auto", given) as bed:
        client = bed.client()
        await client.send(request())
        upstream = await bed.upstream()
        assert await upstream.head() == request()
        assert bed.records.detections == []


async def test_a_proxy_that_is_stopped_ends_who_has_not_spoken() -> None:
    async with http_bed("auto") as bed:
        client = bed.client()
        upstream = await bed.upstream()
        await wait_until(lambda: bool(bed.running.proxy._services.http.live))
        bed.running.proxy.abort_all("enough")
        for wire in (client, upstream):
            with pytest.raises(ConnectionResetError):
                await wire.rest()
        with trio.fail_after(5):
            await bed.running.proxy.wait_drained()
