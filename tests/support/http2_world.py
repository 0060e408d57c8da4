"""A proxy, and the two ends of an HTTP/2 connection through it."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from dataclasses import dataclass, field

import trio

from interceptor.model.request import RequestRecord
from tests.support.flows import Running, wait_until
from tests.support.http2 import Wire, settings as frame_settings


@dataclass
class World:
    """A proxy, a client of it, and the app behind it."""

    running: Running
    server: socket.socket
    client: Wire
    opened: ExitStack = field(default_factory=ExitStack)

    async def accept(self) -> Wire:
        self.server.setblocking(False)
        await trio.lowlevel.wait_readable(self.server)
        app = Wire(self.opened.enter_context(self.server.accept()[0]))
        await app.say(frame_settings())
        return app

    async def recorded(self, number: int = 1) -> list[RequestRecord]:
        await wait_until(lambda: len(self.running.records.requests) >= number)
        return self.running.records.requests
