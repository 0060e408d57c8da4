"""Pipes through which the kernel moves bytes from socket to socket without a copy (splice(2))."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import Final

# fs.pipe-max-size, the most that an unprivileged user may ask for. A smaller one costs more calls for the same bytes:
# 256 KiB took 0.7 - 1.1 s of the proxy's CPU for a GB, this 0.5 - 0.7, copying 0.8 - 1.3.
CAPACITY: Final = 1 << 20
KEPT: Final = 4  # idle pipes; a pipe is in use for longer than a turn only where a sink stalls

_FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class Pipe:
    """A pipe and how many bytes it holds."""

    __slots__ = ("_held", "_read", "_write")

    def __init__(self) -> None:
        """Raises OSError where there are no descriptors left, or the user's pages for pipes are used up."""
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._held = 0
        try:
            fcntl.fcntl(self._write, fcntl.F_SETPIPE_SZ, CAPACITY)
        except OSError:
            self.close()
            raise

    def __len__(self) -> int:
        return self._held

    def take_from(self, sock: int, most: int = CAPACITY) -> int:
        """Move what a socket has, up to so much, into the empty pipe; how much that was: 0 at the end of the stream."""
        self._held = os.splice(sock, self._write, min(most, CAPACITY), flags=_FLAGS)
        return self._held

    def give_to(self, sock: int) -> int:
        """Move as much as a socket takes; raises BlockingIOError where it takes nothing."""
        given = os.splice(self._read, sock, self._held, flags=_FLAGS)
        self._held -= given
        return given

    def close(self) -> None:
        """Close it, with what it holds."""
        os.close(self._read)
        os.close(self._write)


class Pipes:
    """Pipes to use and to give back."""

    def __init__(self) -> None:
        self._idle: list[Pipe] = []

    def take(self) -> Pipe | None:
        """An empty pipe, or none where the kernel has no more for us."""
        if self._idle:
            return self._idle.pop()
        with contextlib.suppress(OSError):
            return Pipe()
        return None

    def give_back(self, pipe: Pipe) -> None:
        """Keep an empty pipe for the next one, or close it."""
        if len(pipe) == 0 and len(self._idle) < KEPT:
            self._idle.append(pipe)
        else:
            pipe.close()

    def close(self) -> None:
        """Close those that nobody uses."""
        while self._idle:
            self._idle.pop().close()
