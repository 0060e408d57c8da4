"""Runs what stands around a connection, in the flow's own task: a rate limit, the user's own."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from interceptor.middleware.api import Refusal
from interceptor.middleware.budget import Budget, waiting
from interceptor.middleware.links import UsersConnection
from interceptor.middleware.users import report

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from interceptor.middleware.api import Connection, ConnectionNext, Delay
    from interceptor.middleware.links import BuiltInConnection, ConnectionLink, Observer

_log: Final = logging.getLogger(__name__)

REASON: Final = "middleware"  # label of interceptor_connections_denied_total, for all of the user's own


class ConnectionChain:
    """What a connection passes before its upstream is dialled, in this order."""

    def __init__(self, links: Sequence[ConnectionLink], observer: Observer) -> None:
        self._links = tuple(links)
        self._observer = observer

    async def run(self, connection: Connection, serve: ConnectionNext) -> Refusal | None:
        """Serve the connection inside the chain, or say why it is refused.

        It raises what ``serve`` raises, and nothing of the middleware's.
        """
        return await self._run(0, connection, serve)

    async def _run(self, start: int, connection: Connection, serve: ConnectionNext) -> Refusal | None:
        for at in range(start, len(self._links)):
            link = self._links[at]
            if isinstance(link, UsersConnection):
                rest = partial(self._run, at + 1, connection, serve)
                return await _Call(link, connection, rest, self._observer).run()
            verdict = self._ask(link, connection)
            if isinstance(verdict, Refusal):
                return verdict
            if verdict is not None:
                await trio.sleep(verdict.seconds)
        await serve()
        return None

    def _ask(self, link: BuiltInConnection, connection: Connection) -> Refusal | Delay | None:
        try:
            return link.filter.connection(connection)
        except Exception:  # noqa: BLE001 (a fault in one filter must not end the flow unexplained)
            self._observer.failed(link.name)
            _log.exception("middleware '%s' failed by a fault of the proxy", link.name)
            return None if link.failure == "open" else _failed(link.name)


class _Call:
    """One call of the user's own for one connection."""

    def __init__(
        self,
        link: UsersConnection,
        connection: Connection,
        rest: Callable[[], Awaitable[Refusal | None]],
        observer: Observer,
    ) -> None:
        self._link = link
        self._connection = connection
        self._rest = rest
        self._observer = observer
        self._called = False
        self._refused: Refusal | None = None  # by one further on
        self._fault: Exception | None = None  # of the rest: not this one's

    async def run(self) -> Refusal | None:
        """Why the connection is refused, if it is."""
        budget = Budget(self._link.timeout)
        try:
            refusal = await budget.run(self._step)
        except BaseException as error:  # noqa: BLE001 (nothing that it does ends the server; see report)
            if self._fault is not None:
                raise self._fault from None
            report(error, self._link.name, self._observer)
            if self._called:
                return self._refused
            return await self._rest() if self._link.failure == "open" else _failed(self._link.name)
        finally:
            self._observer.took(self._link.name, budget.used)
        if self._called:
            return self._refused
        return refusal or Refusal(f"the middleware '{self._link.name}' refused it", REASON)

    async def _step(self) -> Refusal | None:
        refusal = await self._link.call(self._connection, self._call_next)
        return None if refusal is None else Refusal(str(refusal.details), REASON)

    async def _call_next(self) -> None:
        if self._called:
            raise RuntimeError("it called call_next a second time; a connection is served once")
        self._called = True
        with waiting():
            try:
                self._refused = await self._rest()
            except Exception as fault:
                self._fault = fault
                raise


def _failed(name: str) -> Refusal:
    return Refusal(f"the middleware '{name}' failed; the program log says how", REASON)
