"""Real programs for tests: our own commands, waiting for conditions, ending what was started."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from tests.support.netns import Namespace
from tests.support.until import PATIENCE

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
# Far beyond what anything takes here: reached only by a failure. An emulated machine needs more of it.
DEADLINE_SECONDS = 30.0 * PATIENCE


def wait_until(condition: Callable[[], T], what: str) -> T:
    """Poll until a condition holds and return its value; the deadline only bounds a failure."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.01)
    return value


def interceptor(*argv: str) -> list[str]:
    """The ``interceptor`` command of this checkout."""
    return [sys.executable, "-m", "interceptor", *argv]


def sidecar_setup(*argv: str) -> list[str]:
    """The ``sidecar-setup`` command of this checkout."""
    return [str(Path(sys.executable).with_name("sidecar-setup")), *argv]


def run(
    argv: list[str], *, timeout: float = 60 * PATIENCE, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command from the checkout to its end, whatever its status."""
    return subprocess.run(
        argv,
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


@contextlib.contextmanager
def started(argv: list[str], **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A command running from the checkout, with its output piped; killed at the end if it still runs."""
    process = subprocess.Popen(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate(timeout=DEADLINE_SECONDS)


def listens(where: Namespace, host: str, port: int) -> Callable[[], bool]:
    """A condition: something accepts there, as seen from inside the namespace."""

    def attempt() -> bool:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
            return True
        return False

    return lambda: where.call(attempt)
