"""HTTP/2 with peers that leave in the middle of anything: nobody takes a part for the whole, and each is recorded once."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from interceptor.model.connection import ResponseFlag
from interceptor.protocol.http2.codes import DATA, HEADERS, PREFACE, RST_STREAM
from tests.support.flows import FixedView, Running, listening, reset, running_proxy
from tests.support.http2 import GET, OK, POST, Sent, Wire, settings
from tests.support.http2_cases import TRAILERS, data, headers

REQUEST = PREFACE + settings() + headers(1, POST) + data(1, b"0123456789") + headers(1, TRAILERS, end=True)
RESPONSE = settings() + headers(1, OK) + data(1, b"0123456789") + headers(1, TRAILERS, end=True)


@asynccontextmanager
async def bed() -> AsyncIterator[tuple[Running, socket.socket]]:
    server, address = listening()
    server.setblocking(False)
    async with running_proxy(FixedView((address,), protocol="http2")) as running:
        with server:
            yield running, server
    assert running.records.faults == 0


async def all_heard(wire: Wire) -> tuple[list[Sent], str]:
    """Every frame until the connection ends, and how that is."""
    how = await wire.end()
    return wire.frames, how


async def reached(server: socket.socket) -> Wire:
    """The next connection that reaches the upstream."""
    with trio.fail_after(10):
        await trio.lowlevel.wait_readable(server)
    return Wire(server.accept()[0])


def leave(sock: socket.socket, how: str) -> None:
    if how == "reset":
        reset(sock)
    else:
        sock.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_client_that_leaves_at_any_byte_of_a_request(how: str) -> None:
    head = len(PREFACE + settings() + headers(1, POST))
    async with bed() as (running, server):
        for cut in range(1, len(REQUEST)):
            client = Wire(running.connect())
            await client.say(REQUEST[:cut])
            app = await reached(server)
            if cut >= head:
                assert not (await app.hear(HEADERS)).ends
            leave(client.sock, how)
            if how == "end":
                frames, _ = await all_heard(client)
                assert not [each for each in frames if each.kind in {HEADERS, DATA}]
                client.sock.close()
            frames, _ = await all_heard(app)
            app.sock.close()
            assert not [each for each in frames if each.kind in {HEADERS, DATA} and each.ends]
            assert [each.kind for each in frames].count(RST_STREAM) == (cut >= head)
            await running.records.wait_closed(cut)
        records = running.records.requests
        assert len(records) == len(REQUEST) - head
        assert {record.flag for record in records} == {ResponseFlag.DOWNSTREAM_RESET}


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_an_upstream_that_leaves_at_any_byte_of_a_response(how: str) -> None:
    async with bed() as (running, server):
        for cut in range(len(RESPONSE)):
            client = Wire(running.connect())
            await client.say(PREFACE, settings(), headers(1, GET, end=True))
            app = await reached(server)
            await app.hear(HEADERS, 1)
            await app.say(RESPONSE[:cut])
            if how == "reset":
                reset(app.sock)
            else:
                app.sock.close()
            frames, ended = await all_heard(client)
            client.sock.close()
            assert ended == "fin"
            whole = [each for each in frames if each.kind in {HEADERS, DATA} and each.ends]
            head = next((each.decoded for each in frames if each.kind == HEADERS), None)
            status = head[b":status"] if head is not None else None
            assert bool(whole) == (status == b"503")
            assert [each.kind for each in frames].count(RST_STREAM) == (status != b"503")
            await running.records.wait_closed(cut + 1)
        records = running.records.requests
        assert len(records) == len(RESPONSE)
        assert {record.flag for record in records} == {ResponseFlag.UPSTREAM_CLOSED}
