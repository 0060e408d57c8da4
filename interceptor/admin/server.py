"""Serves HTTP/1.1 on a listening socket and bounds what a client may cost: h11 speaks, this module reads and writes."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import parse_qsl, unquote

import h11
import trio

if TYPE_CHECKING:
    import socket

MAX_CONNECTIONS: Final = 64  # a few scrapers, probes and people
MAX_REQUEST: Final = (
    8 * 1024
)  # bytes of a head, and of a body that nobody reads: no caller of ours has cookies
IDLE_SECONDS: Final = 5.0  # between requests, and for a request to be complete
BODY_SECONDS: Final = 30.0  # more where its body is wanted: 16 MiB by 4.5 Mbit/s
MAX_BODIES: Final = 4  # read at a time
LINGER_SECONDS: Final = 2.0  # for a client that is answered before it said everything to read that
WRITE_SECONDS: Final = 10.0  # Prometheus gives a scrape 10 s by default: whoever reads slower has given up

_CHUNK: Final = 256 * 1024

PLAIN: Final = "text/plain; charset=utf-8"

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client asks; a body is kept where the app wants it, else read and forgotten."""

    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    headers: tuple[tuple[bytes, bytes], ...] = ()  # names in lower case
    body: bytes = b""
    names: tuple[str, ...] = ()  # that the client proved by a certificate

    def values(self, name: bytes) -> list[str]:
        """Every value of a header."""
        return [value.decode("latin-1") for each, value in self.headers if each == name]


@dataclass(frozen=True, slots=True)
class Response:
    """What is answered; ``then`` is called when the answer is out."""

    body: str | bytes
    status: int = 200
    content_type: str = PLAIN
    headers: tuple[tuple[str, str], ...] = ()
    then: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class Greeted:
    """A connection that may speak: what carries it, and who its client proved to be."""

    stream: trio.abc.Stream
    names: tuple[str, ...] = ()
    trusted: bool = False  # no other client may take its place
    holds: Callable[[], bool] = lambda: True  # whether what it proved still counts


App: TypeAlias = Callable[[Request], Awaitable[Response]]
# How large a body is kept, by a request's head; 0: none is wanted. Or the answer, and no body is read.
Wants: TypeAlias = Callable[[Request], int | Response]
Greet: TypeAlias = Callable[[trio.SocketStream], Awaitable[Greeted | None]]  # None: it is to be closed


def wants_none(_: Request) -> int:
    """For an app that wants no body."""
    return 0


async def greet_anybody(stream: trio.SocketStream) -> Greeted:
    """For clients of whom no proof is asked, in the clear."""
    return Greeted(stream)


async def serve(
    app: App,
    sock: socket.socket,
    wants: Wants = wants_none,
    greet: Greet = greet_anybody,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled, and then end at once. The socket is bound and listening; it is closed here."""
    strangers: dict[trio.SocketStream, None] = {}  # oldest first
    trusted: dict[trio.SocketStream, None] = {}
    bodies = trio.CapacityLimiter(MAX_BODIES)

    async def handle(stream: trio.SocketStream) -> None:
        _seat(strangers, stream)
        try:
            greeted = None
            with trio.move_on_after(IDLE_SECONDS):
                greeted = await greet(stream)
            if greeted is None:
                return
            if greeted.trusted:
                strangers.pop(stream, None)
                _seat(trusted, stream)
            await _Conversation(app, wants, bodies, stream, greeted).run()
            with trio.move_on_after(LINGER_SECONDS):
                await greeted.stream.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client is gone, or made room
        except Exception:  # noqa: BLE001 (the last resort: such a fault must not end the proxy)
            _log.exception("an HTTP connection was closed by a fault of the server")
        finally:
            strangers.pop(stream, None)
            trusted.pop(stream, None)
            stream.socket.close()

    sock.setblocking(False)  # noqa: FBT003 (stdlib's signature)
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    async with listener, trio.open_nursery() as nursery:
        task_status.started()
        # Where accept fails for want of descriptors, trio logs it and tries again.
        await trio.serve_listeners(handle, [listener], handler_nursery=nursery)


def _seat(seats: dict[trio.SocketStream, None], stream: trio.SocketStream) -> None:
    """The oldest makes room: whoever holds many connections open cannot keep a probe from its answer."""
    if len(seats) >= MAX_CONNECTIONS:
        oldest = next(iter(seats))
        del seats[oldest]
        oldest.socket.close()
    seats[stream] = None


@dataclass(slots=True, eq=False)
class _Conversation:
    """One connection: request after request, until the client has no more, is too slow or makes no sense."""

    app: App
    wants: Wants
    bodies: trio.CapacityLimiter
    raw: trio.SocketStream
    greeted: Greeted
    connection: h11.Connection = field(
        default_factory=lambda: h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST)
    )

    async def run(self) -> None:
        """Answer until there is nothing more to answer."""
        connection = self.connection
        while True:
            asked: Request | Response | None = None
            try:
                with trio.move_on_after(IDLE_SECONDS) as patience:
                    asked = await self._read(patience)
            except h11.RemoteProtocolError as error:
                asked = Response(f"{error}\n", error.error_status_hint)
            if asked is None or not self.greeted.holds():
                return
            response = asked if isinstance(asked, Response) else await _answer(self.app, asked)
            wanted = not isinstance(asked, Request) or asked.method != "HEAD"
            await _write(connection, self.greeted.stream, response, body=wanted)
            if response.then is not None:
                response.then()
            if (connection.our_state, connection.their_state) != (h11.DONE, h11.DONE):
                break
            connection.start_next_cycle()
        if connection.their_state in (h11.SEND_BODY, h11.ERROR):
            await self._linger()

    async def _read(self, patience: trio.CancelScope) -> Request | Response | None:
        """The next request, whole, or what is answered without more of it; None where the client has finished."""
        event = await self._event(accepted=False)
        if not isinstance(event, h11.Request):
            return None
        request = replace(_request(event), names=self.greeted.names)
        wanted = self.wants(request)
        if isinstance(wanted, Response):
            return wanted
        if not wanted:
            return request if await self._body(0) is not None else None
        try:
            self.bodies.acquire_on_behalf_of_nowait(self)
        except trio.WouldBlock:
            return Response("others send already; try again later\n", 503, headers=(("Retry-After", "1"),))
        try:
            patience.deadline += BODY_SECONDS
            body = await self._body(wanted)
        finally:
            self.bodies.release_on_behalf_of(self)
        return None if body is None else replace(request, body=body)

    async def _body(self, wanted: int) -> bytes | None:
        """The body as far as it is wanted; None where the client left in the middle."""
        size = 0
        body: list[bytes] = []
        while True:
            event = await self._event(accepted=bool(wanted))
            if event is None or isinstance(event, h11.EndOfMessage):
                return b"".join(body)
            if not isinstance(event, h11.Data):
                return None
            size += len(event.data)
            if wanted:
                body.append(bytes(event.data))
            if size > max(wanted, MAX_REQUEST):
                raise h11.RemoteProtocolError("no request here has so large a body", error_status_hint=413)

    async def _event(self, *, accepted: bool) -> object:
        """What the client says next; None where it waits for leave to go on and the answer can come at once."""
        connection, stream = self.connection, self.greeted.stream
        while True:
            event = connection.next_event()
            if event is h11.PAUSED or isinstance(event, h11.Event):
                return event
            if connection.they_are_waiting_for_100_continue:
                if not accepted:
                    return None
                head = h11.InformationalResponse(status_code=100, headers=[])
                await stream.send_all(connection.send(head) or b"")
            connection.receive_data(bytes(await stream.receive_some(_CHUNK if accepted else MAX_REQUEST)))

    async def _linger(self) -> None:
        """Take what the client still says: closed with that unread, the answer would be lost in a reset."""
        with trio.move_on_after(LINGER_SECONDS):
            await self.raw.send_eof()
            while await self.raw.receive_some(_CHUNK):
                pass


def _request(event: h11.Request) -> Request:
    if event.http_version not in (b"1.0", b"1.1"):  # HTTP/2 begins with a request that h11 would take
        raise h11.RemoteProtocolError("only HTTP/1.1 is spoken here", error_status_hint=505)
    path, _, query = event.target.decode("ascii").partition("?")
    return Request(
        method=event.method.decode("ascii"),
        path=unquote(path),
        query=dict(parse_qsl(query, keep_blank_values=True)),
        headers=tuple(event.headers),
    )


async def _answer(app: App, request: Request) -> Response:
    try:
        return await app(request)
    except Exception:  # noqa: BLE001 (the client is told that it failed, the program log why)
        _log.exception("%s %s failed by a fault of the server", request.method, ascii(request.path))
        return Response("a fault of the server; its program log has it\n", 500)


async def _write(
    connection: h11.Connection, stream: trio.abc.Stream, response: Response, *, body: bool
) -> None:
    """Send an answer; raises BrokenResourceError where the client does not take it in time."""
    content = response.body.encode() if isinstance(response.body, str) else response.body
    headers = [
        ("Content-Type", response.content_type),
        ("Content-Length", str(len(content))),
        *response.headers,
    ]
    events: list[h11.Event] = [h11.Response(status_code=response.status, headers=headers)]
    if body:
        events.append(h11.Data(data=content))
    events.append(h11.EndOfMessage())
    data = b"".join(connection.send(event) or b"" for event in events)
    with trio.move_on_after(WRITE_SECONDS) as scope:
        await stream.send_all(data)
    if scope.cancelled_caught:
        raise trio.BrokenResourceError
