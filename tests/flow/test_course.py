"""Flows that are relayed as they are, on the routes and to the endpoints of documents: what reaches whom, what is recorded."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections import Counter
from pathlib import Path

import pytest
import trio

from interceptor.model.connection import Flow, ResponseFlag
from tests.support.flows import reset, settings, wait_until
from tests.support.http_flows import OK, Wire
from tests.support.routed import DENY_BANK, RoutedBed, routed_bed

SUBSETS = (
    "DestinationRule",
    """
    host: shop.example
    subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
    """,
)
BANK = (("bank.example", "198.51.100.2"),)


def rule(policy: str) -> tuple[str, str]:
    return "DestinationRule", f"host: shop.example\ntrafficPolicy: {policy}"


def client_hello(name: str | None) -> bytes:
    """What a real client says first."""
    context = ssl.create_default_context()
    context.check_hostname = False
    out = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


async def greeted(bed: RoutedBed, said: bytes = b"hello") -> tuple[str, Wire, Wire]:
    """Whom a client's bytes reach."""
    client = bed.client()
    await client.send(said)
    host, upstream = await bed.any()
    assert await upstream.exactly(len(said)) == said
    return host, client, upstream


async def turned_away(bed: RoutedBed, said: bytes = b"hello") -> Flow:
    client = bed.client()
    await client.send(said)
    with pytest.raises(ConnectionResetError):
        await client.rest()
    closed = await bed.records.wait_closed(len(bed.records.closed_flows) or 1)
    return closed[-1]


async def end(*wires: Wire) -> None:
    for wire in wires:
        reset(wire.sock)


async def test_flows_to_a_virtual_address_are_shared_out_over_the_endpoints() -> None:
    async with routed_bed(rule("{loadBalancer: {simple: ROUND_ROBIN}}"), protocol="TCP") as bed:
        seen = Counter([(await greeted(bed))[0] for _ in range(8)])
        flows = [flow.upstream_cluster for flow in bed.running.proxy.connections()]
    assert seen == {"127.0.0.2": 4, "127.0.0.3": 4}
    assert flows == [f"outbound|{bed.port}||shop.example"] * 8


async def test_without_a_rule_the_less_loaded_is_chosen() -> None:
    async with routed_bed(protocol="TCP") as bed:
        seen = Counter([(await greeted(bed))[0] for _ in range(20)])
    assert min(seen["127.0.0.2"], seen["127.0.0.3"]) >= 5, seen


async def test_an_endpoint_that_was_dialled_itself_is_where_the_flow_goes() -> None:
    async with routed_bed(protocol="TCP", dialled="127.0.0.3") as bed:
        assert {(await greeted(bed))[0] for _ in range(6)} == {"127.0.0.3"}


async def test_a_source_address_stays_at_one_endpoint() -> None:
    policy = "{loadBalancer: {consistentHash: {useSourceIp: true}}}"
    async with routed_bed(rule(policy), protocol="TCP") as bed:
        assert len({(await greeted(bed))[0] for _ in range(6)}) == 1


async def test_an_endpoint_that_refuses_is_passed_over_then_left_out() -> None:
    policy = (
        "{loadBalancer: {simple: ROUND_ROBIN}, "
        "outlierDetection: {consecutive5xxErrors: 2, maxEjectionPercent: 100, baseEjectionTime: 60s}}"
    )
    versions = (("127.0.0.2", "v1"), ("127.0.0.9", "v1"))  # nobody listens at the second
    async with routed_bed(rule(policy), versions=versions, protocol="TCP") as bed:
        assert {(await greeted(bed))[0] for _ in range(6)} == {"127.0.0.2"}
        [states] = bed.running.proxy.clusters().values()
        endpoints = {each["address"]: each for each in states["endpoints"]}  # type: ignore[attr-defined]  # JSON
        assert endpoints[f"127.0.0.9:{bed.port}"]["ejected"]
        assert endpoints[f"127.0.0.2:{bed.port}"] == {
            "address": f"127.0.0.2:{bed.port}", "weight": 1, "locality": "", "active": 6, "healthy": True,
            "ejected": False,
        }  # fmt: skip


async def test_nobody_takes_the_flow() -> None:
    versions = (("127.0.0.9", "v1"), ("127.0.0.10", "v1"))
    async with routed_bed(versions=versions, protocol="TCP") as bed:
        flow = await turned_away(bed)
        assert (flow.flag, flow.denied) == (ResponseFlag.UPSTREAM_FAILURE, None)
        assert "refused" in flow.details
        [state] = bed.running.proxy.clusters().values()
        assert state["connections"] == 0


async def test_no_more_connections_than_may_be() -> None:
    policy = "{connectionPool: {tcp: {maxConnections: 1, connectTimeout: 1s}}}"
    async with routed_bed(rule(policy), protocol="TCP") as bed:
        _, client, upstream = await greeted(bed)
        flow = await turned_away(bed)
        assert (flow.flag, flow.denied) == (ResponseFlag.OVERFLOW, None)
        assert "maxConnections" in flow.details
        await end(client)
        await wait_until(lambda: len(bed.records.closed_flows) == 2)
        await end(upstream)
        assert (await greeted(bed))[0] in {"127.0.0.2", "127.0.0.3"}


@pytest.mark.parametrize("dialled", ["198.51.100.1", "127.0.0.3"])  # by a cluster, and itself
async def test_a_flow_is_silent_for_no_longer_than_its_rule_says(dialled: str) -> None:
    policy = "{connectionPool: {tcp: {idleTimeout: 0.1s}}}"
    given = settings(linger=0.4)  # looks at the time every 0.05 s
    async with routed_bed(rule(policy), protocol="TCP", dialled=dialled, given=given) as bed:
        _, client, upstream = await greeted(bed)
        for wire in (client, upstream):
            with pytest.raises(ConnectionResetError):
                await wire.rest()
        [flow] = await bed.records.wait_closed(1)
    assert flow.flag is ResponseFlag.IDLE_TIMEOUT
    assert flow.details == "no byte moved for connectionPool.tcp.idleTimeout of DestinationRule default/d0"


async def test_a_flow_lasts_no_longer_than_its_rule_says_whatever_moves_on_it() -> None:
    policy = "{connectionPool: {tcp: {maxConnectionDuration: 0.2s}}}"
    async with routed_bed(rule(policy), protocol="TCP", given=settings(linger=0.4)) as bed:
        _, client, upstream = await greeted(bed)
        with contextlib.suppress(OSError), trio.fail_after(5):
            while True:
                await client.send(b"more")
                if not await upstream.some():
                    break
        [flow] = await bed.records.wait_closed(1)
        bed.running.proxy._services.hub.expire(flow, "nothing: it is over")
    assert flow.flag is ResponseFlag.DURATION_TIMEOUT
    setting = "connectionPool.tcp.maxConnectionDuration of DestinationRule default/d0"
    assert flow.details == f"it lasted as long as {setting} allows"


async def test_a_flow_that_ends_before_its_time_ends_as_ever() -> None:
    policy = "{connectionPool: {tcp: {maxConnectionDuration: 60s}}}"
    async with routed_bed(rule(policy), protocol="TCP") as bed:
        _, client, upstream = await greeted(bed)
        hub = bed.running.proxy._services.hub
        timed = len(hub._wheel)
        await end(client)
        await end(upstream)
        [flow] = await bed.records.wait_closed(1)
        assert len(hub._wheel) == timed - 2, "the flow's own, and that of its lifetime"
    assert flow.flag is ResponseFlag.DOWNSTREAM_RESET


def probes(upstream: Wire) -> tuple[int, ...]:
    """The options of the proxy's end of a connection: it is a socket of this process."""
    local = upstream.sock.getpeername()
    for path in [each for each in Path("/proc/self/fd").iterdir() if each.is_socket()]:
        with socket.socket(fileno=os.dup(int(path.name))) as other:
            if other.getsockname() == local:
                return (
                    other.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                    *(
                        other.getsockopt(socket.IPPROTO_TCP, option)
                        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
                    ),
                )
    raise AssertionError(local)


GET = b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n"


@pytest.mark.parametrize(
    ("protocol", "http", "said"),
    [("TCP", "{}", b"hello"), ("HTTP", "{}", GET), ("HTTP", "{h2UpgradePolicy: UPGRADE}", GET)],
)
async def test_connections_are_probed_as_their_rule_says(protocol: str, http: str, said: bytes) -> None:
    keepalive = "{tcpKeepalive: {time: 70s, interval: 7s, probes: 3}}"
    policy = f"{{connectionPool: {{http: {http}, tcp: {keepalive}}}}}"
    async with routed_bed(rule(policy), protocol=protocol) as bed:
        client = bed.client()
        await client.send(said)
        _, upstream = await bed.any()
        assert (await upstream.some()).startswith(b"PRI * HTTP/2.0" if "UPGRADE" in http else said[:5])
        assert probes(upstream) == (1, 70, 7, 3)
        for pair in bed.running.proxy._services.hub._pairs.values():  # as when it is old
            pair.check_time(pair.active)
        assert probes(upstream) == (1, 70, 7, 3)


async def test_a_limit_holds_for_original_destinations_too() -> None:
    entry = (
        "ServiceEntry",
        "hosts: [plain.example]\naddresses: [127.0.0.4]\nports: [{number: PORT, name: tcp}]",
    )
    limit = "host: plain.example\ntrafficPolicy: {connectionPool: {tcp: {maxConnections: 1}}}"
    async with routed_bed(entry, ("DestinationRule", limit), protocol="TCP", dialled="127.0.0.4") as bed:
        assert (await greeted(bed))[0] == "127.0.0.4"
        assert (await turned_away(bed)).flag is ResponseFlag.OVERFLOW


TCP = """
hosts: [shop.example]
tcp:
- match: [{destinationSubnets: [192.0.2.0/24]}]
  route: [{destination: {host: nowhere.example}}]
- route:
  - {destination: {host: shop.example, subset: v1}, weight: 3}
  - {destination: {host: shop.example, subset: v2}, weight: 1}
"""


async def test_tcp_routes_share_flows_out_by_weight() -> None:
    async with routed_bed(SUBSETS, ("VirtualService", TCP), protocol="TCP") as bed:
        seen: Counter[str] = Counter()
        for _ in range(60):
            host, client, upstream = await greeted(bed)
            seen[host] += 1
            await end(client, upstream)
        clusters = {flow.upstream_cluster for flow in await bed.records.wait_closed(60)}
    assert 30 <= seen["127.0.0.2"] <= 57, seen  # 45 expected; 4.5 sigma is 15
    assert clusters == {f"outbound|{bed.port}|{name}|shop.example" for name in ("v1", "v2")}


async def test_a_destination_that_nobody_knows() -> None:
    text = "hosts: [shop.example]\ntcp: [{route: [{destination: {host: nowhere.example}}]}]"
    async with routed_bed(("VirtualService", text), protocol="TCP") as bed:
        flow = await turned_away(bed)
    assert flow.flag is ResponseFlag.NO_CLUSTER
    assert (
        "VirtualService default/d0, tcp[0]: its destination nowhere.example is not in the registry"
        in flow.details
    )


async def test_a_subset_without_endpoints() -> None:
    subset = ("DestinationRule", "host: shop.example\nsubsets: [{name: v9, labels: {version: v9}}]")
    text = "hosts: [shop.example]\ntcp: [{route: [{destination: {host: shop.example, subset: v9}}]}]"
    async with routed_bed(subset, ("VirtualService", text), protocol="TCP") as bed:
        assert (await turned_away(bed)).flag is ResponseFlag.NO_HEALTHY_UPSTREAM


TLS = """
hosts: [shop.example, bank.example]
tls:
- match: [{sniHosts: [shop.example]}]
  route: [{destination: {host: shop.example, subset: v2}}]
- match: [{sniHosts: [bank.example]}]
  route: [{destination: {host: bank.example}}]
"""


@pytest.mark.parametrize("protocol", ["TLS", "TCP"])
@pytest.mark.parametrize(
    ("dialled", "name", "reached"),
    [
        ("198.51.100.1", "shop.example", {"127.0.0.3"}),
        ("198.51.100.1", "bank.example", {"127.0.0.3"}),  # a lie: the shop was dialled
        ("198.51.100.1", None, {"127.0.0.2", "127.0.0.3"}),  # no name: no tls route, the service as it is
        ("198.51.100.2", "bank.example", {"127.0.0.4"}),
        ("192.0.2.9", "bank.example", {"127.0.0.4"}),  # re-resolved, never dialled with another's name
    ],
)
async def test_tls_routes_go_by_the_server_name(
    protocol: str, dialled: str, name: str | None, reached: set[str]
) -> None:
    if protocol == "TCP":
        reached = {"198.51.100.1": {"127.0.0.2", "127.0.0.3"}, "198.51.100.2": {"127.0.0.4"}}.get(
            dialled, reached
        )
    async with routed_bed(
        SUBSETS, ("VirtualService", TLS), protocol=protocol, others=BANK, dialled=dialled
    ) as bed:
        host, _, _ = await greeted(bed, client_hello(name))
        assert host in reached


async def test_a_client_that_says_nothing_where_the_server_name_decides_goes_to_the_service() -> None:
    async with routed_bed(
        SUBSETS, ("VirtualService", TLS), given=settings(detect=0.05), protocol="TLS", others=BANK
    ) as bed:
        bed.client()
        host, _ = await bed.any()
    assert host in {"127.0.0.2", "127.0.0.3"}


async def test_the_policies_of_the_routes_destination_are_asked() -> None:
    text = "hosts: [shop.example]\ntcp: [{route: [{destination: {host: bank.example}}]}]"
    async with routed_bed(("VirtualService", text), others=BANK, protocol="TCP", sidecar=(DENY_BANK,)) as bed:
        flow = await turned_away(bed)
        assert (flow.flag, flow.denied) == (ResponseFlag.DENY, "policy")
        assert flow.policy == "AuthorizationPolicy default/no"


async def test_a_policy_about_the_service_that_a_route_leads_to_ends_the_flows_that_are_there() -> None:
    text = "hosts: [shop.example]\ntcp: [{route: [{destination: {host: bank.example}}]}]"
    async with routed_bed(("VirtualService", text), others=BANK, protocol="TCP") as bed:
        client = bed.client()
        await client.send(b"hello")
        bank = await bed.at("127.0.0.4")
        assert await bank.exactly(5) == b"hello"
        bed.change(("127.0.0.2", "v1"))
        assert bed.running.proxy.reconsider() == 0
        bed.change(("127.0.0.2", "v1"), more=(DENY_BANK,))
        assert bed.running.proxy.reconsider() == 1
        for wire in (client, bank):
            with pytest.raises(ConnectionResetError):
                await wire.rest()
        [flow] = await bed.records.wait_closed(1)
    assert (flow.flag, flow.denied, flow.policy) == (
        ResponseFlag.DENY,
        "policy",
        "AuthorizationPolicy default/no",
    )
    assert flow.details.startswith("permission was withdrawn by configuration: ")


async def test_a_server_that_speaks_first_is_balanced_too() -> None:
    async with routed_bed(protocol="MYSQL") as bed:
        client = bed.client()
        _, upstream = await bed.any()
        await upstream.send(b"greeting")
        assert await client.exactly(8) == b"greeting"


async def test_requests_at_a_port_of_any_protocol_are_not_counted_as_the_flow() -> None:
    """The upstream was dialled while the client was silent; then it speaks HTTP."""
    async with routed_bed(dialled="198.51.100.1") as bed:
        client = bed.client()
        await client.send(b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n")
        _, upstream = await bed.any()
        await upstream.head()
        await upstream.send(OK)
        await client.until(b"ok")
        [state] = bed.running.proxy.clusters().values()
        await wait_until(lambda: bed.running.proxy.clusters().popitem()[1]["requests"] == 0)
        assert state["connections"] == 0


APART = """
hosts: [shop.example]
http: [{route: [{destination: {host: shop.example, subset: v1}}]}]
tcp: [{route: [{destination: {host: shop.example, subset: v2}}]}]
"""


@pytest.mark.parametrize("silent", [False, True])
async def test_first_bytes_tell_requests_from_the_rest_at_a_port_of_either(silent: bool) -> None:
    """``silent``: the client is known to say nothing yet when its flow is dialled."""
    async with routed_bed(SUBSETS, ("VirtualService", APART), protocol="AUTO") as bed:
        for said, version in (
            (b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n", "127.0.0.2"),
            (b"hello", "127.0.0.3"),
        ):
            client = bed.client()
            dialled = await bed.any() if silent else None
            await client.send(said)
            host, upstream = dialled if dialled is not None and dialled[0] == version else await bed.any()
            assert (host, (await upstream.exactly(5))) == (version, said[:5])


async def test_a_flow_to_an_endpoint_that_leaves_goes_on_and_others_go_elsewhere() -> None:
    async with routed_bed(
        rule("{loadBalancer: {simple: RANDOM}}"), versions=[("127.0.0.2", "v1")], protocol="TCP"
    ) as bed:
        host, client, upstream = await greeted(bed)
        assert host == "127.0.0.2"
        bed.change(("127.0.0.3", "v1"))
        await client.send(b"more")
        assert await upstream.exactly(4) == b"more"
        host, other, elsewhere = await greeted(bed)
        assert host == "127.0.0.3"
        await upstream.send(b"answer")
        assert await client.exactly(6) == b"answer"
        await end(client, upstream, other, elsewhere)
