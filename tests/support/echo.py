"""An upstream that answers with the body it got, and remembers the heads; and a client that shows all of an answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import h11
import trio

from interceptor.kernel import sockets
from interceptor.model.address import SocketAddress, from_sockaddr


@dataclass
class Echo:
    """Where it is, and what it was asked."""

    address: SocketAddress
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)


async def _serve(stream: trio.SocketStream, echo: Echo) -> None:
    connection = h11.Connection(h11.SERVER)
    async with stream:
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await stream.receive_some(65536))
            elif isinstance(event, h11.Request):
                headers = {name.decode(): value.decode() for name, value in event.headers}
                echo.requests.append((event.method.decode(), event.target.decode(), headers))
                head = h11.Response(
                    status_code=200,
                    headers=[("Content-Type", "text/plain"), ("Transfer-Encoding", "chunked")],
                )
                await stream.send_all(connection.send(head) or b"")
            elif isinstance(event, h11.Data):
                await stream.send_all(connection.send(h11.Data(data=bytes(event.data))) or b"")
            elif isinstance(event, h11.EndOfMessage):
                await stream.send_all(connection.send(h11.EndOfMessage()) or b"")
                if connection.our_state is h11.MUST_CLOSE:
                    return
                connection.start_next_cycle()
            else:
                return


@asynccontextmanager
async def echoing() -> AsyncIterator[Echo]:
    """An upstream that echoes."""
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(sockets.open_listener(0)))
    echo = Echo(from_sockaddr(listener.socket.getsockname())._replace(host="127.0.0.1"))

    async def serve(stream: trio.SocketStream) -> None:
        try:
            await _serve(stream, echo)
        except (trio.BrokenResourceError, h11.ProtocolError):
            return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield echo
        nursery.cancel_scope.cancel()


@dataclass
class Got:
    """An answer; cut where it did not end as it should."""

    status: int
    headers: dict[str, str]
    body: bytes
    cut: bool = False


class Client:
    """One connection to a port of ours."""

    opened: ClassVar[list[Client]] = []  # a test closes them at its end

    def __init__(self, stream: trio.SocketStream) -> None:
        self.opened.append(self)
        self.stream = stream
        self._connection = h11.Connection(h11.CLIENT)

    @classmethod
    async def to(cls, port: int) -> Client:
        return cls(await trio.open_tcp_stream("127.0.0.1", port))

    @classmethod
    def close_all(cls) -> None:
        while cls.opened:
            cls.opened.pop().stream.socket.close()

    async def ask(
        self,
        method: str = "GET",
        target: str = "/",
        headers: dict[str, str] | None = None,
        chunks: tuple[bytes, ...] = (),
    ) -> Got:
        """Send a request, chunked where it has a body and no length, and read what is answered."""
        if self._connection.our_state is h11.MUST_CLOSE:  # as it was answered before it had sent all
            address = self.stream.socket.getpeername()
            await self.stream.aclose()
            self.stream, self._connection = await trio.open_tcp_stream(*address), h11.Connection(h11.CLIENT)
        if self._connection.our_state is h11.DONE:
            self._connection.start_next_cycle()
        given = {"Host": "app.example", **(headers or {})}
        if chunks and "Content-Length" not in given:
            given["Transfer-Encoding"] = "chunked"
        try:
            await self._send(h11.Request(method=method, target=target, headers=list(given.items())))
            for chunk in chunks:
                await self._send(h11.Data(data=chunk))
            await self._send(h11.EndOfMessage())
        except trio.BrokenResourceError:
            pass
        return await self._answer()

    async def _send(self, event: h11.Event) -> None:
        await self.stream.send_all(self._connection.send(event) or b"")

    async def _answer(self) -> Got:
        got = Got(0, {}, b"")
        with trio.fail_after(20):
            while True:
                try:
                    event = self._connection.next_event()
                    if event is h11.NEED_DATA:
                        self._connection.receive_data(await self.stream.receive_some(65536))
                except (trio.BrokenResourceError, h11.RemoteProtocolError):
                    got.cut = True
                    return got
                if event is h11.NEED_DATA:
                    continue
                if isinstance(event, h11.Response):
                    got.status = event.status_code
                    got.headers = {name.decode().lower(): value.decode() for name, value in event.headers}
                elif isinstance(event, h11.Data):
                    got.body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    return got
