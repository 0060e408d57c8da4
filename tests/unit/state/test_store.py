from __future__ import annotations

import trio
import trio.testing

from interceptor.state.snapshot import Snapshot, take
from interceptor.state.store import Store
from tests.support.documents import SIDECAR, configuration

ONE = take(configuration())
TWO = take(configuration(SIDECAR.replace("app", "two")))


def test_the_current_snapshot_is_the_one_published_last() -> None:
    store = Store(ONE)
    assert store.current is ONE
    store.publish(TWO)
    assert store.current is TWO


async def test_everybody_who_waits_is_woken_by_a_change(autojump_clock: trio.testing.MockClock) -> None:
    store = Store(ONE)
    seen: list[Snapshot] = []

    async def wait() -> None:
        seen.append(await store.wait_changed(ONE.version))

    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            store.publish(take(configuration()))  # the same version: nobody is woken
            await trio.testing.wait_all_tasks_blocked()
            assert seen == []
            store.publish(TWO)
    assert seen == [TWO, TWO]


async def test_who_comes_late_does_not_wait(autojump_clock: trio.testing.MockClock) -> None:
    store = Store(TWO)
    with trio.fail_after(1):
        assert await store.wait_changed(ONE.version) is TWO


async def test_a_change_that_was_taken_back_is_not_reported(autojump_clock: trio.testing.MockClock) -> None:
    store = Store(ONE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.wait_changed, ONE.version)
        await trio.testing.wait_all_tasks_blocked()
        store.publish(TWO)
        store.publish(ONE)
        await trio.testing.wait_all_tasks_blocked()
        assert nursery.child_tasks
        store.publish(TWO)


def test_a_watcher_is_called_within_each_change_with_what_was_before() -> None:
    store = Store(ONE)
    seen: list[tuple[Snapshot, Snapshot]] = []
    store.watch(lambda before: seen.append((before, store.current)))
    store.publish(take(configuration()))  # the same version: no change
    store.publish(TWO)
    assert seen == [(ONE, TWO)]
