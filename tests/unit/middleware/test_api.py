from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from interceptor.middleware import Body, BodyTooLargeError, Connection, Response
from tests.support.exchanges import a_flow, an_exchange

ID = "spiffe://cluster.local/ns/shop/sa/web"


async def chunks(*given: bytes) -> AsyncIterator[bytes]:
    for each in given:
        yield each


async def test_a_body_gives_each_byte_once() -> None:
    body = Body(b"abc")
    assert (body.length, body.taken) == (3, False)
    assert [chunk async for chunk in body] == [b"abc"]
    assert [chunk async for chunk in body] == []
    assert body.taken


async def test_a_body_may_be_of_chunks_and_of_unknown_length() -> None:
    body = Body(chunks(b"a", b"bc"))
    assert body.length is None
    assert await body.read(3) == b"abc"
    assert await Body().read(0) == b""


async def test_no_more_is_read_than_asked_for() -> None:
    body = Body(chunks(b"a", b"bc", b"d"))
    with pytest.raises(BodyTooLargeError, match="longer than 2 bytes"):
        await body.read(2)
    assert [chunk async for chunk in body] == [b"d"]


async def test_closing_it_lets_a_generator_clean_up() -> None:
    body = Body(chunks(b"a", b"b"))
    assert await anext(body) == b"a"
    await body.aclose()
    assert [chunk async for chunk in body] == []
    await Body(b"a").aclose()


async def test_a_response_takes_bytes_chunks_or_a_body() -> None:
    assert await Response(200, b"yes").body.read(9) == b"yes"
    assert await Response(200, chunks(b"y", b"es")).body.read(9) == b"yes"
    body = Body(b"")
    made = Response(404, body, [(b"a", b"b")])
    assert made.body is body
    assert (made.head.status, made.head.headers, made.reply) == (404, [(b"a", b"b")], None)


def test_who_the_peer_is_comes_from_the_flow() -> None:
    flow = a_flow(identity=ID)
    assert str(Connection(flow).identity) == ID
    assert str(an_exchange(flow=flow).identity) == ID
    assert an_exchange().identity is None
