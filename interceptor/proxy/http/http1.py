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

from interceptor.model.connection import Direction, ResponseFlag
from interceptor.model.http import RequestHead
from interceptor.protocol import http1
from interceptor.protocol.chunks import Chunks
from interceptor.protocol.http1 import HEAD_END, MalformedError
from interceptor.proxy.http import replies
from interceptor.proxy.http.answering import Answering
from interceptor.proxy.http.exchange import Exchange
from interceptor.proxy.http.half import DRAIN, LIMIT, LITTLE, OUT, READ
from interceptor.proxy.http.tunnel import Tunnel
from interceptor.proxy.loop import BUFFER

if TYPE_CHECKING:
    from interceptor.model.http import LocalReply
    from interceptor.proxy.http.serve import Service
    from interceptor.proxy.loop import Leg

BATCH: Final = 16  # requests that are answered at once: then others have their turn
_HTTP2: Final = b"PRI * HTTP/2.0\r\n\r\n"  # the part of its preface that looks like a request


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
        await result.relay(downstream)
    return result if isinstance(result, bytes) else b""


class Session(Answering):
    """A client's connection: of what comes by it requests are made, each an exchange."""

    __slots__ = ("_chunks", "_left", "_left_over", "_looked")

    def __init__(self, service: Service, downstream: Leg) -> None:
        super().__init__(service, downstream)
        self._looked = 0  # bytes of what was received in which there is no end of a head
        self._left = 0  # of the request's body: bytes, or CHUNKED
        self._left_over = False  # requests may have come that had no turn yet
        self._chunks: Chunks | None = None

    def start(self, task: trio.lowlevel.Task) -> None:
        """Begin; the task is woken at the end, with a Tunnel where the connection goes on as one."""
        self._task = task
        self._idle_at = self._service.all.clock()
        self._service.all.live.add(self)
        if self._flow.direction is Direction.INGRESS:
            self._service.all.expiring.add(self, self._flow.proved_until)
        self._hub.watch(self.sock, self)
        self._schedule(self._idle_at)

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
        elif self._left_over and self._exchange is None and self._blocked is None:
            self._unread = self._unread or self.drain or bool(event & READ)  # after these
            self._advance()
        elif event & READ or self.drain:
            self._read()

    def _unblock(self) -> None:
        """The kernel has room again."""
        if self._blocked is not None and self._retry() and self.flush() and self._exchange is not None:
            self._exchange.resume()

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
        self._left_over = False
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
            self._left_over = True
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
            found, used = self._chunks.feed(self._buffer)
        except MalformedError as error:
            self._closing = True
            exchange.refuse(replies.of_malformed_request(error))
            return
        self._buffer = self._buffer[used:]
        self._complete = self._chunks.done
        if found:
            exchange.data(found)
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
