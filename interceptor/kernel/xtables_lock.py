"""The lock that iptables programs take (``iptables -w``): while it is held none of them changes a table.

python-iptables does not take it, so we do. Programs that ignore it are met by the kernel's own check at commit.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from interceptor.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_PATH: Final = "/run/xtables.lock"  # XT_LOCK_NAME, iptables/xshared.h
_INTERVAL: Final = 0.02  # seconds between attempts; a holder is usually done in milliseconds


@contextlib.contextmanager
def held(wait: float) -> Iterator[None]:
    """Hold the lock; KernelError when it cannot be had within ``wait`` seconds."""
    path = Path(os.environ.get("XTABLES_LOCKFILE") or DEFAULT_PATH)
    descriptor = _open(path)
    if descriptor is None:
        yield
        return
    try:
        _lock(descriptor, path, wait)
        yield
    finally:
        os.close(descriptor)


def _open(path: Path) -> int | None:
    """The file; None where a read-only file system has none, so that nobody else can hold it by this path either."""
    try:
        return os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise KernelError(
                f"cannot open the xtables lock {path}: {error.strerror}; make it writable, "
                "or set XTABLES_LOCKFILE to the file that iptables uses here"
            ) from error
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def _lock(descriptor: int, path: Path, wait: float) -> None:
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise KernelError(
                    f"another program holds the xtables lock {path}{_holder(descriptor)}; nothing was changed: "
                    f"try again when it is done, or wait longer than {wait:g} s with --wait"
                ) from None
            time.sleep(_INTERVAL)
        else:
            return


def _holder(descriptor: int) -> str:
    """Who holds the lock, as far as /proc tells: ' (process 4711, iptables-restore)' or nothing."""
    file = os.fstat(descriptor)
    place = (
        f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"  # as fs/locks.c prints it
    )
    try:
        held_locks = Path("/proc/locks").read_text(encoding="ascii").splitlines()
        for fields in (line.split() for line in held_locks):
            if fields[1] == "FLOCK" and fields[5] == place:
                name = Path("/proc", fields[4], "comm").read_text(encoding="utf-8").strip()
                return f" (process {fields[4]}, {name})"
    except (OSError, IndexError):
        pass  # a hint is all this is; another pid namespace or a hardened /proc has none
    return ""
