"""A WebSocket on a stream of HTTP/2 (RFC 8441) through the proxy, between programs that are not ours."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TypeVar, cast

import h2.config
import h2.connection
import h2.events
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from hypercorn.typing import ASGIFramework
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, Event, TextMessage

from interceptor.model.address import SocketAddress
from tests.support.echo_application import application
from tests.support.flows import FixedView, running_proxy

E = TypeVar("E", bound=h2.events.Event)

ASKED = [
    (":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", "/"),
    (":authority", "app"), ("sec-websocket-version", "13"),
]  # fmt: skip


class Client:
    """The h2 and wsproto libraries on a socket."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.http = h2.connection.H2Connection(h2.config.H2Configuration())
        self.socket = Connection(ConnectionType.CLIENT)
        self.heard: list[h2.events.Event] = []
        self._events: Iterator[Event] = iter(())

    async def until(self, kind: type[E]) -> E:
        """The next event of a kind."""
        with trio.fail_after(10):
            while True:
                for event in self.heard:
                    if isinstance(event, kind):
                        self.heard.remove(event)
                        return event
                await self._stream.send_all(self.http.data_to_send())
                data = await self._stream.receive_some()
                assert data, "the connection ended"
                self.heard += self.http.receive_data(data)

    async def say(self, event: Event) -> None:
        self.http.send_data(1, self.socket.send(event))
        await self._stream.send_all(self.http.data_to_send())

    async def text(self) -> str:
        """A whole message."""
        out = ""
        while True:
            event = await self.hear()
            assert isinstance(event, TextMessage)
            out += event.data
            if event.message_finished:
                return out

    async def hear(self) -> Event:
        while True:
            for event in self._events:
                return event
            came = await self.until(h2.events.DataReceived)
            self.http.acknowledge_received_data(came.flow_controlled_length, 1)
            self.socket.receive_data(came.data)
            self._events = self.socket.events()


async def test_a_websocket_of_http2() -> None:
    config = Config()
    config.bind = ["127.0.0.1:0"]
    async with trio.open_nursery() as nursery:
        (bound,) = await nursery.start(partial(serve, cast("ASGIFramework", application), config))
        host, port = bound.rpartition("/")[2].split(":")
        async with running_proxy(FixedView((SocketAddress(host, int(port)),))) as running:
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(running.connect()))
            async with stream:
                client = Client(stream)
                client.http.initiate_connection()
                while client.http.remote_settings.enable_connect_protocol != 1:
                    await client.until(h2.events.RemoteSettingsChanged)
                client.http.send_headers(1, ASKED)
                answered = await client.until(h2.events.ResponseReceived)
                assert (b":status", b"200") in answered.headers
                assert await client.hear() == TextMessage("the server speaks first")
                await client.say(TextMessage("hello " * 1000))
                assert await client.text() == "hello " * 1000
                await client.say(CloseConnection(code=1000))
                assert isinstance(await client.hear(), CloseConnection)
            await running.records.wait_closed()
            (record,) = running.records.requests
        nursery.cancel_scope.cancel()
    assert (record.head.method, record.status, record.bytes_received > 6000) == (b"CONNECT", 200, True)
