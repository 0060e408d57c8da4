"""Between an exchange, which lives in the hub's turns, and the user's own middleware, which lives in a task.

The client's side sees the bridge where it would see a connection to an upstream, and the upstream's side sees it where
it would see a client: so neither knows of it. In between two pipes of one buffer each carry the bodies, and a full one
makes its source wait, as a full socket does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from interceptor.errors import PeerError
from interceptor.middleware.api import Body, Response
from interceptor.middleware.users import BodyFailedError
from interceptor.model.connection import ResponseFlag
from interceptor.model.http import LocalReply, remove
from interceptor.model.request import VIA_UPSTREAM
from interceptor.protocol import http1
from interceptor.protocol.http1 import CHUNKED, MalformedError
from interceptor.proxy.http import replies
from interceptor.proxy.http.exchange import Exchange

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.middleware import api
    from interceptor.middleware.chain import Chain
    from interceptor.model.http import Headers, RequestHead, ResponseHead
    from interceptor.proxy.http.client import Connection
    from interceptor.proxy.http.roles import Served

# What says how a message is framed or is for one hop: the gateway writes it, whatever a middleware left in the headers.
_FRAMING: Final = (b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"upgrade", b"te")


CLOSING: Final = 1.0  # seconds for a generator of the user's to clean up


class CutError(PeerError):
    """The upstream's response ended before it was complete."""


class Pipe:
    """Bytes from the hub's turns to a task: what came in one turn, then no more until it was taken."""

    def __init__(self, taken: Callable[[], None]) -> None:
        self._taken = taken  # told that there is room again
        self._chunks: list[bytes] = []
        self._ended = False
        self._cut = False
        self._came = trio.Event()

    @property
    def full(self) -> bool:
        """Whether something waits to be taken."""
        return bool(self._chunks)

    def put(self, data: bytes) -> None:
        """Some of the body."""
        self._chunks.append(data)
        self._came.set()

    def end(self) -> None:
        """All of it."""
        self._ended = True
        self._came.set()

    def cut(self) -> None:
        """The rest will never come."""
        self._cut = True
        self._came.set()

    def __aiter__(self) -> Pipe:
        return self

    async def __anext__(self) -> bytes:
        while not self._chunks:
            if self._cut:
                raise CutError("the body ended before it was complete")
            if self._ended:
                raise StopAsyncIteration
            self._came = trio.Event()
            await self._came.wait()
        data = b"".join(self._chunks)
        self._chunks.clear()
        self._taken()
        return data


class Bridge:
    """One exchange whose chain has the user's own in it. To the client's side this is the upstream's connection."""

    def __init__(self, chain: Chain, exchange: Served, state: api.Exchange) -> None:
        self._chain = chain
        self._exchange = exchange
        self._state = state
        self._onward: Onward | None = None
        self._request = Pipe(exchange.request_drained)
        self._body = state.body = Body(self._request, exchange.body if exchange.body >= 0 else None)
        self._client_took = trio.Event()
        self._nursery: trio.Nursery | None = None
        exchange.divert(self)

    # What the client's side calls

    def data(self, data: bytes) -> None:
        """Some of the request's body."""
        self._request.put(data)

    def end(self, trailers: Headers) -> None:
        """All of it."""
        self._body.trailers.extend(trailers)
        self._request.end()

    def flush(self) -> bool:
        """Whether more may follow."""
        return not self._request.full

    def resume(self) -> None:
        """The client took what there was of the response."""
        self._client_took.set()

    def half_close(self) -> None:
        """The client sends no more, and may still read: the middleware has what it sent."""

    def abandon(self) -> None:
        """The exchange is over: its task is cancelled, and so is what it began."""
        if self._onward is not None:
            self._onward.leave()

    # The task

    async def run(self) -> None:
        """From the request, by way of the chain, to the response's last byte."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                response = await self._chain.proceed(self._state, self._forward)
                await self._answer(response)
                nursery.cancel_scope.cancel()  # the client was answered, so the rest of what it sends is not wanted
        except* (PeerError, BodyFailedError, MalformedError) as failures:
            failure = None if self._onward is None else self._onward.failure()
            details = _first(failures)
            self._exchange.lost(
                failure or replies.reply(500, ResponseFlag.LOCAL_RESET, "middleware_failed", details)
            )
        finally:
            if self._onward is not None:
                self._onward.leave()

    async def _forward(self, state: api.Exchange) -> Response:
        """Send the request to the upstream, and wait for the head of what it answers."""
        exchange, body = self._exchange, state.body
        exchange.head = head = state.request
        size = exchange.body if body is self._body else _framed(head.headers, body)
        if size == CHUNKED and head.version == b"1.0":
            raise MalformedError("a body of unknown length cannot be sent with HTTP/1.0", 500)
        http1.check_headers(head.headers)
        assert self._nursery is not None
        onward = self._onward = Onward(exchange, head, size)
        onward.send(body, self._nursery, at_hand=self._request.full)
        try:
            await onward.came.wait()
        except trio.Cancelled:
            onward.leave()
            raise
        return onward.response()

    async def _answer(self, response: Response) -> None:
        """Send the response to the client, as fast as it takes it."""
        exchange, onward, head, body = self._exchange, self._onward, response.head, response.body
        passed_on = onward is not None and body is onward.body
        if passed_on and onward is not None and onward.switched(head.status):
            return
        if not 200 <= head.status <= 599:
            raise MalformedError(f"a middleware answered with the status {head.status}", 500)
        size = onward.size if passed_on and onward is not None else _framed(head.headers, body)
        head.reason = head.reason or replies.reason(head.status)
        http1.check_headers(head.headers)
        if exchange.head.method == b"HEAD" or head.status in {204, 304}:
            size = 0
        size = exchange.respond_with(head, size, response.reply)
        if response.reply is None and onward is None:
            exchange.details = "middleware_response"
        if size and body.source_is_code and (onward is None or not onward.at_hand):
            exchange.response_flush()  # nobody knows when something of the body comes
        try:
            if size:
                await self._send(body, size)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSING):
                await body.aclose()
        exchange.response_end(body.trailers)
        exchange.response_flush()

    async def _send(self, body: Body, size: int) -> None:
        exchange, left = self._exchange, size
        async for data in body:
            left -= len(data)
            if size >= 0 and left < 0:
                raise MalformedError("a middleware's body is longer than it announced", 500)
            if not data:
                continue
            self._client_took = trio.Event()
            exchange.response_data(data)
            if not exchange.response_flush():
                await self._client_took.wait()
        if size > 0 and left:
            raise MalformedError("a middleware's body is shorter than it announced", 500)


class Onward:
    """The way on from the user's own to the upstream; to the upstream's side it is the client."""

    def __init__(self, outer: Served, head: RequestHead, size: int) -> None:
        self._exchange = outer.again(self, head, size)
        self._outer = outer
        self._room = trio.Event()
        self._pipe = Pipe(self._exchange.resume)
        self._head: ResponseHead | None = None
        self._switch: tuple[Connection, bytes] | None = None
        self.came = trio.Event()  # the response's head
        self.size = 0  # of the response's body, as it is framed
        self.body = Body(self._pipe)

    @property
    def at_hand(self) -> bool:
        """Whether some of the response's body is there to be taken."""
        return self._pipe.full

    def send(self, body: Body, nursery: trio.Nursery, *, at_hand: bool) -> None:
        """Begin with the request; the head goes first where nothing of the body is at hand: its sender may wait."""
        self._exchange.forward()
        if self._exchange.body:
            if not at_hand:
                self._exchange.flush()
            nursery.start_soon(self._pump, body)
        else:
            self._exchange.end([])
            self._exchange.flush()

    async def _pump(self, body: Body) -> None:
        """Bring the request's body to the upstream, as fast as it takes it."""
        exchange = self._exchange
        left = exchange.body
        async for data in body:
            left -= len(data)
            if exchange.body >= 0 and left < 0:
                raise MalformedError("a middleware's body is longer than it announced", 500)
            if not data:
                continue
            self._room = trio.Event()
            exchange.data(data)
            if not exchange.flush() and not exchange.over:
                await self._room.wait()
        if exchange.body > 0 and left:
            raise MalformedError("a middleware's body is shorter than it announced", 500)
        if not exchange.over:
            exchange.end(body.trailers)
            exchange.flush()

    def response(self) -> Response:
        """What came from the upstream; where nothing did, the gateway's answer in its place."""
        exchange = self._exchange
        assert self._head is not None
        reply = None
        if exchange.details != VIA_UPSTREAM:
            reply = LocalReply(self._head.status, exchange.flag, exchange.details, exchange.details.encode())
        return Response.of(self._head, self.body, reply=reply)

    def failure(self) -> LocalReply | None:
        """What became of the upstream's side, where it broke off."""
        exchange = self._exchange
        if exchange.flag is ResponseFlag.NONE:
            return None
        return replies.reply(503, exchange.flag, exchange.details, "the upstream failed")

    def switched(self, status: int) -> bool:
        """Hand the connection over, where the client may change to another protocol and nobody changed the answer."""
        if self._switch is None or self._head is None or status != self._head.status:
            return False
        (connection, early), self._switch = self._switch, None
        assert isinstance(self._outer, Exchange)  # a connection of HTTP/2 never changes
        self._outer.take_over(connection, self._head, early)
        return True

    def leave(self) -> None:
        """Nothing more of it is wanted."""
        self._exchange.abort(ResponseFlag.NONE, "-")
        if self._switch is not None:
            self._switch[0].abandon()
            self._switch = None

    # What the upstream's side calls

    def informational(self, head: ResponseHead) -> None:
        self._outer.informational(head)
        self._outer.response_flush()

    def respond(self, head: ResponseHead, body: int) -> None:
        self._head, self.size = head, body
        self.body.length = body if body >= 0 else None
        self.came.set()

    def data(self, data: bytes) -> None:
        self._outer.moved()
        self._pipe.put(data)

    def end(self, trailers: Headers) -> None:
        self.body.trailers.extend(trailers)
        self._pipe.end()

    def broken(self, details: str) -> None:  # noqa: ARG002 (the exchange has them)
        self._pipe.cut()

    def flush(self) -> bool:
        return self._switch is None and not self._pipe.full

    def resume(self) -> None:
        self._room.set()

    def switch(self, connection: Connection, early: bytes) -> None:
        self._switch = connection, early


def _framed(headers: Headers, body: Body) -> int:
    """Take out what the headers said about another body, and say how long this one is, where that is known."""
    for name in _FRAMING:
        remove(headers, name)
    if body.length is None:
        return CHUNKED
    headers.append((b"content-length", b"%d" % body.length))
    return body.length


def _first(failures: BaseExceptionGroup[Exception]) -> str:
    """What is said of several failures: what came first caused the others."""
    first: BaseException = failures
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return str(first)
