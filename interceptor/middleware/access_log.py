"""PURE. Which requests are logged, and what more their lines say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from interceptor.model.connection import ResponseFlag
from interceptor.model.http import get

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.middleware.api import Exchange
    from interceptor.model.http import ResponseHead

LONGEST: Final = 1024  # characters of a field that a peer fills


@dataclass(frozen=True, slots=True)
class Condition:
    """Holds where everything that is given does."""

    min_status: int | None = None
    min_seconds: float | None = None
    flagged: bool | None = None
    percentage: float | None = None

    def holds(self, status: int, seconds: float, flag: ResponseFlag, chance: Callable[[], float]) -> bool:
        """Whether a finished request meets it; status 0 is none, which happens only where something went wrong."""
        return (
            (self.min_status is None or status == 0 or status >= self.min_status)
            and (self.min_seconds is None or seconds >= self.min_seconds)
            and (self.flagged is None or self.flagged is (flag is not ResponseFlag.NONE))
            and (self.percentage is None or chance() * 100 < self.percentage)
        )


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Conditions, of which one suffices, and fields: plain text, or from a header."""

    when: tuple[Condition, ...]
    texts: tuple[tuple[str, str], ...]
    from_request: tuple[tuple[str, bytes], ...]  # the field, the header
    from_response: tuple[tuple[str, bytes], ...]
    chance: Callable[[], float]

    def request(self, exchange: Exchange) -> None:
        fields = exchange.fields = {} if exchange.fields is None else exchange.fields
        fields.update(self.texts)
        for field, header in self.from_request:
            fields[field] = _text(get(exchange.request.headers, header))

    def response(self, exchange: Exchange, head: ResponseHead) -> None:
        if exchange.fields is not None:
            for field, header in self.from_response:
                exchange.fields[field] = _text(get(head.headers, header))

    def logs(self, status: int, seconds: float, flag: ResponseFlag) -> bool:
        """Whether a finished request has a line."""
        return not self.when or any(each.holds(status, seconds, flag, self.chance) for each in self.when)


def _text(value: bytes | None) -> str:
    return "-" if value is None else value[:LONGEST].decode("utf-8", "replace")
