"""One stream of a connection to an upstream, as the connection that an exchange has: see ``trunks``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.protocol.http2.codes import CANCEL, NO_ERROR
from interceptor.protocol.http2.diversion import end_stream, told_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.model.http import Headers, LocalReply
    from interceptor.protocol.http2.leg import Leg
    from interceptor.protocol.http2.stream import Stream
    from interceptor.proxy.http.roles import Rider
    from interceptor.routing.retry import Failure


class Branch:
    """The stream."""

    __slots__ = ("_held", "_leg", "_rider", "_settle", "_waits", "answered", "method", "stream")

    def __init__(
        self, leg: Leg, settle: Callable[[], None], rider: Rider, stream: Stream, method: bytes
    ) -> None:
        self._leg = leg
        self._settle = settle  # sends what there is to be sent
        self._rider: Rider | None = rider
        self.stream = stream
        self.method = method
        self.answered = False  # the final head has come
        self._held = 0  # bytes of the response that the client has not taken
        self._waits = False  # the rider, for what it gave to be sent
        stream.twin = told_of(stream, self._sent)

    @property
    def rider(self) -> Rider:
        """Whose it is, while the stream lives."""
        assert self._rider is not None
        return self._rider

    # What the exchange calls

    def data(self, data: bytes) -> None:
        """Some of the request's body."""
        if not self.stream.out_closed:
            self._leg.writer.data(self.stream, data, end=False)

    def end(self, trailers: Headers) -> None:
        """All of the request; nothing more where it had ended with its head."""
        if not (self.stream.out_closed or self.stream.pending_end):
            end_stream(self._leg, self.stream, trailers)

    def flush(self) -> bool:
        """Send what was given; whether more may follow."""
        self._settle()
        self._waits = not self.stream.out_closed and bool(self.stream.pending)
        return not self._waits

    def resume(self) -> None:
        """The client took what there was of the response."""
        self._give()
        self._settle()

    def half_close(self) -> None:
        """Means nothing here: a stream ends with its request."""

    def abandon(self) -> None:
        """Nothing more is wanted."""
        self._let_go(CANCEL)
        self._settle()

    # What the trunk calls

    def take(self, data: bytes, now: float) -> None:
        """Some of the response's body came."""
        self._held += len(data)
        self.rider.active = now
        self.rider.response_data(data)

    def finish(self, trailers: Headers) -> None:
        """The response is complete. What was not sent of the request is of no use any more."""
        rider, self._rider = self._rider, None
        if rider is None:
            return
        if not self.stream.out_closed:
            self._leg.reset(self.stream, NO_ERROR)
        rider.response_end(trailers)
        self._give()
        rider.response_flush()

    def pass_on(self) -> None:
        """The turn is over: send the client what came for it."""
        if self._rider is not None and self._rider.response_flush():
            self._give()

    def lose(self, local: LocalReply, failure: Failure, code: int | None = None) -> None:
        """No response comes, or no more of it."""
        rider, self._rider = self._rider, None
        self._give()
        if rider is not None:
            rider.reset_with(code)
            rider.lost(local, failure=failure)

    def _let_go(self, code: int) -> None:
        self._rider = None
        self._give()
        self._leg.reset(self.stream, code)

    def _give(self) -> None:
        """What came of the response has gone on: the upstream may send as much again."""
        held, self._held = self._held, 0
        if held:
            self._leg.consumed(self.stream, held)

    def _sent(self) -> None:
        if self._waits and self._rider is not None:
            self._waits = False
            self._rider.request_drained()
