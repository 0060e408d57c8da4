"""One request on its way from a client to an upstream and back, and the record of it.

A *downstream* is what faces the client: an HTTP/1 connection, or one stream of an HTTP/2 connection. It parses, and
makes an ``Exchange`` for each request; from then on both call each other, always within one turn of the hub, so that no
task is made and nothing is locked:

    downstream calls                      and is called
    ----------------                      -------------
    exchange.start()                      informational(head)     a 1xx, any number of times
    exchange.data(bytes) -> bool          respond(head, body)     once; body: its length, CHUNKED or UNTIL_CLOSE
    exchange.end(trailers)                data(bytes) -> bool     some of the response's body
    exchange.resume()                     end(trailers)           all of it: the exchange is over and recorded
    exchange.abort(flag, details)         broken(details)         or it cannot be completed: never let it look complete
    exchange.check_time(now)              resume()                the upstream takes more of the request's body
                                          flush()                 nothing more in this turn: send it

``data`` answers whether more may follow now. After False its caller reads no further until ``resume`` is called: what
is under way is bounded by one buffer for each direction. Any call of the exchange may lead to calls of the downstream
before it returns (a local reply comes from within ``start``). After ``end`` or ``broken`` the exchange calls no more;
after ``abort`` neither.

Where the client may change to another protocol (101, CONNECT), the downstream is a ``Switchable``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from interceptor.kernel import sockets
from interceptor.protocol import http1
from interceptor.protocol.http1 import MalformedError
from interceptor.protocol.translation import multiplexes, to_http1
from interceptor.proxy.endings import DialError
from interceptor.proxy.http import dialling, replies
from interceptor.proxy.http.answered import Answered
from interceptor.proxy.http.client import REPLAYABLE, Connection
from interceptor.proxy.http.serve import Service, complete, onward as make_onward, prepare
from interceptor.routing.retry import Failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from interceptor.model.http import Headers, LocalReply, RequestHead, ResponseHead
    from interceptor.proxy.http.client import Replay
    from interceptor.proxy.http.half import Half
    from interceptor.proxy.http.roles import Carrier, Downstream, Trunk
    from interceptor.routing.destinations import Decision
    from interceptor.routing.traffic import Traffic


class Exchange(Answered):
    """One request and its response, on their way; and at its end the record of both."""

    __slots__ = (
        "_head", "_held", "_kept", "_kept_size", "_replay", "_trailers", "_written",
        "body", "body_limit", "connect_timeout", "request", "upgrade",
    )  # fmt: skip

    def __init__(self, service: Service, downstream: Downstream, request: http1.Request) -> None:
        """Its head is still that of every request which says the same."""
        super().__init__(service, downstream, request.head)
        self._held: list[bytes] = []  # of the body, until there is a connection
        self._trailers: Headers = []
        self._kept: list[bytes] | None = None  # of the body, for another attempt
        self._kept_size = 0
        self.request = request  # what came, as it is for all requests that say the same
        self._head = request.head  # as the upstream sees it
        self._written: bytes | None = None  # the bytes of it, where nothing looks at it
        self._replay: Replay | None = None
        self.connect_timeout = service.all.connect_timeout
        self.body = request.body  # how long it is, or CHUNKED where that is not known
        self.body_limit: int | None = None
        self.upgrade = request.upgrade  # what the client asks to change to

    # What the downstream calls

    def start(self) -> None:
        """Serve the request whose head is known."""
        service = self._service
        every, planned = service.all, service.planned
        if every.metadata is not None:
            every.metadata.begun(self)
        if planned is not None and planned.takes(self):
            return
        if not every.looks(self.flow):
            onward = self.request.onward or make_onward(self.request)
            request_id = onward.request_id
            if request_id is None:
                request_id = self.request_id = every.request_id()
                self._written = b"%b%b%b" % (onward.before, request_id, onward.after)
            else:
                self._written = onward.before
            self._send()
            return
        router = every.router
        if router is not None and planned is None and every.filters is None:
            planned = service.planned = router.follows_plan(self)
            if planned is not None:
                return
        self._begin()

    def _begin(self) -> None:
        """The same where policies, filters or routes may have their say."""
        every = self._service.all
        self.head = self._head = self.head.copy()
        if (denied := prepare(self._service, self)) is not None:
            self.reply(denied)
        elif every.filters is not None:
            every.filters.start(self)
        else:
            self.forward()

    def data(self, data: bytes) -> None:
        """Some of the request's body."""
        self.bytes_received += len(data)
        if self.body_limit is not None and self.bytes_received > self.body_limit:
            self.refuse(replies.TOO_LARGE)
            return
        if self._kept is not None:
            self._kept.append(data)
            self._kept_size += len(data)
            if self._kept_size > REPLAYABLE:
                self._kept = None
        if self._connection is not None:
            self._connection.data(data)
        else:
            self._held.append(data)

    def request_sink(self) -> Half | None:
        """The socket that takes the request's body past us, where nobody looks at it and none of it is kept."""
        connection = self._connection
        free = self._kept is None and self.body_limit is None
        return connection if free and isinstance(connection, Connection) and connection.ready else None

    def relayed(self, size: int) -> None:
        """Some of the request's body went past us."""
        self.bytes_received += size
        self.active = self._service.all.hub.now

    def end(self, trailers: Headers) -> None:
        """All of the request has been given."""
        self.complete = True
        self._trailers = trailers
        if self._connection is not None:
            self._sent_at = self._service.all.clock()
            self._connection.end(trailers)

    def flush(self) -> bool:
        """Nothing more in this turn; whether more may follow before ``resume`` is called."""
        return self.over or (self._connection is not None and self._connection.flush())

    def resume(self) -> None:
        """The client took what ``flush`` had left."""
        if self._connection is not None:
            self._connection.resume()

    def half_close(self) -> None:
        """The client has closed its side: it sends no more, and may still read."""
        if self._connection is not None:
            self._connection.half_close()

    # What the filters call

    def forward(self) -> None:
        """Let the request go to the upstream, or where a route takes it."""
        if self.over:
            return
        router = self._service.all.router
        if router is None or not router.about(self):
            self._send()

    def _send(self) -> None:
        if self._service.multiplexed:
            from interceptor.proxy.http import trunks  # noqa: PLC0415 (costs nothing until somebody needs it)

            trunks.send(self, self._service)
            return
        if self._head.version == b"2":
            try:
                self._head = to_http1(self._head)
            except MalformedError as error:
                self.reply(replies.of_malformed_request(error))
                return
        alone = not self.head.authority and self.head.version == b"1.0"  # no connection for two hosts
        connection = None if alone else self._service.all.pool.take(self._service.key)
        if connection is None:
            self.spawn(self._dial)
        else:
            self._carry(connection)

    # What the route calls

    @property
    def decision(self) -> Decision:
        """Where the connection goes that the request came by, or the attempt under way."""
        return self._service.decision

    def own_head(self) -> RequestHead:
        """Its head, complete, and nobody else's: of a request that went on by a plan."""
        known = self.request_id
        self.head = self.request.head.copy()
        complete(self.head, self._service.all.request_id if known is None else lambda: known)
        return self.head

    @property
    def replayable(self) -> bool:
        """Whether all of the request that has come is kept."""
        return self._kept is not None

    @property
    def kept(self) -> Sequence[bytes] | None:
        """All of the request's body that has come, as long as it is kept."""
        return self._kept

    def keep(self) -> None:
        """Keep the request for another attempt, as far as it is not too long."""
        size = sum(map(len, self._held)) if self._held else 0
        if size <= REPLAYABLE and self.upgrade is None:
            self._kept, self._kept_size = list(self._held), size

    def towards(self, decision: Decision, traffic: Traffic) -> Service:
        """What requests of the connection are served with at an upstream of HTTP/1."""
        return self._service.towards(decision, traffic.reuse)

    def go(self, service: Service, written: bytes, connect_timeout: float | None) -> None:
        """Send the request, whose head has been written, to an upstream."""
        every = service.all
        self._service, self._written = service, written
        if connect_timeout is not None:
            self.connect_timeout = connect_timeout
        connection = every.pool.take(service.key)
        if connection is None:
            self.spawn(self._dial)
        else:
            self._carry(connection)

    def attempt(self, decision: Decision, head: RequestHead, traffic: Traffic) -> None:
        """Send the request, with another head, to another upstream."""
        multiplexed = multiplexes(decision.protocol, head, self.upgrade)
        self._service = self._service.towards(decision, traffic.reuse, multiplexed=multiplexed)
        self._head, self._replay, self._written = head, None, None
        self.connect_timeout = traffic.connect_timeout or self._service.all.connect_timeout
        if self._kept is not None:
            self._held = list(self._kept)
        self._send()

    def drop_attempt(self) -> None:
        """Nothing is expected of this attempt any more."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()
        elif self._scope is not None:
            self._scope.cancel()

    def divert(self, carrier: Carrier) -> None:
        """Give the request to what stands before the upstream."""
        self._connection = carrier
        held, self._held = self._held, []
        for data in held:
            carrier.data(data)
        if self.complete:
            carrier.end(self._trailers)

    def again(self, downstream: Downstream, head: RequestHead, body: int) -> Exchange:
        """The same request from there on to the upstream; this one keeps the record."""
        return _Onward(self._service, self, downstream, head, body)

    def catch_up(self) -> None:
        """After something was waited for: send what there is, and take more of the request."""
        if not self.over and self.flush() and self._connection is not None:
            self._downstream.resume()

    def spawn(self, task: Callable[[], Awaitable[None]]) -> None:
        """Do what has to wait in a task, which ends with the exchange at the latest."""
        scope = self._scope = trio.CancelScope()

        async def guarded() -> None:
            with scope:
                try:
                    await task()
                except Exception:  # noqa: BLE001 (a fault while one request is served must not end the others)
                    self._service.all.fault(self)

        self._service.all.spawn(guarded)

    # What the connection to the upstream calls

    def request_drained(self) -> None:
        """The upstream took what was left."""
        if not self.over:
            self._downstream.resume()

    def lost(self, local: LocalReply, replay: Replay | None = None, failure: Failure = Failure.RESET) -> None:
        """The connection broke or spoke no HTTP; with a replay the upstream has seen nothing of the request."""
        self._connection = None
        if self.over:
            return
        if replay is not None and not self.responded:
            self._replay = replay
            self.spawn(self._dial)
        elif self.routed is None or not self.routed.failed(failure):
            self.refuse(local)

    def reset_with(self, code: int | None) -> None:
        """With which code of HTTP/2 the upstream broke off; told before ``lost``."""

    # Inside

    async def _dial(self) -> None:
        service = self._service
        try:
            dialled = await dialling.dial(service, self.connect_timeout, "http")
        except DialError as failure:
            self.not_dialled(failure)
            return
        if trio.current_effective_deadline() == -math.inf:  # cancelled since it took our connection
            sockets.reset(dialled.sock)
            return
        self._carry(service.all.pool.adopt(service.key, dialled))
        self.catch_up()

    def not_dialled(self, failure: DialError) -> None:
        """No upstream took the connection."""
        self.upstream = failure.address
        if self.routed is None or not self.routed.failed(Failure.CONNECT):
            self.reply(replies.of_dial(failure))

    def _carry(self, connection: Connection) -> None:
        """Send what there is of the request."""
        self._connection = connection
        self.upstream, self.upstream_local = connection.address, connection.local
        if self._replay is not None:
            connection.replay(self, self._replay)
            return
        written = self._written or http1.request_head(self._head, self.body, upgrade=self.upgrade)
        metadata = self._service.all.metadata
        if metadata is not None and metadata.tells(self.flow, self._service.decision):
            written = b"%b%b\r\n" % (written[:-2], metadata.lines)
            self.flow.security, self.flow.upstream_identity = "mutual_tls", connection.identity
        connection.carry(self, written)
        self._pour(connection)

    def ride(self, trunk: Trunk) -> None:
        """The same on a stream of a connection that others have streams on."""
        self.upstream, self.upstream_local = trunk.address, trunk.local
        head, metadata = self._head, self._service.all.metadata
        if metadata is not None and metadata.tells(self.flow, self._service.decision):
            head = head.copy()
            head.headers += metadata.headers
            self.flow.security, self.flow.upstream_identity = "mutual_tls", trunk.identity
        branch = self._connection = trunk.open(self, head, self.body)
        self._pour(branch)

    def _pour(self, connection: Carrier) -> None:
        for data in self._held:
            connection.data(data)
        self._held = []
        if self.complete:
            self.end(self._trailers)


class _Onward(Exchange):
    """A request that another one is the record of: from the user's own to the upstream."""

    __slots__ = ("_recorded",)

    def __init__(
        self, service: Service, recorded: Exchange, downstream: Downstream, head: RequestHead, body: int
    ) -> None:
        super().__init__(
            service, downstream, http1.Request(head, body, keep_alive=True, upgrade=recorded.upgrade)
        )
        self._recorded = recorded

    def _respond(self, head: ResponseHead, body: int) -> None:
        recorded = self._recorded
        recorded.upstream, recorded.upstream_local = self.upstream, self.upstream_local
        recorded.destination, recorded.injected = self.destination, self.injected
        recorded.workload = self.workload or recorded.workload
        super()._respond(head, body)

    def _record(self) -> None:
        pass
