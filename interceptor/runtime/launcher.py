"""What the proxy tells ``interceptor run`` that launched it: whom the app is to believe, and that it may be started."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import trio

from interceptor.kernel import control

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from interceptor.runtime.certificates import Trusted


async def tell(launcher: socket.socket, trusted: Callable[[], Trusted | None]) -> None:
    """Say that the proxy is ready, behind whom it believes; then whom it believes whenever that changes, until cancelled."""
    launcher.settimeout(0)
    with contextlib.suppress(
        BrokenPipeError, ConnectionResetError
    ):  # it is gone: whoever watches it acts on that
        now = trusted()
        if now is not None:
            await _tell_trust(launcher, now)
        control.tell_ready(launcher)
        while now is not None:
            await now.over.wait()
            now = trusted()
            if now is not None:
                await _tell_trust(launcher, now)


async def _tell_trust(launcher: socket.socket, now: Trusted) -> None:
    while True:
        try:
            control.tell_trust(launcher, now.bundle)
        except BlockingIOError:  # it was stopped, and has not read for some versions
            await trio.lowlevel.wait_writable(launcher)
        else:
            return
