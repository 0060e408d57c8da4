"""A call that somebody stands amid: its two streams are parted, and each faces him instead of the other one.

What a peer sends is his, and it gets no new window for it before he says that it has gone on. What he sends waits for
the other peer's windows as ever, and he is told when nothing waits any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from interceptor.model.connection import ResponseFlag
from interceptor.model.request import VIA_UPSTREAM
from interceptor.protocol import grpc
from interceptor.protocol.http1 import CHUNKED
from interceptor.protocol.http2 import heads, replies
from interceptor.protocol.http2.codes import CANCEL, NO_ERROR
from interceptor.protocol.http2.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.model.http import Headers, LocalReply, RequestHead, ResponseHead
    from interceptor.protocol.http2.bridge import Bridge
    from interceptor.protocol.http2.leg import Leg
    from interceptor.protocol.http2.stream import Call


class Taker(Protocol):
    """Who takes the request."""

    def data(self, data: bytes) -> None:
        """Some of its body."""

    def end(self, trailers: Headers) -> None:
        """All of it."""

    def resume(self) -> None:
        """The client took what waited of the response."""


class Asker(Protocol):
    """Who sends the request on, and takes the response."""

    def informational(self, head: ResponseHead) -> None:
        """A 1xx."""

    def respond(self, head: ResponseHead, body: int) -> None:
        """The response, whose body has a length or is CHUNKED."""

    def data(self, data: bytes) -> None:
        """Some of its body."""

    def end(self, trailers: Headers) -> None:
        """All of it."""

    def broken(self, details: str) -> None:
        """The rest will not come."""

    def resume(self) -> None:
        """The upstream took what waited of the request."""


class Client:
    """The client's side: what it sends goes to the taker, what it is told comes from here."""

    def __init__(self, bridge: Bridge, call: Call, taker: Taker) -> None:
        self._bridge = bridge
        self._call = call
        self._taker = taker
        self._stream = call.downstream
        self._window = _Window(bridge.downstream, call.downstream)

    def divert(self) -> None:
        """Begin, with what came before."""
        call, upstream = self._call, self._call.upstream
        pending, ended, trailers = bytes(upstream.pending), upstream.pending_end, upstream.trailers
        upstream.pending, upstream.pending_end, upstream.trailers = bytearray(), False, None
        call.client = self
        self._stream.twin = told_of(self._stream, self._taker.resume)
        if pending:
            self.take(pending, end=False)
        if ended or trailers is not None:
            self.take_end(trailers or [])

    def take(self, data: bytes, *, end: bool) -> None:
        """Some of the request's body came."""
        if data:
            self._window.held += len(data)
            self._taker.data(data)
        if end:
            self.take_end([])

    def take_end(self, trailers: Headers) -> None:
        """All of it came."""
        self._taker.end(trailers)

    def used(self) -> None:
        """What came has gone on: the client may send as much again."""
        self._window.give()

    def informational(self, head: ResponseHead) -> None:
        """A 1xx."""
        if not self._stream.out_closed:
            self._bridge.downstream.writer.headers(self._stream, heads.response_fields(head), end=False)

    def respond(self, head: ResponseHead, *, end: bool) -> None:
        """The response's head, and perhaps its end."""
        if self._stream.out_closed:
            return
        self._call.response = head
        self._call.status = head.status
        if self._call.messages is not None:
            self._call.messages.answer(head)
        if end:
            self._ending(head.headers)
        self._bridge.downstream.writer.headers(self._stream, heads.response_fields(head), end=end)

    def data(self, data: bytes) -> None:
        """Some of its body."""
        if not self._stream.out_closed:
            self._call.bytes_sent += len(data)
            if self._call.messages is not None:
                self._call.messages.answered(data)
            self._bridge.downstream.writer.data(self._stream, data, end=False)

    def end(self, trailers: Headers) -> None:
        """All of it; nothing more where it had ended with its head."""
        if not self._stream.out_closed:
            self._ending(trailers)
            end_stream(self._bridge.downstream, self._stream, trailers)

    def _ending(self, last: Headers) -> None:
        if self._call.grpc:
            self._call.grpc_status = grpc.status(last)
        if not self._stream.in_closed:  # the rest of the request is of no use (RFC 9113 section 8.1)
            self._stream.pending_reset = NO_ERROR


class Way:
    """The upstream's side: what it answers goes to the asker, what it is asked comes from here."""

    def __init__(self, bridge: Bridge, call: Call, asker: Asker, head: RequestHead, body: int) -> None:
        self._bridge = bridge
        self._call = call
        self._asker = asker
        self._stream = call.upstream
        self._window = _Window(bridge.upstream, call.upstream)
        self.body = body
        self.over = False
        self.flag = ResponseFlag.NONE
        self.details = VIA_UPSTREAM
        call.request = head
        call.way = self
        self._stream.twin = told_of(self._stream, asker.resume)

    # What the asker calls

    def forward(self) -> None:
        """Send the head."""
        self._stream.pending_end = not self.body
        self._bridge.forward(self._call)

    def data(self, data: bytes) -> None:
        """Some of the body."""
        if not self._stream.out_closed:
            self._bridge.upstream.writer.data(self._stream, data, end=False)

    def end(self, trailers: Headers) -> None:
        """All of it; nothing more where it had ended with its head."""
        if self.body and not self._stream.out_closed:
            end_stream(self._bridge.upstream, self._stream, trailers)

    def flush(self) -> bool:
        """Whether more may follow before ``resume`` is called."""
        return self._stream.out_closed or not self._stream.pending

    def resume(self) -> None:
        """What came of the response has gone on: the upstream may send as much again."""
        self._window.give()

    def abort(self, flag: ResponseFlag, details: str) -> None:
        """Nothing more is wanted."""
        if not self.over:
            self.over, self.flag, self.details = True, flag, details
            self._bridge.withdraw(self._call, CANCEL)
            self._window.give()

    # What the bridge calls

    def informational(self, head: ResponseHead) -> None:
        """A 1xx came."""
        self._asker.informational(head)

    def respond(self, head: ResponseHead, length: int | None, *, end: bool) -> None:
        """The response came."""
        self._asker.respond(head, 0 if end else length or CHUNKED)  # behind no body trailers may come
        if end:
            self.take_end([])

    def take(self, data: bytes, *, end: bool) -> None:
        """Some of its body came."""
        if data:
            self._window.held += len(data)
            self._asker.data(data)
        if end:
            self.take_end([])

    def take_end(self, trailers: Headers) -> None:
        """All of it came."""
        self._asker.end(trailers)

    def lost(self, reply: LocalReply) -> None:
        """No response comes, or no more of it."""
        if self.over:
            return
        self.over, self.flag, self.details = True, reply.flag, reply.details
        self._bridge.upstream.writer.forget(self._stream)  # whoever tells has reset it, or was told so
        if self._call.answered:
            self._asker.broken(reply.details)
            return
        self._asker.respond(replies.plain(reply), len(reply.body))
        if reply.body:
            self._asker.data(reply.body)
        self._asker.end([])


class _Window:
    """Bytes of a stream that came and have not gone on."""

    __slots__ = ("_leg", "_stream", "held")

    def __init__(self, leg: Leg, stream: Stream) -> None:
        self._leg = leg
        self._stream = stream
        self.held = 0

    def give(self) -> None:
        held, self.held = self.held, 0
        self._leg.consumed(self._stream, held)


class _Told:
    """Stands for a stream's twin: what it is told of has been sent."""

    __slots__ = ("_stream", "_told")

    def __init__(self, stream: Stream, told: Callable[[], None]) -> None:
        self._stream = stream
        self._told = told

    def consumed(self, stream: Stream, size: int) -> None:  # noqa: ARG002 (it has no window of its own)
        if not self._stream.pending:
            self._told()


def told_of(stream: Stream, told: Callable[[], None]) -> Stream:
    """A twin for a stream: whenever all that was pending of it has been sent, its owner is told."""
    return Stream(0, _Told(stream, told), 0, 0)


def end_stream(leg: Leg, stream: Stream, trailers: Headers) -> None:
    """End our side of a stream."""
    if trailers:
        leg.writer.headers(stream, heads.trailer_fields(trailers), end=True)
    else:
        leg.writer.data(stream, b"", end=True)
