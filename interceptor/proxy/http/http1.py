"""A client's HTTP/1 connection: requests one after the other, each an exchange, until it ends or changes protocol.

One request is served at a time. What a client sends behind it stays in the kernel, or in the one buffer that was read.
"""

from __future__ import annotations

import select
import socket
from functools import partial
from typing import TYPE_CHECKING, Final

import outcome
import trio

from interceptor.kernel import sockets
from interceptor.model.connection import ResponseFlag
from interceptor.model.http import RequestHead, ResponseHead
from interceptor.protocol import http1
from interceptor.protocol.chunks import Chunks, chunk, last_chunk
from interceptor.protocol.http1 import CHUNKED, HEAD_END, UNTIL_CLOSE, MalformedError
from interceptor.proxy.http import replies
from interceptor.proxy.http.exchange import Exchange
from interceptor.proxy.http.half import DRAIN, LIMIT, LITTLE, OUT, READ, Half
from interceptor.proxy.http.tunnel import Tunnel
from interceptor.proxy.loop import BUFFER

if TYPE_CHECKING:
    from interceptor.kernel.splice import Pipe
    from interceptor.model.http import Headers, LocalReply
    from interceptor.proxy.http.client import Connection
    from interceptor.proxy.http.serve import Service
    from interceptor.proxy.loop import Leg

BATCH: Final = 16  # requests that are answered at once: then others have their turn
LINGER: Final = (
    5.0  # seconds for a client to read an answer that it was given before it had sent all: nginx's figure
)

_HTTP2: Final = b"PRI * HTTP/2.0\r\n\r\n"  # the part of its preface that looks like a request
_NO_REQUEST: Final = RequestHead(b"", b"", b"", b"http", b"1.1", [])


async def serve(service: Service, downstream: Leg) -> bytes:
    """Serve a connection to its end, and close it; cancelled, it is reset.

    What it began with where that is HTTP/2: the connection is the caller's again then.
    """
    session = Session(service, downstream)

    def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
        session.abort(ResponseFlag.LOCAL_RESET, "the proxy was stopped")
        return trio.lowlevel.Abort.SUCCEEDED

    session.start(trio.lowlevel.current_task())
    result: Tunnel | bytes | None = await trio.lowlevel.wait_task_rescheduled(abort)
    if isinstance(result, Tunnel):
        await result.relay(service, downstream)
    return result if isinstance(result, bytes) else b""


class Session(Half):
    """The downstream of one exchange after the other."""

    __slots__ = (
        "_advancing", "_buffer", "_chunked", "_chunks", "_closing", "_complete", "_exchange", "_flow", "_head_at",
        "_idle_at", "_left", "_linger_at", "_looked", "_paused", "_request", "_service", "_task", "_unread", "slot",
    )  # fmt: skip

    def __init__(self, service: Service, downstream: Leg) -> None:
        super().__init__(service.all.hub, downstream)
        self._service = service
        self._flow = service.flow
        self.sent = service.flow.bytes_sent
        self.slot = 0  # of the timer wheel
        self._task: trio.lowlevel.Task | None = None
        self._exchange: Exchange | None = None
        self._request = http1.Request(_NO_REQUEST, 0, keep_alive=False)
        self._buffer = b""  # received, and not understood yet
        self._looked = 0  # bytes of it in which there is no end of a head
        self._complete = True  # the request that is served has been received as a whole
        self._left = 0  # of its body: bytes, or CHUNKED
        self._chunks: Chunks | None = None
        self._chunked = False  # the response's body
        self._closing = False  # after this response
        self._advancing = False
        self._paused = False  # the upstream does not take the body as fast as it comes
        self._unread = False  # there may be something to read, once this request is done
        self._idle_at = 0.0  # since when there is no request
        self._head_at: float | None = None  # since when one has begun, and its head is not complete
        self._linger_at: float | None = None  # since when we only wait for the client to read

    def start(self, task: trio.lowlevel.Task) -> None:
        """Begin; the task is woken at the end, with a Tunnel where the connection goes on as one."""
        self._task = task
        self._idle_at = self._service.all.clock()
        self._service.all.live.add(self)
        self._hub.watch(self.sock, self)
        self._schedule(self._idle_at)

    # What the exchange calls

    def informational(self, head: ResponseHead) -> None:
        """HTTP/1.0 has no 1xx."""
        if self._request.head.version != b"1.0":
            self._out.append(http1.response_head(head, 0))

    def respond(self, head: ResponseHead, body: int) -> None:
        """The head of the response, with what has to be said about this connection."""
        old = self._request.head.version == b"1.0"
        self._chunked = body == CHUNKED and not old
        self._closing = (
            self._closing
            or not self._request.keep_alive
            or not self._complete  # the client still sends: what comes is not the next request
            or body == UNTIL_CLOSE
            or (body == CHUNKED and old)
            or self._service.all.draining
        )
        if not self._chunked and body < 0:
            sockets.reset_on_close(self.sock)  # its end is the close: not one of a killed process
        connection = b"close" if self._closing else b"keep-alive" if old else None
        if head.status == 101:
            connection = b"upgrade"
        self._out.append(http1.response_head(head, CHUNKED if self._chunked else 0, connection))

    def data(self, data: bytes) -> None:
        """Some of the response's body."""
        self._out.append(chunk(data) if self._chunked else data)

    def end(self, trailers: Headers) -> None:
        """The response is complete."""
        if self._chunked:
            self._out.append(last_chunk(trailers))
        self._exchange = None
        self._paused = False  # nobody is left who would take more of this one
        self._idle_at = self._hub.now

    def broken(self, details: str) -> None:
        """A part of a response must not look like all of it."""
        self._exchange = None
        self._flow.details = details
        self._finish(reset=True)

    def resume(self) -> None:
        """The upstream takes more of the body."""
        self._paused = False
        if self._unread:
            self._unread = False
            self._hub.again(self.fd)

    def switch(self, connection: Connection, early: bytes) -> None:
        """The upstream agreed to speak something else: from here on the connection is relayed."""
        exchange = self._exchange
        assert exchange is not None
        self._exchange = None
        self._push()
        if self._task is None:  # the client is gone
            connection.close(reset=True)
            exchange.abort(ResponseFlag.DOWNSTREAM_RESET, self._flow.details)
            return
        held = self._blocked.tobytes() if isinstance(self._blocked, memoryview) else b""
        self._leave()
        self._hub.release(self.fd)
        tunnel = Tunnel(exchange, connection.detach(), (self._buffer, held + early), len(held))
        self._wake(outcome.Value(tunnel))

    def flush(self) -> bool:
        """Send what there is; whether the kernel took all of it. What is complete is sent at the end of the batch."""
        if self._task is None:
            return True
        if self._exchange is None and (self._advancing or self._hub.senders is not None):
            if self._hub.senders is not None and not self._advancing:
                self._hub.senders.append(self)
            return True
        if not self._push():
            return self._task is None
        if self._exchange is None:
            self._between()
        return True

    def send_due(self) -> None:
        """The batch is over."""
        if self._task is not None and self._push() and self._exchange is None:
            self._between()

    def _send(self, data: bytes | memoryview) -> bool:
        done = super()._send(data)
        self._flow.bytes_sent = self.sent
        return done

    def _pour(self, pipe: Pipe) -> bool:
        done = super()._pour(pipe)
        self._flow.bytes_sent = self.sent
        return done

    def _broken(self) -> bool:
        self._gone()
        return False

    # What the hub calls

    def handle(self, event: int) -> None:
        """Something happened at the socket."""
        if event & DRAIN:
            self.drain = True
        if self._blocked is not None and event & OUT:
            self._unblock()
        elif self._out:
            self._push()
        if self._task is None:
            return
        if event & (select.EPOLLERR | select.EPOLLHUP):
            self._gone()
        elif event & READ or self.drain:
            self._read()
        elif self._buffer and self._exchange is None and self._blocked is None:
            self._advance()

    def _unblock(self) -> None:
        """The kernel has room again."""
        if self._blocked is not None and self._retry() and self.flush() and self._exchange is not None:
            self._exchange.resume()

    def fail(self, error: Exception) -> None:
        """A fault of ours: the flow's task raises it."""
        if self._task is not None:
            self.abort(ResponseFlag.LOCAL_RESET, "a fault of the proxy", outcome.Error(error))

    def check_time(self, now: float) -> None:
        """End what takes too long."""
        every = self._service.all
        self._hub.unschedule(self)
        if self._linger_at is not None:
            if now - self._linger_at >= LINGER:
                self._close()
        elif self._exchange is not None:
            self._exchange.check_time(now)
        elif self._head_at is not None:
            if now - self._head_at >= every.head_timeout:
                self._refuse(replies.SLOW_HEAD)
        elif now - self._idle_at >= every.idle_timeout:
            self._finish()
        if self._task is not None:
            self._schedule(now)

    def end_denied(self) -> None:
        """The flow may have lost permission while it is open."""
        if self._flow.denied is not None:
            self.abort(self._flow.flag, self._flow.details, outcome.Value(None))

    def drain_now(self) -> None:
        """No further request is taken."""
        if self._exchange is None and self._head_at is None and not self._buffer and self._blocked is None:
            self._finish()

    def abort(
        self, flag: ResponseFlag, details: str, result: outcome.Outcome[Tunnel | bytes | None] | None = None
    ) -> None:
        """End it here and now; the task is woken where there is a result for it."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.abort(flag, details)
        self._leave()
        self._hub.forget(self.fd)
        sockets.reset(self.sock)
        if result is not None:
            self._wake(result)
        self._task = None

    # Receiving

    def _read(self) -> None:
        if self._paused or (self._exchange is not None and self._complete) or self._blocked is not None:
            self._unread = True
            if self.drain:
                self._look_for_end()
            return
        self._unread = False
        if self._bulk and self._left > 0 and self._exchange is not None and self._relay(self._exchange):
            return
        try:
            data = self.sock.recv(BUFFER if self._bulk else LIMIT)
        except BlockingIOError:
            self.drain = False
            return
        except OSError:
            self._gone()
            return
        if not data:
            self._end_of_stream()
            return
        self._flow.bytes_received += len(data)
        if self._linger_at is None:
            self._received(data)
        self._bulk = len(data) >= LIMIT
        if (self._bulk or self.drain) and self._task is not None:
            self._unread = self._exchange is not None and (self._complete or self._paused)
            if not self._unread:
                self._hub.again(self.fd)

    def _relay(self, exchange: Exchange) -> bool:
        sink = None if self._buffer else exchange.request_sink()
        return self._pass_on(sink, self._left, partial(self._passed, exchange))

    def _passed(self, exchange: Exchange, size: int) -> None:
        """So much of the body went past us."""
        self._bulk = size >= LITTLE
        self._flow.bytes_received += size
        self._left -= size
        self._complete = not self._left
        exchange.relayed(size)
        if self._complete:
            exchange.end([])
        self._paused = not exchange.flush()
        self._unread = self._paused or self._complete
        if not self._unread:
            self._hub.again(self.fd)

    def _received(self, data: bytes) -> None:
        exchange = self._exchange
        if self._buffer:
            data = self._buffer + data
        self._buffer = data
        if exchange is None:
            self._advance()
        else:
            exchange.active = self._hub.now
            self._body(exchange)
            if self._exchange is exchange:
                self._paused = not exchange.flush()

    def _advance(self) -> None:
        """Serve the requests that are in the buffer, up to the first one that has to wait."""
        self._advancing = True
        for _ in range(BATCH):
            if self._exchange is not None or not self._buffer or self._blocked is not None or self._closing:
                break
            end = self._buffer.find(HEAD_END, self._looked)
            try:
                if end < 0:
                    self._looked = http1.check_incomplete(self._buffer, self._looked)
                    if self._head_at is None:
                        self._head_at = self._hub.now
                    break
                self._head_at = None
                self._looked = 0
                start = 2 if self._buffer[:2] == b"\r\n" else 0  # RFC 9112 section 2.2
                request = http1.parse_request(self._buffer[start : end + 2])
            except MalformedError as error:
                if not self._leave_to_http2():
                    self._refuse(replies.of_malformed_request(error))
                break
            self._buffer = self._buffer[end + 4 :]
            self._begin(request)
        else:
            self._hub.again(self.fd)
        self._advancing = False
        if self._exchange is None and self._task is not None and self._push():
            if self._closing:
                self._finish()
            elif self._unread:
                self._unread = False
                self._hub.again(self.fd)

    def _begin(self, request: http1.Request) -> None:
        exchange = self._exchange = Exchange(self._service, self, request)
        self._request = request
        self._left = request.body
        self._chunks = None
        self._complete = exchange.complete = request.body == 0
        exchange.start()
        if self._exchange is not exchange:
            return
        if not self._complete:
            self._body(exchange)
        if self._exchange is exchange:
            self._paused = not (exchange.flush() or self._complete)

    def _body(self, exchange: Exchange) -> None:
        """Pass on what the buffer has of the request's body."""
        if self._left >= 0:
            data, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
            self._left -= len(data)
            self._complete = not self._left
            if data:
                exchange.data(data)
            if self._complete and self._exchange is exchange:
                exchange.end([])
            return
        if self._chunks is None:
            self._chunks = Chunks()
        try:
            pieces, used = self._chunks.feed(self._buffer)
        except MalformedError as error:
            self._closing = True
            exchange.refuse(replies.of_malformed_request(error))
            return
        self._buffer = self._buffer[used:]
        self._complete = self._chunks.done
        for piece in pieces:
            if self._exchange is exchange:
                exchange.data(piece)
        if self._complete and self._exchange is exchange:
            exchange.end(self._chunks.trailers)

    def _leave_to_http2(self) -> bool:
        """Whether it is the other version that the client speaks, from its first byte: then somebody else serves it."""
        data = self._buffer
        if not data.startswith(_HTTP2) or self._flow.bytes_received != len(data):
            return False
        self._leave()
        self._hub.release(self.fd)
        self._wake(outcome.Value(data))
        return True

    def _refuse(self, local: LocalReply) -> None:
        """Answer what is no request, and end."""
        self._closing = True
        self._head_at = None
        line = self._buffer[: http1.MAX_TARGET].partition(b"\r\n")[0].split(b" ")
        head = RequestHead(line[0][:32], line[1] if len(line) > 1 else b"", b"", b"http", b"1.1", [])
        self._request = http1.Request(head, 0, keep_alive=False)
        self._complete = True
        exchange = self._exchange = Exchange(self._service, self, self._request)
        exchange.reply(local)

    def _look_for_end(self) -> None:
        """A client that has ended its side while it waits for a response: the upstream is told, and decides."""
        if (
            self._exchange is None
            or not self._complete
            or self._buffer
            or not isinstance(self.sock, socket.SocketType)
        ):
            return
        try:
            if not self.sock.recv(1, socket.MSG_PEEK):
                self._exchange.half_close()
        except BlockingIOError:
            return
        except OSError:
            self._gone()

    def _end_of_stream(self) -> None:
        if self._exchange is not None:
            self._gone("the client ended the connection in the middle of a request")
        else:
            self._closing = True
            self._buffer = b""
            self._finish()

    # Ending

    def _between(self) -> None:
        """The response has been sent."""
        if self._closing:
            self._finish()
        elif self._buffer:
            self._advance()
        elif self._service.all.draining:
            self._finish()
        elif self._unread:
            self._unread = False
            self._hub.again(self.fd)

    def _gone(self, details: str = "the client reset the connection") -> None:
        if self._task is not None:
            self._flow.flag, self._flow.details = ResponseFlag.DOWNSTREAM_RESET, details
            self.abort(ResponseFlag.DOWNSTREAM_RESET, details, outcome.Value(None))

    def _finish(self, *, reset: bool = False) -> None:
        """End the connection; where the client still sends, only after it could read what it was answered."""
        if self._task is None or self._linger_at is not None:
            return
        if reset:
            self.abort(ResponseFlag.NONE, "-", outcome.Value(None))
            return
        try:
            sockets.finish_on_close(self.sock)
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._close()
            return
        if self._complete and not self._buffer and not self._unread:
            self._close()
        else:
            self._linger_at = self._hub.now
            self._buffer = b""
            self._paused = False
            self._hub.again(self.fd)

    def _close(self) -> None:
        self._leave()
        self._hub.forget(self.fd)
        self.sock.close()
        self._wake(outcome.Value(None))

    def _leave(self) -> None:
        self._let_go()
        self._hub.unschedule(self)
        self._service.all.live.discard(self)

    def _wake(self, result: outcome.Outcome[Tunnel | bytes | None]) -> None:
        task, self._task = self._task, None
        if task is not None:
            self._hub.wake(task, result)

    def _schedule(self, now: float) -> None:
        every = self._service.all
        self._hub.schedule(
            self, now + min(every.head_timeout, every.idle_timeout, every.request_timeout or LINGER)
        )
