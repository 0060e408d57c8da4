"""The user's own around requests: what it may do, what becomes of its failures, and whose time it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import MockClock

from interceptor.middleware.api import OWN, Body, Delay, Exchange, Middleware, Next, Response, Verdict
from interceptor.middleware.chain import Chain
from interceptor.middleware.links import BuiltIn, Failure, Link, Users
from interceptor.middleware.users import BodyFailedError
from interceptor.model.connection import ResponseFlag
from interceptor.model.http import LocalReply, ResponseHead, get, put
from tests.support.exchanges import Observed, an_exchange


async def chunks(*given: bytes, pause: float = 0) -> AsyncIterator[bytes]:
    for each in given:
        await trio.sleep(pause)
        yield each


@dataclass
class Upstream:
    """Answers after a pause, and remembers what it was sent."""

    pause: float = 0
    answer: tuple[bytes, ...] = (b"hello",)
    requests: list[tuple[bytes, bytes]] = field(default_factory=list)  # target, body
    bodies: list[Body] = field(default_factory=list)

    async def __call__(self, exchange: Exchange) -> Response:
        self.bodies.append(exchange.body)
        body = await exchange.body.read(1000)
        await exchange.body.aclose()
        self.requests.append((exchange.request.target, body))
        await trio.sleep(self.pause)
        return Response(200, Body(chunks(*self.answer, pause=self.pause)), [(b"server", b"app")])


@dataclass
class Stage:
    """One middleware, or several, before an upstream."""

    upstream: Upstream = field(default_factory=Upstream)
    observed: Observed = field(default_factory=Observed)

    async def run(
        self,
        *own: Middleware,
        failure: Failure = "closed",
        timeout: float = 1.0,
        exchange: Exchange | None = None,
        filters: tuple[BuiltIn, ...] = (),
    ) -> tuple[int, bytes]:
        """The status and the body that a client sees."""
        response = await self.respond(
            *own, failure=failure, timeout=timeout, exchange=exchange, filters=filters
        )
        try:
            return response.head.status, await response.body.read(1000)
        finally:
            await response.body.aclose()

    async def respond(
        self,
        *own: Middleware,
        failure: Failure = "closed",
        timeout: float = 1.0,
        exchange: Exchange | None = None,
        filters: tuple[BuiltIn, ...] = (),
    ) -> Response:
        links: list[Link] = [Users(f"own{at}", failure, call, timeout) for at, call in enumerate(own)]
        chain = Chain([*links, *filters], self.observed)
        if exchange is None:
            exchange = an_exchange()
            exchange.body = Body(b"request")
        assert chain.start(exchange) is OWN
        return await chain.proceed(exchange, self.upstream)


async def nothing(exchange: Exchange, call_next: Next) -> Response:
    return await call_next()


async def test_what_changes_nothing_is_not_noticed(autojump_clock: MockClock) -> None:
    stage = Stage()
    exchange = an_exchange()
    exchange.body = original = Body(chunks(b"req", b"uest"))
    assert await stage.run(nothing, exchange=exchange) == (200, b"hello")
    assert stage.upstream.requests == [(b"/", b"request")]
    assert stage.upstream.bodies == [original]  # as it came: nothing stands in its way
    assert stage.observed.failures == []
    assert [name for name, _ in stage.observed.durations] == ["own0"]


async def test_it_may_answer(autojump_clock: MockClock) -> None:
    async def own(exchange: Exchange, call_next: Next) -> Response:
        return Response(403, b"not today\n", [(b"a", b"b")])

    stage = Stage()
    assert await stage.run(own) == (403, b"not today\n")
    assert stage.upstream.requests == []


async def test_it_may_alter_both_heads_and_both_bodies(autojump_clock: MockClock) -> None:
    async def shout(body: Body) -> AsyncIterator[bytes]:
        async for chunk in body:
            yield chunk.upper()

    async def own(exchange: Exchange, call_next: Next) -> Response:
        exchange.request.target = b"/changed"
        exchange.body = Body(shout(exchange.body))
        response = await call_next()
        put(response.head.headers, b"server", b"us")
        response.body = Body(shout(response.body))
        return response

    stage = Stage()
    response = await stage.respond(own)
    assert get(response.head.headers, b"server") == b"us"
    assert await response.body.read(100) == b"HELLO"
    assert stage.upstream.requests == [(b"/changed", b"REQUEST")]


async def test_it_may_read_a_body_and_put_it_back(autojump_clock: MockClock) -> None:
    async def own(exchange: Exchange, call_next: Next) -> Response:
        data = await exchange.body.read(100)
        exchange.body = Body(data)
        response = await call_next()
        return Response(200, await response.body.read(100) + b"!")

    stage = Stage()
    assert await stage.run(own) == (200, b"hello!")
    assert stage.upstream.requests == [(b"/", b"request")]
    assert stage.upstream.bodies[0].length == 7


async def test_it_may_delay_and_the_upstreams_time_is_not_its_own(autojump_clock: MockClock) -> None:
    async def own(exchange: Exchange, call_next: Next) -> Response:
        await trio.sleep(0.5)
        return await call_next()

    stage = Stage(Upstream(pause=100))
    assert await stage.run(own) == (200, b"hello")
    assert stage.observed.durations == [("own0", 0.5)]


async def test_the_peers_time_is_not_its_own(autojump_clock: MockClock) -> None:
    async def own(exchange: Exchange, call_next: Next) -> Response:
        return Response(200, await exchange.body.read(100))

    exchange = an_exchange()
    exchange.body = Body(chunks(b"a", b"b", pause=100))
    stage = Stage()
    assert await stage.run(own, exchange=exchange) == (200, b"ab")
    assert stage.observed.durations == [("own0", 0)]


async def late(exchange: Exchange, call_next: Next) -> Response:
    await trio.sleep(1.1)
    return await call_next()


async def late_after(exchange: Exchange, call_next: Next) -> Response:
    response = await call_next()
    put(response.head.headers, b"server", b"half done")
    await trio.sleep(1.1)
    return response


async def broken(exchange: Exchange, call_next: Next) -> Response:
    exchange.request.target = b"/half-done"
    exchange.request.headers.append((b"half", b"done"))
    raise KeyError("oops")


async def broken_after(exchange: Exchange, call_next: Next) -> Response:
    await call_next()
    raise ExceptionGroup("of a nursery", [KeyError("oops")])


async def leaving(exchange: Exchange, call_next: Next) -> Response:
    raise SystemExit(0)


async def leaving_in_a_nursery(exchange: Exchange, call_next: Next) -> Response:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(leaving, exchange, call_next)
    raise AssertionError


async def of_another_kind(exchange: Exchange, call_next: Next) -> Response:
    await call_next()
    return None  # type: ignore[return-value] # what a user may well forget


async def twice(exchange: Exchange, call_next: Next) -> Response:
    await call_next()
    return await call_next()


FAILING = [late, late_after, broken, broken_after, leaving, leaving_in_a_nursery, of_another_kind, twice]


@pytest.mark.parametrize("own", FAILING)
async def test_failing_open_is_as_if_it_were_not_there(autojump_clock: MockClock, own: Middleware) -> None:
    stage = Stage()
    exchange = an_exchange()
    response = await stage.respond(own, failure="open", exchange=exchange)
    assert (response.head.status, await response.body.read(100)) == (200, b"hello")
    assert response.head.headers == [(b"server", b"app")]
    assert stage.upstream.requests == [(b"/", b"")]
    assert exchange.request.headers == []
    assert stage.observed.failures == ["own0"]


@pytest.mark.parametrize("own", FAILING)
async def test_failing_closed_is_an_error(
    autojump_clock: MockClock, own: Middleware, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage()
    response = await stage.respond(own)
    timed_out = own in {late, late_after}
    assert response.head.status == (504 if timed_out else 500)
    assert response.reply is not None
    assert response.reply.flag is ResponseFlag.LOCAL_RESET
    assert response.reply.details == ("middleware_timeout{own0}" if timed_out else "middleware_failed{own0}")
    assert b"'own0'" in await response.body.read(100)
    assert stage.observed.failures == ["own0"]
    assert "own0" in caplog.text


@pytest.mark.parametrize("failure", ["open", "closed"])
async def test_what_it_has_read_of_the_request_is_gone(autojump_clock: MockClock, failure: Failure) -> None:
    async def own(exchange: Exchange, call_next: Next) -> Response:
        await anext(exchange.body)
        raise KeyError

    stage = Stage()
    assert (await stage.run(own, failure=failure))[0] == 500
    assert stage.upstream.requests == []


@pytest.mark.parametrize("failure", ["open", "closed"])
async def test_what_it_has_read_of_the_response_is_gone(autojump_clock: MockClock, failure: Failure) -> None:
    async def own(exchange: Exchange, call_next: Next) -> Response:
        response = await call_next()
        await anext(response.body)
        return response

    stage = Stage()
    assert (await stage.run(own, failure=failure))[0] == 500
    assert stage.observed.failures == ["own0"]


async def test_a_body_it_has_read_must_be_put_back(autojump_clock: MockClock) -> None:
    async def own(exchange: Exchange, call_next: Next) -> Response:
        await exchange.body.read(100)
        return await call_next()

    stage = Stage()
    assert (await stage.run(own))[0] == 500
    assert stage.upstream.requests == []  # not an empty one


def making(*given: bytes, pause: float = 0, error: BaseException | None = None) -> Middleware:
    async def body() -> AsyncIterator[bytes]:
        async for chunk in chunks(*given, pause=pause):
            yield chunk
        if error is not None:
            raise error

    async def own(exchange: Exchange, call_next: Next) -> Response:
        return Response(200, body())

    return own


@pytest.mark.parametrize("error", [KeyError("oops"), SystemExit(0)])
async def test_a_body_that_fails_half_way_does_not_end_as_if_it_were_whole(
    autojump_clock: MockClock, error: BaseException
) -> None:
    stage = Stage()
    response = await stage.respond(making(b"a", error=error))
    assert await anext(response.body) == b"a"
    with pytest.raises(BodyFailedError, match="'own0'"):
        await anext(response.body)
    assert stage.observed.failures == ["own0"]


async def test_each_chunk_it_makes_has_the_budget(autojump_clock: MockClock) -> None:
    stage = Stage()
    assert await stage.run(making(b"a", b"b", b"c", pause=0.9)) == (200, b"abc")
    response = await stage.respond(making(b"a", pause=1.1))
    with pytest.raises(BodyFailedError):
        await anext(response.body)
    await response.body.aclose()
    assert stage.observed.failures == ["own0"]


async def test_a_slow_upstream_is_not_on_the_budget_of_who_passes_its_body_on(
    autojump_clock: MockClock,
) -> None:
    async def same(body: Body) -> AsyncIterator[bytes]:
        async for chunk in body:
            await trio.sleep(0.5)
            yield chunk

    async def own(exchange: Exchange, call_next: Next) -> Response:
        exchange.body = Body(same(exchange.body))
        response = await call_next()
        response.body = Body(same(response.body))
        return response

    stage = Stage(Upstream(pause=10, answer=(b"a", b"b", b"c")))
    exchange = an_exchange()
    exchange.body = Body(chunks(b"x", b"y", pause=10))
    assert await stage.run(own, own, exchange=exchange) == (200, b"abc")
    assert stage.observed.failures == []
    assert stage.upstream.requests == [(b"/", b"xy")]


async def test_its_own_timeout_around_the_upstream_is_its_business(autojump_clock: MockClock) -> None:
    async def own(exchange: Exchange, call_next: Next) -> Response:
        with trio.move_on_after(5):
            return await call_next()
        return Response(504, b"too slow\n")

    stage = Stage(Upstream(pause=100))
    assert await stage.run(own) == (504, b"too slow\n")
    assert stage.observed.failures == []


async def test_a_failure_after_its_own_timeout_is_its_own(autojump_clock: MockClock) -> None:
    async def own(exchange: Exchange, call_next: Next) -> Response:
        with trio.move_on_after(5):
            await call_next()
        raise KeyError

    stage = Stage(Upstream(pause=100))
    assert (await stage.run(own))[0] == 500
    assert stage.observed.failures == ["own0"]


@pytest.mark.parametrize("failure", ["open", "closed"])
async def test_a_fault_of_the_servers_is_not_its_own(autojump_clock: MockClock, failure: Failure) -> None:
    async def forward(exchange: Exchange) -> Response:
        raise OSError("a fault of ours")

    stage = Stage()
    chain = Chain([Users("own", failure, nothing, 1)], stage.observed)
    with pytest.raises(OSError, match="a fault of ours"):
        await chain.proceed(an_exchange(), forward)
    assert stage.observed.failures == []


async def test_a_cancellation_passes_through_and_is_counted_nowhere(autojump_clock: MockClock) -> None:
    async def in_a_nursery(exchange: Exchange, call_next: Next) -> Response:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            return await call_next()

    for own in (nothing, in_a_nursery):
        stage = Stage(Upstream(pause=100))
        with trio.move_on_after(5) as scope:
            await stage.run(own)
        assert scope.cancelled_caught
        assert stage.observed.failures == []


async def test_they_stand_around_each_other_in_order(autojump_clock: MockClock) -> None:
    notes: list[str] = []

    def noting(name: str) -> Middleware:
        async def own(exchange: Exchange, call_next: Next) -> Response:
            notes.append(f"{name}>")
            response = await call_next()
            notes.append(f"<{name}")
            return response

        return own

    await Stage().run(noting("a"), noting("b"))
    assert notes == ["a>", "b>", "<b", "<a"]


@dataclass
class Noting:
    """A filter behind the user's own."""

    verdict: Verdict = None
    shown: list[int] = field(default_factory=list)

    def request(self, exchange: Exchange) -> Verdict:
        return self.verdict

    def response(self, exchange: Exchange, head: ResponseHead) -> None:
        self.shown.append(head.status)


@pytest.mark.parametrize(
    ("verdict", "status", "shown"),
    [
        (None, 200, [200]),
        (Delay(3.0), 200, [200]),
        (LocalReply(418, ResponseFlag.DENY, "no", b"x"), 418, []),
    ],
)
async def test_filters_behind_it_have_their_say(
    autojump_clock: MockClock, verdict: Verdict, status: int, shown: list[int]
) -> None:
    stage, behind = Stage(), Noting(verdict)
    began = trio.current_time()
    response = await stage.respond(nothing, filters=(BuiltIn("f", "closed", behind),))
    assert (response.head.status, behind.shown) == (status, shown)
    assert trio.current_time() - began == pytest.approx(3.0 if isinstance(verdict, Delay) else 0)
    assert (response.reply is None) is (status == 200)
    await response.body.aclose()
