from __future__ import annotations

from dataclasses import dataclass, field

import trio
import trio.testing

from interceptor.proxy.http.deadlines import Deadlines


@dataclass(eq=False)
class Request:
    """Notes when it was late; then it may begin again."""

    deadlines: Deadlines
    again: float | None = None
    late_at: list[float] = field(default_factory=list)

    def late(self) -> None:
        self.late_at.append(trio.current_time())
        if self.again is not None:
            self.deadlines.add(self, self.again)
            self.again = None


async def test_each_is_told_when_its_time_has_come(autojump_clock: trio.testing.MockClock) -> None:
    deadlines = Deadlines(trio.current_time)
    began = trio.current_time()
    early = Request(deadlines)
    deadlines.add(early, 3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deadlines.run)
        long, short, gone, repeated = (Request(deadlines) for _ in range(4))
        repeated.again = 2
        deadlines.add(long, 10)
        deadlines.add(gone, 4)
        deadlines.add(repeated, 1)
        await trio.sleep(0.5)
        deadlines.add(short, 1)
        due = deadlines.remove(gone, 4)
        assert due is not None
        assert due - began == 4
        assert deadlines.remove(gone, 4) is None
        assert deadlines.remove(gone, 99) is None
        await trio.sleep(20)
        nursery.cancel_scope.cancel()
    assert [
        [round(at - began, 6) for at in each.late_at] for each in (early, long, short, gone, repeated)
    ] == [[3], [10], [1.5], [], [1, 3]]
    assert deadlines._due == {}, "nothing is kept of what is over"


async def test_of_many_of_one_length_each_is_late_in_its_turn(autojump_clock: trio.testing.MockClock) -> None:
    deadlines = Deadlines(trio.current_time)
    requests = [Request(deadlines) for _ in range(20)]
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deadlines.run)
        for number, request in enumerate(requests):
            deadlines.add(request, 5)
            if number % 2:
                deadlines.remove(request, 5)
            await trio.sleep(0.25)
        await trio.sleep(6)
        nursery.cancel_scope.cancel()
    for number, request in enumerate(requests):
        assert request.late_at == ([] if number % 2 else [began + 5 + number * 0.25])
