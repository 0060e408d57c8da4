"""Runs the user's own middleware around the rest of a chain, in its time budget; nothing that it does ends the server.

Where it fails, ``open`` lets the request go on as if it had not been there, if that is still possible: what it has
read of a body is gone, so then, and with ``closed``, the answer is an error.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from interceptor.errors import InterceptorError, PeerError
from interceptor.middleware.api import Body, Response
from interceptor.middleware.budget import Budget, OverBudgetError, waiting
from interceptor.model.connection import ResponseFlag
from interceptor.model.http import LocalReply

if TYPE_CHECKING:
    from interceptor.middleware.api import Exchange, Next
    from interceptor.middleware.links import Observer, Users

_log: Final = logging.getLogger(__name__)


class BodyFailedError(InterceptorError):
    """A body that the user's own makes has failed half-way: what has been sent of it must not look complete."""


class _Waited:
    """A body that comes from others: nobody's budget runs while it is waited for."""

    __slots__ = ("_body",)

    def __init__(self, body: Body) -> None:
        self._body = body

    def __aiter__(self) -> _Waited:
        return self

    async def __anext__(self) -> bytes:
        with waiting():
            return await anext(self._body)


class _Bounded:
    """A body that the user's own makes: each chunk has the time budget, and a failure is counted."""

    __slots__ = ("_body", "_link", "_observer")

    def __init__(self, body: Body, link: Users, observer: Observer) -> None:
        self._body = body
        self._link = link
        self._observer = observer

    def __aiter__(self) -> _Bounded:
        return self

    async def __anext__(self) -> bytes:
        budget = Budget(self._link.timeout)
        try:
            return await budget.run(self._body.__anext__)
        except (StopAsyncIteration, PeerError):  # the end, or of the body that it is made of
            raise
        except BaseException as error:  # noqa: BLE001 (as below)
            report(error, self._link.name, self._observer)
            message = f"the body that middleware '{self._link.name}' makes failed half-way"
            raise BodyFailedError(message) from None

    async def aclose(self) -> None:
        await self._body.aclose()


class Call:
    """One call of one middleware for one exchange."""

    def __init__(self, link: Users, exchange: Exchange, rest: Next, observer: Observer) -> None:
        self._link = link
        self._exchange = exchange
        self._rest = rest
        self._observer = observer
        self._called = False
        self._fault: Exception | None = None  # of the rest: not this one's
        self._answer: Response | None = None
        self._request_body = exchange.body  # as they came, and as the user's own is shown them
        self._shown_request_body = _shown(exchange.body)
        self._response_body = self._shown_response_body = Body()

    async def run(self) -> Response:
        """What it answers, or what is answered in its place."""
        exchange, budget = self._exchange, Budget(self._link.timeout)
        before = replace(exchange.request, headers=list(exchange.request.headers))
        exchange.body = self._shown_request_body
        try:
            response = await budget.run(self._step)
        except BaseException as error:
            if isinstance(error, PeerError):  # a body that it read has broken off
                raise
            if self._fault is not None:
                raise self._fault from None
            report(error, self._link.name, self._observer)
            if self._link.failure == "open" and not self._called and not self._shown_request_body.taken:
                exchange.request, exchange.body = before, self._request_body
                return await self._rest()
            return self._after_failure(error)
        finally:
            self._observer.took(self._link.name, budget.used)
        return response

    async def _step(self) -> Response:
        response = await self._link.call(self._exchange, self._call_next)
        if not isinstance(response, Response):
            raise TypeError(f"it answered with {type(response).__name__}, not with a Response")
        if response.body is self._shown_response_body:
            response.body = self._untouched(response.body, self._response_body)
        elif response.body.source_is_code:
            response.body = _bounded(response.body, self._link, self._observer)
        return response

    async def _call_next(self) -> Response:
        if self._called:
            raise RuntimeError("it called call_next a second time; the request can be sent once")
        self._called = True
        exchange = self._exchange
        if exchange.body is self._shown_request_body:
            exchange.body = self._untouched(exchange.body, self._request_body)
        elif exchange.body.source_is_code:
            exchange.body = _bounded(exchange.body, self._link, self._observer)
        with waiting():
            try:
                answer = await self._rest()
            except Exception as fault:
                self._fault = fault
                raise
        head = replace(answer.head, headers=list(answer.head.headers))
        self._answer = Response.of(head, answer.body, reply=answer.reply)
        self._response_body = answer.body
        answer.body = self._shown_response_body = _shown(answer.body)
        return answer

    @staticmethod
    def _untouched(shown: Body, original: Body) -> Body:
        if shown.taken:
            raise RuntimeError(
                "it read a body and did not put it back; assign a Body with what is to be sent"
            )
        return original

    def _after_failure(self, error: BaseException) -> Response:
        """The upstream's answer as it came, where that may and can be sent; else an error."""
        if self._link.failure == "open" and self._answer is not None and not self._shown_response_body.taken:
            return self._answer
        return Response.local(failed(self._link.name, late=isinstance(error, OverBudgetError)))


def _shown(body: Body) -> Body:
    return body.over(_Waited(body))


def _bounded(body: Body, link: Users, observer: Observer) -> Body:
    return body.over(_Bounded(body, link, observer))


def report(error: BaseException, name: str, observer: Observer) -> None:
    """Count and log what the user's own raised; a cancellation of the exchange is not its own, and goes on."""
    if isinstance(error, trio.Cancelled | GeneratorExit):
        raise error
    if isinstance(error, BaseExceptionGroup):
        cancelled, _ = error.split(trio.Cancelled)
        if cancelled is not None:
            raise cancelled
    observer.failed(name)
    if isinstance(error, OverBudgetError):
        _log.error("middleware '%s' was cancelled: %s", name, error)
    else:
        _log.error("middleware '%s' failed", name, exc_info=error)


def failed(name: str, *, late: bool = False) -> LocalReply:
    """The answer where one that fails closed has failed, or was late."""
    what, status = ("took too long", 504) if late else ("failed", 500)
    body = f"interceptor: middleware '{name}' {what}\n".encode()
    word = "middleware_timeout" if late else "middleware_failed"
    return LocalReply(status, ResponseFlag.LOCAL_RESET, f"{word}{{{name}}}", body)
