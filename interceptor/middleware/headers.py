"""PURE. Sets, adds and removes headers, as a VirtualService does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from interceptor.model.http import put, remove

if TYPE_CHECKING:
    from interceptor.middleware.api import Exchange
    from interceptor.model.http import Headers, ResponseHead


@dataclass(frozen=True, slots=True)
class Changes:
    """What is done to the headers of one message: remove, then set, then add."""

    remove: tuple[bytes, ...] = ()  # in lower case
    set: tuple[tuple[bytes, bytes], ...] = ()
    add: tuple[tuple[bytes, bytes], ...] = ()

    def apply(self, headers: Headers) -> None:
        """Change them in place."""
        for name in self.remove:
            remove(headers, name)
        for name, value in self.set:
            put(headers, name, value)
        headers.extend(self.add)


@dataclass(frozen=True, slots=True)
class HeaderFilter:
    """Changes on the way there and on the way back."""

    on_request: Changes
    on_response: Changes

    def request(self, exchange: Exchange) -> None:
        self.on_request.apply(exchange.request.headers)

    def response(self, exchange: Exchange, head: ResponseHead) -> None:  # noqa: ARG002 (the protocol's)
        self.on_response.apply(head.headers)
