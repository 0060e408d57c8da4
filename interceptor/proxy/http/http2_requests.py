"""The requests of an HTTP/2 connection: each is decided as those of HTTP/1 are, and recorded once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from interceptor.model.connection import ResponseFlag
from interceptor.model.http import LocalReply, RequestHead, ResponseHead, get, remove
from interceptor.model.request import VIA_UPSTREAM, RequestRecord
from interceptor.protocol import grpc
from interceptor.protocol.http1 import CHUNKED
from interceptor.protocol.http2.diversion import Client, Way
from interceptor.protocol.http2.heads import request_fields
from interceptor.protocol.http2.hooks import WAIT
from interceptor.protocol.http2.hpack import Again, plain
from interceptor.proxy.http import replies
from interceptor.proxy.http.http2_apart import UNKNOWN, Apart
from interceptor.proxy.http.http2_own import Acting
from interceptor.proxy.http.serve import complete, prepare

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from interceptor.model.forwarding import Presented
    from interceptor.model.http import Headers
    from interceptor.protocol.http2.bridge import Bridge
    from interceptor.protocol.http2.hooks import Wait
    from interceptor.protocol.http2.stream import Call
    from interceptor.proxy.http.client import Dialled
    from interceptor.proxy.http.roles import Carrier, Downstream, Judge, Sent
    from interceptor.proxy.http.serve import Service

_NOT_ROUTED: Final = replies.reply(
    501,
    ResponseFlag.LOCAL_RESET,
    "extended_connect_not_routed",
    "routes of a VirtualService take no extended CONNECT; speak HTTP/1.1",
)
_NO_REQUEST: Final = RequestHead(b"", b"", b"", b"http", b"2", [])


class Onward(NamedTuple):
    """What the upstream gets of a request that filters have no say about."""

    head: RequestHead
    fields: Again  # the same
    anonymous: bool  # it needs an id

    def still(self, head: RequestHead) -> bool:
        """Whether a head that policies have read is what it was, but for the id."""
        own = self.head
        size = len(own.headers)
        return (
            head.target == own.target
            and len(head.headers) == size + self.anonymous
            and head.headers[:size] == own.headers
        )


class Request(RequestRecord):
    """One request, as filters see it: they let it go to the upstream, or answer it."""

    __slots__ = ("_call", "_carrier", "_client", "_requests", "_scope", "over")

    def __init__(self, requests: Requests, call: Call) -> None:
        every = requests.service.all
        super().__init__(requests.service.flow, call.request, every.wall_clock(), every.hub.now)
        self._requests = requests
        self._call = call
        self._scope: trio.CancelScope | None = None  # of the task that waits for something
        self._carrier: Carrier | None = None  # where the user's own has it
        self._client: Client | None = None  # then
        self.messages = call.messages
        self.over = False

    @property
    def body(self) -> int:
        """How long its body is, or CHUNKED; 0 where it has ended without one."""
        stream = self._call.downstream
        if stream.in_closed and not self._call.bytes_received:
            return 0
        return int(get(self.head.headers, b"content-length") or CHUNKED)

    @property
    def body_limit(self) -> int | None:
        """A longer body is refused."""
        return self._call.body_limit

    @body_limit.setter
    def body_limit(self, limit: int | None) -> None:
        self._call.body_limit = limit

    def forward(self) -> None:
        """Let the request go to the upstream."""
        requests = self._requests
        requests.act(lambda: requests.bridge.forward(self._call))

    def reply(self, local: LocalReply) -> None:
        """Answer in the upstream's place."""
        if self._scope is not None:
            self._scope.cancel()
        requests = self._requests
        requests.act(lambda: requests.bridge.reply(self._call, local))

    def spawn(self, task: Callable[[], Awaitable[None]]) -> None:
        """Do what has to wait in a task, which ends with the request at the latest."""
        scope = self._scope = trio.CancelScope()
        every = self._requests.service.all

        async def guarded() -> None:
            with scope:
                try:
                    await task()
                except Exception:  # noqa: BLE001 (a fault while one request is served must not end the others)
                    every.fault(self)

        every.spawn(guarded)

    def lost(self, local: LocalReply) -> None:
        """It cannot be served."""
        self.reply(local)

    def refuse(self, local: LocalReply) -> None:
        """It is not served to its end."""
        self.reply(local)

    def check_time(self, now: float) -> None:
        """Answer it where it took too long."""
        limit = self._requests.service.all.request_timeout
        if limit is not None and now - self.began >= limit:
            self.reply(replies.TIMEOUT)

    # Where the user's own has it

    def divert(self, carrier: Carrier) -> None:
        """Give the request to what stands before the upstream."""
        self._carrier = carrier
        client = self._client = Client(self._requests.bridge, self._call, carrier)
        self._requests.act(client.divert)

    def request_drained(self) -> None:
        """What came of the body was taken."""
        self._act(lambda client: client.used())

    def again(self, downstream: Downstream, head: RequestHead, body: int) -> Sent:
        """The request from there on to the upstream; this one keeps the record."""
        requests = self._requests
        way = Way(requests.bridge, self._call, downstream, head, body)
        return Acting(way, requests.act)

    def moved(self) -> None:
        """What takes too long is looked for by the connection, not by the request."""

    def informational(self, head: ResponseHead) -> None:
        """A 1xx came, and the response is still to come."""
        self._act(lambda client: client.informational(head))

    def respond_with(self, head: ResponseHead, body: int, reply: LocalReply | None) -> int:
        """The response's head came from the user's own, perhaps made of a local reply; answers what body is to follow."""
        every = self._requests.service.all
        if self._call.response is not None or self.over:
            return 0
        self.details = VIA_UPSTREAM
        if self._call.answered:
            self.service_seconds = every.hub.now - self.began
            self._requests.note_upstream(self)
        if reply is not None:
            self.flag, self.details = reply.flag, reply.details
            if self._call.grpc:
                local = LocalReply(head.status, reply.flag, reply.details, reply.body, head.headers)
                head, body = ResponseHead(200, b"", grpc.reply_fields(local)), 0
        if every.filters is not None:
            every.filters.respond(self, head)
        self._act(lambda client: client.respond(head, end=not body))
        return body

    def response_data(self, data: bytes) -> None:
        """Some of the response's body."""
        self._act(lambda client: client.data(data))

    def response_end(self, trailers: Headers) -> None:
        """The response is complete."""
        self._act(lambda client: client.end(trailers))

    def response_flush(self) -> bool:
        """Whether more may follow before the carrier's ``resume`` is called."""
        return not self._call.downstream.pending

    def _act(self, action: Callable[[Client], None]) -> None:
        client = self._client
        if client is not None:
            self._requests.act(lambda: action(client))

    # The end

    def finish(self) -> None:
        """Record it."""
        call = self._call
        self.over = True
        if self._carrier is not None and self._client is not None:
            self._carrier.abandon()
            self._client.used()
        if self._scope is not None:
            self._scope.cancel()
        self.status = call.status
        self.bytes_received, self.bytes_sent = call.bytes_received, call.bytes_sent
        self.grpc_status = call.grpc_status or (UNKNOWN if call.grpc else None)
        if call.flag is not ResponseFlag.NONE:
            self.flag, self.details = call.flag, call.details
        every = self._requests.service.all
        self.ended = every.clock()
        if self.passing is not None:
            self.passing.finished()
        every.recorder.request(self)


class Requests:
    """Decides and records what passes one bridge."""

    bridge: Bridge

    def __init__(
        self, service: Service, act: Callable[[Callable[[], None]], None], settle: Callable[[], None]
    ) -> None:
        self.service = service
        self.act = act  # does something with the bridge, whoever asks for it
        self.settle = settle  # sends what comes of it
        self.dialled: Dialled | None = None
        self.wanted = trio.Event()  # the connection's own upstream
        self._live: set[Request | Apart] = set()
        self._touched: dict[Apart, None] = {}  # that something came for in this turn

    def request(self, call: Call) -> LocalReply | Wait | None:
        """Decide on a request."""
        every, service = self.service.all, self.service
        if every.metadata is not None and every.metadata.tells(service.flow, service.decision):
            call.more += every.metadata.fields
        router = every.router
        concerned = router is not None and router.concerns(service.flow, call.request, service.decision)
        if (concerned or not service.multiplexed) and call.protocol is None:
            apart = call.context = Apart(service, self, call)
            self._begun(apart)
            apart.begin()
            self.touch(apart)  # its head goes on, also where nothing of a body comes
            return WAIT
        if every.filters is None and call.protocol is None:
            return self._pass(call)
        call.request = call.request.copy()
        record = call.context = Request(self, call)
        self._begun(record)
        denied = prepare(service, record)
        if denied is not None:
            return denied
        if concerned:
            return _NOT_ROUTED
        self.wanted.set()
        if every.filters is None:
            return None
        every.filters.start(record)  # which answers or forwards it, now or later
        return WAIT

    def _begun(self, record: Request | Apart) -> None:
        self._live.add(record)
        if self.service.all.metadata is not None:
            self.service.all.metadata.begun(record)
        if record.messages is not None:
            self.service.all.recorder.call(record)

    def _pass(self, call: Call) -> LocalReply | None:
        """Let a request go on, or refuse it, that filters have no say about.

        What it becomes is found out once for all that have the same head, unless the policies change it.
        """
        every, service = self.service.all, self.service
        record = call.context = Request(self, call)
        self._begun(record)
        head = call.request
        onward = head.onward
        if not isinstance(onward, Onward):
            onward = head.onward = _onward(head, service.flow.peer_presented)
        if onward.anonymous:
            record.request_id = every.request_id()
        if every.authorize is not None and every.looks(service.flow):
            asked = record.head = call.request = onward.head.copy()
            if record.request_id is not None:
                asked.headers.append((b"x-request-id", record.request_id))
            denied = every.authorize(record, service.decision)
            if denied is not None:
                return denied
            if not onward.still(asked):
                self.wanted.set()
                return None
            record.head = call.request = head
        call.fields = onward.fields
        if record.request_id is not None:
            call.more += plain((b"x-request-id", record.request_id))
        self.wanted.set()
        return None

    def touch(self, apart: Apart) -> None:
        """Something of a request came."""
        self._touched[apart] = None

    def pass_on(self) -> None:
        """The turn is over: what came of requests goes on."""
        touched, self._touched = self._touched, {}
        for apart in touched:
            apart.pass_on()

    def response(self, call: Call, head: ResponseHead) -> ResponseHead:
        """Note the response, and show it to the filters."""
        record, every = call.context, self.service.all
        assert isinstance(record, Request)
        if call.flag is ResponseFlag.NONE:
            record.details = VIA_UPSTREAM
            record.service_seconds = every.hub.now - record.began
            self.note_upstream(record)
            if every.metadata is not None:
                head = every.metadata.response(record, head, self.service.decision)
        if every.filters is not None:
            head = head.copy()
            every.filters.respond(record, head)
        return head

    def note_upstream(self, record: Request) -> None:
        """Who answered."""
        if self.dialled is not None:
            record.upstream, record.upstream_local = self.dialled.address, self.dialled.local

    def malformed(self, details: str) -> None:
        """Record what was no request."""
        every, now = self.service.all, self.service.all.clock()
        record = RequestRecord(self.service.flow, _NO_REQUEST, every.wall_clock(), now)
        record.flag, record.details = ResponseFlag.DOWNSTREAM_PROTOCOL, details
        every.recorder.request(record)

    def finished(self, call: Call) -> None:
        """Record a request."""
        record = call.context
        assert isinstance(record, (Request, Apart))
        self._live.discard(record)
        if isinstance(record, Apart):
            record.left()
        else:
            record.finish()

    def reconsider(self, judge: Judge) -> int:
        """Answer those that are refused by now, or reset their streams; how many."""
        refused = [
            (record, refusal)
            for record in self._live
            if (refusal := judge(record, self.service.decision)) is not None
        ]
        for record, refusal in refused:
            record.refuse(refusal)
        return len(refused)

    def check_time(self, now: float) -> None:
        """Answer the requests that took too long."""
        for record in tuple(self._live):
            record.check_time(now)


def _onward(head: RequestHead, presented: Presented | None) -> Onward:
    copy = head.copy()
    anonymous = complete(copy, lambda: b"", presented) is None
    if anonymous:
        remove(copy.headers, b"x-request-id")
    return Onward(copy, Again(request_fields(copy)), anonymous)
