"""A request of HTTP/2 that does not go where its connection goes: an exchange, of which a client's stream is the downstream.

So it is routed, tried again, timed and recorded by what does so for HTTP/1, and its upstream may speak either version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from interceptor.model.connection import ResponseFlag
from interceptor.model.http import LocalReply, get
from interceptor.protocol import grpc
from interceptor.protocol.http1 import CHUNKED, Request as Asked
from interceptor.protocol.http2.codes import INTERNAL_ERROR
from interceptor.protocol.http2.diversion import Client
from interceptor.proxy.http import replies
from interceptor.proxy.http.exchange import Exchange

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.model.http import Headers, ResponseHead
    from interceptor.protocol.http2.bridge import Bridge
    from interceptor.protocol.http2.stream import Call
    from interceptor.proxy.http.client import Connection
    from interceptor.proxy.http.serve import Service

UNKNOWN: Final = "unknown"  # the status of a gRPC call that ended without one


class Requests(Protocol):
    """What the requests of one connection have in common: see ``http2_requests``."""

    bridge: Bridge
    service: Service
    settle: Callable[[], None]

    def touch(self, apart: Apart) -> None: ...


class Facing:
    """The client's stream, as an exchange sees it."""

    __slots__ = ("_call", "_client", "_exchange", "_requests", "complete")

    def __init__(self, requests: Requests, call: Call, exchange: Apart) -> None:
        self._requests = requests
        self._call = call
        self._exchange = exchange
        self._client = Client(requests.bridge, call, exchange)
        self.complete = False  # the client was told all, or that there is no more

    def begin(self) -> None:
        """Take what the client sends."""
        self._client.divert()

    def informational(self, head: ResponseHead) -> None:
        """A 1xx."""
        self._client.informational(head)

    def respond(self, head: ResponseHead, body: int) -> None:
        """The response's head, which ends the stream where no body follows."""
        self.complete = not body
        self._client.respond(head, end=not body)

    def data(self, data: bytes) -> None:
        """Some of the response's body."""
        self._client.data(data)

    def end(self, trailers: Headers) -> None:
        """The response is complete."""
        self.complete = True
        self._client.end(trailers)
        self.used()

    def broken(self, details: str) -> None:
        """It cannot be completed."""
        self.complete = True
        self._call.details = details
        self._requests.bridge.downstream.reset(self._call.downstream, self._exchange.reset_code)
        self.resume()

    def flush(self) -> bool:
        """Send it; whether the client takes more."""
        self._requests.settle()
        return not self._call.downstream.pending

    def resume(self) -> None:
        """The upstream takes more of the request."""
        self.used()
        self._requests.settle()

    def used(self) -> None:
        """What came of the request has gone on: the client may send as much again."""
        self._client.used()

    def switch(self, connection: Connection, early: bytes) -> None:
        """Never: a stream does not change to another protocol."""
        raise AssertionError(connection, early)


class Apart(Exchange):
    """The request."""

    __slots__ = ("_call", "_facing", "_grpc", "_requests", "reset_code")

    def __init__(self, service: Service, requests: Requests, call: Call) -> None:
        stream = call.downstream
        length = get(call.request.headers, b"content-length")
        body = 0 if stream.in_closed else CHUNKED if length is None else int(length)
        facing = self._facing = Facing(requests, call, self)
        super().__init__(service, facing, Asked(call.request, body, keep_alive=True))
        self._requests = requests
        self._call = call
        self._grpc = call.grpc
        self.messages = call.messages
        self.reset_code = INTERNAL_ERROR

    def begin(self) -> None:
        """Serve it."""
        self._facing.begin()
        self._begin()

    # What the client does

    def data(self, data: bytes) -> None:
        """Some of the request's body."""
        if self.over:
            self._facing.used()
            return
        self.active = self._requests.service.all.hub.now
        super().data(data)
        self._requests.touch(self)

    def end(self, trailers: Headers) -> None:
        """All of the request."""
        if not self.over:
            super().end(trailers)
            self._requests.touch(self)

    def pass_on(self) -> None:
        """The turn is over: send the upstream what came for it."""
        if not self.over and self.flush():
            self._facing.used()

    def left(self) -> None:
        """The client's stream is over."""
        if not self.over and not self._facing.complete:
            call = self._call
            unnamed = call.flag is ResponseFlag.NONE
            self.abort(
                ResponseFlag.DOWNSTREAM_RESET if unnamed else call.flag, "-" if unnamed else call.details
            )

    def check_time(self, now: float) -> None:
        """End it where the response takes too long. Silence is the connection's to look for: a stream may be quiet."""
        limit = self._requests.service.all.request_timeout
        if limit is not None and now - self.began >= limit:
            self.refuse(replies.TIMEOUT)

    # What is answered

    def reset_with(self, code: int | None) -> None:
        """The client's stream ends as the upstream's did."""
        if code:
            self.reset_code = code

    def reply(self, local: LocalReply) -> None:
        """Answer in the upstream's place, a client of gRPC by a status of gRPC."""
        if self._grpc:
            local = LocalReply(200, local.flag, local.details, b"", grpc.reply_fields(local))
        super().reply(local)

    def respond_with(self, head: ResponseHead, body: int, reply: LocalReply | None) -> int:
        """The same where the user's own has it."""
        if reply is not None and self._grpc:
            local = LocalReply(head.status, reply.flag, reply.details, reply.body, head.headers)
            head.status, head.headers, body = 200, grpc.reply_fields(local), 0
        return super().respond_with(head, body, reply)

    def _respond(self, head: ResponseHead, body: int) -> None:
        if self._grpc and not body:
            self.grpc_status = grpc.status(head.headers)
        super()._respond(head, body)

    def response_end(self, trailers: Headers) -> None:
        """The response is complete."""
        if self._grpc and self.grpc_status is None:
            self.grpc_status = grpc.status(trailers)
        super().response_end(trailers)

    def _record(self) -> None:
        if self._grpc and self.grpc_status is None:
            self.grpc_status = UNKNOWN
        super()._record()
