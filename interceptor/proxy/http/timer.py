"""Something that is done after a while, beside a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.proxy.http.exchange import Exchange
    from interceptor.proxy.http.serve import Serving


class Timer:
    """Does something after some seconds, unless it is stopped before."""

    def __init__(
        self, exchange: Exchange, serving: Serving, seconds: float, action: Callable[[], None]
    ) -> None:
        self._scope = trio.CancelScope()

        async def wait() -> None:
            with self._scope:
                try:
                    await trio.sleep(seconds)
                    action()
                except Exception:  # noqa: BLE001 (a fault while one request is served must not end the others)
                    serving.fault(exchange)

        serving.spawn(wait)

    def stop(self) -> None:
        """Do not do it."""
        self._scope.cancel()
