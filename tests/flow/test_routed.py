"""Requests of the app's on the routes of documents: what reaches which upstream, what the client gets, what is recorded."""

from __future__ import annotations

import pytest
import trio

from interceptor.model.address import SocketAddress, UpstreamAddress
from interceptor.model.connection import ResponseFlag
from interceptor.model.request import RequestRecord
from tests.support.flows import reset, wait_until
from tests.support.http_flows import OK, Wire, response
from tests.support.routed import RoutedBed, routed_bed

SUBSETS = (
    "DestinationRule",
    """
    host: shop.example
    subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
    """,
)


def ask(
    path: str = "/", *headers: str, host: str = "shop.example", body: bytes = b"", method: str = "GET"
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def routes(text: str) -> tuple[str, str]:
    return "VirtualService", "hosts: [shop.example]\nhttp:\n" + text


async def answered(client: Wire) -> tuple[int, bytes, bytes]:
    """Status, head and body of a response with a length."""
    head = await client.head()
    length = next(
        int(line.partition(b":")[2])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length")
    )
    return int(head.split(b" ")[1]), head, await client.exactly(length) if length else b""


async def refused(bed: RoutedBed, sent: bytes) -> tuple[int, bytes, bytes, RequestRecord]:
    """What is answered without an upstream."""
    client = bed.client()
    await client.send(sent)
    status, head, body = await answered(client)
    (record,) = await bed.requests()
    return status, head, body, record


async def test_a_match_decides_the_subset_and_the_log_names_it() -> None:
    text = """
    - name: second
      match: [{uri: {prefix: /v2}}]
      route: [{destination: {host: shop.example, subset: v2}}]
    - route: [{destination: {host: shop.example, subset: v1}}]
    """
    async with routed_bed(SUBSETS, routes(text)) as bed:
        client = bed.client()
        await client.send(ask("/v2/x"))
        second = await bed.at("127.0.0.3")
        assert (await second.head()).startswith(b"GET /v2/x HTTP/1.1\r\n")
        await second.send(OK)
        assert (await answered(client))[0] == 200
        await client.send(ask("/"))
        first = await bed.at("127.0.0.2")
        assert b"x-envoy-attempt-count: 1\r\n" in await first.head()
        await first.send(OK)
        await answered(client)
        records = await bed.requests(2)
        destinations = [record.destination for record in records]
    assert [(each and each.cluster, each and each.route) for each in destinations] == [
        (f"outbound|{bed.port}|v2|shop.example", "second"),
        (f"outbound|{bed.port}|v1|shop.example", "http[1]"),
    ]


async def test_weights_share_requests_out() -> None:
    text = """
    - route:
      - {destination: {host: shop.example, subset: v1}, weight: 75}
      - {destination: {host: shop.example, subset: v2}, weight: 25}
    """
    async with routed_bed(SUBSETS, routes(text)) as bed, trio.open_nursery() as nursery:
        seen: dict[str, int] = {"127.0.0.2": 0, "127.0.0.3": 0}

        async def serve(host: str) -> None:
            wire = await bed.at(host)
            while True:
                await wire.head()
                seen[host] += 1
                await wire.send(OK)

        for host in seen:
            nursery.start_soon(serve, host)
        client = bed.client()
        for _ in range(400):
            await client.send(ask())
            await answered(client)
        nursery.cancel_scope.cancel()
    assert 240 <= seen["127.0.0.2"] <= 350, seen  # 300 expected; 5 sigma is 43
    assert sum(seen.values()) == 400


async def test_a_path_an_authority_and_headers_are_changed_on_the_way_and_logged_as_they_were() -> None:
    text = """
    - match: [{uri: {prefix: /old}}]
      rewrite: {uri: /new, authority: inner.example}
      headers: {request: {set: {x-a: "1"}, remove: [x-b]}, response: {add: {x-c: "2"}, remove: [server]}}
      route:
      - destination: {host: shop.example, subset: v1}
        headers: {request: {add: {x-d: "3"}}}
    """
    async with routed_bed(SUBSETS, routes(text)) as bed:
        client = bed.client()
        await client.send(ask("/old/a?q=1", "X-B: gone"))
        upstream = await bed.at("127.0.0.2")
        head = await upstream.head()
        assert head.startswith(b"GET /new/a?q=1 HTTP/1.1\r\n")
        for line in (b"inner.example", b"x-a: 1", b"x-d: 3", b"x-envoy-original-path: /old/a?q=1"):
            assert line + b"\r\n" in head
        assert b"gone" not in head
        assert b"shop.example" not in head
        await upstream.send(response("200 OK", "Server: x", "Content-Length: 0"))
        answer = await client.head()
        assert b"x-c: 2\r\n" in answer
        assert b"Server" not in answer
        (record,) = await bed.requests()
    assert (record.head.path, record.head.authority) == (b"/old/a?q=1", b"shop.example")


@pytest.mark.parametrize(
    ("route", "status", "flag", "said"),
    [
        ("redirect: {uri: /x, redirectCode: 307}", 307, ResponseFlag.NONE, b"location: http://shop.example/x"),
        ("directResponse: {status: 418, body: {string: tea}}", 418, ResponseFlag.NONE, b"tea"),
        (
            "fault: {abort: {httpStatus: 555}}\n  route: [{destination: {host: shop.example}}]",
            555, ResponseFlag.FAULT_INJECTED, b"fault filter abort",
        ),
        (
            "fault: {abort: {grpcStatus: UNAVAILABLE}}\n  route: [{destination: {host: shop.example}}]",
            200, ResponseFlag.FAULT_INJECTED, b"grpc-status: 14\r\ngrpc-message: fault filter abort",
        ),
        (
            "match: [{uri: {exact: /other}}]\n  route: [{destination: {host: shop.example}}]",
            404, ResponseFlag.NO_ROUTE, b"no route",
        ),
        ("route: [{destination: {host: nowhere.example}}]", 503, ResponseFlag.NO_CLUSTER, b"not in the registry"),
        (
            "route: [{destination: {host: shop.example, subset: v9}}]",
            503, ResponseFlag.NO_CLUSTER, b"not in the registry",
        ),
    ],
)  # fmt: skip
async def test_what_is_answered_without_an_upstream(
    route: str, status: int, flag: ResponseFlag, said: bytes
) -> None:
    async with routed_bed(routes(f"- {route}")) as bed:
        found, head, body, record = await refused(bed, ask())
    assert (found, record.flag) == (status, flag)
    assert said in head + body


async def test_no_endpoint_in_a_subset() -> None:
    text = "- route: [{destination: {host: shop.example, subset: v3}}]"
    rule = ("DestinationRule", "host: shop.example\nsubsets: [{name: v3, labels: {version: v3}}]")
    async with routed_bed(rule, routes(text)) as bed:
        status, _, _, record = await refused(bed, ask())
    assert (status, record.flag, record.details) == (
        503,
        ResponseFlag.NO_HEALTHY_UPSTREAM,
        "no_healthy_upstream",
    )


async def test_a_delay_holds_a_request_back() -> None:
    text = "- fault: {delay: {fixedDelay: 50ms}}\n  route: [{destination: {host: shop.example, subset: v1}}]"
    async with routed_bed(SUBSETS, routes(text)) as bed:
        client = bed.client()
        await client.send(ask(body=b"hello", method="POST"))
        upstream = await bed.at("127.0.0.2")
        await upstream.until(b"hello")
        await upstream.send(OK)
        await answered(client)
        (record,) = await bed.requests()
    assert record.flag is ResponseFlag.DELAY_INJECTED
    assert record.ended - record.began >= 0.05


async def test_a_host_that_the_address_cannot_be_chooses_no_route() -> None:
    """The app dialled the shop, and writes the bank's name: the shop's routes hold."""
    text = "- route: [{destination: {host: shop.example, subset: v1}}]"
    bank = ("VirtualService", "hosts: [bank.example]\nhttp:\n- route: [{destination: {host: bank.example}}]")
    async with routed_bed(SUBSETS, routes(text), bank, others=(("bank.example", "198.51.100.2"),)) as bed:
        client = bed.client()
        await client.send(ask(host="bank.example"))
        upstream = await bed.at("127.0.0.2")
        assert b"Host: bank.example\r\n" in await upstream.head()
        await upstream.send(OK)
        await answered(client)


async def test_at_an_address_that_nobody_names_the_host_leads_to_its_own_service() -> None:
    text = "- route: [{destination: {host: shop.example, subset: v2}}]"
    async with routed_bed(SUBSETS, routes(text), dialled="192.0.2.77") as bed:
        client = bed.client()
        await client.send(ask())
        upstream = await bed.at("127.0.0.3")
        await upstream.head()
        await upstream.send(OK)
        await answered(client)
        (record,) = await bed.requests()
    assert record.destination is not None
    assert record.destination.service == "shop.example"


async def test_a_request_that_no_document_is_about_goes_where_it_was_going() -> None:
    text = "- directResponse: {status: 500}"
    async with routed_bed(routes(text), dialled="127.0.0.4") as bed:
        client = bed.client()
        await client.send(ask(host="else.example"))
        upstream = await bed.at("127.0.0.4")
        await upstream.head()
        await upstream.send(OK)
        assert (await answered(client))[0] == 200
        (record,) = await bed.requests()
    assert record.destination is None
    assert record.flow.upstream_cluster == "PassthroughCluster"


async def test_a_route_has_a_time_limit() -> None:
    text = "- timeout: 100ms\n  route: [{destination: {host: shop.example, subset: v1}}]"
    async with routed_bed(SUBSETS, routes(text)) as bed:
        status, _, _, record = await refused(bed, ask())
    assert (status, record.flag, record.details) == (504, ResponseFlag.UPSTREAM_TIMEOUT, "response_timeout")
    assert record.ended - record.began < 1


async def test_a_request_is_tried_again_at_another_endpoint_with_its_body() -> None:
    text = "- retries: {attempts: 1, retryOn: 5xx}\n  route: [{destination: {host: shop.example}}]"
    async with routed_bed(routes(text)) as bed:
        client = bed.client()
        await client.send(ask("/", body=b"hello", method="POST"))
        first, wire = await bed.any()
        await wire.until(b"hello")
        await wire.send(response("503 Down", "Content-Length: 0"))
        second, wire = await bed.any()
        assert b"x-envoy-attempt-count: 2\r\n" in await wire.head()
        assert await wire.exactly(5) == b"hello"
        await wire.send(OK)
        assert (await answered(client))[0] == 200
        (record,) = await bed.requests()
    assert {first, second} == {"127.0.0.2", "127.0.0.3"}
    assert record.upstream is not None
    assert record.upstream.host == second


async def test_an_endpoint_that_refuses_connections_is_passed_over() -> None:
    """Istio's default: nobody asked for retries."""
    text = "- route: [{destination: {host: shop.example}}]"
    dead = (("127.0.0.2", "v1"), ("127.0.0.9", "v1"))
    rule = ("DestinationRule", "host: shop.example\ntrafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}")
    async with routed_bed(routes(text), rule, versions=dead) as bed, trio.open_nursery() as nursery:

        async def serve() -> None:
            wire = await bed.at("127.0.0.2")
            while True:
                await wire.head()
                await wire.send(OK)

        nursery.start_soon(serve)
        client = bed.client()
        for _ in range(6):
            await client.send(ask())
            assert (await answered(client))[0] == 200
        nursery.cancel_scope.cancel()


async def test_a_request_with_a_long_body_is_not_tried_again() -> None:
    text = "- retries: {attempts: 3, retryOn: 5xx}\n  route: [{destination: {host: shop.example}}]"
    async with routed_bed(routes(text)) as bed:
        client = bed.client()
        body = bytes(70_000)
        await client.send(ask("/", body=body, method="POST"))
        _, wire = await bed.any()
        await wire.head()
        assert await wire.exactly(len(body)) == body
        await wire.send(response("503 Down", "Content-Length: 0"))
        assert (await answered(client))[0] == 503
        await bed.requests()


async def test_each_attempt_has_a_time_limit() -> None:
    text = (
        "- retries: {attempts: 1, retryOn: 5xx, perTryTimeout: 100ms}\n"
        "  route: [{destination: {host: shop.example}}]"
    )
    async with routed_bed(routes(text)) as bed:
        status, _, _, record = await refused(bed, ask())
    assert (status, record.details) == (504, "upstream_per_try_timeout")
    assert 0.2 <= record.ended - record.began < 2


async def test_an_endpoint_that_fails_is_left_out() -> None:
    rule = (
        "DestinationRule",
        """
        host: shop.example
        trafficPolicy:
          loadBalancer: {simple: ROUND_ROBIN}
          outlierDetection: {consecutive5xxErrors: 2, maxEjectionPercent: 100, baseEjectionTime: 60s}
        """,
    )
    async with routed_bed(rule) as bed, trio.open_nursery() as nursery:
        seen: list[str] = []

        async def serve(host: str, answer: bytes) -> None:
            wire = await bed.at(host)
            while True:
                await wire.head()
                seen.append(host)
                await wire.send(answer)

        nursery.start_soon(serve, "127.0.0.2", OK)
        nursery.start_soon(serve, "127.0.0.3", response("500 Broken", "Content-Length: 0"))
        client = bed.client()
        for _ in range(12):
            await client.send(ask())
            await answered(client)
        nursery.cancel_scope.cancel()
    assert seen.count("127.0.0.3") == 2
    assert seen[-6:] == ["127.0.0.2"] * 6


async def test_more_requests_than_may_be_in_flight_are_refused() -> None:
    rule = (
        "DestinationRule",
        "host: shop.example\ntrafficPolicy: {connectionPool: {http: {http2MaxRequests: 1}}}",
    )
    async with routed_bed(rule, versions=(("127.0.0.2", "v1"),)) as bed:
        first, second = bed.client(), bed.client()
        await first.send(ask())
        _, wire = await bed.any()
        await wire.head()
        await second.send(ask())
        status, head, _ = await answered(second)
        assert status == 503
        assert b"x-envoy-overloaded: true\r\n" in head
        await wire.send(OK)
        await answered(first)
        await second.send(ask())
        await wire.head()
        await wire.send(OK)
        assert (await answered(second))[0] == 200
        records = await bed.requests(3)
    assert [record.flag.value for record in records] == ["UO", "-", "-"]


async def test_a_hash_keeps_a_user_at_one_endpoint() -> None:
    rule = (
        "DestinationRule",
        "host: shop.example\ntrafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}",
    )
    async with routed_bed(rule) as bed:
        for user in "abcdef":
            hosts = set()
            for _ in range(2):
                client = bed.client()
                await client.send(ask("/", f"X-User: {user}"))
                host, wire = await bed.any()
                hosts.add(host)
                await wire.head()
                await wire.send(response("200 OK", "Content-Length: 0", "Connection: close"))
                await answered(client)
            assert len(hosts) == 1


async def test_a_cookie_keeps_a_client_at_one_endpoint_and_is_made_where_there_is_none() -> None:
    rule = (
        "DestinationRule",
        (
            "host: shop.example\ntrafficPolicy: {loadBalancer: {consistentHash: "
            "{httpCookie: {name: stay, path: /a, ttl: 90s}}}}"
        ),
    )
    async with routed_bed(rule) as bed:
        hosts: dict[str, set[str]] = {}
        for user in ("", "", "", ""):
            given = user
            for turn in range(3):
                client = bed.client()
                await client.send(ask("/", *([f"Cookie: a=b; stay={given}"] if given else [])))
                host, wire = await bed.any()
                await wire.head()
                await wire.send(response("200 OK", "Content-Length: 0", "Connection: close"))
                _, head, _ = await answered(client)
                if turn == 0:
                    [line] = [each for each in head.split(b"\r\n") if each.startswith(b"set-cookie")]
                    cookie, *attributes = line.partition(b": ")[2].decode().split("; ")
                    assert attributes == ["Max-Age=90", "Path=/a", "HttpOnly"]
                    given = cookie.removeprefix("stay=").strip('"')
                    assert len(given) == 16
                else:
                    assert b"set-cookie" not in head
                hosts.setdefault(given, set()).add(host)
                client.close()
        assert len(hosts) == 4
        assert all(len(reached) == 1 for reached in hosts.values())


async def test_requests_wait_for_a_connection_and_not_too_many_of_them() -> None:
    rule = (
        "DestinationRule",
        (
            "host: shop.example\ntrafficPolicy: {connectionPool: "
            "{tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}}"
        ),
    )
    async with routed_bed(rule, versions=(("127.0.0.2", "v1"),)) as bed:
        first, second, third = bed.client(), bed.client(), bed.client()
        await first.send(ask("/1"))
        wire = await bed.at("127.0.0.2")
        await wire.head()
        await second.send(ask("/2", body=b"hello", method="POST"))
        await wait_until(lambda: bed.running.proxy.clusters().popitem()[1]["waiting"] == 1)
        await third.send(ask("/3"))
        status, head, _ = await answered(third)
        assert status == 503
        assert b"x-envoy-overloaded: true\r\n" in head
        await wire.send(OK)
        await answered(first)
        assert b"POST /2" in await wire.head()
        assert await wire.exactly(5) == b"hello"
        await wire.send(OK)
        assert (await answered(second))[0] == 200
        records = await bed.requests(3)
        [state] = bed.running.proxy.clusters().values()
    assert [record.flag.value for record in records] == ["UO", "-", "-"]
    assert (state["connections"], state["requests"], state["waiting"]) == (0, 0, 0)


async def test_who_waits_and_goes_away_leaves_no_place_behind() -> None:
    rule = (
        "DestinationRule",
        "host: shop.example\ntrafficPolicy: {connectionPool: {tcp: {maxConnections: 1}}}",
    )
    async with routed_bed(rule, versions=(("127.0.0.2", "v1"),)) as bed:
        first, second = bed.client(), bed.client()
        await first.send(ask("/1"))
        wire = await bed.at("127.0.0.2")
        await wire.head()
        await second.send(ask("/2"))
        await wait_until(lambda: bed.running.proxy.clusters().popitem()[1]["waiting"] == 1)
        reset(second.sock)
        await wait_until(lambda: bed.running.proxy.clusters().popitem()[1]["waiting"] == 0)
        await wire.send(OK)
        await answered(first)
        await bed.requests(2)
        [state] = bed.running.proxy.clusters().values()
    assert (state["connections"], state["requests"]) == (0, 0)


async def test_a_client_that_goes_away_during_a_pause_leaves_nothing() -> None:
    text = (
        "- retries: {attempts: 5, retryOn: 5xx, backoff: 60s}\n  route: [{destination: {host: shop.example}}]"
    )
    async with routed_bed(routes(text)) as bed:
        client = bed.client()
        await client.send(ask())
        _, wire = await bed.any()
        await wire.head()
        await wire.send(response("503 Down", "Content-Length: 0"))
        with pytest.raises(ConnectionResetError):
            await wire.rest()
        reset(client.sock)
        await wait_until(lambda: bed.running.proxy.active == 0)


async def test_an_endpoint_that_leaves_ends_its_request_and_nothing_waits_for_it() -> None:
    only = routes("- route: [{destination: {host: shop.example}}]")
    async with routed_bed(only, versions=[("127.0.0.2", "v1")]) as bed:
        first, second = bed.client(), bed.client()
        await first.send(ask("/waits"))
        waiting = await bed.at("127.0.0.2")
        await waiting.head()
        await second.send(ask("/runs"))
        running = await bed.at("127.0.0.2")
        await running.head()
        await waiting.send(OK)
        await answered(first)
        bed.change(("127.0.0.3", "v1"))
        assert await waiting.some() == b"", "it carried nothing"
        await first.send(ask("/next"))
        other = await bed.at("127.0.0.3")
        await other.head()
        await other.send(OK)
        await answered(first)
        await running.send(OK)
        assert (await answered(second))[0] == 200
        assert await running.some() == b"", "it carries nothing any more"
        bed.change(("127.0.0.2", "v1"))
        assert await other.some() == b""
        await second.send(ask("/back"))
        again = await bed.at("127.0.0.2")
        await again.head()
        await again.send(OK)
        await answered(second)
        await second.send(ask("/pooled"))
        assert (await again.head()).startswith(b"GET /pooled ")
        await again.send(OK)
        await answered(second)


def reuse(text: str) -> tuple[str, str]:
    return "DestinationRule", f"host: shop.example\ntrafficPolicy: {{connectionPool: {{http: {text}}}}}"


ONE = (("127.0.0.2", "v1"),)


async def test_a_connection_carries_no_more_requests_than_its_rule_says() -> None:
    async with routed_bed(reuse("{maxRequestsPerConnection: 2}"), versions=ONE) as bed:
        client = bed.client()
        for _ in range(2):
            await client.send(ask("/1"))
            app = await bed.at("127.0.0.2")
            await app.head()
            await app.send(OK)
            await answered(client)
            await client.send(ask("/2"))
            assert (await app.head()).startswith(b"GET /2 ")
            await app.send(OK)
            await answered(client)
            assert await app.some() == b""


async def test_an_idle_connection_is_kept_as_long_as_its_rule_says() -> None:
    """Longer, and shorter, than others are."""
    async with routed_bed(reuse("{idleTimeout: 60s}"), versions=ONE) as bed:
        pool = bed.running.proxy._services.http.pool
        pool.timeout = 0.01
        client = bed.client()
        await client.send(ask("/1"))
        app = await bed.at("127.0.0.2")
        for path in ("/1", "/2"):
            assert (await app.head()).startswith(f"GET {path} ".encode())
            await app.send(OK)
            await answered(client)
            pool.check_time(pool._hub.now + 59)
            await client.send(ask("/2"))
        await app.head()
        await app.send(OK)
        await answered(client)
        pool.check_time(pool._hub.now + 61)
        assert await app.some() == b""
    async with routed_bed(reuse("{idleTimeout: 0.05s}"), versions=ONE) as bed:
        client = bed.client()
        await client.send(ask())
        app = await bed.at("127.0.0.2")
        await app.head()
        await app.send(OK)
        await answered(client)
        with trio.fail_after(2):  # others wait for three seconds
            assert await app.some() == b""


async def test_a_connection_lasts_no_longer_than_its_rule_says() -> None:
    policy = "host: shop.example\ntrafficPolicy: {connectionPool: {tcp: {maxConnectionDuration: 60s}}}"
    async with routed_bed(("DestinationRule", policy), versions=ONE) as bed:
        pool = bed.running.proxy._services.http.pool
        client = bed.client()
        await client.send(ask("/1"))
        app = await bed.at("127.0.0.2")
        await app.head()
        await app.send(OK)
        await answered(client)
        [[waiting]] = pool._idle.values()
        waiting.made -= 61  # a minute later
        await client.send(ask("/2"))
        assert await app.some() == b""
        app = await bed.at("127.0.0.2")
        await app.head()
        await app.send(OK)
        await answered(client)
        [[waiting]] = pool._idle.values()
        waiting.made -= 61
        pool.check_time(pool._hub.now)
        assert await app.some() == b"", "it is closed while it waits"


async def test_requests_that_say_the_same_are_treated_the_same_each_time() -> None:
    text = """
    - name: mine
      rewrite: {uri: /new}
      headers: {request: {set: {x-route: one}}, response: {add: {x-served: yes}}}
      retries: {attempts: 1, retryOn: "503"}
      route: [{destination: {host: shop.example}}]
    """
    async with routed_bed(routes(text), versions=[("127.0.0.2", "v1")]) as bed:
        client = bed.client()
        await client.send(ask("/old"))
        upstream = await bed.at("127.0.0.2")
        seen = []
        for number in range(5):
            head = await upstream.head()
            seen.append(head)
            if number == 3:  # by a plan by now: the next attempt has a head of its own
                await upstream.send(response("503 Busy", "Content-Length: 0"))
                upstream = await bed.at("127.0.0.2")
                head = await upstream.head()
                assert b"x-envoy-attempt-count: 2\r\n" in head
                assert head.count(b"x-envoy-attempt-count") == 1
                assert ids(head) == ids(seen[3]), "it is the same request"
                assert head.startswith(b"GET /newold HTTP/1.1\r\n")
                assert b"x-route: one\r\n" in head
            await upstream.send(OK)
            status, answer, _ = await answered(client)
            assert (status, b"x-served: yes\r\n" in answer) == (200, True)
            if number < 4:
                await client.send(ask("/old"))
        bed.change(("127.0.0.3", "v1"))
        await client.send(ask("/old"))
        assert (await (await bed.at("127.0.0.3")).head()).startswith(b"GET /newold HTTP/1.1\r\n")
        records = await bed.requests(5)
    assert len({ids(head) for head in seen}) == 5
    assert {head.replace(ids(head), b"") for head in seen} == {seen[0].replace(ids(seen[0]), b"")}
    assert {record.destination and record.destination.route for record in records} == {"mine"}
    known = [record.request_id or dict(record.head.headers)[b"x-request-id"] for record in records[:5]]
    assert known == [ids(head) for head in seen]


def ids(head: bytes) -> bytes:
    return head.partition(b"x-request-id: ")[2].partition(b"\r\n")[0]


async def test_the_answer_to_the_last_attempt_is_passed_on_and_the_log_says_that_it_was_the_last() -> None:
    text = "- retries: {attempts: 1, retryOn: 5xx}\n  route: [{destination: {host: shop.example}}]"
    async with routed_bed(routes(text)) as bed:
        client = bed.client()
        await client.send(ask())
        for _ in range(2):
            _, wire = await bed.any()
            await wire.head()
            await wire.send(response("503 Down", "Content-Length: 0"))
        assert (await answered(client))[0] == 503
        (record,) = await bed.requests()
    assert (record.flag, record.details) == (ResponseFlag.RETRY_LIMIT, "via_upstream")


async def test_all_endpoints_down_is_told_as_what_it_is() -> None:
    rule = ("DestinationRule", "host: shop.example\ntrafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}")
    dead = (("127.0.0.8", "v1"), ("127.0.0.9", "v1"))
    async with routed_bed(rule, versions=dead) as bed:
        status, _, body, record = await refused(bed, ask())
        assert (status, record.flag) == (503, ResponseFlag.UPSTREAM_FAILURE)
        assert b"127.0.0." in body or b"refused" in body
        down = {
            ("shop.example", bed.port): {
                UpstreamAddress(SocketAddress(host, bed.port)): "x" for host, _ in dead
            }
        }
        bed.running.proxy.judge(down)
        client = bed.client()
        await client.send(ask())
        status, _, body = await answered(client)
        assert (status, b"none is healthy" in body) == (503, True)
        records = await bed.requests(2)
        assert records[-1].flag is ResponseFlag.NO_HEALTHY_UPSTREAM
        bed.running.proxy.judge({})
