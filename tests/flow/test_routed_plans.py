"""Requests that say the same go by a plan: what holds for the first one holds for all, and nothing is left behind."""

from __future__ import annotations

import pytest
import trio

from interceptor.model.request import RequestRecord
from tests.flow.test_routed import ONE, SUBSETS, answered, ask, ids, routes
from tests.support.flows import reset, wait_until
from tests.support.http_flows import OK, Wire, response
from tests.support.routed import RoutedBed, routed_bed

TO = "route: [{destination: {host: shop.example}}]"


def by_plan(record: RequestRecord) -> bool:
    """The head of such a request is that of all, so it has no id of its own."""
    return record.request_id is not None


def rule(policy: str) -> tuple[str, str]:
    return "DestinationRule", f"host: shop.example\ntrafficPolicy: {policy}"


async def planned(bed: RoutedBed, sent: bytes, host: str = "127.0.0.2") -> tuple[Wire, Wire]:
    """A client and the upstream whose next request like this one goes by a plan."""
    client = bed.client()
    await client.send(sent)
    upstream = await bed.at(host)
    await _served(client, upstream, sent)
    await client.send(sent)
    await _served(client, upstream, sent)
    return client, upstream


async def _served(client: Wire, upstream: Wire, sent: bytes) -> None:
    await upstream.until(sent.partition(b"\r\n\r\n")[2] or b"\r\n\r\n")
    await upstream.send(OK)
    await answered(client)


def counted(bed: RoutedBed) -> tuple[object, ...]:
    """What is in flight at all clusters."""
    states = bed.running.proxy.clusters().values()
    active = [each["active"] for state in states for each in state["endpoints"]]  # type: ignore[attr-defined]  # of JSON
    return *((state["requests"], state["connections"], state["waiting"]) for state in states), sum(active)


async def test_a_limit_that_is_reached_refuses_and_is_free_again() -> None:
    async with routed_bed(rule("{connectionPool: {http: {http2MaxRequests: 1}}}"), versions=ONE) as bed:
        first, wire = await planned(bed, ask())
        second = bed.client()
        await first.send(ask())
        await wire.head()
        assert counted(bed) == ((1, 1, 0), 1)
        await second.send(ask())
        assert (await answered(second))[0] == 503
        await wire.send(OK)
        await answered(first)
        for client in (second, first):
            await client.send(ask())
            await wire.head()
            await wire.send(OK)
            assert (await answered(client))[0] == 200
        records = await bed.requests(6)
        assert counted(bed) == ((0, 0, 0), 0)
    assert [record.flag.value for record in records] == ["-", "-", "UO", "-", "-", "-"]
    assert [by_plan(record) for record in records] == [False, False, False, True, True, True]


async def test_who_finds_no_connection_free_waits_for_one() -> None:
    policy = "{connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}}"
    async with routed_bed(rule(policy), versions=ONE) as bed:
        first, wire = await planned(bed, ask())
        second, third = bed.client(), bed.client()
        await first.send(ask())
        await wire.head()
        await second.send(ask())
        await wait_until(lambda: counted(bed) == ((2, 1, 1), 1))
        await third.send(ask())
        assert (await answered(third))[0] == 503
        await wire.send(OK)
        await answered(first)
        await wire.head()
        await wire.send(OK)
        assert (await answered(second))[0] == 200
        await bed.requests(5)
        assert counted(bed) == ((0, 0, 0), 0)


async def test_a_client_that_goes_away_leaves_nothing_behind() -> None:
    async with routed_bed(routes(f"- {TO}"), versions=ONE) as bed:
        client, wire = await planned(bed, ask())
        await client.send(ask())
        await wire.head()
        reset(client.sock)
        record = (await bed.requests(3))[2]
        assert by_plan(record)
        assert record.flag.value == "DC"
        assert counted(bed) == ((0, 0, 0), 0)


async def test_an_endpoint_that_is_gone_is_passed_over() -> None:
    ends = (("127.0.0.2", "v1"), ("127.0.0.8", "v1"))
    async with (
        routed_bed(rule("{loadBalancer: {simple: ROUND_ROBIN}}"), routes(f"- {TO}"), versions=ends) as bed,
        trio.open_nursery() as nursery,
    ):

        async def serve() -> None:
            wire = await bed.at("127.0.0.2")
            while True:
                seen.append(await wire.head())
                await wire.send(OK)

        seen: list[bytes] = []
        nursery.start_soon(serve)
        client = bed.client()
        for _ in range(8):
            await client.send(ask())
            assert (await answered(client))[0] == 200
        nursery.cancel_scope.cancel()
        records = await bed.requests(8)
        assert counted(bed) == ((0, 0, 0), 0)
    assert all(map(by_plan, records[2:]))
    attempts = [b"x-envoy-attempt-count: 2\r\n" in head for head in seen]
    assert attempts.count(True) >= 7, "the next attempt takes a turn as well"
    assert [ids(head) for head in seen[2:]] == [record.request_id for record in records[2:]]


async def test_another_attempt_has_the_body() -> None:
    text = f"- retries: {{attempts: 1, retryOn: '503,409'}}\n  {TO}"
    async with routed_bed(routes(text), versions=ONE) as bed:
        sent = ask(body=b"hello", method="POST")
        client, wire = await planned(bed, sent)
        for status in ("503 Busy", "409 Conflict"):
            await client.send(sent)
            await wire.until(b"hello")
            await wire.send(response(status, "Content-Length: 0"))
            wire = await bed.at("127.0.0.2")
            assert b"x-envoy-attempt-count: 2\r\n" in await wire.head()
            assert await wire.exactly(5) == b"hello"
            await wire.send(OK)
            assert (await answered(client))[0] == 200
        await bed.requests(4)
        assert counted(bed) == ((0, 0, 0), 0)


async def test_every_answer_tells_a_page_of_another_origin_that_it_may_read_it() -> None:
    text = f"- corsPolicy: {{allowOrigins: [{{exact: 'https://a.example'}}]}}\n  {TO}"
    sent = ask("/", "Origin: https://a.example")
    async with routed_bed(routes(text), versions=ONE) as bed:
        client, wire = await planned(bed, sent)
        await client.send(sent)
        await wire.head()
        await wire.send(OK)
        told = [(await answered(client))[:2]]
        await client.send(sent)
        await wire.head()
        await wire.send(b"HTTP/1.1 what?\r\n\r\n")
        told.append((await answered(client))[:2])
        records = await bed.requests(4)
        assert counted(bed) == ((0, 0, 0), 0)
    assert [status for status, _ in told] == [200, 502]
    for _, head in told:
        assert head.count(b"access-control-allow-origin: https://a.example\r\n") == 1
    assert by_plan(records[3])


@pytest.mark.parametrize("weights", [(100, 0), (0, 100)])
async def test_each_request_has_its_own_draw_of_the_destination(weights: tuple[int, int]) -> None:
    parts = ", ".join(
        f"{{destination: {{host: shop.example, subset: v{number}}}, weight: {weight}}}"
        for number, weight in enumerate(weights, 1)
    )
    host = "127.0.0.2" if weights[0] else "127.0.0.3"
    async with routed_bed(SUBSETS, routes(f"- route: [{parts}]")) as bed:
        client, wire = await planned(bed, ask(), host)
        for _ in range(20):
            await client.send(ask())
            await wire.head()
            await wire.send(OK)
            await answered(client)
        records = await bed.requests(22)
    assert all(map(by_plan, records[2:]))


async def test_other_documents_hold_for_the_next_request_of_the_same_connection() -> None:
    async with routed_bed(routes(f"- {TO}"), versions=ONE) as bed:
        client, wire = await planned(bed, ask())
        bed.change(("127.0.0.3", "v1"))
        other = None
        for _ in range(3):
            await client.send(ask())
            other = other or await bed.at("127.0.0.3")
            await other.head()
            await other.send(OK)
            await answered(client)
        assert await wire.some() == b"", "it is an endpoint no more"
        records = await bed.requests(5)
        assert counted(bed) == ((0, 0, 0), 0)
    assert [by_plan(record) for record in records] == [False, False, False, False, True]


async def test_a_connection_says_now_this_and_now_that() -> None:
    text = f"""
    - match: [{{uri: {{prefix: /v2}}}}]
      route: [{{destination: {{host: shop.example, subset: v2}}}}]
    - {TO.replace("shop.example", "shop.example, subset: v1")}
    """
    async with routed_bed(SUBSETS, routes(text)) as bed:
        client = bed.client()
        wires: dict[str, Wire] = {}
        for number in range(6):
            path = ("/v1", "/v2")[number % 2]
            await client.send(ask(path))
            wires[path] = wires.get(path) or await bed.at("127.0.0.2" if path == "/v1" else "127.0.0.3")
            assert (await wires[path].head()).startswith(f"GET {path} ".encode())
            await wires[path].send(OK)
            await answered(client)
        records = await bed.requests(6)
    assert [by_plan(record) for record in records] == [False] * 4 + [True] * 2


async def test_a_route_has_its_time_limit_each_time() -> None:
    text = f"- timeout: 0.3s\n  {TO}"
    async with routed_bed(routes(text), versions=ONE) as bed:
        client, wire = await planned(bed, ask())
        for _ in range(3):
            await client.send(ask())
            await wire.head()
            await wire.send(OK)
            assert (await answered(client))[0] == 200
        await client.send(ask())
        await wire.head()
        assert (await answered(client))[0] == 504
        records = await bed.requests(6)
        assert counted(bed) == ((0, 0, 0), 0)
    assert [record.flag.value for record in records] == ["-"] * 5 + ["UT"]
    assert by_plan(records[5])
    assert records[5].ended - records[5].began >= 0.29


async def test_the_time_limit_holds_for_all_attempts_together() -> None:
    text = f"- timeout: 0.5s\n  retries: {{attempts: 3, retryOn: '503', backoff: 0.001s}}\n  {TO}"
    async with routed_bed(routes(text), versions=ONE) as bed:
        client, wire = await planned(bed, ask())
        began = trio.current_time()
        await client.send(ask())
        await wire.head()
        await wire.send(response("503 Busy", "Content-Length: 0"))
        await (await bed.at("127.0.0.2")).head()
        assert (await answered(client))[0] == 504
        assert trio.current_time() - began >= 0.49
        records = await bed.requests(3)
        assert counted(bed) == ((0, 0, 0), 0)
    assert records[2].flag.value == "UT"
