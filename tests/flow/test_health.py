"""Active health checks of servers that die and come back, on loopback; what the balancer makes of it."""

from __future__ import annotations

import errno
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import hpack
import pytest
import trio

from interceptor.config.plain import plain
from interceptor.model.address import SocketAddress, UpstreamAddress
from interceptor.model.health import Outcome
from interceptor.model.identity import SpiffeId
from interceptor.protocol.http2 import codes
from interceptor.proxy import health, upstream
from interceptor.proxy.clusters import ClusterStates
from interceptor.proxy.health import Prober
from interceptor.proxy.transport import Transport
from interceptor.proxy.waits import TrioWaits
from interceptor.state.health import Board
from interceptor.state.snapshot import Snapshot, take
from interceptor.state.store import Store
from interceptor.tls.rotation import Keeper
from tests.support.documents import configuration
from tests.support.http2 import END, END_HEADERS, frame, settings
from tests.support.identities import WEB, Root, contexts, write
from tests.support.routed import document
from tests.support.until import until

HOST = "shop.example"
KEY = (HOST, 80)
QUICK = "interval: 20ms, timeout: 2s, unhealthyThreshold: 2, healthyThreshold: 2"
Handler = Callable[[trio.abc.Stream], "object"]


def http(status: int) -> bytes:
    return b"HTTP/1.1 %d x\r\nContent-Length: 0\r\n\r\n" % status


@dataclass
class Server:
    """One endpoint: answers every connection with the same bytes; may be closed and opened again."""

    host: str
    port: int = 0
    answer: bytes = http(200)
    requests: list[bytes] = field(default_factory=list)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    wrap: Callable[[trio.abc.Stream], trio.abc.Stream] = lambda stream: stream

    @property
    def address(self) -> UpstreamAddress:
        return UpstreamAddress(SocketAddress(self.host, self.port))

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self.scope = trio.CancelScope()
        [listener] = await trio.open_tcp_listeners(self.port, host=self.host)
        self.port = listener.socket.getsockname()[1]
        with self.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.serve_listeners, self._serve, [listener])
                task_status.started()

    async def _serve(self, raw: trio.SocketStream) -> None:
        stream = self.wrap(raw)
        try:
            async with stream:
                self.requests.append(bytes(await stream.receive_some(4096)))
                await stream.send_all(self.answer)
                await stream.receive_some(1)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass


class Counts:
    def __init__(self) -> None:
        self.outcomes: Counter[Outcome] = Counter()
        self.shown: dict[str, tuple[int, int]] = {}

    def checked(self, _cluster: str, outcome: Outcome) -> None:
        self.outcomes[outcome] += 1

    def members(self, cluster: str, healthy: int, total: int) -> None:
        self.shown[cluster] = (healthy, total)

    def forget(self, cluster: str) -> None:
        del self.shown[cluster]


@dataclass
class Bed:
    """A prober with its store, and the servers that it looks at."""

    nursery: trio.Nursery
    servers: list[Server]
    store: Store
    board: Board = field(default_factory=Board)
    counts: Counts = field(default_factory=Counts)

    @property
    def down(self) -> dict[UpstreamAddress, str]:
        return dict(self.board.current.get(KEY, {}))


def snapshot(check: str, servers: list[Server], protocol: str = "HTTP", labels: str = "") -> Snapshot:
    ends = ", ".join(f"{{address: {each.host}, ports: {{p: {each.port}}}{labels}}}" for each in servers)
    entry = document(
        "ServiceEntry",
        f"""
        hosts: [{HOST}]
        addresses: [198.51.100.1]
        ports: [{{number: 80, name: p, protocol: {protocol}}}]
        resolution: STATIC
        endpoints: [{ends}]
        """,
    )
    tls = ", tls: {certificate: a, privateKey: b, trustBundle: c}" if labels else ""
    checks = f"[{{host: {HOST}, {check}}}]" if check else "[]"
    sidecar = (
        "apiVersion: interceptor/v1\nkind: Sidecar\nmetadata: {name: app}\n"
        f"spec: {{healthChecks: {checks}{tls}}}\n"
    )
    return take(plain(configuration(sidecar, entry)))


@asynccontextmanager
async def bed(
    check: str,
    number: int = 1,
    answer: bytes = http(200),
    protocol: str = "HTTP",
    *,
    transport: Transport | None = None,
    wrap: Callable[[trio.abc.Stream], trio.abc.Stream] = lambda stream: stream,
    labels: str = "",
) -> AsyncIterator[Bed]:
    servers = [Server(f"127.0.0.{at + 2}", answer=answer, wrap=wrap) for at in range(number)]
    async with trio.open_nursery() as nursery:
        for server in servers:
            await nursery.start(server.run)
        made = Bed(nursery, servers, Store(snapshot(check, servers, protocol, labels)))
        prober = Prober(made.store, made.board, made.counts, Random(1), transport)
        await nursery.start(prober.run)
        yield made
        nursery.cancel_scope.cancel()


async def test_a_server_dies_and_comes_back_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with bed(f"{QUICK}, http: {{path: /healthz}}", 2) as made:
        first, second = made.servers
        await until(lambda: made.counts.outcomes[Outcome.SUCCESS] >= 2)
        assert made.down == {}
        assert first.requests[0].startswith(b"GET /healthz HTTP/1.1\r\nHost: shop.example\r\n")
        first.scope.cancel()
        await until(lambda: made.down == {first.address: "it cannot be reached: Connection refused"})
        assert made.counts.shown == {f"outbound|80||{HOST}": (1, 2)}
        await made.nursery.start(first.run)
        await until(lambda: made.down == {})
        second.answer = http(503)
        await until(lambda: made.down == {second.address: "it answered 503"})
        second.answer = http(200)
        await until(lambda: made.down == {})
        assert made.counts.shown == {f"outbound|80||{HOST}": (2, 2)}
    said = [record.getMessage() for record in caplog.records if record.name == health.__name__]
    name = f"outbound|80||{HOST}"
    assert said == [
        f"{first.address} of {name} is unhealthy and gets nothing new: it cannot be reached: Connection refused",
        f"{first.address} of {name} is healthy again",
        f"{second.address} of {name} is unhealthy and gets nothing new: it answered 503",
        f"{second.address} of {name} is healthy again",
    ]


async def test_the_balancer_leaves_out_who_is_unhealthy_and_nobody_is_used_where_all_are() -> None:
    async with bed(f"{QUICK}, http: {{path: /}}", 2) as made:
        states = ClusterStates(seed=1)
        made.board.watch(lambda unhealthy: states.judge(unhealthy, trio.current_time()))
        routing = made.store.current.routing
        assert routing is not None
        [cluster] = routing.clusters.checked()
        state = states.of(cluster, trio.current_time())
        first, second = made.servers

        def picked() -> set[UpstreamAddress | None]:
            return {state.pick(trio.current_time(), None) for _ in range(50)}

        assert picked() == {first.address, second.address}
        first.answer = http(500)
        await until(lambda: picked() == {second.address})
        assert (
            f"'address': '{first.address}', 'weight': 1, 'locality': '', 'active': 0, 'healthy': False"
            in str(state.dump())
        )
        second.answer = http(500)
        await until(lambda: picked() == {None})
        fresh = ClusterStates(seed=1)
        fresh.judge(made.board.current, 0.0)
        assert fresh.of(cluster, 0.0).pick(0.0, None) is None, "also where the cluster is used later"
        first.answer = http(200)
        await until(lambda: picked() == {first.address})


async def test_a_server_that_is_silent_is_unhealthy_after_the_timeout() -> None:
    async with bed("interval: 20ms, timeout: 50ms, unhealthyThreshold: 1, http: {path: /}", 1, b"") as made:
        await until(lambda: made.down == {made.servers[0].address: "no answer within 0.05 s"})


async def test_bytes_over_tcp() -> None:
    asked = f"{QUICK}, tcp: {{send: '{b'PING'.hex()}', receive: ['{b'PONG'.hex()}']}}"
    async with bed(asked, 1, b"+PONG\r\n", "TCP") as made:
        [server] = made.servers
        await until(lambda: made.counts.outcomes[Outcome.SUCCESS] >= 2)
        assert server.requests[0] == b"PING"
        server.answer = b"-LOADING\r\n"
        await until(lambda: bool(made.counts.outcomes[Outcome.SUCCESS]))
        server.scope.cancel()
        await until(lambda: server.address in made.down)


def grpc(status: int) -> bytes:
    def head(*fields: tuple[bytes, bytes], end: int = 0) -> bytes:
        return frame(codes.HEADERS, END_HEADERS | end, 1, hpack.Encoder().encode(fields))

    message = b"\0\0\0\0\2\x08" + bytes([status])
    start = head((b":status", b"200"), (b"content-type", b"application/grpc"))
    return settings() + start + frame(codes.DATA, 0, 1, message) + head((b"grpc-status", b"0"), end=END)


async def test_the_health_service_of_grpc() -> None:
    async with bed(f"{QUICK}, grpc: {{serviceName: shop.Basket}}", 1, grpc(1), "GRPC") as made:
        [server] = made.servers
        await until(lambda: made.counts.outcomes[Outcome.SUCCESS] >= 2)
        assert b"shop.Basket" in server.requests[0]
        server.answer = grpc(2)
        await until(lambda: made.down == {server.address: "it is NOT_SERVING"})
        server.answer = grpc(1)
        await until(lambda: made.down == {})


async def test_a_port_of_http2_is_asked_in_http2() -> None:
    answer = settings() + frame(
        codes.HEADERS, END_HEADERS | END, 1, hpack.Encoder().encode([(b":status", b"200")])
    )
    async with bed(f"{QUICK}, http: {{path: /}}", 1, answer, "HTTP2") as made:
        await until(lambda: made.counts.outcomes[Outcome.SUCCESS] >= 2)
        assert made.servers[0].requests[0].startswith(codes.PREFACE)


async def test_an_endpoint_of_the_mesh_is_asked_by_mutual_tls(tmp_path: Path) -> None:
    root = Root()
    own = write(tmp_path / "web", root.issue(WEB), root)
    keeper = Keeper(own, trust_domain="cluster.local", wall_clock=time.time)
    transport = Transport(keeper, {}, {"cluster.local": "cluster.local"}, TrioWaits(), 5.0)
    theirs = contexts(tmp_path / "db", root.issue(SpiffeId("cluster.local", "default", "db")), root)

    def wrap(stream: trio.abc.Stream) -> trio.abc.Stream:
        return trio.SSLStream(stream, theirs.server(("http/1.1",)), server_side=True)

    def labels(account: str) -> str:
        return f", labels: {{security.istio.io/tlsMode: istio}}, serviceAccount: {account}"

    check = f"{QUICK}, http: {{path: /}}"
    async with bed(check, transport=transport, wrap=wrap, labels=labels("db")) as made:
        await until(lambda: made.counts.outcomes[Outcome.SUCCESS] >= 2)
        made.store.publish(snapshot(check, made.servers, labels=labels("web")))
        await until(lambda: made.servers[0].address in made.down)
        assert "no TLS to" in made.down[made.servers[0].address], "another one than is expected"


async def test_checks_follow_the_configuration_and_what_is_known_stays() -> None:
    check = f"{QUICK}, http: {{path: /}}"
    async with bed(check, 2) as made:
        first, second = made.servers
        first.answer = http(500)
        await until(lambda: list(made.down) == [first.address])
        made.store.publish(snapshot(check, [first]))
        seen = made.counts.outcomes.total()
        await until(lambda: made.counts.shown == {f"outbound|80||{HOST}": (0, 1)})
        assert list(made.down) == [first.address], "other documents heal nobody"
        made.store.publish(snapshot(check.replace("path: /", "path: /other"), [first, second]))
        await until(lambda: any(b"/other" in request for request in first.requests))
        made.store.publish(snapshot("", [first, second]))
        await until(lambda: made.counts.shown == {} and made.down == {})
        assert made.counts.outcomes.total() > seen


async def test_this_machine_running_out_of_descriptors_is_nobodys_illness(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with bed(f"{QUICK}, http: {{path: /}}") as made:
        await until(lambda: made.counts.outcomes[Outcome.SUCCESS] >= 1)

        def refuse(*_: object) -> None:
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(upstream, "_open", refuse)
        await until(lambda: caplog.text.count("could not begin: Too many open files") >= 3)
        assert made.down == {}


async def test_what_is_found_is_told_also_where_there_is_no_time_for_all_checks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "AT_ONCE", 1)
    check = "interval: 1ms, timeout: 30ms, unhealthyThreshold: 1, http: {path: /}"
    async with bed(check, 4, b"") as made:  # silent, all of them: checks are late from the first on
        await until(lambda: len(made.down) == 4)
        made.servers[0].answer = http(200)
        await until(lambda: len(made.down) == 3)
