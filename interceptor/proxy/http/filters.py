"""Where requests meet the middleware: takes an exchange through its chain, and its response back."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from interceptor.middleware import api
from interceptor.middleware.api import Delay
from interceptor.model.connection import ResponseFlag
from interceptor.model.http import LocalReply
from interceptor.proxy.http.exchange import Exchange
from interceptor.proxy.http.own import Bridge

if TYPE_CHECKING:
    from interceptor.middleware.build import Stack
    from interceptor.middleware.chain import Chain
    from interceptor.model.http import ResponseHead
    from interceptor.model.request import RequestRecord
    from interceptor.proxy.http.roles import Served


class StackFilters:
    """The middleware of one configuration, as requests meet it."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def start(self, exchange: Served) -> None:
        """Take a request to its upstream, or to an answer."""
        chain = self._stack.request_chain(exchange.flow)
        if chain is None:
            exchange.forward()
        else:
            passing = exchange.passing = Passing(chain, exchange)
            passing.start()

    def respond(self, exchange: RequestRecord, head: ResponseHead) -> None:
        """The response goes back, also a local reply."""
        if isinstance(exchange.passing, Passing):
            exchange.passing.respond(head)


class Passing:
    """One request in its chain."""

    __slots__ = ("_chain", "_exchange", "_state")

    def __init__(self, chain: Chain, exchange: Served) -> None:
        self._chain = chain
        self._exchange = exchange
        self._state = api.Exchange(exchange.flow, exchange.head)

    def start(self) -> None:
        """Go on in the chain."""
        exchange, state = self._exchange, self._state
        verdict = self._chain.start(state)
        exchange.fields, exchange.body_limit = state.fields, state.body_limit
        if verdict is None:
            exchange.forward()
        elif isinstance(verdict, LocalReply):
            exchange.reply(verdict)
        elif isinstance(verdict, Delay):
            exchange.spawn(partial(self._delayed, verdict.seconds))
        else:
            exchange.spawn(Bridge(self._chain, exchange, state).run)

    async def _delayed(self, seconds: float) -> None:
        exchange = self._exchange
        await trio.sleep(seconds)
        if not exchange.over:
            self.start()
            if isinstance(exchange, Exchange):
                exchange.catch_up()

    def respond(self, head: ResponseHead) -> None:
        """The response goes back."""
        self._chain.respond(self._state, head)

    def finished(self) -> None:
        """The exchange is over, and is recorded next."""
        exchange, injected = self._exchange, self._state.injected
        if injected is not None and exchange.flag is ResponseFlag.NONE:
            exchange.flag = injected
        exchange.logged = self._chain.logs(exchange.status, exchange.ended - exchange.began, exchange.flag)
