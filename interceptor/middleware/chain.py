"""Runs a list of filters and middleware for one exchange: in order for the request, in reverse for the response.

Without the user's own in the list no task is ever made: the server calls ``start``, and does what it answers. A
failure of one never ends the server: it is counted by name, and either the request goes on without it (open) or it is
refused (closed).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

from interceptor.middleware.api import OWN, Filter
from interceptor.model.connection import ResponseFlag
from interceptor.model.http import LocalReply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from interceptor.middleware.api import Delay, Exchange, Middleware, Own
    from interceptor.model.http import ResponseHead

_log: Final = logging.getLogger(__name__)

Failure: TypeAlias = Literal["open", "closed"]


class Observer(Protocol):
    """Who counts what the middleware does."""

    def failed(self, name: str) -> None:
        """It raised an exception, or took longer than its time budget."""

    def took(self, name: str, seconds: float) -> None:
        """The user's own was done with a request or a connection; waiting for others is not in the time."""


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """A filter in its place."""

    name: str
    failure: Failure
    filter: Filter
    authenticates: bool = False


@dataclass(frozen=True, slots=True)
class Users:
    """The user's own middleware in its place."""

    name: str
    failure: Failure
    call: Middleware
    timeout: float  # seconds of its own time


Link: TypeAlias = "BuiltIn | Users"


class Chain:
    """What a request passes, in this order; its response passes the same in reverse."""

    def __init__(self, links: Sequence[Link], observer: Observer) -> None:
        self._links = tuple(links)
        self._observer = observer
        # Where one of these stands, a connection that carries no requests must not get past it as opaque bytes.
        self.authenticates = next(
            (link.name for link in links if isinstance(link, BuiltIn) and link.authenticates), None
        )

    def start(self, exchange: Exchange) -> LocalReply | Delay | Own | None:
        """Take the request as far as filters can: None where it may go to the upstream.

        After a delay call it again: it goes on behind the filter that asked for it. After OWN call ``proceed`` in a
        task.
        """
        links = self._links
        while exchange.position < len(links):
            link = links[exchange.position]
            if isinstance(link, Users):
                return OWN
            try:
                verdict = link.filter.request(exchange)
            except Exception:  # noqa: BLE001 (a fault in one filter must not end the flow unanswered)
                verdict = self._fault(link)
            if isinstance(verdict, LocalReply):
                return verdict
            exchange.position += 1
            if verdict is not None:
                return verdict
        return None

    def respond(self, exchange: Exchange, head: ResponseHead) -> None:
        """Show the response, also a local reply, to the filters that had let the request pass."""
        for link in reversed(self._links[: exchange.position]):
            if isinstance(link, BuiltIn):
                try:
                    link.filter.response(exchange, head)
                except Exception:  # noqa: BLE001 (as above; the response is the upstream's, and goes on)
                    self._fault(link)

    def _fault(self, link: BuiltIn) -> LocalReply | None:
        """A built-in filter raised, which is a fault of ours."""
        self._observer.failed(link.name)
        _log.exception(
            "middleware '%s' failed by a fault of the proxy (failure: %s)", link.name, link.failure
        )
        return None if link.failure == "open" else failed(link.name)


def failed(name: str) -> LocalReply:
    """The answer where one that fails closed has failed."""
    body = f"interceptor: middleware '{name}' failed\n".encode()
    return LocalReply(500, ResponseFlag.LOCAL_RESET, f"middleware_failed{{{name}}}", body)
