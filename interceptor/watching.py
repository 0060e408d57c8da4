"""What files look like from outside, to see that they changed; the only way in which this program watches files.

Files are looked at by name once a second, which sees plain writes, renames and Kubernetes' swaps of a ``..data`` link
alike, on every file system. What has changed is read when it has been quiet for a while.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

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


async def quiet(look: Callable[[], object]) -> bool:
    """Wait until nothing has been written for a moment; whether that came before the next look is due."""
    import trio  # noqa: PLC0415 (0.1 s that the process which judges documents does without)

    before = look()
    for _ in range(int(LOOK / QUIET)):
        await trio.sleep(QUIET)
        now = look()
        if now == before:
            return True
        before = now
    return False
