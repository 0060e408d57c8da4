from __future__ import annotations

import trio
import trio.testing

from interceptor.model.address import SocketAddress, UpstreamAddress
from interceptor.model.health import Unhealthy
from interceptor.state.health import Board

DOWN: Unhealthy = {("a.b", 80): {UpstreamAddress(SocketAddress("192.0.2.1", 80)): "no answer"}}


async def test_what_is_published_is_told_to_watchers_and_to_those_who_wait() -> None:
    board = Board()
    told: list[Unhealthy] = []
    waited: list[Unhealthy] = []
    board.watch(told.append)

    async def wait() -> None:
        waited.append(await board.wait_changed(first))

    first = board.current
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        board.publish(DOWN)
    assert (told, waited, board.current) == ([DOWN], [DOWN], DOWN)
    assert await board.wait_changed(first) is DOWN
