"""The hub and trio share a thread: neither keeps the other waiting, and what is known of trio's inside is so."""

from __future__ import annotations

import select
import socket
import threading

import trio
from trio.testing import wait_all_tasks_blocked

from interceptor.proxy.hub import Hub
from interceptor.proxy.turns import LOOK, SHORT_WAITS, SILENCE, Events, Turns
from tests.support.relayed import Relayed, serving


async def test_who_is_outermost_is_told_when_a_descriptor_of_trios_is_ready() -> None:
    ours, (near, far) = select.epoll(), socket.socketpair()
    turns = Turns(ours, trio.current_time)
    with ours, near, far:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.lowlevel.wait_readable, near)
            await wait_all_tasks_blocked()
            with turns.outermost() as inner:
                assert turns.wait(busy=True) == []
                assert not turns.of_trio
                far.send(b"x")
                assert turns.wait(busy=True) == [(inner, select.EPOLLIN)]
                turns.ask()
                before = turns.of_trio
                await turns.give()
                assert (before, turns.of_trio) == (True, False)


async def test_trio_is_due_at_its_next_deadline() -> None:
    with select.epoll() as ours:
        turns = Turns(ours, trio.current_time)
        with trio.move_on_after(SILENCE / 4) as scope, turns.outermost():
            assert turns.wait(busy=False) == []
            assert turns.of_trio
            await turns.give()
        assert scope.cancelled_caught


async def test_trio_is_due_while_a_task_can_run() -> None:
    with select.epoll() as ours:
        turns = Turns(ours, trio.current_time)
        async with trio.open_nursery() as nursery:
            with turns.watched(), turns.outermost():
                nursery.start_soon(trio.lowlevel.checkpoint)
                assert turns.wait(busy=False) == []
                assert turns.of_trio
                for _ in range(5):
                    await turns.give()
                assert not turns.of_trio


async def test_after_short_waits_in_a_row_the_hub_looks_instead_of_sleeping() -> None:
    class Counted(Turns):
        looks = 0

        def _look(self, began: float) -> Events:
            self.looks += 1
            if self.looks == 2:  # the wait has begun: only now may its time be over
                threading.Timer(SILENCE / 10, later).start()
            return super()._look(began)

    time = [0.0]
    near, far = socket.socketpair()

    def later() -> None:
        time[0] = LOOK
        far.send(b"x")

    with select.epoll() as ours, near, far:
        turns = Counted(ours, lambda: time[0])
        ours.register(near, select.EPOLLIN)
        with turns.outermost():
            far.send(b"x")
            for _ in range(SHORT_WAITS):
                assert turns.looks == 0
                assert turns.wait(busy=False)
            assert turns.wait(busy=False)
            assert turns.looks == 1
            near.recv(1)
            while not turns.wait(busy=False):  # it looks until the time for it is over, then it sleeps
                pass
            assert turns.looks == 2
            assert turns.wait(busy=False)
            assert turns.looks == 2, "the last wait was not a short one"


async def test_beside_bulk_the_hub_sleeps_at_once() -> None:
    class Counted(Turns):
        looks = 0

        def _look(self, began: float) -> Events:
            self.looks += 1
            return super()._look(began)

    near, far = socket.socketpair()
    with select.epoll() as ours, near, far:
        turns = Counted(ours, lambda: 0.0)
        ours.register(near, select.EPOLLIN)
        with turns.outermost():
            far.send(b"x")
            for _ in range(2 * SHORT_WAITS):
                assert turns.wait(busy=False)
                turns.sleep_next()
            assert turns.looks == 0


async def test_while_bytes_move_trio_has_its_deadlines_its_descriptors_and_its_threads() -> None:
    pair, stop = Relayed(Hub(idle=60, linger=60)), threading.Event()

    def ask() -> None:
        while not stop.is_set():
            pair.peer.sendall(b"x")
            assert pair.peer.recv(1) == b"y"
        pair.peer.shutdown(socket.SHUT_WR)

    def answer() -> None:
        while pair.app.recv(1):
            pair.app.sendall(b"y")

    threads = [threading.Thread(target=run) for run in (ask, answer)]
    near, far = socket.socketpair()
    async with serving(pair.hub, pair):
        for thread in threads:
            thread.start()
        try:
            with near, far, trio.fail_after(20):
                for _ in range(20):
                    await trio.sleep(0.002)
                    await trio.to_thread.run_sync(far.send, b"z")
                    await trio.lowlevel.wait_readable(near)
                    assert near.recv(2) == b"z"
        finally:
            stop.set()
            for thread in threads:
                await trio.to_thread.run_sync(thread.join, 10)
        pair.hub.count()
        assert pair.flow.bytes_received > 20
