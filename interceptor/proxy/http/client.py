"""One HTTP/1 connection to an upstream: it carries one exchange at a time, then waits in the pool for the next.

The upstream is trusted no more than a client: a response that is not exactly one, and framed in one way, is not passed
on, and a connection that says more than was asked for is not used again.
"""

from __future__ import annotations

import math
import socket
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from interceptor.kernel import sockets
from interceptor.protocol import http1
from interceptor.protocol.chunks import Chunks, chunk, last_chunk
from interceptor.protocol.http1 import CHUNKED, HEAD_END, UNTIL_CLOSE, MalformedError
from interceptor.proxy.http import replies
from interceptor.proxy.http.half import DRAIN, LIMIT, LITTLE, OUT, READ, Half
from interceptor.proxy.loop import BUFFER

if TYPE_CHECKING:
    from interceptor.model.address import LocalAddress, UpstreamAddress
    from interceptor.model.http import Headers, LocalReply, RequestHead, ResponseHead
    from interceptor.model.identity import SpiffeId
    from interceptor.proxy.hub import Hub
    from interceptor.proxy.loop import Leg

REPLAYABLE: Final = 64 * 1024  # of a request; more is not kept for a second try


class Replay(NamedTuple):
    """A request that its upstream has not seen."""

    data: bytes


class Dialled(NamedTuple):
    """An upstream that took our connection."""

    sock: Leg
    address: UpstreamAddress
    local: LocalAddress
    identity: SpiffeId | None = None  # that it proved
    until: float = math.inf  # when a certificate expires by which it did


class Home(Protocol):
    """Who owns connections."""

    def keep(self, connection: Connection) -> None:
        """It can carry another exchange."""

    def drop(self, connection: Connection) -> None:
        """It never will again."""


class Carried(Protocol):
    """What a connection carries: see ``exchange.Exchange``."""

    head: RequestHead
    body: int
    upgrade: bytes | None
    complete: bool
    active: float

    def informational(self, head: ResponseHead) -> None: ...
    def respond(self, head: ResponseHead, body: int) -> None: ...
    def response_data(self, data: bytes) -> None: ...
    def response_sink(self) -> Half | None: ...
    def response_relayed(self, size: int) -> None: ...
    def response_end(self, trailers: Headers) -> None: ...
    def response_flush(self) -> bool: ...
    def request_drained(self) -> None: ...
    def switched(self, head: ResponseHead, early: bytes) -> None: ...
    def lost(self, local: LocalReply, replay: Replay | None = None) -> None: ...


class Connection(Half):
    """The upstream side of exchanges, one after the other."""

    __slots__ = (
        "_before", "_buffer", "_chunked", "_chunks", "_exchange", "_home", "_keep_alive", "_left", "_looked", "_paused",
        "_replay", "_started", "_taken", "_unread", "address", "carried", "identity", "idle_since", "key", "local", "made", "until", "waits",
    )  # fmt: skip

    def __init__(self, hub: Hub, home: Home, key: object, dialled: Dialled) -> None:
        super().__init__(hub, dialled.sock)
        self._home = home
        self.address, self.local, self.identity = dialled.address, dialled.local, dialled.identity
        self.key = key
        self.waits = False  # in the pool, since
        self.idle_since = 0.0
        self.made, self.until = hub.now, dialled.until
        self.carried = 0  # exchanges
        self._exchange: Carried | None = None
        self._keep_alive = True
        self._taken = 0  # bytes that were read, ever
        self._begin()
        hub.watch(self.sock, self)

    def _begin(self) -> None:
        """Make ready for a response."""
        self._buffer = b""
        self._looked = 0  # bytes of it in which there is no end of a head
        self._started = False  # the response's head has come
        self._left = 0  # of its body: bytes, or CHUNKED or UNTIL_CLOSE
        self._chunks: Chunks | None = None
        self._chunked = False  # the request's body
        self._paused = False  # the client does not take the response as fast as it comes
        self._unread = False  # there may be something to read, once it does
        self._replay: list[bytes] | None = None
        self._before = self.sent
        self._bulk = False

    # What the exchange calls

    def carry(self, exchange: Carried, head: bytes) -> None:
        """Take an exchange, and its request's head."""
        reused = self.sent > 0
        self._begin()
        self._exchange = exchange
        self._chunked = exchange.body == CHUNKED
        self._out.append(head)
        self._replay = [] if reused else None

    def replay(self, exchange: Carried, replay: Replay) -> None:
        """Take an exchange whose request another connection has failed to bring to the upstream."""
        self._exchange = exchange
        self._chunked = exchange.body == CHUNKED
        self._out.append(replay.data)

    def data(self, data: bytes) -> None:
        """Some of the request's body."""
        self._out.append(chunk(data) if self._chunked else data)

    def end(self, trailers: Headers) -> None:
        """The request is complete."""
        if self._chunked:
            self._out.append(last_chunk(trailers))

    def flush(self) -> bool:
        """Send what was given; whether the kernel took all of it. What is complete is sent at the end of the batch."""
        exchange, senders = self._exchange, self._hub.senders
        if senders is None or exchange is None or not exchange.complete:
            return self._push()
        senders.append(self)
        return self._blocked is None

    @property
    def ready(self) -> bool:
        """Whether it takes bytes past us; not as long as the request may have to be sent again."""
        return self._replay is None and super().ready

    def send_due(self) -> None:
        """The batch is over."""
        self._push()

    def _push(self) -> bool:
        replay = self._replay
        if replay is not None and self._blocked is None:
            replay += self._out
            if len(replay) > 1 and sum(map(len, replay)) > REPLAYABLE:
                self._replay = None
        return super()._push()

    def _broken(self) -> bool:
        # It may have answered before it closed: what is there is read first, and then the end is found.
        self.drain = True
        self._hub.again(self.fd)
        return True

    def resume(self) -> None:
        """The client takes more of the response."""
        self._paused = False
        if self._unread:
            self._unread = False
            self._hub.again(self.fd)

    def half_close(self) -> None:
        """The client has ended its side, so we do: the upstream decides what that means."""
        self._keep_alive = False
        if self._blocked is None:
            try:
                self.sock.shutdown(socket.SHUT_WR)
            except OSError:
                self._hub.again(self.fd)

    def abandon(self) -> None:
        """The exchange wants nothing of it any more, in the middle of something."""
        self._exchange = None
        self.close(reset=True)

    def detach(self) -> Leg:
        """Give the socket away: what follows is no HTTP."""
        self._exchange = None
        self._hub.release(self.fd)
        self._home.drop(self)
        return self.sock

    def close(self, *, reset: bool = False) -> None:
        """End the connection, which carries nothing."""
        self._let_go()
        self._hub.forget(self.fd)
        self._home.drop(self)
        if reset:
            sockets.reset(self.sock)
        else:
            self.sock.close()

    # What the hub calls

    def handle(self, event: int) -> None:
        """Something happened at the socket."""
        if event & DRAIN:
            self.drain = True
        if self._blocked is not None and event & OUT and self._retry():
            exchange = self._exchange
            if exchange is not None and self.flush():
                exchange.request_drained()
        elif self._out:
            self._push()
        if event & READ or self.drain:
            self._read()

    def fail(self, _error: Exception) -> None:
        """A fault of ours, which the hub has logged."""
        exchange, self._exchange = self._exchange, None
        if self._hub.watches(self.fd, self):
            self.close(reset=True)
        if exchange is not None:
            exchange.lost(replies.FAULT)

    def _read(self) -> None:
        if self._paused:
            self._unread = True
            return
        exchange = self._exchange
        if self._bulk and self._left > 0 and exchange is not None and self._relay(exchange):
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
        if exchange is None:  # it says something that nobody asked for
            self.close(reset=True)
            return
        exchange.active = self._hub.now
        self._taken += len(data)
        self._bulk = len(data) >= LIMIT
        try:
            self._feed(exchange, data)
        except MalformedError as error:
            self._exchange = None
            self.close(reset=True)
            exchange.lost(replies.of_malformed_response(error))
            return
        taken = exchange.response_flush()
        if self._exchange is exchange:
            self._go_on(taken=taken, more=self._bulk or self.drain)

    def _relay(self, exchange: Carried) -> bool:
        return self._pass_on(exchange.response_sink(), self._left, partial(self._passed, exchange))

    def _passed(self, exchange: Carried, size: int) -> None:
        """So much of the body went past us."""
        if self._exchange is not exchange:  # the client is gone
            return
        self._taken += size
        self._left -= size
        exchange.response_relayed(size)
        if not self._left:
            self._done(exchange, b"", [])
        taken = exchange.response_flush()
        if self._exchange is exchange:
            self._bulk = size >= LITTLE
            self._go_on(taken=taken, more=True)

    def _go_on(self, *, taken: bool, more: bool) -> None:
        """Read on, after the others had their turn, where the client took what there was."""
        self._paused = not taken
        self._unread = more and not taken
        if more and taken:
            self._hub.again(self.fd)

    def _feed(self, exchange: Carried, data: bytes) -> None:
        """Pass on what was received."""
        if self._buffer:
            data, self._buffer = self._buffer + data, b""
        while not self._started:
            end = data.find(HEAD_END, self._looked)
            if end < 0:
                self._looked = http1.check_incomplete(data, self._looked)
                self._buffer = data
                return
            self._looked = 0
            response = http1.parse_response(data[: end + 2], exchange.head.method, exchange.upgrade)
            data = data[end + 4 :]
            if response.switched:
                self._keep_alive = False
                exchange.switched(response.head, data)
                return
            if response.head.status < 200:
                exchange.informational(response.head)
                if not data:
                    return
                continue
            self._started = True
            self._left = response.body
            self._keep_alive = self._keep_alive and response.keep_alive
            exchange.respond(response.head, response.body)
        if self._exchange is exchange:  # it was not answered otherwise meanwhile
            self._body(exchange, data)

    def _body(self, exchange: Carried, data: bytes) -> None:
        if self._left >= 0:
            piece = data[: self._left]
            self._left -= len(piece)
            if piece:
                exchange.response_data(piece)
            if not self._left:
                self._done(exchange, data[len(piece) :], [])
        elif self._left == UNTIL_CLOSE:
            if data:
                exchange.response_data(data)
        else:
            if self._chunks is None:
                self._chunks = Chunks()
            found, used = self._chunks.feed(data)
            if found:
                exchange.response_data(found)
            self._buffer = data[used:]
            if self._chunks.done:
                self._done(exchange, self._buffer, self._chunks.trailers)

    def _done(self, exchange: Carried, excess: bytes, trailers: Headers) -> None:
        """The response is complete. What came behind it is nobody's answer."""
        self._exchange = None
        if (
            self._keep_alive
            and exchange.complete
            and not (excess or self.drain or self._blocked or self._out or (self._bulk and self._says_more()))
        ):
            self._home.keep(self)
        else:
            self.close(reset=not exchange.complete)
        exchange.response_end(trailers)

    def _says_more(self) -> bool:
        """Whether there is more to read after a response of which the last read did not tell."""
        try:
            return (
                not isinstance(self.sock, socket.SocketType) or self.sock.recv(1, socket.MSG_PEEK) is not None
            )
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _end_of_stream(self) -> None:
        exchange = self._exchange
        if exchange is not None and self._started and self._left == UNTIL_CLOSE:
            self._keep_alive = False
            self._done(exchange, b"", [])
            exchange.response_flush()
        else:
            self._gone()

    def _gone(self) -> None:
        """The connection ended before the response did."""
        exchange, self._exchange = self._exchange, None
        unseen = self._unseen()
        self.close()
        if exchange is not None:
            exchange.lost(replies.CLOSED, unseen)

    def _unseen(self) -> Replay | None:
        """The request, where the upstream had closed its side without having taken a byte of it.

        That happens when it closes an idle connection just when we use it, and then a second try is no repetition,
        whatever the method. What was taken is acknowledged by every FIN; by a RST it is not, so that one proves nothing.
        """
        if (
            self._replay is None
            or self._started
            or self._buffer
            or not isinstance(self.sock, socket.SocketType)
        ):
            return None
        acked, received = sockets.acknowledged(self.sock)
        if acked > self._before or received <= self._taken:
            return None
        return Replay(b"".join(self._replay + self._out))
