"""Something that is done after a while, beside a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.proxy.http.exchange import Exchange
    from interceptor.proxy.http.serve import Serving


class Timer:
    """Does something after some seconds, unless it is stopped before."""

    __slots__ = ("_action", "_exchange", "_seconds", "_serving")

    def __init__(
        self, exchange: Exchange, serving: Serving, seconds: float, action: Callable[[], None]
    ) -> None:
        self._exchange = exchange
        self._serving = serving
        self._seconds = seconds
        self._action = action
        serving.deadlines.add(self, seconds)

    def stop(self) -> None:
        """Do not do it."""
        self._serving.deadlines.remove(self, self._seconds)

    def late(self) -> None:
        """Do it."""
        try:
            self._action()
        except Exception:  # noqa: BLE001 (a fault while one request is served must not end the others)
            self._serving.fault(self._exchange)
