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


App: TypeAlias = Callable[[Request], Awaitable[Response]]
Wants: TypeAlias = Callable[
    [Request], int
]  # how large a body is kept, by a request's head; 0: none is wanted


def wants_none(_: Request) -> int:
    """For an app that wants no body."""
    return 0


async def serve(
    app: App,
    sock: socket.socket,
    wants: Wants = wants_none,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled, and then end at once. The socket is bound and listening; it is closed here."""
    live: dict[trio.SocketStream, None] = {}  # oldest first

    async def handle(stream: trio.SocketStream) -> None:
        if len(live) >= MAX_CONNECTIONS:
            # The oldest makes room: whoever holds many connections open cannot keep a probe from its answer.
            oldest = next(iter(live))
            del live[oldest]
            oldest.socket.close()
        live[stream] = None
        try:
            await _converse(app, stream, wants)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client is gone, or made room
        except Exception:  # noqa: BLE001 (the last resort: such a fault must not end the proxy)
            _log.exception("an HTTP connection was closed by a fault of the server")
        finally:
            live.pop(stream, None)
            stream.socket.close()

    sock.setblocking(False)  # noqa: FBT003 (stdlib's signature)
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    async with listener, trio.open_nursery() as nursery:
        task_status.started()
        # Where accept fails for want of descriptors, trio logs it and tries again.
        await trio.serve_listeners(handle, [listener], handler_nursery=nursery)


async def _converse(app: App, stream: trio.SocketStream, wants: Wants = wants_none) -> None:
    """Answer one request after another until the client has no more, is too slow or makes no sense."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST)
    while True:
        request = None
        try:
            with trio.move_on_after(IDLE_SECONDS):
                request = await _read(connection, stream, wants)
        except h11.RemoteProtocolError as error:
            await _write(connection, stream, Response(f"{error}\n", error.error_status_hint), body=True)
            return
        if request is None:
            return
        response = await _answer(app, request)
        await _write(connection, stream, response, body=request.method != "HEAD")
        if response.then is not None:
            response.then()
        if (connection.our_state, connection.their_state) != (h11.DONE, h11.DONE):
            return
        connection.start_next_cycle()


async def _read(connection: h11.Connection, stream: trio.SocketStream, wants: Wants) -> Request | None:
    """The next request, whole; None where the client has finished."""
    request = None
    wanted = size = 0
    body: list[bytes] = []
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                if not wanted:
                    return request  # the answer can come at once
                head = h11.InformationalResponse(status_code=100, headers=[])
                await stream.send_all(connection.send(head) or b"")
            connection.receive_data(await stream.receive_some(_CHUNK if wanted else MAX_REQUEST))
        elif isinstance(event, h11.Request):
            request = _request(event)
            wanted = wants(request)
        elif isinstance(event, h11.Data):
            size += len(event.data)
            if wanted:
                body.append(bytes(event.data))
            if size > max(wanted, MAX_REQUEST):
                raise h11.RemoteProtocolError("no request here has so large a body", error_status_hint=413)
        else:
            if request is None or not isinstance(event, h11.EndOfMessage):
                return None
            return replace(request, body=b"".join(body)) if body else request


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
    connection: h11.Connection, stream: trio.SocketStream, response: Response, *, body: bool
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
