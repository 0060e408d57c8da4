from __future__ import annotations

import pytest

from interceptor.config.configuration import Configuration
from interceptor.config.plain import plain
from interceptor.config.rate_limit import RateLimit
from interceptor.middleware.api import Connection, Refusal
from interceptor.middleware.build import Means, Stack, build
from interceptor.model.connection import Direction, Flow
from interceptor.model.http import LocalReply
from tests.support.documents import sidecar
from tests.support.exchanges import Observed, a_flow, an_exchange


class World:
    """A stack with a place for documents, and those in force."""

    def __init__(self) -> None:
        self.now = 0.0
        self.documents: tuple[RateLimit, ...] = ()
        items = sidecar("{middleware: [{name: limits, use: rateLimitDocuments}]}").spec.middleware
        means = Means(lambda: self.now, lambda: 0, Observed(), lambda: 0, limits=lambda: self.documents)
        made = build(items, means)
        assert isinstance(made, Stack)
        self.stack = made

    def put(self, **specs: dict[str, object]) -> None:
        made = [
            RateLimit.model_validate({"metadata": {"name": name}, "spec": spec})
            for name, spec in specs.items()
        ]
        self.documents = plain(Configuration(sidecar("{}"), rate_limits=tuple(made))).rate_limits

    def status(self, flow: Flow) -> int | None:
        chain = self.stack.request_chain(flow)
        assert chain is not None
        verdict = chain.start(an_exchange(flow=flow))
        assert verdict is None or isinstance(verdict, LocalReply)
        return None if verdict is None else verdict.status

    async def refused(self, flow: Flow) -> bool:
        chain = self.stack.connection_chain(flow)
        assert chain is not None

        async def serve() -> None:
            """Nothing."""

        return isinstance(await chain.run(Connection(flow), serve), Refusal)


@pytest.fixture
def world() -> World:
    return World()


def of(burst: int = 1, **more: object) -> dict[str, object]:
    return {"direction": "ingress", "number": 1, "interval": "10s", "burst": burst, **more}


def test_without_documents_nothing_is_limited_and_each_document_limits_what_it_is_about(world: World) -> None:
    assert [world.status(a_flow()) for _ in range(3)] == [None] * 3
    world.put(
        a=of(2, ports=[80]), b=of(direction="egress", addresses=["10.0.0.0/24"]), c=of(exceptPorts=[80, 81])
    )
    assert [world.status(a_flow(port=80)) for _ in range(3)] == [None, None, 429]
    assert [world.status(a_flow(port=81)) for _ in range(3)] == [None] * 3
    assert [world.status(a_flow(port=82)) for _ in range(2)] == [None, 429]
    egress = a_flow(direction=Direction.EGRESS)
    assert [world.status(egress) for _ in range(2)] == [None, 429]
    world.now = 10.0
    assert world.status(egress) is None


def test_a_destination_elsewhere_is_not_limited(world: World) -> None:
    world.put(a=of(direction="egress", addresses=["10.0.1.0/24", "fd00::/8"]))
    egress = a_flow(direction=Direction.EGRESS)
    assert [world.status(egress) for _ in range(3)] == [None] * 3
    unknown = a_flow(direction=Direction.EGRESS)
    unknown.original_dst = None
    assert world.status(unknown) is None


async def test_connections_have_limits_of_their_own(world: World) -> None:
    world.put(a=of(scope="connection"))
    assert [await world.refused(a_flow()) for _ in range(2)] == [False, True]
    assert world.status(a_flow()) is None
    assert not await world.refused(a_flow(direction=Direction.EGRESS))


def test_a_limit_that_stays_keeps_its_bucket_and_one_that_goes_is_over(world: World) -> None:
    world.put(a=of(), b=of(ports=[81]))
    assert [world.status(a_flow()) for _ in range(2)] == [None, 429]
    world.put(a=of(), c=of(ports=[82]))
    assert world.status(a_flow()) == 429, "its bucket is empty still"
    world.put(a=of(3))
    assert world.status(a_flow()) is None, "it is another one"
    world.put()
    assert world.status(a_flow()) is None
