"""A user's own middleware, as tests name it in documents."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator

import trio

from interceptor.middleware import (
    Body,
    Connection,
    ConnectionNext,
    Exchange,
    Next,
    Refusal,
    Response,
    get,
    put,
)

NOT_CALLABLE = 1
BEGUN: list[Exchange] = []
GO_ON = threading.Event()


async def passing(exchange: Exchange, call_next: Next) -> Response:
    """As if it were not there."""
    return await call_next()


async def shouting(exchange: Exchange, call_next: Next) -> Response:
    """Alters both bodies while they stream, and both heads."""
    put(exchange.request.headers, b"x-seen", b"yes")
    exchange.body = Body(upper(exchange.body))
    response = await call_next()
    put(response.head.headers, b"x-seen", b"yes")
    response.body = Body(upper(response.body))
    return response


async def upper(body: Body) -> AsyncIterator[bytes]:
    async for chunk in body:
        yield chunk.upper()


async def waiting(exchange: Exchange, call_next: Next) -> Response:
    """Answers with a body that it has when a test says so."""
    GO_ON.clear()

    async def body() -> AsyncIterator[bytes]:
        await trio.to_thread.run_sync(GO_ON.wait, 10)
        yield b"ok"

    return Response(200, body())


async def answering(exchange: Exchange, call_next: Next) -> Response:
    """Answers what has no tenant."""
    if get(exchange.request.headers, b"x-tenant") is None:
        return Response(400, b"which tenant?\n")
    return await call_next()


async def splitting(exchange: Exchange, call_next: Next) -> Response:
    """Writes a header that would be two."""
    exchange.request.headers.append((b"x", b"a\r\nContent-Length: 3"))
    return await call_next()


async def broken(exchange: Exchange, call_next: Next) -> Response:
    raise KeyError("a fault of the user's")


async def slow(exchange: Exchange, call_next: Next) -> Response:
    BEGUN.append(exchange)
    await trio.sleep_forever()


async def half(exchange: Exchange, call_next: Next) -> Response:
    """Answers with a body that fails half-way."""

    async def body() -> AsyncIterator[bytes]:
        yield b"half"
        raise KeyError("a fault of the user's")

    return Response(200, body())


class Limited:
    """Made with a config."""

    def __init__(self, allowed: list[str]) -> None:
        self._allowed = allowed

    async def __call__(self, connection: Connection, call_next: ConnectionNext) -> Refusal | None:
        if connection.flow.peer.host not in self._allowed:
            return Refusal(f"{connection.flow.peer.host} is not on the list")
        await call_next()
        return None


async def connection_broken(connection: Connection, call_next: ConnectionNext) -> Refusal | None:
    raise SystemExit(3)


async def connection_slow(connection: Connection, call_next: ConnectionNext) -> Refusal | None:
    await trio.sleep_forever()


async def connection_silent(connection: Connection, call_next: ConnectionNext) -> None:
    """Neither calls on nor says why."""


def synchronous(exchange: Exchange, call_next: Next) -> None:
    """Not async."""


async def one_argument(exchange: Exchange) -> None:
    """Too few."""
