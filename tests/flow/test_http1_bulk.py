"""Large bodies of a known length pass by the kernel: every byte arrives, and nobody gets another's."""

from __future__ import annotations

import contextlib
import random

import pytest
import trio

from interceptor.model.connection import ResponseFlag
from tests.support.flows import reset, wait_until
from tests.support.http_flows import OK, Bed, Wire, http_bed, request, response

BODY = random.Random(1).randbytes(3_000_017)
ANSWER = response("200 OK", f"Content-Length: {len(BODY)}", body=BODY)


def idle_pipes(bed: Bed) -> int:
    return len(bed.running.proxy._services.hub.pipes._idle)


async def test_bodies_of_both_ways_arrive_and_the_connections_are_used_again() -> None:
    async with http_bed() as bed:
        client = bed.client()
        upstream: Wire | None = None
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                sent = request("POST", "/", f"Content-Length: {len(BODY)}", body=BODY)
                nursery.start_soon(client.send, sent)
                upstream = upstream or await bed.upstream()
                await upstream.head()
                assert await upstream.exactly(len(BODY)) == BODY
                nursery.start_soon(upstream.send, ANSWER)
                assert await client.exactly(len(ANSWER)) == ANSWER
        assert bed.no_upstream()
        assert idle_pipes(bed) >= 1  # and one was used
        for record in await bed.requests(2):
            assert (record.bytes_received, record.bytes_sent) == (len(BODY), len(BODY))
        client.finish()
        (flow,) = await bed.records.wait_closed()
        assert flow.bytes_sent == 2 * len(ANSWER)
        assert flow.bytes_received > 2 * len(BODY)


@pytest.mark.parametrize("size", [64 * 1024, 3_000_000])
async def test_what_follows_a_body_is_nobodys_answer(size: int) -> None:
    """Of a response that fills the last read, the excess is still in the socket when the response is complete."""
    head = response("200 OK", f"Content-Length: {size}")  # in the first read, which is of 64 KiB
    body = BODY[: size - len(head)]
    head = response("200 OK", f"Content-Length: {len(body)}")
    async with http_bed() as bed:
        client, other = bed.client(), bed.client()
        await client.send(request())
        upstream = await bed.upstream()
        await upstream.head()
        evil = response("200 OK", "Content-Length: 4", body=b"evil")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upstream.send, head + body + evil)
            assert await client.exactly(len(head) + len(body)) == head + body
            await other.send(request())
            second = await bed.upstream()
            await second.head()
            await second.send(OK)
            assert await other.exactly(len(OK)) == OK
            nursery.cancel_scope.cancel()


async def test_an_upstream_that_ends_within_a_body_ends_the_client_with_a_reset() -> None:
    async with http_bed() as bed:
        client = bed.client()
        await client.send(request())
        upstream = await bed.upstream()
        await upstream.head()
        await upstream.send(ANSWER[: len(ANSWER) // 2])
        upstream.close()
        with pytest.raises(ConnectionResetError):
            await client.rest()
        (record,) = await bed.requests()
        assert record.flag is ResponseFlag.UPSTREAM_CLOSED


async def test_a_pipe_that_is_full_when_the_client_leaves_is_not_used_again() -> None:
    async with http_bed() as bed:
        client = bed.client()
        await client.send(request())
        upstream = await bed.upstream()
        await upstream.head()
        sock = upstream.sock
        sock.send(response("200 OK", f"Content-Length: {10**9}"))

        def stuffed() -> bool:
            try:
                sock.send(BODY)
            except BlockingIOError:
                return True
            return False

        await wait_until(stuffed)  # the client does not read
        live = next(iter(bed.running.proxy._services.http.live))
        assert live._blocked is not None  # type: ignore[attr-defined]
        before = idle_pipes(bed)
        reset(client.sock)
        (record,) = await bed.requests()
        assert record.flag is not ResponseFlag.NONE
        assert idle_pipes(bed) == before


async def test_an_upstream_that_is_gone_within_an_upload_is_answered_for() -> None:
    async with http_bed() as bed:
        client = bed.client()
        async with trio.open_nursery() as nursery:

            async def upload() -> None:
                with contextlib.suppress(OSError):
                    await client.send(request("POST", "/", f"Content-Length: {10**9}", body=BODY * 20))

            nursery.start_soon(upload)
            upstream = await bed.upstream()
            await upstream.head()
            await upstream.exactly(len(BODY))
            reset(upstream.sock)
            (record,) = await bed.requests()
            nursery.cancel_scope.cancel()
        assert (record.status, record.flag) == (503, ResponseFlag.UPSTREAM_CLOSED)
