"""Runs a list of filters and middleware for one exchange: in order for the request, in reverse for the response.

Without the user's own in the list no task is ever made: the server calls ``start``, and does what it answers. A
failure of one never ends the server: it is counted by name, and either the request goes on without it (open) or it is
refused (closed).
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from interceptor.middleware.access_log import LogFilter
from interceptor.middleware.api import OWN, Response
from interceptor.middleware.links import BuiltIn, Users
from interceptor.middleware.users import Call, failed
from interceptor.model.http import LocalReply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from interceptor.middleware.api import Delay, Exchange, Own
    from interceptor.middleware.links import Link, Observer
    from interceptor.model.connection import ResponseFlag
    from interceptor.model.http import ResponseHead

_log: Final = logging.getLogger(__name__)


class Chain:
    """What a request passes, in this order; its response passes the same in reverse."""

    def __init__(self, links: Sequence[Link], observer: Observer) -> None:
        self._links = tuple(links)
        self._observer = observer
        # Where one of these stands, a connection that carries no requests must not get past it as opaque bytes.
        self.authenticates = next(
            (link.name for link in links if isinstance(link, BuiltIn) and link.authenticates), None
        )

        self._log_filters = [
            link.filter for link in links if isinstance(link, BuiltIn) and isinstance(link.filter, LogFilter)
        ]

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
            verdict = self._ask(link, exchange)
            if isinstance(verdict, LocalReply):
                return verdict
            exchange.position += 1
            if verdict is not None:
                return verdict
        return None

    def respond(self, exchange: Exchange, head: ResponseHead) -> None:
        """Show the response, also a local reply, to the filters that had let the request pass."""
        self._show(self._links[: exchange.position], exchange, head)

    async def proceed(
        self, exchange: Exchange, forward: Callable[[Exchange], Awaitable[Response]]
    ) -> Response:
        """Take the request on from where ``start`` said OWN, through the rest of the chain to the upstream.

        What comes back has passed the rest of the chain; ``respond`` shows it to the filters before. It raises what ``forward`` raises, and nothing of the middleware's.
        """
        return await self._proceed(exchange.position, exchange, forward)

    def logs(self, status: int, seconds: float, flag: ResponseFlag) -> bool:
        """Whether a finished request has a line in the access log."""
        return all(each.logs(status, seconds, flag) for each in self._log_filters)

    async def _proceed(
        self, start: int, exchange: Exchange, forward: Callable[[Exchange], Awaitable[Response]]
    ) -> Response:
        links, at = self._links, start
        response: Response | None = None
        while at < len(links):
            link = links[at]
            if isinstance(link, Users):
                rest = partial(self._proceed, at + 1, exchange, forward)
                response = await Call(link, exchange, rest, self._observer).run()
                break
            verdict = self._ask(link, exchange)
            if isinstance(verdict, LocalReply):
                response = Response.local(verdict)
                break
            if verdict is not None:
                await trio.sleep(verdict.seconds)
            at += 1
        if response is None:
            response = await forward(exchange)
        self._show(links[start:at], exchange, response.head)
        return response

    def _ask(self, link: BuiltIn, exchange: Exchange) -> LocalReply | Delay | None:
        try:
            return link.filter.request(exchange)
        except Exception:  # noqa: BLE001 (a fault in one filter must not end the flow unanswered)
            return self._fault(link)

    def _show(self, links: Sequence[Link], exchange: Exchange, head: ResponseHead) -> None:
        for link in reversed(links):
            if isinstance(link, BuiltIn):
                try:
                    link.filter.response(exchange, head)
                except Exception:  # noqa: BLE001 (the response is the upstream's, and goes on)
                    self._fault(link)

    def _fault(self, link: BuiltIn) -> LocalReply | None:
        """A built-in filter raised, which is a fault of ours."""
        self._observer.failed(link.name)
        _log.exception(
            "middleware '%s' failed by a fault of the proxy (failure: %s)", link.name, link.failure
        )
        return None if link.failure == "open" else failed(link.name)
