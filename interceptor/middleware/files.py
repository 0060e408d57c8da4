"""Files with keys and users: bounded, and read again when they have changed; what was good stays where the new is not."""

from __future__ import annotations

import logging
import os
import stat
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_log: Final = logging.getLogger(__name__)

T = TypeVar("T")

LARGEST: Final = 1 << 20  # bytes
LOOK: Final = 1.0  # seconds between two looks at the file, of some microseconds each

_Identity: TypeAlias = tuple[int, int, int, int]


class WatchedFile(Generic[T]):
    """What a file says, in the form that ``parse`` gives it; ``parse`` raises ValueError with a sentence, no contents."""

    def __init__(self, path: str, parse: Callable[[bytes], T], clock: Callable[[], float]) -> None:
        """Read it now; ValueError with a sentence where that cannot be."""
        self._path = path
        self._parse = parse
        self._clock = clock
        self._looked = clock()
        self._identity, data = _read(path)
        self._value = parse(data)
        self._troubled = False  # since the last change; said once

    @property
    def current(self) -> T:
        """What it says now, or said when it was good last."""
        now = self._clock()
        if now - self._looked >= LOOK:
            self._looked = now
            self._look()
        return self._value

    def _look(self) -> None:
        try:
            if _identity(os.stat(self._path)) == self._identity:  # noqa: PTH116 (a path object a second is not needed)
                return
            self._identity, data = _read(self._path)
            self._value = self._parse(data)
        except (OSError, ValueError) as error:
            if not self._troubled:
                self._troubled = True
                _log.warning("'%s' has changed and cannot be used (%s): what it said before stays in force",
                             self._path, error)  # fmt: skip
        else:
            self._troubled = False
            _log.info("'%s' has changed and was read again", self._path)


def _read(path: str) -> tuple[_Identity, bytes]:
    """The file as it is named now, also behind a symlink that was swapped; ValueError with a sentence."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO would stall everything
    except OSError as error:
        raise ValueError(_unreadable(path, error)) from None
    except ValueError:  # a NUL in it
        raise ValueError(f"{path!r} is not the path of a file; name one") from None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"'{path}' is not a regular file; name one")
        data = _all(fd)
    except OSError as error:
        raise ValueError(_unreadable(path, error)) from None
    finally:
        os.close(fd)
    if len(data) > LARGEST:
        raise ValueError(f"'{path}' is larger than {LARGEST >> 20} MiB; is it the right file?")
    return _identity(found), data


def _all(fd: int) -> bytes:
    """Everything, but for what is beyond the limit."""
    data = b""
    while len(data) <= LARGEST and (more := os.read(fd, LARGEST + 1 - len(data))):
        data += more
    return data


def _unreadable(path: str, error: OSError) -> str:
    return f"'{path}' cannot be read ({error.strerror}); name a file that this user may read"


def _identity(found: os.stat_result) -> _Identity:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
