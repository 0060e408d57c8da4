"""One active health check as its connection has it, sans-IO: what is sent, and what the answer means.

Sources: Envoy's http, tcp and grpc health checkers, and gRPC's health checking protocol (``grpc.health.v1``). An answer is
read as far as it says something, and is bounded: an endpoint that says too much has not answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from interceptor.model.health import HEALTHY, Outcome, Result
from interceptor.model.http import RequestHead, get
from interceptor.protocol import http1, protobuf
from interceptor.protocol.http1 import HEAD_END, MalformedError
from interceptor.protocol.http2 import answers, heads
from interceptor.protocol.http2.codes import PROTOCOL_ERROR, StreamError, error_name
from interceptor.protocol.http2.leg import Leg, Limits

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from interceptor.model.http import Headers, ResponseHead
    from interceptor.protocol.http2.hpack import Block
    from interceptor.protocol.http2.stream import Stream

USER_AGENT: Final = b"interceptor/health-check"
LARGEST: Final = 64 * 1024  # bytes of an answer
_LIMITS: Final = Limits(window=2 * LARGEST, connection_window=2 * LARGEST)
_SERVING: Final = 1  # grpc.health.v1.HealthCheckResponse.ServingStatus
_STATUSES: Final = {0: "UNKNOWN", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
_TOO_MUCH: Final = Result(Outcome.NETWORK_FAILURE, "its answer is too long")
_CLOSED: Final = Result(Outcome.NETWORK_FAILURE, "it closed the connection without an answer")


class Conversation(Protocol):
    """One check's. ``result`` is there once it is over; nothing more is wanted of the connection then."""

    result: Result | None

    def start(self) -> bytes:
        """What is sent first."""

    def receive(self, data: bytes) -> bytes:
        """Take what came; what is sent in answer."""

    def end(self) -> None:
        """The endpoint closed the connection."""


class TcpConversation:
    """A connection is enough, or certain bytes in answer to others: all of them in this order, whatever is between."""

    def __init__(self, send: bytes = b"", expected: Sequence[bytes] = ()) -> None:
        self._send = send
        self._expected = list(expected)
        self._received = b""
        self.result: Result | None = None

    def start(self) -> bytes:
        """What is sent first."""
        if not self._expected:
            self.result = HEALTHY
        return self._send

    def receive(self, data: bytes) -> bytes:
        """Take what came."""
        self._received += data
        while self._expected:
            before, found, after = self._received.partition(self._expected[0])
            if not found:
                if len(before) > LARGEST:
                    self.result = _TOO_MUCH
                return b""
            self._expected.pop(0)
            self._received = after
        self.result = HEALTHY
        return b""

    def end(self) -> None:
        """The endpoint closed the connection."""
        self.result = self.result or Result(
            Outcome.NETWORK_FAILURE, "it closed the connection before all that is expected had come"
        )


class Http1Conversation:
    """A GET; the status decides."""

    def __init__(self, authority: bytes, path: bytes, expected: Collection[int]) -> None:
        self._head = RequestHead(
            *(b"GET", path, authority, b"http", b"1.1"),
            [(b"Host", authority), (b"User-Agent", USER_AGENT), (b"Connection", b"close")],
        )
        self._expected = expected
        self._received = b""
        self.result: Result | None = None

    def start(self) -> bytes:
        """The request."""
        head = self._head
        lines = [b"GET %b HTTP/1.1" % head.target, *(b"%b: %b" % each for each in head.headers)]
        return b"\r\n".join((*lines, b"", b""))

    def receive(self, data: bytes) -> bytes:
        """Take what came."""
        self._received += data
        try:
            while (end := self._received.find(HEAD_END)) >= 0:
                head = http1.parse_response(self._received[: end + 2], b"GET").head
                self._received = self._received[end + 4 :]
                if head.status >= 200:
                    self.result = by_status(head.status, self._expected)
                    return b""
            http1.check_incomplete(self._received)
        except MalformedError as error:
            self.result = Result(Outcome.NETWORK_FAILURE, f"its answer is not HTTP: {error.details}")
        return b""

    def end(self) -> None:
        """The endpoint closed the connection."""
        self.result = self.result or _CLOSED


def by_status(status: int, expected: Collection[int]) -> Result:
    """What a status says."""
    return HEALTHY if status in expected else Result(Outcome.FAILURE, f"it answered {status}")


class Http2Conversation:
    """The same on a stream of HTTP/2."""

    def __init__(self, authority: bytes, path: bytes, expected: Collection[int]) -> None:
        self._request = RequestHead(*(b"GET", path, authority, b"http", b"2"), [(b"user-agent", USER_AGENT)])
        self._expected = expected
        self._body: bytes | None = None
        self._leg = Leg(server=False, events=self, limits=_LIMITS, now=0.0)
        self._answered = False
        self._size = 0
        self.result: Result | None = None

    def start(self) -> bytes:
        """The preface, and the request."""
        self._leg.start()
        stream = self._leg.new_stream()
        stream.pending_end = True
        if self._body is not None:
            stream.pending += self._body
        self._leg.open(stream, heads.request_fields(self._request))
        return self._leg.writer.take()

    def receive(self, data: bytes) -> bytes:
        """Take what came."""
        self._size += len(data)
        self._leg.receive(data, 0.0)
        if self._leg.dead is not None:
            self._settle(Result(Outcome.NETWORK_FAILURE, f"its answer is not HTTP/2: {self._leg.dead}"))
        elif self._size > LARGEST:
            self._settle(_TOO_MUCH)
        return self._leg.writer.take()

    def end(self) -> None:
        """The endpoint closed the connection."""
        self._settle(_CLOSED)

    def _settle(self, result: Result) -> None:
        self.result = self.result or result

    def _answer(self, head: ResponseHead, *, end: bool) -> None:  # noqa: ARG002 (of use to gRPC)
        self._settle(by_status(head.status, self._expected))

    def _trailers(self, fields: Headers) -> None:
        """Of no use to a check by status."""

    # What the leg tells

    def headers(self, stream: Stream, block: Block, *, end: bool) -> None:
        """A head or trailers."""
        if self._answered:
            answers.check_trailers(stream, fits=block.fits, end=end)
            self._trailers(heads.trailers(block.fields))
            return
        head, _ = answers.read(stream, block, self._request.method, end=end)
        if head.status >= 200:
            self._answered = True
            self._answer(head, end=end)

    def data(self, stream: Stream, data: bytes, *, end: bool) -> None:  # noqa: ARG002 (the leg's form, here and below)
        """Some of a body."""
        if not self._answered:
            raise StreamError(PROTOCOL_ERROR, "a response that begins with its body")

    def reset(self, stream: Stream, code: int, *, complete: bool) -> None:  # noqa: ARG002
        """The endpoint does not answer."""
        self._settle(Result(Outcome.NETWORK_FAILURE, f"it reset the stream with {error_name(code)}"))

    def faulted(self, stream: Stream, fault: StreamError) -> None:  # noqa: ARG002
        """Its answer is malformed."""
        self._settle(Result(Outcome.NETWORK_FAILURE, f"its answer is malformed: {fault}"))

    def settings(self) -> None:
        """Nothing depends on them."""

    def left(self, stream: Stream) -> None:
        """The stream is over: what it said is known."""

    def goaway(self, last: int, code: int, debug: bytes) -> None:  # noqa: ARG002
        """The endpoint closes the connection; it may have answered still."""
        if not last:
            self._settle(Result(Outcome.NETWORK_FAILURE, f"it closed its connection with {error_name(code)}"))


class GrpcConversation(Http2Conversation):
    """``grpc.health.v1.Health/Check``."""

    def __init__(self, authority: bytes, service: bytes) -> None:
        super().__init__(authority, b"/grpc.health.v1.Health/Check", (200,))
        head = self._request
        head.method = b"POST"
        head.headers += [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
        message = protobuf.field(1, service) if service else b""
        self._body = b"\0" + len(message).to_bytes(4, "big") + message
        self._message = b""

    def data(self, stream: Stream, data: bytes, *, end: bool) -> None:
        """Some of the message."""
        super().data(stream, data, end=end)
        self._message += data
        if end:
            self._settle(Result(Outcome.NETWORK_FAILURE, "its answer has no grpc-status"))

    def _answer(self, head: ResponseHead, *, end: bool) -> None:
        if head.status != 200:
            self._settle(Result(Outcome.FAILURE, f"it answered {head.status}"))
        elif end:
            self._trailers(head.headers)

    def _trailers(self, fields: Headers) -> None:
        status = get(fields, b"grpc-status")
        if status != b"0":
            said = "no grpc-status" if status is None else f"grpc-status {status[:3].decode('latin-1')}"
            self._settle(Result(Outcome.FAILURE, f"it answered with {said}"))
            return
        serving = serving_status(self._message)
        if serving is None:
            self._settle(Result(Outcome.NETWORK_FAILURE, "its message is not a HealthCheckResponse"))
        elif serving == _SERVING:
            self._settle(HEALTHY)
        else:
            self._settle(Result(Outcome.FAILURE, f"it is {_STATUSES.get(serving, serving)}"))


def serving_status(data: bytes) -> int | None:
    """Of an uncompressed HealthCheckResponse in its frame; None where it is none. Fields that we do not know are skipped."""
    if len(data) < 5 or data[0] or int.from_bytes(data[1:5], "big") != len(data) - 5:
        return None
    try:
        return dict(protobuf.numbers(data[5:])).get(1, 0)
    except ValueError:
        return None
