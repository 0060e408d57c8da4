"""A client's HTTP/1 connection as the responses to its requests go to it, one after the other, until it ends.

What is given is sent at the end of the hub's batch where it is complete, so that who waits is woken once. After a
response that ends the connection a client has some time to read it; a part of a response ends in a reset.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

import outcome

from interceptor.kernel import sockets
from interceptor.model.connection import Direction, ResponseFlag
from interceptor.model.http import RequestHead
from interceptor.protocol import http1
from interceptor.protocol.chunks import chunk, last_chunk
from interceptor.protocol.http1 import CHUNKED, UNTIL_CLOSE
from interceptor.proxy.http import replies
from interceptor.proxy.http.half import Half
from interceptor.proxy.http.tunnel import Tunnel

if TYPE_CHECKING:
    import trio

    from interceptor.kernel.splice import Pipe
    from interceptor.model.http import Headers, LocalReply, ResponseHead
    from interceptor.proxy.http.client import Connection
    from interceptor.proxy.http.exchange import Exchange
    from interceptor.proxy.http.roles import Judge
    from interceptor.proxy.http.serve import Service
    from interceptor.proxy.loop import Leg

# Seconds for a client to read an answer that it was given before it had sent all: nginx's figure.
LINGER: Final = 5.0

_NO_REQUEST: Final = RequestHead(b"", b"", b"", b"http", b"1.1", [])


class Answering(Half):
    """The client's side, of one exchange after the other."""

    __slots__ = (
        "_advancing", "_buffer", "_chunked", "_closing", "_complete", "_exchange", "_flow", "_head_at", "_idle_at", "_linger_at",
        "_paused", "_request", "_service", "_task", "_unread", "slot",
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
        self._complete = True  # the request that is served has been received as a whole
        self._chunked = False  # the response's body
        self._closing = False  # after this response
        self._advancing = False  # the next requests are being begun: what they are answered is sent together
        self._paused = False  # the upstream does not take the body as fast as it comes
        self._unread = False  # there may be something to read, once this request is done
        self._idle_at = 0.0  # since when there is no request
        self._head_at: float | None = None  # since when one has begun, and its head is not complete
        self._linger_at: float | None = None  # since when we only wait for the client to read

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
            or self._draining
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
        early_bytes = self._buffer, held + early
        tunnel = Tunnel(self._service, exchange, connection.detach(), early_bytes, len(held))
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

    # Ending

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

    def fail(self, error: Exception) -> None:
        """A fault of ours: the flow's task raises it."""
        if self._task is not None:
            self.abort(ResponseFlag.LOCAL_RESET, "a fault of the proxy", outcome.Error(error))

    def end_denied(self) -> None:
        """The flow may have lost permission while it is open."""
        if self._flow.denied is not None:
            self.abort(self._flow.flag, self._flow.details, outcome.Value(None))

    def reconsider(self, judge: Judge) -> int:
        """End the request that is served where it is refused by now."""
        exchange = self._exchange
        refusal = None if exchange is None else judge(exchange, self._service.decision)
        if exchange is None or refusal is None:
            return 0
        exchange.refuse(refusal)
        return 1

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

    @property
    def _draining(self) -> bool:
        """Whether no further request is taken."""
        flow = self._flow
        return self._service.all.draining or (
            self._hub.now >= flow.proved_until and flow.direction is Direction.INGRESS
        )

    def _between(self) -> None:
        """The response has been sent."""
        if self._closing:
            self._finish()
        elif self._buffer:
            self._advance()
        elif self._draining:
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
        self._service.all.expiring.discard(self)

    def _wake(self, result: outcome.Outcome[Tunnel | bytes | None]) -> None:
        task, self._task = self._task, None
        if task is not None:
            self._hub.wake(task, result)

    def _schedule(self, now: float) -> None:
        every = self._service.all
        self._hub.schedule(
            self, now + min(every.head_timeout, every.idle_timeout, every.request_timeout or LINGER)
        )

    def _refuse(self, local: LocalReply) -> None:
        """Answer what is no request, and end."""
        raise NotImplementedError

    def _advance(self) -> None:
        """Serve the requests that have come already."""
        raise NotImplementedError
