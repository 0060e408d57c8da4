"""What files look like from outside, to see that they changed; the only way in which this program watches files.

Files are looked at by name once a second, which sees plain writes, renames and Kubernetes' swaps of a ``..data`` link
alike, on every file system, and at once where the kernel tells of a change (inotify), which it cannot of what another
machine writes to a network file system. What has changed is read when it has been quiet for a while.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LOOK: Final = 1.0  # seconds; a few system calls
QUIET: Final = 0.1  # seconds; Istio's debounce (data-plane.md 2.5)

Signature: TypeAlias = tuple[tuple[int, int, int, int] | None, ...]


def signature(path: str) -> tuple[int, int, int, int] | None:
    """What a file looks like; None where there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 (no object for a path that is looked at every second)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class Watch:
    """When to look at files again: in a second, or as soon as it rings."""

    def __init__(self, paths: Callable[[], Iterable[str]]) -> None:
        """``paths``: the files, and directories of such, at the moment."""
        import trio  # noqa: PLC0415 (0.1 s that the process which judges documents does without)

        self._paths = paths
        self._rung = trio.Event()

    def ring(self) -> None:
        """Have somebody look at once."""
        self._rung.set()

    async def wait(self) -> None:
        """Until it is time to look."""
        import trio  # noqa: PLC0415 (as above)

        with trio.move_on_after(LOOK):
            await self._rung.wait()
        self._rung = trio.Event()

    async def listen(self) -> None:
        """Ring when something changes in the directories of the files, at most once in ``QUIET``, until cancelled.

        A hint and no more: where the kernel has no more watches to give there is none.
        """
        import trio  # noqa: PLC0415 (as above)
        from inotify_simple import INotify, flags  # noqa: PLC0415 (as above)

        changes = flags.CLOSE_WRITE | flags.CREATE | flags.DELETE | flags.MOVED_FROM | flags.MOVED_TO
        try:
            kernel = INotify(nonblocking=True)
        except OSError:  # too many of them, or of descriptors
            return
        with kernel:
            while True:
                for place in self._places():
                    with suppress(
                        OSError
                    ):  # not there yet, or no watch is left; one that is watched stays so
                        kernel.add_watch(place, changes | flags.ONLYDIR)
                with trio.move_on_after(LOOK):
                    await trio.lowlevel.wait_readable(kernel)
                    kernel.read(timeout=0)
                    self.ring()
                    await trio.sleep(QUIET)

    def _places(self) -> set[str]:
        paths = set(self._paths())
        return paths | {os.path.dirname(path) or "." for path in paths}  # noqa: PTH120 (as above)


async def quiet(look: Callable[[], object]) -> bool:
    """Wait until nothing has been written for a moment; whether that came before the next look is due."""
    import trio  # noqa: PLC0415 (as above)

    before = look()
    for _ in range(int(LOOK / QUIET)):
        await trio.sleep(QUIET)
        now = look()
        if now == before:
            return True
        before = now
    return False
