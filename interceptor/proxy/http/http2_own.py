"""A request of HTTP/2 on its way from the user's own middleware to the upstream: what the task does, the bridge sends."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.model.connection import ResponseFlag
    from interceptor.model.http import Headers
    from interceptor.protocol.http2.diversion import Way


class Acting:
    """The way to the upstream, for a task: after each call what is to be sent is sent."""

    def __init__(self, way: Way, act: Callable[[Callable[[], None]], None]) -> None:
        self._way = way
        self._act = act

    @property
    def body(self) -> int:
        """How long the request's body is, or CHUNKED."""
        return self._way.body

    @property
    def over(self) -> bool:
        """Whether nothing more is wanted of it."""
        return self._way.over

    @property
    def flag(self) -> ResponseFlag:
        """What went wrong."""
        return self._way.flag

    @property
    def details(self) -> str:
        """Where the answer came from."""
        return self._way.details

    def forward(self) -> None:
        """Begin."""
        self._act(self._way.forward)

    def data(self, data: bytes) -> None:
        """Some of the body."""
        self._act(lambda: self._way.data(data))

    def end(self, trailers: Headers) -> None:
        """All of it."""
        self._act(lambda: self._way.end(trailers))

    def flush(self) -> bool:
        """Whether more may follow before the asker's ``resume``."""
        return self._way.flush()

    def resume(self) -> None:
        """What came of the response was taken."""
        self._act(self._way.resume)

    def abort(self, flag: ResponseFlag, details: str) -> None:
        """Nothing more is wanted."""
        self._act(lambda: self._way.abort(flag, details))
