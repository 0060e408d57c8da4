"""Clients and upstreams that mean harm, or break off: nothing of it is passed on, and nobody else is hurt."""

from __future__ import annotations

import contextlib

import pytest
import trio

from interceptor.model.connection import ResponseFlag
from tests.support.flows import reset, settings
from tests.support.http_flows import OK, Bed, Wire, http_bed, request, response
from tests.unit.protocol.test_client_hello import openssl
from tests.unit.protocol.test_http1 import SMUGGLING, request as head_of

SMUGGLED = request("GET", "/smuggled")
# What several programs have read in different ways, behind a head that says the body is in chunks.
CHUNKS = [
    b"3\nabc\n0\n\n",
    b"3\rabc\r0\r\r",
    b" 3\r\nabc\r\n0\r\n\r\n",
    b"3 \r\nabc\r\n0\r\n\r\n",
    b"\t3\r\nabc\r\n0\r\n\r\n",
    b"0x3\r\nabc\r\n0\r\n\r\n",
    b"+3\r\nabc\r\n0\r\n\r\n",
    b"-3\r\nabc\r\n0\r\n\r\n",
    b"3_0\r\nabc\r\n0\r\n\r\n",
    b"\xef\xbc\x93\r\nabc\r\n0\r\n\r\n",  # a full-width digit
    b"\xc2\xb3\r\nabc\r\n0\r\n\r\n",
    b"fffffffffffffffff3\r\nabc\r\n0\r\n\r\n",  # more than 64 bits
    b"3;a\nb\r\nabc\r\n0\r\n\r\n",  # an extension with a line's end that some see
    b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    b"3;\x00\r\nabc\r\n0\r\n\r\n",
    b"3;" + b"a" * 2000 + b"\r\nabc\r\n0\r\n\r\n",
    b"1;" + b"\r\na\r\n1;".join([b"a" * 1000] * 20) + b"\r\na\r\n0\r\n\r\n",
    b"3\r\nabcXX0\r\n\r\n",  # two bytes that some skip unseen
    b"3\r\nabc\n0\r\n\r\n",
    b"3\r\nabc\r\r\n0\r\n\r\n",
    b"2\r\nabc\r\n0\r\n\r\n",
    b"4\r\nabc\r\n0\r\n\r\n",
    b"\r\n3\r\nabc\r\n0\r\n\r\n",
    b"3\r\nabc\r\n\r\n",
    b"3\r\nabc\r\n0\r\nContent-Length: 5\r\n\r\n",
    b"3\r\nabc\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"3\r\nabc\r\n0\r\nHost: other\r\n\r\n",
    b"3\r\nabc\r\n0\r\nX: a\n\r\n\r\n",
    b"3\r\nabc\r\n0\r\n X: folded\r\n\r\n",
    b"3\r\nabc\r\n0\r\nX\r\n\r\n",
    b"3\r\nabc\r\n0\r\nX: " + b"a" * 9000 + b"\r\n\r\n",
]
# Letters that some programs turn into others, or take for space, a colon, or a line's end.
LOOK_ALIKES = [
    (("Transfer-Encoding: chun\u212aed").encode(),),
    (("Transfer-Encoding: \uff43hunked").encode(),),
    (("Transfer-Encoding: chunked\u2028").encode(),),
    (("Transfer-Encoding:\u00a0chunked").encode(),),
    (("Transfer-Encoding\uff1a chunked").encode(),),
    (("Tran\u017ffer-Encoding: chunked").encode(),),
    (("Content-Length: \uff15").encode(),),
    (("Content-Length: \u0665").encode(),),
    (("Content-Length: 5\u00a0").encode(),),
    (b"Content-Length: 5\x85",),
    (b"Content-Length\xad: 5",),
]


@pytest.mark.parametrize("opened", [False, True])
async def test_no_form_of_smuggling_reaches_an_upstream(opened: bool) -> None:
    """Not on a new connection, and not behind a request that was well."""
    forms = [head_of(*lines, line=b"POST / HTTP/1.1") for lines in SMUGGLING + LOOK_ALIKES]
    async with http_bed() as bed:
        upstream = None
        for number, form in enumerate(forms, 1):
            client = bed.client()
            if opened:
                await client.send(request())
                upstream = upstream or await bed.upstream()
                await upstream.head()
                await upstream.send(OK)
                assert await client.exactly(len(OK)) == OK
            await client.send(form + b"\r\n" + b"0\r\n\r\n" + SMUGGLED)
            answer = await client.rest()
            assert answer.startswith(b"HTTP/1.1 400 "), form
            assert answer.count(b"HTTP/1.1") == 1
            assert bed.no_upstream()
            if upstream is not None:
                assert nothing_came(upstream), form
            records = await bed.requests(number * (1 + opened))
            assert records[-1].flag is ResponseFlag.DOWNSTREAM_PROTOCOL


@pytest.mark.parametrize("form", CHUNKS)
async def test_no_chunk_that_may_be_read_otherwise_is_passed_on(form: bytes) -> None:
    async with http_bed() as bed:
        client = bed.client()
        await client.send(request("POST", "/", "Transfer-Encoding: chunked", body=form + SMUGGLED))
        answer = await client.rest()
        assert answer[:12] in {b"HTTP/1.1 400", b"HTTP/1.1 431"}
        assert answer.count(b"HTTP/1.1") == 1
        client.close()
        await bed.records.wait_closed()
        assert b"smuggled" not in await all_received(bed)


@pytest.mark.parametrize("form", CHUNKS)
async def test_an_upstreams_chunks_are_read_as_strictly(form: bytes) -> None:
    async with http_bed() as bed:
        client = bed.client()
        await client.send(request())
        upstream = await bed.upstream()
        await upstream.head()
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            await upstream.send(response("200 OK", "Transfer-Encoding: chunked", body=form + OK))
        with pytest.raises(ConnectionResetError):  # the response had begun, and must not look complete
            await client.rest()
        with pytest.raises(ConnectionResetError):
            await upstream.rest()
        (record,) = await bed.requests()
        assert record.flag is ResponseFlag.UPSTREAM_PROTOCOL


async def test_no_form_of_smuggling_comes_back_from_an_upstream() -> None:
    """The client is told, what was said in its place goes nowhere, and that connection is not used again."""
    forms = [lines for lines in SMUGGLING + LOOK_ALIKES if b"Host" not in lines[0]]
    async with http_bed() as bed:
        client = bed.client()
        for lines in forms:
            await client.send(request())
            upstream = await bed.upstream()
            await upstream.head()
            head = b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"", b""])
            await upstream.send(head + b"0\r\n\r\n" + OK)
            assert (await client.head()).startswith(b"HTTP/1.1 502 "), lines
            await client.until(b"\n")
            with pytest.raises(ConnectionResetError):
                await upstream.rest()
        assert not client.held
        assert {record.flag for record in await bed.requests(len(forms))} == {ResponseFlag.UPSTREAM_PROTOCOL}


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("HEAD", response("200 OK", "Content-Length: 5")),
        ("GET", response("304 Not Modified", "Content-Length: 5")),
        ("GET", response("204 No Content")),
        ("GET", response("200 OK", "Content-Length: 0")),
    ],
)
async def test_a_body_where_there_is_none_is_nobodys(method: str, answer: bytes) -> None:
    async with http_bed() as bed:
        client = bed.client()
        await client.send(request(method))
        upstream = await bed.upstream()
        await upstream.head()
        await upstream.send(answer + b"HTTP/")
        assert await client.head() == answer
        await client.send(request())
        other = await bed.upstream()  # the first one is not trusted any more
        await other.head()
        await other.send(OK)
        assert await client.exactly(len(OK)) == OK
        assert not client.held


async def test_an_upstream_that_goes_on_informing_fills_no_memory() -> None:
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: " + b"x" * 1000 + b"\r\n\r\n"
    async with http_bed() as bed:
        client = bed.client()
        await client.send(request())
        upstream = await bed.upstream()
        await upstream.head()
        taken = 0
        with trio.move_on_after(0.5):
            while True:
                await upstream.send(hint * 1000)
                taken += 1000 * len(hint)
        assert taken < 64 << 20  # what the kernel's buffers of both legs hold
        assert await client.until(b"\r\n\r\n") == hint


# Who takes his time


async def drip(wire: Wire, data: bytes, seconds: float) -> int:
    """Send a byte at a time, as long as it is taken; how many there were."""
    for count, byte in enumerate(data):
        try:
            await wire.send(bytes([byte]))
        except OSError:
            return count
        await trio.sleep(seconds)
    return len(data)


@pytest.mark.parametrize("data", [request("GET", "/" + "a" * 500), openssl("shop.example", ["h2"])])
async def test_a_byte_now_and_then_does_not_put_off_what_is_decided(data: bytes) -> None:
    given = settings()
    given.spec.timeouts.__dict__["detect"] = 0.3
    async with http_bed("auto", given) as bed:
        client = bed.client()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip, client, data, 0.05)
            upstream = await bed.upstream()
            with trio.fail_after(10):  # all of it would take 25
                assert await upstream.exactly(3) == data[:3]
            nursery.cancel_scope.cancel()
        assert bed.records.detections == ["timeout"]


async def test_a_byte_now_and_then_does_not_put_off_a_heads_end() -> None:
    given = settings()
    given.spec.timeouts.__dict__["requestHead"] = 0.3
    async with http_bed("http", given) as bed:
        client = bed.client()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip, client, request("GET", "/" + "a" * 500), 0.05)
            with trio.fail_after(10):
                assert (await client.head()).startswith(b"HTTP/1.1 408 ")
            nursery.cancel_scope.cancel()
        assert bed.no_upstream()
        assert (await bed.requests())[0].flag is ResponseFlag.IDLE_TIMEOUT


# Both sides end at every byte

UPLOADS = {
    "length": request("POST", "/", "Content-Length: 10", body=b"0123456789"),
    "chunks": request(
        "POST", "/", "Transfer-Encoding: chunked", body=b"3\r\nabc\r\n1;x\r\nd\r\n0\r\nX-Sum: 1\r\n\r\n"
    ),
}
DOWNLOADS = {
    "length": response("200 OK", "Content-Length: 10", body=b"0123456789"),
    "chunks": response(
        "200 OK", "Transfer-Encoding: chunked", body=b"3\r\nabc\r\n1;x\r\nd\r\n0\r\nX-Sum: 1\r\n\r\n"
    ),
    "hint": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK,
}


@pytest.mark.parametrize("how", ["end", "reset"])
@pytest.mark.parametrize("kind", UPLOADS)
async def test_a_client_that_leaves_at_any_byte_of_a_request(kind: str, how: str) -> None:
    """No upstream ever takes a part of a request for all of it, and each is recorded once."""
    whole = UPLOADS[kind]
    async with http_bed() as bed:
        for cut in range(1, len(whole)):
            client = bed.client()
            await client.send(whole[:cut])
            upstream = await bed.upstream() if b"\r\n\r\n" in whole[:cut] else None
            if upstream is not None:
                await upstream.head()
            if how == "reset":
                reset(client.sock)
            else:
                client.finish()
                with contextlib.suppress(ConnectionResetError):
                    assert b"200 OK" not in await client.rest()
            if upstream is None:
                assert bed.no_upstream()
            else:
                with pytest.raises(ConnectionResetError):
                    await upstream.rest()
            await bed.records.wait_closed(cut)
        assert len(bed.records.requests) == len(whole) - whole.index(b"\r\n\r\n") - 4
        assert {record.flag for record in bed.records.requests} == {ResponseFlag.DOWNSTREAM_RESET}


@pytest.mark.parametrize("how", ["end", "reset"])
@pytest.mark.parametrize("kind", DOWNLOADS)
async def test_an_upstream_that_leaves_at_any_byte_of_a_response(kind: str, how: str) -> None:
    """No client ever takes a part of a response for all of it, and each is recorded once."""
    whole = DOWNLOADS[kind]
    final = whole.rindex(b"HTTP/1.1")
    async with http_bed() as bed:
        for cut in range(len(whole)):
            client = bed.client()
            await client.send(request())
            upstream = await bed.upstream()
            await upstream.head()
            await upstream.send(whole[:cut])
            if how == "reset":
                reset(upstream.sock)
            else:
                upstream.close()
            try:
                got = await client.head()
                if got.startswith(b"HTTP/1.1 103 "):
                    got = await client.head()
            except ConnectionResetError:
                got = b""
            if got.startswith(b"HTTP/1.1 503 "):
                assert b"\r\n\r\n" not in whole[final:cut] or how == "reset"
                await client.until(b"\n")
            else:
                assert b"\r\n\r\n" in whole[final:cut]
                with pytest.raises(ConnectionResetError):
                    await client.rest()
            client.close()
            await bed.records.wait_closed(cut + 1)
        assert len(bed.records.requests) == len(whole)
        assert {record.flag for record in bed.records.requests} == {ResponseFlag.UPSTREAM_CLOSED}


# What a test asks


def nothing_came(wire: Wire) -> bool:
    try:
        return not wire.held and not wire.sock.recv(65536)
    except BlockingIOError:
        return True


async def all_received(bed: Bed) -> bytes:
    """What any connection to the upstream has brought."""
    received: list[bytes] = []
    while True:
        bed.server.setblocking(False)
        try:
            sock, _ = bed.server.accept()
        except BlockingIOError:
            return b"".join(received)
        sock.setblocking(False)
        wire = Wire(sock)
        bed.wires.append(wire)
        with contextlib.suppress(ConnectionResetError):
            received.append(await wire.rest())
