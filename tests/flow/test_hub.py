"""The hub over real loopback connections: every byte, every kind of end, every timeout."""

from __future__ import annotations

import errno
import math
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from interceptor.kernel.splice import CAPACITY
from interceptor.proxy.endings import Ended, Ending, Side
from interceptor.proxy.hub import Hub
from interceptor.proxy.loop import BUFFER
from interceptor.proxy.pair import End
from tests.support.flows import reset, wait_until
from tests.support.relayed import (
    APP,
    PEER,
    STREAM,
    Relayed,
    fill,
    fill_chain,
    pattern,
    receive,
    send,
    serving,
)


@pytest.fixture
def hub() -> Hub:
    return Hub(idle=60, linger=60)


@pytest.fixture
def pair(hub: Hub) -> Iterator[Relayed]:
    made = Relayed(hub)
    yield made
    made.close()


async def ending(sock: socket.socket) -> str:
    """How a connection ends after what else it says: ``fin`` or ``reset``."""
    sock.setblocking(False)
    with trio.fail_after(10):
        while True:
            try:
                if not sock.recv(65536):
                    return "fin"
            except BlockingIOError:
                await trio.lowlevel.wait_readable(sock)
            except ConnectionResetError:
                return "reset"


@pytest.mark.parametrize("first", [PEER, APP])
async def test_a_half_close_is_kept_until_the_other_side_has_finished(pair: Relayed, first: Side) -> None:
    other = APP if first is PEER else PEER
    async with serving(pair.hub, pair):
        await send(pair.end(first), b"all of it")
        pair.end(first).shutdown(socket.SHUT_WR)
        assert await receive(pair.end(other), 9) == b"all of it"
        assert await ending(pair.end(other)) == "fin"
        for _ in range(3):
            await send(pair.end(other), b"later")
            assert await receive(pair.end(first), 5) == b"later"
        assert not pair.over.is_set()
        pair.end(other).shutdown(socket.SHUT_WR)
        assert await ending(pair.end(first)) == "fin"
        assert await pair.ended() == Ended(first, Ending.FIN)
    counts = (pair.flow.bytes_received, pair.flow.bytes_sent)
    assert counts == ((9, 15) if first is PEER else (15, 9))


@pytest.mark.parametrize("first", [PEER, APP])
@pytest.mark.parametrize("moment", ["idle", "after a message", "blocked"])
async def test_a_reset_is_passed_on_as_a_reset(pair: Relayed, first: Side, moment: str) -> None:
    other = APP if first is PEER else PEER
    async with serving(pair.hub, pair):
        if moment == "after a message":
            await send(pair.end(first), b"half of it")
            assert await receive(pair.end(other), 10) == b"half of it"
        if moment == "blocked":
            await fill_chain(pair, first)
        reset(pair.end(first))
        ended = await pair.ended()
        assert ended == Ended(first, Ending.RESET, errno.ECONNRESET)
        assert await ending(pair.end(other)) == "reset"


async def test_a_reset_that_follows_a_fin_leaves_the_fin(pair: Relayed) -> None:
    await send(pair.peer, b"complete")
    pair.peer.shutdown(socket.SHUT_WR)
    reset(pair.peer)
    async with serving(pair.hub, pair):
        assert await receive(pair.app, 8) == b"complete"
        assert await ending(pair.app) == "fin"
        assert (await pair.ended()).how is Ending.RESET
        with pytest.raises(BrokenPipeError):
            pair.app.send(b"x")


async def test_both_sides_reset_before_the_hub_looks(pair: Relayed) -> None:
    reset(pair.peer)
    reset(pair.app)
    async with serving(pair.hub, pair):
        assert (await pair.ended()).how is Ending.RESET


async def test_a_reset_after_both_have_finished_undoes_nothing(pair: Relayed) -> None:
    await send(pair.app, b"done")
    pair.app.shutdown(socket.SHUT_WR)
    pair.peer.shutdown(socket.SHUT_WR)
    reset(pair.app)
    async with serving(pair.hub, pair):
        assert await receive(pair.peer, 4) == b"done"
        assert await ending(pair.peer) == "fin"


async def test_both_sides_finish_at_once(pair: Relayed) -> None:
    await send(pair.peer, b"peer")
    await send(pair.app, b"app")
    pair.peer.shutdown(socket.SHUT_WR)
    pair.app.shutdown(socket.SHUT_WR)
    async with serving(pair.hub, pair):
        assert await receive(pair.app, 4) == b"peer"
        assert await receive(pair.peer, 3) == b"app"
        assert await ending(pair.app) == await ending(pair.peer) == "fin"
        assert (await pair.ended()).how is Ending.FIN


async def test_what_arrived_before_the_hub_had_the_sockets_is_relayed(pair: Relayed) -> None:
    await send(pair.peer, b"early")
    async with serving(pair.hub, pair):
        assert await receive(pair.app, 5) == b"early"


async def test_an_answer_sent_before_a_reset_reaches_the_peer(pair: Relayed) -> None:
    # A server that answers before it read all of the request: its close is a RST, its answer counts.
    await send(pair.app, b"413 too large")
    await send(pair.upstream, b"unread")
    pair.app.close()
    async with serving(pair.hub, pair):
        assert await receive(pair.peer, 13) == b"413 too large"
        assert (await pair.ended()) == Ended(APP, Ending.RESET, errno.ECONNRESET)
        assert await ending(pair.peer) == "reset"


async def test_writing_to_a_reset_side_still_delivers_what_it_had_said(pair: Relayed) -> None:
    await send(pair.app, b"bye")
    reset(pair.app)
    pair.hub.now = 0.0
    await send(pair.peer, b"into the void")
    async with serving(pair.hub, pair):
        assert await receive(pair.peer, 3) == b"bye"
        assert await ending(pair.peer) == "reset"


async def test_small_messages_arrive_one_by_one(pair: Relayed) -> None:
    async with serving(pair.hub, pair):
        for number in range(1000):
            await send(pair.peer, bytes([number % 256]))
            assert await receive(pair.app, 1) == bytes([number % 256])
            await send(pair.app, b"a")
            assert await receive(pair.peer, 1) == b"a"
        pair.hub.count()
        assert (pair.flow.bytes_received, pair.flow.bytes_sent) == (1000, 1000)


async def test_urgent_data_and_what_follows_it_stays_in_the_stream(pair: Relayed) -> None:
    for sock in (pair.downstream, pair.upstream):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    async with serving(pair.hub, pair):
        pair.peer.send(b"before")
        pair.peer.send(b"!", socket.MSG_OOB)
        pair.peer.send(b"after")
        assert await receive(pair.app, 12) == b"before!after"


async def test_every_byte_arrives_in_both_directions_at_once(pair: Relayed) -> None:
    up, down = pattern(12_000_000, 0), pattern(12_000_000, 1)
    async with serving(pair.hub, pair), trio.open_nursery() as nursery:

        async def check(sock: socket.socket, expected: bytes) -> None:
            assert await receive(sock, len(expected)) == expected

        nursery.start_soon(send, pair.peer, up)
        nursery.start_soon(send, pair.app, down)
        nursery.start_soon(check, pair.app, up)
        nursery.start_soon(check, pair.peer, down)
    assert (pair.flow.bytes_received, pair.flow.bytes_sent) == (len(up), len(down))


async def test_a_reader_that_does_not_read_stops_the_sender_and_loses_nothing(pair: Relayed) -> None:
    async with serving(pair.hub, pair):
        taken = await fill_chain(pair, PEER)
        pair.peer.shutdown(socket.SHUT_WR)
        other_way = pattern(2 * BUFFER, 1)
        async with trio.open_nursery() as nursery:  # the hub's buffer is used by others meanwhile
            nursery.start_soon(send, pair.app, other_way)
            assert await receive(pair.peer, len(other_way)) == other_way
        assert await receive(pair.app, taken) == STREAM[:taken]
        assert await ending(pair.app) == "fin"


async def test_cancelling_a_flow_resets_both_sides_and_keeps_the_counts(pair: Relayed) -> None:
    async with serving(pair.hub, pair):
        await send(pair.peer, b"12345")
        assert await receive(pair.app, 5) == b"12345"
        pair.scope.cancel()
        await pair.over.wait()
        assert pair.result is None
        assert pair.flow.bytes_received == 5
        assert await ending(pair.peer) == await ending(pair.app) == "reset"


class Watched(Hub):
    """Notes whose turn it was."""

    def __init__(self, clock: Callable[[], float] = trio.current_time) -> None:
        super().__init__(idle=60, linger=60, clock=clock)
        self.turns: list[End] = []

    def _read_from(self, end: End) -> None:
        if end.full or end.bulk:
            self.turns.append(end)
        before = end.moved
        super()._read_from(end)
        assert end.moved - before <= CAPACITY

    def _read_message(self, end: End) -> None:
        self.turns.append(end)
        super()._read_message(end)


async def test_a_bulk_flow_waits_for_its_second_turn_until_the_small_ones_had_theirs() -> None:
    hub = Watched()
    bulk, small = Relayed(hub), [Relayed(hub) for _ in range(10)]
    assert fill(bulk.peer) > BUFFER
    for pair in small:
        await send(pair.peer, b"x")
    async with serving(hub, bulk, *small):
        for pair in small:
            assert await receive(pair.app, 1) == b"x"
        assert [end.pair.flow for end in hub.turns[:11]] == [bulk.flow, *(pair.flow for pair in small)]


async def test_an_endless_bulk_flow_never_holds_up_a_small_one() -> None:
    hub = Watched()
    bulk, small = Relayed(hub), Relayed(hub)
    stop = threading.Event()

    def pour() -> None:
        block = bytes(BUFFER)
        while not stop.is_set():
            bulk.peer.sendall(block)
        bulk.peer.shutdown(socket.SHUT_WR)

    def drain() -> None:
        while bulk.app.recv(BUFFER):
            pass

    async with serving(hub, bulk, small):
        threads = [threading.Thread(target=pour), threading.Thread(target=drain)]
        for thread in threads:
            thread.start()
        try:
            await wait_until(lambda: len(hub.turns) > 100)
            for _ in range(50):
                hub.turns.clear()
                await send(small.peer, b"x")
                assert await receive(small.app, 1) == b"x"
                # Trio's turns for this task's part are a few; in a batch each socket of the bulk flow may have a turn
                # for an event, and one more of the queue.
                assert len(hub.turns) <= 3 * 5 * 3
        finally:
            stop.set()
            for thread in threads:
                await trio.to_thread.run_sync(thread.join)


async def advance(clock: MockClock, seconds: float) -> None:
    """Let time pass in steps that the hub's ticks can follow."""
    for _ in range(int(seconds)):
        clock.jump(1)
        await wait_all_tasks_blocked(0.001)


async def test_an_idle_flow_is_ended_and_both_sides_are_reset(mock_clock: MockClock) -> None:
    pair = Relayed(Hub(idle=60, linger=10))
    async with serving(pair.hub, pair):
        await advance(mock_clock, 59)
        assert not pair.over.is_set()
        await advance(mock_clock, 3)
        assert pair.result == Ended(Side.NEITHER, Ending.IDLE, reason="spec.timeouts.idle")
        with pytest.raises(ConnectionResetError):
            pair.peer.recv(1)
        with pytest.raises(ConnectionResetError):
            pair.app.recv(1)


@pytest.mark.parametrize("talker", [PEER, APP])
async def test_a_byte_in_either_direction_keeps_a_flow_alive(mock_clock: MockClock, talker: Side) -> None:
    pair = Relayed(Hub(idle=60, linger=10))
    async with serving(pair.hub, pair):
        for _ in range(4):
            await advance(mock_clock, 50)
            pair.end(talker).send(b"x")
            await wait_all_tasks_blocked(0.001)
            assert not pair.over.is_set()
        await advance(mock_clock, 62)
        assert pair.result == Ended(Side.NEITHER, Ending.IDLE, reason="spec.timeouts.idle")


@pytest.mark.parametrize("own", [5, 300])
async def test_a_flow_may_be_silent_for_as_long_as_is_said_of_it(mock_clock: MockClock, own: float) -> None:
    pair = Relayed(Hub(idle=60, linger=10))
    async with serving(pair.hub, pair):
        pair.hub.allow_silence(pair.hub._pairs[pair.flow], own, "the setting")
        await advance(mock_clock, own - 1)
        assert not pair.over.is_set()
        pair.end(PEER).send(b"x")
        await wait_all_tasks_blocked(0.001)
        await advance(mock_clock, own - 1)
        assert not pair.over.is_set()
        await advance(mock_clock, 3)
        assert pair.result == Ended(Side.NEITHER, Ending.IDLE, reason="the setting")


async def test_a_flow_that_may_be_silent_forever_ends_for_lingering_still(mock_clock: MockClock) -> None:
    pair = Relayed(Hub(idle=60, linger=10))
    async with serving(pair.hub, pair):
        pair.hub.allow_silence(pair.hub._pairs[pair.flow], math.inf, "the setting")
        await advance(mock_clock, 200)
        assert not pair.over.is_set()
        pair.end(PEER).shutdown(socket.SHUT_WR)
        await wait_all_tasks_blocked(0.001)
        await advance(mock_clock, 12)
        assert pair.result == Ended(PEER, Ending.LINGER)


@pytest.mark.parametrize("first", [PEER, APP])
async def test_a_half_closed_flow_may_be_silent_for_the_linger_timeout_only(
    mock_clock: MockClock, first: Side
) -> None:
    pair = Relayed(Hub(idle=3600, linger=10))
    other = APP if first is PEER else PEER
    async with serving(pair.hub, pair):
        await advance(mock_clock, 100)
        pair.end(first).shutdown(socket.SHUT_WR)
        await wait_all_tasks_blocked(0.001)
        for _ in range(5):
            await advance(mock_clock, 8)
            pair.end(other).send(b"still here")
            await wait_all_tasks_blocked(0.001)
            assert not pair.over.is_set()
        await advance(mock_clock, 12)
        assert pair.result == Ended(first, Ending.LINGER)


class Timer:
    def __init__(self) -> None:
        self.slot = 0
        self.called = trio.Event()

    def check_time(self, _now: float) -> None:
        self.called.set()


@pytest.mark.parametrize("began", [0.0, 0.05, 0.5, 0.95])
@pytest.mark.parametrize("wait", [0.04, 0.06, 1.0, 2.2])
async def test_what_is_timed_is_late_by_a_tick_at_most(
    autojump_clock: MockClock, began: float, wait: float
) -> None:
    hub, timer = Hub(idle=60, linger=60), Timer()
    await trio.sleep(began)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hub._watch_time)
        due = trio.current_time() + wait
        hub.schedule(timer, due)
        await timer.called.wait()
        assert due <= trio.current_time() <= due + hub._wheel.tick + 0.001
        nursery.cancel_scope.cancel()
    hub.close()
