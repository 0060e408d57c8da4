from __future__ import annotations

from pathlib import Path

import trio.testing

from interceptor.watching import quiet, signature


def test_a_file_looks_different_when_it_was_written_and_like_nothing_when_it_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "f"
    assert signature(str(file)) is None
    file.write_text("a")
    before = signature(str(file))
    file.write_text("ab")
    assert before != signature(str(file)) is not None


async def test_quiet_waits_until_nothing_changes(autojump_clock: trio.testing.MockClock) -> None:
    looks = iter([1, 2, 3, 3, 4])
    assert await quiet(lambda: next(looks))
    assert next(looks) == 4


async def test_what_never_rests_is_left_for_the_next_look(autojump_clock: trio.testing.MockClock) -> None:
    looks = iter(range(100))
    assert not await quiet(lambda: next(looks))
