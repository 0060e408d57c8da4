"""A response on its way back to the client: the upstream's or ours, and the one record of what was asked and answered.

What is given back has a head, once, some of a body, and an end; or it breaks off, and then the client is never led to
take a part for all of it. See ``exchange`` for the way there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from interceptor.model.connection import ResponseFlag
from interceptor.model.http import ResponseHead
from interceptor.model.request import VIA_UPSTREAM, RequestRecord
from interceptor.proxy.http import replies
from interceptor.proxy.http.half import Half

if TYPE_CHECKING:
    import trio

    from interceptor.model.http import Headers, LocalReply, RequestHead
    from interceptor.proxy.http.client import Connection
    from interceptor.proxy.http.roles import Carrier, Downstream, Routed
    from interceptor.proxy.http.serve import Service


class Answered(RequestRecord):
    """A request, as it is answered and recorded."""

    __slots__ = (
        "_connection", "_downstream", "_scope", "_sent_at", "_service", "active", "complete", "injected", "over", "responded", "routed",
    )  # fmt: skip

    def __init__(self, service: Service, downstream: Downstream, head: RequestHead) -> None:
        every = service.all
        now = every.clock()
        super().__init__(service.flow, head, every.wall_clock(), now)
        self._service = service
        self._downstream = downstream
        self._connection: Carrier | None = None  # to the upstream
        self._scope: trio.CancelScope | None = None  # of the task that waits for something
        self._sent_at = now  # when all of the request was
        self.active = now  # when something of it moved last
        self.complete = False  # the request has ended
        self.responded = False
        self.over = False
        self.routed: Routed | None = None
        self.injected = (
            ResponseFlag.NONE
        )  # what is told of an answer: a fault that a route asked for, or that there were no more attempts

    # What the upstream's connection calls

    def informational(self, head: ResponseHead) -> None:
        """A 1xx came, and the response is still to come."""
        self._downstream.informational(head)

    def respond(self, head: ResponseHead, body: int) -> None:
        """The response's head came from the upstream."""
        metadata = self._service.all.metadata
        if metadata is not None:
            head = metadata.response(self, head, self._service.decision)
        routed = self.routed
        if self._service.all.filters is not None:
            head = head.copy()
        if routed is not None and not (routed.indifferent and head.status < 400):
            if routed.changes:
                head = head.copy()
            if routed.answered(head):
                return
        self.details = VIA_UPSTREAM
        self.service_seconds = max(0.0, self._service.all.hub.now - self._sent_at)
        self._respond(head, body)

    def moved(self) -> None:
        """Something of it moved, beside what passes here."""
        self.active = self._service.all.hub.now

    def respond_with(self, head: ResponseHead, body: int, reply: LocalReply | None) -> int:
        """The response's head came from the user's own, perhaps made of a local reply; answers what body is to follow."""
        self.respond(head, body)
        if reply is not None:
            self.flag, self.details = reply.flag, reply.details
        return body

    def response_data(self, data: bytes) -> None:
        """Some of the response's body."""
        self.bytes_sent += len(data)
        self._downstream.data(data)

    def response_sink(self) -> Half | None:
        """The socket that takes the response's body past us, where nobody looks at it."""
        downstream = self._downstream
        return downstream if isinstance(downstream, Half) and downstream.ready else None

    def response_relayed(self, size: int) -> None:
        """Some of the response's body went past us."""
        self.bytes_sent += size
        self.active = self._service.all.hub.now

    def response_end(self, trailers: Headers) -> None:
        """The response is complete; the connection is somebody else's by now."""
        self._connection = None
        self.finish()
        self._downstream.end(trailers)

    def response_flush(self) -> bool:
        """Nothing more in this turn; whether more may follow before the connection's ``resume`` is called."""
        return self._downstream.flush()

    def switched(self, head: ResponseHead, early: bytes) -> None:
        """What follows is no HTTP. The record is finished by the downstream, when the tunnel ends."""
        self.take_over(cast("Connection", self._connection), head, early)

    def take_over(self, connection: Connection, head: ResponseHead, early: bytes) -> None:
        """The same, with a connection that somebody else had."""
        self._connection = None
        self.respond(head, 0)
        self._downstream.switch(connection, early)

    # Answers of ours

    def reply(self, local: LocalReply) -> None:
        """Answer in the upstream's place."""
        if self.over:
            return
        self.flag, self.details = local.flag, local.details
        head = ResponseHead(local.status, replies.reason(local.status), replies.headers(local))
        if self.routed is not None:
            self.routed.replied(head)
        self._respond(head, 0 if self.head.method == b"HEAD" else len(local.body))
        if local.body and self.head.method != b"HEAD":
            self.response_data(local.body)
        self.finish()
        self._downstream.end([])
        self._downstream.flush()

    # The end

    def refuse(self, local: LocalReply) -> None:
        """It is not served to its end: answer it, or break off where that has begun."""
        if self.over:
            return
        if not self.responded:
            self.reply(local)
            return
        self.flag, self.details = local.flag, local.details
        self.finish()
        self._downstream.broken(local.details)

    def abort(self, flag: ResponseFlag, details: str) -> None:
        """The client is gone, or is not served any longer."""
        if not self.over:
            self.flag, self.details = flag, details
            self.finish()

    def check_time(self, now: float) -> None:
        """End it where something took too long."""
        every = self._service.all
        if every.request_timeout is not None and now - self.began >= every.request_timeout:
            self.refuse(replies.TIMEOUT)
        elif now - self.active >= every.idle_timeout:
            self.refuse(replies.SILENT if self.complete else replies.SLOW_BODY)

    def finish(self) -> None:
        """Let go of everything and record it, once: all is answered, or the tunnel that it became has ended."""
        self.over = True
        if self._scope is not None:
            self._scope.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()
        routed, self.routed = self.routed, None
        if routed is not None:
            routed.finished()
        self.ended = self._service.all.clock()
        if self.passing is not None:
            self.passing.finished()
        self._record()

    # Inside

    def _respond(self, head: ResponseHead, body: int) -> None:
        self.responded = True
        self.status = head.status
        if self._service.all.filters is not None:
            self._service.all.filters.respond(self, head)
        self._downstream.respond(head, body)

    def _record(self) -> None:
        if self.flag is ResponseFlag.NONE:
            self.flag = self.injected
        self._service.all.recorder.request(self)
