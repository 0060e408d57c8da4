"""When the hub splices, when it copies, and that a pipe loses nothing and is not lost."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from interceptor.kernel.splice import KEPT, Pipe
from interceptor.model.connection import RelayChoice
from interceptor.proxy.endings import Ending
from interceptor.proxy.hub import Hub
from tests.support.flows import reset
from tests.support.relayed import PEER, STREAM, Relayed, fill_chain, receive, send, serving


async def pass_through(pair: Relayed, data: bytes) -> None:
    """Send from the peer, and compare what the app receives."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, pair.peer, data)
        received = await receive(pair.app, len(data))
    assert received == data


@pytest.mark.parametrize(
    ("choice", "small", "bulk"),
    [("auto", "copy", "splice"), ("copy", "copy", "copy"), ("splice", "splice", "splice")],
)
async def test_a_flow_is_spliced_when_it_turns_bulk_unless_told_otherwise(
    choice: RelayChoice, small: str, bulk: str
) -> None:
    pair = Relayed(Hub(idle=60, linger=60, relay=choice))
    async with serving(pair.hub, pair):
        await pass_through(pair, b"x")
        assert pair.flow.relay == small
        await pass_through(pair, STREAM)
        assert pair.flow.relay == bulk
        await pass_through(pair, b"y")
        assert not pair.hub._ends[pair.downstream.fileno()].bulk or choice == "splice"


async def test_a_stalled_sink_keeps_its_pipe_and_nothing_of_it_is_lost() -> None:
    pair = Relayed(Hub(idle=60, linger=60, relay="splice"))
    async with serving(pair.hub, pair):
        taken = await fill_chain(pair, PEER)
        assert isinstance(pair.hub._ends[pair.downstream.fileno()].pending, Pipe)
        assert await receive(pair.app, taken) == STREAM[:taken]
        assert pair.hub._ends[pair.downstream.fileno()].pending is None
    assert len(pair.hub.pipes._idle) == 1


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_flow_that_ends_closes_the_pipe_that_it_fills() -> None:
    before = descriptors()
    pair = Relayed(Hub(idle=60, linger=60, relay="splice"))
    async with serving(pair.hub, pair):
        await fill_chain(pair, PEER)
        reset(pair.app)
        assert (await pair.ended()).how is Ending.RESET
    pair.hub.close()
    assert descriptors() == before


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    """The limit is at the lowest number that is free."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_without_a_pipe_a_flow_is_copied() -> None:
    pair = Relayed(Hub(idle=60, linger=60))
    async with serving(pair.hub, pair):
        with no_descriptor_left():
            await pass_through(pair, STREAM)
        assert pair.flow.relay == "copy"
        assert pair.hub.pipes._idle == []
        await pass_through(pair, STREAM)
        assert pair.flow.relay == "splice"
        assert 1 <= len(pair.hub.pipes._idle) <= KEPT
