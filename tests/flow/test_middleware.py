"""Middleware in a proxy: real sockets, real HTTP, and what is recorded of it."""

from __future__ import annotations

import base64
import hashlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from interceptor.model.connection import Direction, ResponseFlag
from tests.support import own_middleware
from tests.support.echo import Client, Echo, Got, echoing
from tests.support.exchanges import Observed
from tests.support.flows import FixedView, Running, listening, running_proxy, wait_until
from tests.support.http_flows import OK, http_bed, request, response
from tests.support.jwts import ISSUER, jwk, jwks, token
from tests.support.stacks import stack

OWN = "tests.support.own_middleware"
TENANTS = "perKey: {by: ['header:x-tenant'], rate: 1/h}, overrides: [{key: [big], rate: 2/h}]"


@pytest.fixture(autouse=True)
async def _clients() -> AsyncIterator[None]:
    yield
    Client.close_all()


@asynccontextmanager
async def serving(
    items: str, observed: Observed | None = None, direction: Direction = Direction.INGRESS
) -> AsyncIterator[tuple[Running, Echo]]:
    """A proxy with middleware before an upstream that echoes."""
    async with echoing() as echo:
        view, made = FixedView((echo.address,)), stack(items, observed)
        async with running_proxy(view, middleware=made, direction=direction) as running:
            yield running, echo


async def once(port: int) -> Got:
    """One request over a connection of its own, which may be reset before it is even made."""
    try:
        client = await Client.to(port)
    except OSError:
        return Got(0, {}, b"", cut=True)
    got = await client.ask()
    await client.stream.aclose()
    return got


def own(name: str, **more: str) -> str:
    settings = "".join(f", {key}: {value}" for key, value in more.items())
    return f"{{name: own, use: '{OWN}:{name}'{settings}}}"


async def test_filters_alter_both_ways_and_add_to_the_log() -> None:
    items = (
        "{name: log, use: accessLog, config: {extraFields: {tenant: '%REQ(x-tenant)%', type: '%RESP(content-type)%'}}},"
        "{name: headers, use: headers, config: {request: {set: {x-env: prod}, remove: [x-secret]},"
        " response: {add: {x-served: us}}}}"
    )
    async with serving(items) as (running, echo):
        client = await Client.to(running.address.port)
        got = await client.ask("POST", "/a", {"X-Tenant": "t", "X-Secret": "s"}, (b"hello ", b"world"))
        assert (got.status, got.body, got.headers["x-served"]) == (200, b"hello world", "us")
        [(_, target, headers)] = echo.requests
        assert (target, headers["x-env"], "x-secret" in headers) == ("/a", "prod", False)
        [record] = running.records.requests
        assert record.fields == {"tenant": "t", "type": "text/plain"}
        assert record.logged


async def test_a_rate_limit_answers_429_and_the_connection_goes_on() -> None:
    async with serving("{name: calls, use: rateLimit, config: {perKey: {by: [peer], rate: 2/h}}}") as (
        running,
        echo,
    ):
        client = await Client.to(running.address.port)
        answers = [await client.ask() for _ in range(3)]
        assert [got.status for got in answers] == [200, 200, 429]
        assert answers[2].headers["retry-after"] == "1800"
        assert answers[2].body == b"interceptor: rate limit 'calls' is exceeded\n"
        assert len(echo.requests) == 2
        record = running.records.requests[2]
        assert (record.status, record.flag, record.details) == (
            429, ResponseFlag.RATE_LIMITED, "local_rate_limited{calls}"
        )  # fmt: skip


async def test_who_is_not_known_is_refused_and_the_app_sees_no_key(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"shop:{{SHA256}}{hashlib.sha256(b'k-1').hexdigest()}\n")
    items = f"{{name: door, use: apiKey, config: {{keysFile: {tmp_path}/keys, header: x-api-key, clientHeader: x-client}}}}"
    async with serving(items) as (running, echo):
        client = await Client.to(running.address.port)
        assert (await client.ask(headers={"X-API-Key": "k-2"})).status == 401
        assert echo.requests == []
        assert (await client.ask(headers={"X-API-Key": "k-1", "X-Client": "root"})).status == 200
        [(_, _, headers)] = echo.requests
        assert (headers["x-client"], "x-api-key" in headers) == ("shop", False)


async def test_what_is_no_http_does_not_get_past_who_asks(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("shop:k-1\n")
    items = f"{{name: door, use: apiKey, config: {{keysFile: {tmp_path}/keys, header: x-api-key}}}}"
    async with serving(items) as (running, echo):
        stream = await trio.open_tcp_stream("127.0.0.1", running.address.port)
        await stream.send_all(b"\x00\x01 GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        async with stream:
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some(1)
        [flow] = await running.records.wait_closed()
        assert (flow.denied, flow.flag, "'door'" in flow.details) == ("middleware", ResponseFlag.DENY, True)
        assert echo.requests == []


async def test_a_body_beyond_the_limit_is_refused_while_it_streams() -> None:
    async with serving("{name: size, use: bodyLimit, config: {maxRequestBytes: 10}}") as (running, echo):
        port = running.address.port
        assert (await (await Client.to(port)).ask("POST", chunks=(b"12345", b"67890"))).status == 200
        announced = await (await Client.to(port)).ask(
            "POST", "/", {"Content-Length": "11"}, (b"12345678901",)
        )
        assert announced.status == 413
        assert len(echo.requests) == 1
        streamed = await (await Client.to(port)).ask("POST", chunks=(b"12345", b"67890", b"1"))
        assert streamed.status == 413 or streamed.cut


async def test_a_fault_delays_and_aborts() -> None:
    items = (
        "{name: f, use: fault, config: {delay: {fixedDelay: 50ms, percentage: {value: 100}},"
        " abort: {httpStatus: 503, percentage: {value: 51}}}}"
    )
    async with serving(items) as (running, _):
        client = await Client.to(running.address.port)
        began = trio.current_time()
        got = await client.ask("POST", chunks=(b"body",))
        assert (got.status, got.body) == (503, b"interceptor: fault filter abort\n")
        assert trio.current_time() - began >= 0.05
        assert running.records.requests[0].flag is ResponseFlag.FAULT_INJECTED


async def test_what_was_delayed_goes_on_with_its_body() -> None:
    items = "{name: f, use: fault, config: {delay: {fixedDelay: 20ms, percentage: {value: 100}}}}"
    async with serving(items) as (running, _):
        client = await Client.to(running.address.port)
        for _each in range(2):  # the second one by a connection from the pool
            got = await client.ask("POST", chunks=(b"x" * 100_000, b"y" * 100_000))
            assert (got.status, len(got.body)) == (200, 200_000)
        assert [record.flag for record in running.records.requests] == [ResponseFlag.DELAY_INJECTED] * 2


async def test_a_filter_keeps_requests_out_of_the_log() -> None:
    async with serving("{name: log, use: accessLog, config: {when: [{minStatus: 400}]}}") as (running, _):
        assert (await (await Client.to(running.address.port)).ask()).status == 200
        assert not running.records.requests[0].logged


def authorization(user: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(user.encode()).decode()}


@pytest.mark.parametrize("direction", Direction)
async def test_every_built_in_stands_in_either_direction(tmp_path: Path, direction: Direction) -> None:
    """What each lets through, what it refuses and how, and that nothing refused reaches the app."""
    (tmp_path / "jwks").write_bytes(jwks(jwk("EC")))
    (tmp_path / "keys").write_text("shop:k-1\n")
    (tmp_path / "users").write_text(f"ann:{{SHA}}{base64.b64encode(hashlib.sha1(b'pw').digest()).decode()}\n")
    bearer = {"Authorization": f"Bearer {token('ES256')}"}
    foreign = {"Authorization": f"Bearer {token('ES256', iss='https://other.example')}"}
    asked: list[tuple[str, list[tuple[dict[str, str], int]]]] = [
        (
            f"use: jwt, config: {{issuer: '{ISSUER}', jwksFile: {tmp_path}/jwks}}",
            [({}, 401), (bearer, 200), (foreign, 401), (bearer | {"Authorization": bearer["Authorization"] + "x"}, 401)],
        ),
        (
            f"use: basic, config: {{usersFile: {tmp_path}/users}}",
            [({}, 401), (authorization("ann:pw"), 200), (authorization("ann:no"), 401)],
        ),
        (
            f"use: apiKey, config: {{keysFile: {tmp_path}/keys, header: x-key}}",
            [({}, 401), ({"x-key": "k-1"}, 200), ({"x-key": "k-2"}, 401)],
        ),
        (
            f"use: rateLimit, config: {{total: {{rate: 4/h}}, {TENANTS}}}",
            [({"x-tenant": name}, status) for name, status in (
                ("a", 200), ("a", 429), ("big", 200), ("big", 200), ("big", 429), ("b", 200), ("c", 429),
            )],
        ),
        ("use: bodyLimit, config: {maxRequestBytes: 4}", [({"Content-Length": "0"}, 200), ({"Content-Length": "5"}, 413)]),
        ("use: headers, config: {request: {remove: [x-key]}}", [({"x-key": "k"}, 200)]),
        ("use: fault, config: {abort: {httpStatus: 503, percentage: {value: 51}}}", [({}, 503)]),
        ("use: accessLog, config: {when: [{minStatus: 400}]}", [({}, 200)]),
    ]  # fmt: skip
    async with echoing() as echo:
        view = FixedView((echo.address,))
        for item, requests in asked:
            async with running_proxy(
                view, middleware=stack(f"{{name: one, {item}}}"), direction=direction
            ) as running:
                echo.requests.clear()
                for headers, status in requests:
                    body = b"x" * int(headers.get("Content-Length", 0))
                    client = await Client.to(running.address.port)
                    assert (
                        await client.ask("POST", "/", headers, (body,) if body else ())
                    ).status == status, item
                assert len(echo.requests) == [status for _, status in requests].count(200)
                assert not any("k-1" in headers.values() for _, _, headers in echo.requests)
                assert running.records.faults == 0
                for wire in Client.opened:
                    await wire.stream.aclose()


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("name", ["passing", "shouting"])
async def test_the_users_own_passes_requests_on(name: str, direction: Direction) -> None:
    observed = Observed()
    async with serving(own(name), observed, direction) as (running, echo):
        client = await Client.to(running.address.port)
        expected = b"HELLO WORLD" if name == "shouting" else b"hello world"
        got = await client.ask("POST", "/a", chunks=(b"hello ", b"world"))
        assert (got.status, got.body) == (200, expected)
        got = await client.ask("POST", "/b", {"Content-Length": "5"}, (b"hello",))
        assert (got.status, got.body) == (200, expected[:5])
        got = await client.ask("GET", "/c")
        assert (got.status, got.body) == (200, b"")
        assert [target for _, target, _ in echo.requests] == ["/a", "/b", "/c"]
        assert ("x-seen" in echo.requests[0][2]) is ("x-seen" in got.headers) is (name == "shouting")
        assert [record.status for record in running.records.requests] == [200] * 3
        assert all(record.upstream == echo.address for record in running.records.requests)
        assert observed.failures == []
        assert running.records.faults == 0


async def test_heads_go_on_before_anything_of_a_body_comes() -> None:
    """A client may wait for 100 Continue, and a page for the head of its stream of events; a pooled connection changes nothing."""
    async with http_bed(middleware=stack(own("passing"))) as bed:
        client = bed.client()
        await client.send(request())
        upstream = await bed.upstream()
        await upstream.head()
        await upstream.send(OK)
        await client.head()
        await client.exactly(2)
        await client.send(request("POST", "/", "Expect: 100-continue", "Content-Length: 2"))
        assert b"Expect: 100-continue" in await upstream.head()
        await upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 100 ")
        await client.send(b"hi")
        await upstream.exactly(2)
        await upstream.send(
            response("200 OK", "Content-Type: text/event-stream", "Transfer-Encoding: chunked")
        )
        assert b"text/event-stream" in await client.head()
        await upstream.send(b"2\r\nok\r\n0\r\n\r\n")
        assert await client.until(b"0\r\n\r\n") == b"2\r\nok\r\n0\r\n\r\n"


async def test_a_head_of_the_users_own_goes_before_the_body_that_it_makes() -> None:
    async with http_bed(middleware=stack(own("waiting"))) as bed:
        client = bed.client()
        await client.send(request())
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")
        own_middleware.GO_ON.set()
        assert await client.until(b"0\r\n\r\n") == b"2\r\nok\r\n0\r\n\r\n"


async def test_the_users_own_answers() -> None:
    async with serving(own("answering")) as (running, echo):
        client = await Client.to(running.address.port)
        got = await client.ask("POST", chunks=(b"x",))
        assert (got.status, got.body, got.headers["content-length"]) == (400, b"which tenant?\n", "14")
        assert echo.requests == []
        client = await Client.to(running.address.port)
        assert (await client.ask(headers={"X-Tenant": "a"})).status == 200
        assert running.records.requests[0].details == "middleware_response"


async def test_a_large_body_streams_through_the_users_own_in_bounded_memory() -> None:
    """The upstream echoes as it reads: as long as nobody reads the answer, only the sockets' buffers may fill."""
    async with serving(own("shouting")) as (running, _):
        stream = await trio.open_tcp_stream("127.0.0.1", running.address.port)
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        await stream.send_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000000\r\n\r\n")
        sent = 0
        with trio.move_on_after(2):
            while sent < 200_000_000:
                await stream.send_all(b"x" * 65536)
                sent += 65536
        assert sent < 60_000_000  # it stood still
        [record] = running.proxy.connections()
        assert record.bytes_received < 60_000_000
        await stream.aclose()
        await running.records.wait_closed()
        assert running.records.faults == 0


@pytest.mark.parametrize(
    ("name", "failure", "status"),
    [
        ("broken", "closed", 500),
        ("broken", "open", 200),
        ("slow", "closed", 504),
        ("slow", "open", 200),
        ("splitting", "closed", 500),
    ],
)
async def test_the_users_own_failing_ends_nothing_but_its_request(
    name: str, failure: str, status: int
) -> None:
    observed = Observed()
    async with serving(own(name, failure=failure, timeout="50ms"), observed) as (running, echo):
        client = await Client.to(running.address.port)
        for _ in range(2):
            got = await client.ask("POST", "/", {"Content-Length": "5"}, (b"hello",))
            assert got.status == status
            if status == 200:
                assert got.body == b"hello"
            if got.headers.get("connection") == "close":
                client = await Client.to(running.address.port)
        assert observed.failures == ([] if name == "splitting" else ["own", "own"])
        assert len(echo.requests) == (2 if status == 200 else 0)
        assert running.records.faults == 0


async def test_what_was_left_of_a_body_is_not_in_the_way_of_the_next_request() -> None:
    async with serving(own("slow", timeout="100ms")) as (running, _):
        stream = await trio.open_tcp_stream("127.0.0.1", running.address.port)
        async with stream:
            for _each in range(2):
                own_middleware.BEGUN.clear()
                await stream.send_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
                await wait_until(lambda: bool(own_middleware.BEGUN))
                await stream.send_all(b"hello")  # nobody will read it
                with trio.fail_after(5):
                    assert (await stream.receive_some(65536)).startswith(b"HTTP/1.1 504 ")


async def test_a_body_that_the_users_own_makes_and_fails_never_looks_complete() -> None:
    observed = Observed()
    async with serving(own("half"), observed) as (running, _):
        got = await (await Client.to(running.address.port)).ask()
        assert (got.status, got.cut) == (200, True)
        assert observed.failures == ["own"]
        assert running.records.requests[0].flag is ResponseFlag.LOCAL_RESET


async def test_an_upstream_that_is_not_there_is_the_gateways_answer() -> None:
    listener, address = listening()
    listener.close()
    async with running_proxy(FixedView((address,)), middleware=stack(own("shouting"))) as running:
        got = await (await Client.to(running.address.port)).ask("POST", chunks=(b"x",))
        assert got.status == 503
        assert got.body.startswith(b"INTERCEPTOR: ")  # it passes there as well
        [record] = running.records.requests
        assert (record.status, record.flag) == (503, ResponseFlag.UPSTREAM_FAILURE)


async def test_an_upstream_that_breaks_off_never_looks_complete() -> None:
    listener, address = listening()

    def upstream() -> None:
        connection, _ = listener.accept()
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        connection.close()
        listener.close()

    observed = Observed()
    async with running_proxy(FixedView((address,)), middleware=stack(own("shouting"), observed)) as running:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, upstream)
            got = await (await Client.to(running.address.port)).ask()
        assert got.cut
        assert running.records.requests[0].flag is ResponseFlag.UPSTREAM_CLOSED
        assert observed.failures == []


async def test_a_client_that_leaves_cancels_the_users_own() -> None:
    observed = Observed()
    async with serving(own("slow", timeout="1h"), observed) as (running, _):
        stream = await trio.open_tcp_stream("127.0.0.1", running.address.port)
        own_middleware.BEGUN.clear()
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await wait_until(lambda: bool(own_middleware.BEGUN))
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await stream.aclose()
        await running.records.wait_closed()
        assert [record.flag for record in running.records.requests] == [ResponseFlag.DOWNSTREAM_RESET]
        assert observed.failures == []
        assert running.records.faults == 0


async def test_the_example_in_the_documentation_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[2] / "docs/middleware.md").read_text()
    example = text.split("```python\n")[1].split("```")[0]
    assert len([line for line in example.splitlines() if line]) == 10
    (tmp_path / "tenant.py").write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    async with serving('{name: tenant, use: "tenant:Tenant", config: {default: none}}') as (running, echo):
        client = await Client.to(running.address.port)
        assert (await client.ask()).status == 200
        assert (await client.ask(headers={"X-Tenant": "evil"})).body == b"not you\n"
        assert [headers["x-tenant"] for _, _, headers in echo.requests] == ["none"]


async def test_connections_have_a_rate_of_their_own() -> None:
    items = "{name: opens, use: rateLimit, scope: connection, config: {perKey: {by: [peer], rate: 2/h}}}"
    async with serving(items) as (running, echo):
        port = running.address.port
        for _ in range(2):
            assert (await once(port)).status == 200
        assert (await once(port)).cut
        assert len(echo.requests) == 2
        flow = next(flow for flow in await running.records.wait_closed(3) if flow.denied is not None)
        assert (flow.denied, flow.flag) == ("rate_limit", ResponseFlag.RATE_LIMITED)
        assert "'opens'" in flow.details


@pytest.mark.parametrize(
    ("name", "more", "served", "failures"),
    [
        ("Limited", {"config": "{allowed: [127.0.0.1]}"}, True, 0),
        ("Limited", {"config": "{allowed: [10.0.0.1]}"}, False, 0),
        ("connection_silent", {}, False, 0),
        ("connection_broken", {}, False, 1),
        ("connection_broken", {"failure": "open"}, True, 1),
        ("connection_slow", {"timeout": "50ms"}, False, 1),
        ("connection_slow", {"timeout": "50ms", "failure": "open"}, True, 1),
    ],
)
async def test_the_users_own_around_connections(
    name: str, more: dict[str, str], served: bool, failures: int
) -> None:
    observed = Observed()
    async with serving(own(name, scope="connection", **more), observed) as (running, echo):
        got = await once(running.address.port)
        assert (got.status == 200, got.cut) == (served, not served)
        [flow] = await running.records.wait_closed()
        assert flow.denied == (None if served else "middleware")
        assert flow.flag is (ResponseFlag.NONE if served else ResponseFlag.DENY)
        assert observed.failures == ["own"] * failures
        assert len(echo.requests) == served
        assert running.records.faults == 0
