"""RFC 9113 case by case, in h2spec's numbering: on the bridge alone, and over real connections through a proxy."""

from __future__ import annotations

from typing import Protocol

import pytest

from interceptor.protocol.http2.codes import ACK, GOAWAY, HEADERS, PING, PROTOCOL_ERROR, RST_STREAM
from tests.flow.test_http2 import world
from tests.support.flows import FixedView, listening, running_proxy, settings
from tests.support.http2 import OK, Bridged, Sent, Wire, frame
from tests.support.http2_cases import CASES, Answer, Ended, Outcome, Reset, Script
from tests.support.http2_world import World

PROBE = b"alive?\0\0"


class Ends(Protocol):
    """A client and an app, with us between them."""

    @property
    def heard(self) -> list[Sent]:
        """By the client."""

    async def say(self, data: bytes) -> None:
        """The client says this."""

    async def answer(self, streams: tuple[int, ...], body: bytes = b"hello") -> None:
        """The app answers these requests, and the client has heard of each answer."""

    async def until(self, kind: int, number: int = 0) -> Sent:
        """The client has heard such a frame."""

    async def ends(self) -> None:
        """We end the client's connection."""


class Core:
    """Without sockets."""

    def __init__(self) -> None:
        self.pair = Bridged()

    @property
    def heard(self) -> list[Sent]:
        return self.pair.client.heard

    async def say(self, data: bytes) -> None:
        self.pair.from_client(data)

    async def answer(self, streams: tuple[int, ...], body: bytes = b"hello") -> None:
        app = self.pair.app
        for number in range(1, 2 * len(streams), 2):
            data = app.headers(number, OK, end=not body) + (app.data(number, body, end=True) if body else b"")
            self.pair.from_app(data)
        for number in streams:
            await self.until(HEADERS, number)

    async def until(self, kind: int, number: int = 0) -> Sent:
        return next(each for each in self.heard if (each.kind, each.stream) == (kind, number))

    async def ends(self) -> None:
        assert self.pair.bridge.ended


class Wires:
    """Over real connections."""

    def __init__(self, made: World) -> None:
        self.made = made
        self.app: Wire | None = None

    @property
    def heard(self) -> list[Sent]:
        return self.made.client.frames

    async def say(self, data: bytes) -> None:
        await self.made.client.say(data)

    async def answer(self, streams: tuple[int, ...], body: bytes = b"hello") -> None:
        app = self.app = self.app or await self.made.accept()
        for number in range(1, 2 * len(streams), 2):
            await app.fields(number)
            await app.answer(number, body)
        for number in streams:
            await self.until(HEADERS, number)

    async def until(self, kind: int, number: int = 0) -> Sent:
        sent = await self.made.client.hear(kind, number)
        self.heard.append(sent)
        return sent

    async def ends(self) -> None:
        assert await self.made.client.end() == "fin"


async def check(ends: Ends, script: Script, outcome: Outcome) -> None:
    for step in script:
        await (ends.answer(step.streams) if isinstance(step, Answer) else ends.say(step))
    if isinstance(outcome, Ended):
        assert (await ends.until(GOAWAY)).code == outcome.code
        await ends.ends()
        return
    if isinstance(outcome, Reset):
        assert (await ends.until(RST_STREAM, outcome.stream)).code == outcome.code
    elif outcome.streams:
        await ends.answer(outcome.streams, outcome.body)
    await ends.say(frame(PING, 0, 0, PROBE))
    while not any(each.payload == PROBE for each in ends.heard):
        await ends.until(PING)
    assert all(each.flags == ACK for each in ends.heard if each.kind == PING)
    assert not [each for each in ends.heard if each.kind == GOAWAY and each.code]
    reset = [each.stream for each in ends.heard if each.kind == RST_STREAM]
    assert reset == ([outcome.stream] if isinstance(outcome, Reset) else [])
    if not isinstance(outcome, Reset):
        assert outcome.seen(ends.heard)


@pytest.mark.parametrize("name", CASES)
async def test_case(name: str) -> None:
    await check(Core(), *CASES[name])


# One of each section: what sockets add is how a connection ends.
OVER_WIRES = sorted({name.rpartition("/")[0]: name for name in reversed(CASES)}.values())


@pytest.mark.parametrize("name", OVER_WIRES)
async def test_case_over_real_connections(name: str) -> None:
    async with world() as made:
        await check(Wires(made), *CASES[name])


async def test_another_preface() -> None:
    """h2spec's http2/3.5/2; where the protocol is not declared such bytes are no HTTP/2, and none of our business."""
    server, address = listening()
    async with running_proxy(FixedView((address,), protocol="http2"), settings()) as running:
        with server, running.connect() as sock:
            client = Wire(sock)
            await client.say(b"INVALID CONNECTION PREFACE\r\n\r\n")
            assert (await client.hear(GOAWAY)).code == PROTOCOL_ERROR
            assert await client.end() == "fin"
