"""PURE. What middleware sees and answers: a request on its way (an exchange), or a connection before it is dialled.

Two kinds stand mixed in one ordered list. A *filter* is built in, synchronous and does no I/O: it costs a function
call. The user's own *middleware* is an async callable around the rest of the list (``call_next``), which may answer,
alter, delay or refuse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias, runtime_checkable

from interceptor.errors import InterceptorError
from interceptor.model.http import ResponseHead

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Callable

    from interceptor.model.connection import Flow, ResponseFlag
    from interceptor.model.http import Headers, LocalReply, RequestHead
    from interceptor.model.identity import SpiffeId


class BodyTooLargeError(InterceptorError):
    """A body was longer than its reader would take."""


class Body:
    """A body as it comes, each byte once: ``async for chunk in body``. The next chunk is read when it is asked for.

    ``length`` is known where the bytes are, or where the sender announced it.
    """

    __slots__ = ("_source", "length", "taken", "trailers")

    def __init__(self, source: AsyncIterable[bytes] | bytes = b"", length: int | None = None) -> None:
        self._source = _Once(source) if isinstance(source, bytes) else aiter(source)
        self.length = len(source) if isinstance(source, bytes) else length
        self.taken = False  # some of it is gone: it cannot be sent again
        self.trailers: Headers = []  # complete once the last chunk has been read

    def over(self, source: AsyncIterable[bytes]) -> Body:
        """The same body, read through something else."""
        body = Body(source, self.length)
        body.trailers = self.trailers
        return body

    @property
    def source_is_code(self) -> bool:
        """Whether bytes are still made while it is read."""
        return not isinstance(self._source, _Once)

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        self.taken = True
        return await anext(self._source)

    async def read(self, limit: int) -> bytes:
        """All of it; BodyTooLargeError where it is longer than the limit."""
        chunks, size = [], 0
        async for chunk in self:
            size += len(chunk)
            if size > limit:
                raise BodyTooLargeError(f"the body is longer than {limit} bytes")
            chunks.append(chunk)
        return b"".join(chunks)

    async def aclose(self) -> None:
        """Nobody will read on: let a generator behind it clean up."""
        if isinstance(self._source, Closable):
            await self._source.aclose()


@runtime_checkable
class Closable(Protocol):
    """An iterator that has something to clean up, as every generator."""

    async def aclose(self) -> None: ...


class _Once:
    """Some bytes as one chunk; none where there are none."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __aiter__(self) -> _Once:
        return self

    async def __anext__(self) -> bytes:
        data, self._data = self._data, b""
        if not data:
            raise StopAsyncIteration
        return data


class Response:
    """An answer: the upstream's, or one that a middleware made."""

    __slots__ = ("body", "head", "reply")

    head: ResponseHead
    body: Body
    reply: (
        LocalReply | None
    )  # where a filter or the gateway itself answered: the flag and details for the log

    def __init__(
        self,
        status: int,
        body: Body | AsyncIterable[bytes] | bytes = b"",
        headers: Headers | None = None,
        *,
        reply: LocalReply | None = None,
    ) -> None:
        self.head = ResponseHead(status, b"", [] if headers is None else headers)
        self.body = body if isinstance(body, Body) else Body(body)
        self.reply = reply

    @classmethod
    def of(cls, head: ResponseHead, body: Body, *, reply: LocalReply | None = None) -> Response:
        """An answer with a head that there is already."""
        response = cls(head.status, body, reply=reply)
        response.head = head
        return response

    @classmethod
    def local(cls, reply: LocalReply) -> Response:
        """An answer of a filter's or of the gateway itself."""
        return cls(reply.status, reply.body, list(reply.headers), reply=reply)


class Exchange:
    """A request on its way through the chain, and what the filters note about it.

    The head is altered in place; another body is assigned. Filters never see a body: they leave a limit for it.
    """

    __slots__ = ("body", "body_limit", "fields", "flow", "injected", "position", "principal", "request")

    def __init__(self, flow: Flow, request: RequestHead) -> None:
        self.flow = flow
        self.request = request
        self.body = NO_BODY  # the request's, for the user's own middleware
        self.body_limit: int | None = (
            None  # a longer request body is answered with 413, also while it streams
        )
        self.principal: str | None = None  # who an authentication filter found to be asking
        self.fields: dict[str, str] | None = None  # to be added to the request's line in the access log
        self.injected: ResponseFlag | None = None  # DI: a fault was injected, whatever the upstream answers
        self.position = 0  # of the chain: how many filters have let it pass

    @property
    def identity(self) -> SpiffeId | None:
        """Who the peer is, by its certificate."""
        return self.flow.peer_identity


NO_BODY: Final = Body()


class Delay(NamedTuple):
    """Go on with the chain after so many seconds."""

    seconds: float


class Own:
    """The next one in the list is the user's own middleware, which needs a task: ``Chain.proceed``."""

    __slots__ = ()


OWN: Final = Own()

Verdict: TypeAlias = "LocalReply | Delay | None"


class Filter(Protocol):
    """A built-in filter of requests. One object serves all of them: what belongs to one is in the exchange."""

    def request(self, exchange: Exchange) -> Verdict:
        """Let it pass (None), answer it, or delay it."""

    def response(self, exchange: Exchange, head: ResponseHead) -> None:
        """Look at the answer of a request that this filter let pass, and alter its head."""


Next: TypeAlias = "Callable[[], Awaitable[Response]]"


class Middleware(Protocol):
    """The user's own, around a request: ``call_next`` is the rest of the chain and the upstream, at most once."""

    async def __call__(self, exchange: Exchange, call_next: Next) -> Response: ...


class Connection:
    """A connection before its upstream is dialled; where it goes is decided, and its flow says so."""

    __slots__ = ("flow",)

    def __init__(self, flow: Flow) -> None:
        self.flow = flow

    @property
    def identity(self) -> SpiffeId | None:
        """Who the peer is, by its certificate."""
        return self.flow.peer_identity


class Refusal(NamedTuple):
    """The connection is reset; the details are a sentence for the log."""

    details: str
    reason: str = "middleware"  # label of interceptor_connections_denied_total: one of few


class ConnectionFilter(Protocol):
    """A built-in filter of connections."""

    def connection(self, connection: Connection) -> Refusal | Delay | None:
        """Let it pass (None), refuse it, or delay it."""


ConnectionNext: TypeAlias = "Callable[[], Awaitable[None]]"


class ConnectionMiddleware(Protocol):
    """The user's own, around a connection: ``call_next`` dials and relays, and returns when the connection is over.

    One that returns without having called it has refused the connection.
    """

    async def __call__(self, connection: Connection, call_next: ConnectionNext) -> Refusal | None: ...
