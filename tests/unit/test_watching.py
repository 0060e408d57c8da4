from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import inotify_simple
import pytest
import trio.lowlevel
import trio.testing

from interceptor import watching
from interceptor.watching import Watch, quiet, signature


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


async def heard(watch: Watch, change: Callable[[], object]) -> None:
    """Change something, and wait for the bell: a look is an hour away."""
    await trio.testing.wait_all_tasks_blocked()
    change()
    with trio.fail_after(5):
        await watch.wait()
    await trio.sleep(2 * watching.QUIET)  # it rests after each, so that a storm costs little


@pytest.fixture
def never_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LOOK", 3600.0)


@pytest.mark.usefixtures("never_look")
async def test_every_way_to_change_a_file_is_heard(tmp_path: Path) -> None:
    file, new = tmp_path / "f", tmp_path / "new"
    watch = Watch(lambda: [str(file)])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.listen)
        await heard(watch, lambda: file.write_text("a"))
        await heard(watch, lambda: file.write_text("b"))
        await heard(watch, lambda: new.write_text("c"))
        await heard(watch, lambda: new.rename(file))
        await heard(watch, file.unlink)
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("never_look")
async def test_a_swap_of_the_link_above_and_a_new_file_of_a_directory_are_heard(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.mkdir()
    (config / "..data").symlink_to("1")
    (config / "..next").symlink_to("2")
    (config / "f").symlink_to("..data/f")
    for watched, change in (
        (config / "f", lambda: (config / "..next").rename(config / "..data")),
        (config, lambda: (config / "g").write_text("new")),
    ):
        watch = Watch(lambda watched=watched: [str(watched)])  # type: ignore[misc]  # a default binds the loop's value
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.listen)
            await heard(watch, change)
            nursery.cancel_scope.cancel()


async def test_a_directory_that_comes_later_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rung = trio.Event()

    class Told(Watch):
        def ring(self) -> None:
            rung.set()

    file = tmp_path / "later" / "deep" / "f"
    monkeypatch.setattr(watching, "LOOK", 0.01)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Told(lambda: [str(file)]).listen)
        await trio.testing.wait_all_tasks_blocked(0.002)
        file.parent.mkdir(parents=True)
        with trio.fail_after(5):
            while not rung.is_set():
                file.write_text("a")
                await trio.sleep(0.02)
        nursery.cancel_scope.cancel()


async def test_where_the_kernel_gives_no_more_nothing_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(inotify_simple, "INotify", full)
    await Watch(list).listen()
