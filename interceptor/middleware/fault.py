"""PURE. Fault injection: some requests are held back, some are answered with an error. Chance is an argument."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from interceptor.middleware.api import Delay
from interceptor.model.connection import ResponseFlag
from interceptor.model.http import LocalReply

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.middleware.api import Exchange
    from interceptor.model.http import ResponseHead


@dataclass(frozen=True, slots=True)
class DelayFault:
    """Holds back a percentage of requests; whatever is answered then, the log says DI."""

    seconds: float
    percentage: float
    chance: Callable[[], float]  # evenly from 0 up to 1

    def request(self, exchange: Exchange) -> Delay | None:
        if self.chance() * 100 >= self.percentage:
            return None
        exchange.injected = ResponseFlag.DELAY_INJECTED
        return Delay(self.seconds)

    def response(self, exchange: Exchange, head: ResponseHead) -> None:
        """A delay leaves the answer as it is."""


@dataclass(frozen=True, slots=True)
class AbortFault:
    """Answers a percentage of requests."""

    status: int
    percentage: float
    chance: Callable[[], float]

    def request(self, exchange: Exchange) -> LocalReply | None:  # noqa: ARG002 (the protocol's)
        if self.chance() * 100 >= self.percentage:
            return None
        body = b"interceptor: fault filter abort\n"
        return LocalReply(self.status, ResponseFlag.FAULT_INJECTED, "fault_filter_abort", body)

    def response(self, exchange: Exchange, head: ResponseHead) -> None:
        """What passed is left as it is."""
