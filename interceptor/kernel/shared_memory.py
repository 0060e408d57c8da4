"""Numbers that forked processes have together, and a lock that the kernel takes from whoever dies.

The memory has no name and no file: it ends with the last process that maps it.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_CELL = 8  # bytes: one aligned store, so nobody ever reads half a number


class SharedMemory:
    """Whole numbers, all 0 at first; to be made before the processes are forked."""

    def __init__(self, cells: int) -> None:
        self._descriptor = os.memfd_create("interceptor", os.MFD_CLOEXEC)
        os.ftruncate(self._descriptor, cells * _CELL)
        self.cells: memoryview[int] = memoryview(mmap.mmap(self._descriptor, cells * _CELL)).cast("q")

    @contextlib.contextmanager
    def locked(self, number: int = 0) -> Iterator[None]:
        """While no other process holds the lock of this number. It is this process that holds it, not one of its threads."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, number)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, number)
