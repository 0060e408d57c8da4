from __future__ import annotations

import math

from interceptor.proxy.http.expiring import Expiring
from interceptor.proxy.wheel import Timed, Wheel


class Hub:
    """Its timer wheel alone."""

    def __init__(self) -> None:
        self.wheel = Wheel(0.1)

    def schedule(self, timed: Timed, due: float) -> None:
        self.wheel.add(timed, due)

    def unschedule(self, timed: Timed) -> None:
        self.wheel.remove(timed)

    def at(self, now: float) -> None:
        for timed in self.wheel.turn(now):
            timed.check_time(now)


class Session:
    """Notes when it was drained."""

    def __init__(self) -> None:
        self.drained = 0

    def drain_now(self) -> None:
        self.drained += 1


def test_each_is_drained_once_when_its_time_is_over_and_those_that_ended_are_forgotten() -> None:
    hub = Hub()
    hub.at(0.0)
    expiring = Expiring(hub)  # type: ignore[arg-type]  # of the hub only its wheel is asked
    late, soon, ended, never = (Session() for _ in range(4))
    for session, until in ((late, 9.0), (soon, 3.0), (ended, 2.0), (never, math.inf)):
        expiring.add(session, until)  # type: ignore[arg-type]  # of a connection only its end is asked for
    expiring.discard(ended)  # type: ignore[arg-type]  # the same
    expiring.discard(never)  # type: ignore[arg-type]  # the same
    drained = []
    for tenth in range(1, 101):
        hub.at(tenth / 10)
        drained.append([each.drained for each in (late, soon, ended, never)])
    assert drained[28] == [0, 0, 0, 0]
    assert drained[31] == [0, 1, 0, 0]
    assert drained[-1] == [1, 1, 0, 0]
    assert len(hub.wheel) == 0
