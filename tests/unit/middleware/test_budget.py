from __future__ import annotations

import math

import pytest
import trio
from trio.testing import MockClock

from interceptor.middleware.budget import Budget, OverBudgetError, waiting


async def test_what_takes_longer_is_cancelled(autojump_clock: MockClock) -> None:
    budget = Budget(2)
    with pytest.raises(OverBudgetError, match=r"timeout of 2 s"):
        await budget.run(trio.sleep_forever)
    assert trio.current_time() == 2
    assert budget.used == 2


async def test_while_others_are_waited_for_the_clock_stands(autojump_clock: MockClock) -> None:
    async def step() -> str:
        await trio.sleep(1)
        with waiting():
            await trio.sleep(100)
            with waiting():
                await trio.sleep(100)
            await trio.sleep(100)
        await trio.sleep(0.5)
        return "done"

    budget = Budget(2)
    assert await budget.run(step) == "done"
    assert budget.used == 1.5


async def test_all_its_own_time_counts_together(autojump_clock: MockClock) -> None:
    async def step() -> None:
        await trio.sleep(1.5)
        with waiting():
            await trio.sleep(100)
        await trio.sleep(1)

    with pytest.raises(OverBudgetError):
        await Budget(2).run(step)
    assert trio.current_time() == 102


async def test_a_cancellation_from_outside_is_not_its_own(autojump_clock: MockClock) -> None:
    async def step() -> None:
        with waiting():
            await trio.sleep_forever()

    budget = Budget(1)
    with trio.move_on_after(5) as scope:
        await budget.run(step)
    assert scope.cancelled_caught
    assert budget.used == 0


async def test_budgets_nest(autojump_clock: MockClock) -> None:
    inner = Budget(10)

    async def inner_step() -> None:
        await trio.sleep(5)

    async def outer_step() -> None:
        with waiting():
            await inner.run(inner_step)
        await trio.sleep(1)

    outer = Budget(2)
    await outer.run(outer_step)
    assert (inner.used, outer.used) == (5, 1)


async def test_nobodys_time_is_counted_nowhere() -> None:
    with waiting():
        pass
    assert trio.current_effective_deadline() == math.inf
