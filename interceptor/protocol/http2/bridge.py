"""Two connections as one: what a client asks goes to the upstream, stream by stream, and what it answers comes back.

Each leg has settings and windows of its own. A body goes on as far as the other side's windows allow; the rest waits,
at most a window of it, and its sender is not given a new window before it has gone on. Codes of RST_STREAM and GOAWAY
pass through. The bridge touches no socket: the server gives it what arrived and takes what is to be sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from interceptor.model.connection import ResponseFlag
from interceptor.model.http import LocalReply
from interceptor.protocol import grpc
from interceptor.protocol.http2 import answers, heads, replies
from interceptor.protocol.http2.codes import (
    CANCEL,
    INTERNAL_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    StreamError,
    error_name,
)
from interceptor.protocol.http2.leg import Leg, Limits
from interceptor.protocol.http2.stream import Call

if TYPE_CHECKING:
    from interceptor.model.http import ResponseHead
    from interceptor.protocol.http2.hooks import Hooks
    from interceptor.protocol.http2.hpack import Block
    from interceptor.protocol.http2.stream import Stream

_DEBUG: Final = 256  # bytes of a GOAWAY's debug data that are passed on


class Bridge:
    """One client's connection and the upstream's for it."""

    def __init__(self, hooks: Hooks, now: float, limits: Limits = Limits()) -> None:  # noqa: B008 (immutable)
        self._hooks = hooks
        self.downstream = Leg(server=True, events=_Requests(self), limits=limits, now=now)
        self.upstream = Leg(server=False, events=_Responses(self), limits=limits, now=now)
        self._waiting: dict[Call, None] = {}  # for the upstream's connection, or a place on it
        self._connected = False
        self._gone: LocalReply | None = None  # no upstream any more: how requests are answered
        self._alone = False  # no client any more
        self._told_connect = False
        self.downstream.start()

    @property
    def ended(self) -> bool:
        """Whether both connections may be closed, once everything was taken."""
        downstream = self.downstream
        return downstream.dead is not None or (downstream.last_served is not None and not downstream.streams)

    def connected(self) -> None:
        """There is an upstream."""
        self._connected = True
        self.upstream.start()
        self._dispatch()

    def receive_downstream(self, data: bytes, now: float) -> None:
        """Take what the client sent."""
        self.downstream.receive(data, now)
        if self.downstream.dead is not None and not self._alone:
            self.lost_downstream(ResponseFlag.DOWNSTREAM_PROTOCOL, str(self.downstream.dead))

    def receive_upstream(self, data: bytes, now: float) -> None:
        """Take what the upstream sent."""
        self.upstream.receive(data, now)
        if self.upstream.dead is not None:
            details = f"the upstream broke HTTP/2: {self.upstream.dead}"
            self.lost_upstream(replies.unavailable(ResponseFlag.UPSTREAM_PROTOCOL, details))
        elif self._waiting:
            self._dispatch()

    def lost_downstream(self, flag: ResponseFlag, details: str) -> None:
        """The client's connection is over: so is everything that it asked for."""
        self._alone = True
        for stream in tuple(self.downstream.streams.values()):
            call = stream.call
            if call is not None:
                _blame(call, flag, details)
                self.upstream.reset(call.upstream, CANCEL)
            self.downstream.writer.forget(stream)
        if self._connected and self._gone is None:
            self.upstream.writer.goaway(0, NO_ERROR, b"")

    def lost_upstream(self, reply: LocalReply) -> None:
        """There is no upstream, or it is over: answer what waits for it, and ask the client to connect anew."""
        if self._gone is not None:
            return
        self._gone = reply
        self._waiting.clear()
        for stream in tuple(self.downstream.streams.values()):
            call = stream.call
            if call is None or not call.forwarded:
                continue
            if call.upstream.in_closed:  # it has answered; what is still sent to it is not wanted any more
                self.upstream.writer.forget(call.upstream)
            else:
                self.fail(call, reply)
        if self.downstream.last:  # else the first request, which may be under way, is told why
            self.downstream.close_after(NO_ERROR, b"")

    def drain(self) -> None:
        """Ask the client to open no more streams, and end after those that it has."""
        self.downstream.drain()

    def forward(self, call: Call) -> None:
        """Give a request to the upstream, as soon as there is one and it takes it."""
        if call.downstream.out_closed:
            return
        call.forwarded = True
        if self._gone is not None:
            self.fail(call, self._gone)
            self.downstream.close_after(NO_ERROR, b"")
        elif self._connected and not self._waiting and self.upstream.can_open:
            self._open(call)
        else:
            self._waiting[call] = None

    def reply(self, call: Call, reply: LocalReply) -> None:
        """Answer in the upstream's place; where it had begun to answer, reset the stream."""
        stream = call.downstream
        if stream.out_closed:
            return
        _blame(call, reply.flag, reply.details)
        self.withdraw(call, CANCEL)
        if call.response is not None:
            self.downstream.reset(stream, INTERNAL_ERROR)
            return
        head, body = replies.as_response(call, reply)
        call.response = head = self._hooks.response(call, head)
        call.status = head.status
        call.bytes_sent += len(body)
        if not stream.in_closed:  # the rest of the request is of no use (RFC 9113 section 8.1)
            stream.pending_reset = NO_ERROR
        writer = self.downstream.writer
        writer.headers(stream, heads.response_fields(head), end=not body)
        if body:
            writer.data(stream, body, end=True)

    def fail(self, call: Call, reply: LocalReply) -> None:
        """The upstream does not answer, or not to the end: whoever waits for it is told."""
        if call.way is None:
            self.reply(call, reply)
        else:
            call.way.lost(reply)

    def withdraw(self, call: Call, code: int) -> None:
        """Nothing of the upstream is wanted any more for this call."""
        self._waiting.pop(call, None)
        self.upstream.reset(call.upstream, code)

    def _dispatch(self) -> None:
        while self._waiting and self._connected and self.upstream.can_open:
            call = next(iter(self._waiting))
            del self._waiting[call]
            self._open(call)

    def _open(self, call: Call) -> None:
        fields = call.fields
        if fields is None:
            fields = heads.request_fields(call.request, call.protocol)
        self.upstream.open(call.upstream, fields, call.more)

    def begin(self, stream: Stream, block: Block, *, end: bool) -> None:
        """A new request."""
        head, length, protocol = heads.request(block, extended_connect=self.upstream.peer.connect_protocol)
        if end and length:
            raise StreamError(PROTOCOL_ERROR, "a request without the body that its Content-Length announces")
        stream.remaining = length
        twin = self.upstream.new_stream()
        twin.pending_end = end
        call = stream.call = twin.call = Call(head, protocol, stream, twin)
        stream.twin, twin.twin = twin, stream
        verdict = self._hooks.request(call) if block.fits else replies.TOO_LARGE
        if verdict is None:
            self.forward(call)
        elif isinstance(verdict, LocalReply):
            self.reply(call, verdict)

    def finish(self, call: Call) -> None:
        """The client's stream is over."""
        self._waiting.pop(call, None)
        self._hooks.finished(call)

    def malformed(self, details: str) -> None:
        """A request that never became a call."""
        self._hooks.malformed(details)

    def respond(self, call: Call, head: ResponseHead, *, end: bool) -> None:
        """The upstream's final response."""
        call.response = head = self._hooks.response(call, head)
        call.status = head.status
        if call.messages is not None:
            call.messages.answer(head)
            if end:
                call.grpc_status = grpc.status(head.headers)
        self.downstream.writer.headers(call.downstream, heads.response_fields(head), end=end)

    def upstream_leaves(self, last: int, code: int, debug: bytes) -> None:
        """The upstream's GOAWAY: what it will not serve the client may send again elsewhere, and all that follows."""
        for number, stream in tuple(self.upstream.streams.items()):
            if number > last and stream.call is not None:
                _blame(stream.call, ResponseFlag.UPSTREAM_RESET, _refused(code))
                self.downstream.reset(stream.call.downstream, REFUSED_STREAM)
                self.upstream.writer.remember(number)
                self.upstream.writer.forget(stream)
        for call in tuple(self._waiting):
            _blame(call, ResponseFlag.UPSTREAM_RESET, _refused(code))
            self.downstream.reset(call.downstream, REFUSED_STREAM)
        self.upstream.leaving = True
        self.downstream.close_after(code, debug[:_DEBUG])

    def client_leaves(self, code: int, debug: bytes) -> None:
        """The client's GOAWAY: it ends after the streams that it has."""
        if self._connected and self._gone is None:
            self.upstream.writer.goaway(0, code, debug[:_DEBUG])

    def offer_connect(self) -> None:
        """The upstream's settings came: what only they allow is offered to the client."""
        if self.upstream.peer.connect_protocol and not self._told_connect:
            self._told_connect = True
            self.downstream.allow_connect_protocol()


class _Requests:
    """What the client does."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge

    def headers(self, stream: Stream, block: Block, *, end: bool) -> None:
        call = stream.call
        if call is None:
            self._bridge.begin(stream, block, end=end)
            return
        answers.check_trailers(stream, fits=block.fits, end=end)
        trailers = heads.trailers(block.fields)
        if call.client is not None:
            call.client.take_end(trailers)
        elif not call.upstream.out_closed:
            self._bridge.upstream.writer.headers(call.upstream, trailers, end=True)

    def data(self, stream: Stream, data: bytes, *, end: bool) -> None:
        call = stream.call
        assert call is not None
        call.bytes_received += len(data)
        if call.messages is not None:
            call.messages.asked(data)
        if call.upstream.out_closed and call.client is None:
            stream.source.consumed(stream, len(data))
        elif call.body_limit is not None and call.bytes_received > call.body_limit:
            stream.source.consumed(stream, len(data))
            self._bridge.reply(call, replies.too_long(call.body_limit))
        elif call.client is not None:
            call.client.take(data, end=end)
        else:
            self._bridge.upstream.writer.data(call.upstream, data, end=end)

    def reset(self, stream: Stream, code: int, *, complete: bool) -> None:  # noqa: ARG002 (either way it is a reset)
        call = stream.call
        assert call is not None
        _blame(call, ResponseFlag.DOWNSTREAM_RESET, f"the client reset the stream with {error_name(code)}")
        self._bridge.upstream.reset(call.upstream, code)

    def faulted(self, stream: Stream, fault: StreamError) -> None:
        call = stream.call
        if call is None:
            self._bridge.malformed(str(fault))
            return
        _blame(call, ResponseFlag.DOWNSTREAM_PROTOCOL, str(fault))
        self._bridge.upstream.reset(call.upstream, CANCEL)

    def settings(self) -> None: ...

    def goaway(self, last: int, code: int, debug: bytes) -> None:  # noqa: ARG002 (we open no streams to a client)
        self._bridge.client_leaves(code, debug)

    def left(self, stream: Stream) -> None:
        if stream.call is not None:
            self._bridge.finish(stream.call)


class _Responses:
    """What the upstream does."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge

    def headers(self, stream: Stream, block: Block, *, end: bool) -> None:
        call = stream.call
        assert call is not None
        if call.answered:
            answers.check_trailers(stream, fits=block.fits, end=end)
            trailers = heads.trailers(block.fields)
            if (way := call.way) is not None:
                way.take_end(trailers)
                return
            if call.grpc:
                call.grpc_status = grpc.status(trailers)
            self._bridge.downstream.writer.headers(call.downstream, trailers, end=True)
            return
        head, length = answers.read(stream, block, call.request.method, end=end)
        if head.status < 200:
            self._informational(call, head)
            return
        call.answered = True
        if (way := call.way) is not None:
            way.respond(head.copy(), length, end=end)
        else:
            self._bridge.respond(call, head, end=end)

    def _informational(self, call: Call, head: ResponseHead) -> None:
        if call.way is not None:
            call.way.informational(head)
        else:
            fields = heads.response_fields(head)
            self._bridge.downstream.writer.headers(call.downstream, fields, end=False)

    def data(self, stream: Stream, data: bytes, *, end: bool) -> None:
        call = stream.call
        assert call is not None
        if not call.answered:
            raise StreamError(PROTOCOL_ERROR, "a response that begins with its body")
        if (way := call.way) is not None:
            way.take(data, end=end)
            return
        call.bytes_sent += len(data)
        if call.messages is not None:
            call.messages.answered(data)
        self._bridge.downstream.writer.data(call.downstream, data, end=end)

    def reset(self, stream: Stream, code: int, *, complete: bool) -> None:
        call = stream.call
        assert call is not None
        downstream = call.downstream
        details = f"the upstream reset the stream with {error_name(code)}"
        if (way := call.way) is not None:
            if not complete:
                way.lost(replies.unavailable(ResponseFlag.UPSTREAM_RESET, details))
            return
        if complete and downstream.pending:  # the response is complete, but for its way to the client
            downstream.pending_reset = code
            return
        if not downstream.out_closed:
            _blame(call, ResponseFlag.UPSTREAM_RESET, details)
        self._bridge.downstream.reset(downstream, code)

    def faulted(self, stream: Stream, fault: StreamError) -> None:
        call = stream.call
        assert call is not None
        self._bridge.upstream.reset(stream, fault.code)
        self._bridge.fail(call, replies.bad_gateway(str(fault)))

    def settings(self) -> None:
        self._bridge.offer_connect()

    def goaway(self, last: int, code: int, debug: bytes) -> None:
        self._bridge.upstream_leaves(last, code, debug)

    def left(self, stream: Stream) -> None: ...


def _blame(call: Call, flag: ResponseFlag, details: str) -> None:
    """Note why a call ended as it did; the first cause is the one."""
    if call.flag is ResponseFlag.NONE:
        call.flag, call.details = flag, details


def _refused(code: int) -> str:
    return f"the upstream was closing its connection with {error_name(code)}: the client may try again"
