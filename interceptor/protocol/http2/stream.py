"""One stream, as one of the two connections (legs) of a bridge has it, and the call that two streams carry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from interceptor.model.connection import ResponseFlag
from interceptor.protocol import grpc

if TYPE_CHECKING:
    from interceptor.model.http import Headers, LocalReply, RequestHead, ResponseHead
    from interceptor.protocol.http2.hpack import Field


class Source(Protocol):
    """A leg, as the one that bytes came from."""

    def consumed(self, stream: Stream, size: int) -> None:
        """Bytes of this stream have been passed on: its peer may send as many again."""


class Parted(Protocol):
    """What comes of a stream where it does not go on to the other one, see ``diversion``."""

    def take(self, data: bytes, *, end: bool) -> None:
        """Some of a body."""

    def take_end(self, trailers: Headers) -> None:
        """All of it."""


class PartedWay(Parted, Protocol):
    """The same of the upstream's stream."""

    def informational(self, head: ResponseHead) -> None:
        """A 1xx."""

    def respond(self, head: ResponseHead, length: int | None, *, end: bool) -> None:
        """The final head; the body's length where it says so."""

    def lost(self, reply: LocalReply) -> None:
        """No response comes, or no more of it."""


class Stream:
    """A stream of one leg. Its twin is the same request's stream on the other leg, if there is one."""

    __slots__ = (
        *(
            "call",
            "id",
            "in_closed",
            "out_closed",
            "owed",
            "pending",
            "pending_end",
            "pending_reset",
            "receivable",
            "remaining",
        ),
        *("source", "trailers", "twin", "window"),
    )

    def __init__(self, number: int, source: Source, window: int, receivable: int) -> None:
        self.id = number  # 0: not opened yet
        self.source = source
        self.call: Call | None = None
        self.twin: Stream | None = None
        self.in_closed = False  # the peer has ended its side, or all of it
        self.out_closed = False  # we have
        self.window = window  # bytes that the peer lets us send; may be negative
        self.receivable = receivable  # bytes that we let the peer send
        self.owed = 0  # of those it sent, what we passed on and have not told it yet
        self.remaining: int | None = None  # of the body that it announced
        self.pending = bytearray()  # to be sent, when windows allow it: never more than the twin's window
        self.pending_end = False  # and the stream ends with it
        self.trailers: list[Field] | None = None  # or with these
        self.pending_reset: int | None = None  # then a reset with this code


class Call:
    """A request and its response on their way through a bridge: what is recorded of them, and a stream on each leg."""

    __slots__ = (
        *(
            "answered",
            "body_limit",
            "bytes_received",
            "bytes_sent",
            "client",
            "context",
            "details",
            "downstream",
            "fields",
            "flag",
            "forwarded",
        ),
        *(
            "grpc",
            "grpc_status",
            "messages",
            "more",
            "protocol",
            "request",
            "response",
            "status",
            "upstream",
            "way",
        ),
    )

    def __init__(
        self, request: RequestHead, protocol: bytes | None, downstream: Stream, upstream: Stream
    ) -> None:
        self.request = request
        self.protocol = protocol  # of an extended CONNECT
        self.downstream = downstream
        self.upstream = upstream
        self.fields: list[Field] | None = None  # what the upstream gets, where that is not the head
        self.more = b""  # and behind it, encoded
        self.forwarded = False  # given to the upstream, or waiting for a place there
        self.client: Parted | None = None  # where somebody stands between its streams
        self.way: PartedWay | None = None  # and sends the request on
        self.answered = False  # the upstream has sent its final head
        self.response: ResponseHead | None = None  # the final one to the client: the upstream's or ours
        self.status = 0  # of what the client got
        self.grpc = grpc.is_grpc(request.headers)
        self.grpc_status: str | None = None
        self.messages = grpc.Messages() if self.grpc else None
        self.bytes_received = 0  # of the bodies
        self.bytes_sent = 0
        self.body_limit: int | None = None  # a longer request body is answered with 413
        self.flag = ResponseFlag.NONE
        self.details = "-"
        self.context: object = None  # of whoever serves the bridge
