"""What is timed is called when its time has come, once, and at most a tick late."""

from __future__ import annotations

from interceptor.proxy.wheel import Wheel


class Timer:
    slot = 0

    def check_time(self, now: float) -> None:
        """Nothing to do."""


def test_a_timer_comes_up_once_and_at_most_a_tick_late() -> None:
    wheel, timer, later = Wheel(0.5), Timer(), Timer()
    assert wheel.turn(10.0) == []
    wheel.add(timer, 11.2)
    wheel.add(later, 20.0)
    assert wheel.turn(11.1) == []
    assert wheel.turn(11.7) == [timer]
    assert wheel.turn(15.0) == []
    assert len(wheel) == 1


def test_timers_of_the_same_tick_come_up_together_but_not_one_that_was_removed() -> None:
    wheel, first, second, third = Wheel(1.0), Timer(), Timer(), Timer()
    wheel.turn(0.0)
    for timer in (first, second, third):
        wheel.add(timer, 3.5)
    wheel.remove(second)
    assert set(wheel.turn(9.0)) == {first, third}


def test_a_timer_that_came_up_may_still_be_removed_and_an_empty_tick_is_forgotten() -> None:
    wheel, timer = Wheel(1.0), Timer()
    wheel.turn(0.0)
    wheel.add(timer, 1.0)
    assert wheel.turn(5.0) == [timer]
    wheel.remove(timer)
    wheel.add(timer, 7.0)
    wheel.remove(timer)
    assert len(wheel) == 0
    assert not wheel._slots
