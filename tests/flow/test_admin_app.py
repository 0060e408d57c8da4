"""The admin and telemetry apps as a client sees them, over real sockets."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import trio
from prometheus_client import Metric

from interceptor.admin import app, connections, push, server
from interceptor.config.sidecar import Sidecar
from interceptor.errors import ConfigError
from interceptor.model.connection import Flow
from interceptor.telemetry import logs
from interceptor.telemetry.metrics import Metrics
from tests.support.raw_http import Answer, request
from tests.support.sample_flows import DENIED, flow

GETS = [
    *("/config_dump", "/connections", "/listeners", "/clusters", "/explain", "/certs"),
    *("/stats", "/stats/prometheus", "/ready"),
]
POSTS = ["/logging", "/drain", "/quitquitquit"]


@dataclass
class FakeRuntime:
    """What runtime would be to the admin app."""

    metrics: Metrics = field(
        default_factory=lambda: Metrics(Sidecar.model_validate({"metadata": {"name": "web"}}))
    )
    flows: list[Flow] = field(default_factory=list)
    pending: str | None = None
    remark: str | None = None
    called: list[str] = field(default_factory=list)
    quit: trio.Event = field(default_factory=trio.Event)

    def controls(self) -> app.Controls:
        return app.Controls(
            collect=self.collect,
            connections=lambda: connections.rows(self.flows, 103.25, 77),
            config_dump=lambda: {
                "version": "sha-1",
                "documents": [{"kind": "Sidecar", "status": "accepted"}],
            },
            listeners=lambda: [{"name": "egress", "address": "[::]:15001"}],
            clusters=self.clusters,
            certs=lambda: [{"identity": "spiffe://td/ns/a/sa/b"}],
            explain=self.explain,
            readiness=self.readiness,
            ready=lambda: self.pending,
            drain=lambda: self.called.append("drain"),
            quit=self.quit.set,
            set_level=logs.set_level,
            remark=lambda: self.remark,
            pushed=push.PushEndpoint(None, push.by_token("")).answer,
        )

    def explain(self, given: Mapping[str, Sequence[str]]) -> Mapping[str, object]:
        if "to" not in given:
            raise ConfigError("say where", "and who")
        return {"given": given}

    async def clusters(self) -> list[dict[str, object]]:
        return [{"name": "outbound|443||example.com"}]

    async def readiness(self) -> list[dict[str, object]]:
        return [{"port": 80}]

    async def collect(self) -> Iterable[Metric]:
        return self.metrics.collect()


@asynccontextmanager
async def serving(application: Any, host: str = "127.0.0.1") -> AsyncIterator[tuple[str, int]]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family, dualstack_ipv6=host == "::")
    port = listener.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, application, listener)
        yield ("127.0.0.1" if host == "::" else host, port)
        nursery.cancel_scope.cancel()


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime()


@pytest.fixture
async def admin(runtime: FakeRuntime) -> AsyncIterator[tuple[str, int]]:
    async with serving(app.admin_app(runtime.controls())) as address:
        yield address


@pytest.fixture
async def telemetry(runtime: FakeRuntime) -> AsyncIterator[tuple[str, int]]:
    async with serving(
        app.telemetry_app(runtime.collect, lambda: runtime.pending, lambda: runtime.remark)
    ) as address:
        yield address


@pytest.fixture
def root_level() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    level = root.level
    yield root
    root.setLevel(level)


async def test_home_lists_every_endpoint(admin: tuple[str, int]) -> None:
    answer = await request(admin, "GET", "/")
    assert answer.status == 200
    assert [line.split()[:2] for line in answer.body.splitlines()] == [
        *(["GET", path] for path in (GETS[0], "/config", *GETS[1:])),
        *(["POST", path] for path in POSTS),
    ]
    assert "server" not in answer.headers


async def test_what_runtime_knows_is_shown_as_json(admin: tuple[str, int]) -> None:
    answers = [await request(admin, "GET", path) for path in ("/config_dump", "/listeners", "/clusters")]
    assert {answer.headers["content-type"] for answer in answers} == {"application/json"}
    assert [json.loads(answer.body) for answer in answers] == [
        {"version": "sha-1", "documents": [{"kind": "Sidecar", "status": "accepted"}]},
        [{"name": "egress", "address": "[::]:15001"}],
        [{"name": "outbound|443||example.com"}],
    ]


async def test_connections_are_the_live_flows(admin: tuple[str, int], runtime: FakeRuntime) -> None:
    assert json.loads((await request(admin, "GET", "/connections")).body) == []
    runtime.flows = [flow(closed=None), flow(DENIED, id=2)]
    answer = await request(admin, "GET", "/connections")
    first, second = json.loads(answer.body)
    assert first == {
        "id": 1,
        "worker": 77,
        "direction": "egress",
        "peer": "10.0.0.1:40000",
        "original_dst": "93.184.216.34:443",
        "upstream": "93.184.216.34:443",
        "service": "example.com",
        "policy": "ServiceEntry shop/example",
        "security": "none",
        "peer_identity": None,
        "relay": "splice",
        "age": 3.25,
        "bytes_received": 100,
        "bytes_sent": 5000,
    }
    assert (second["original_dst"], second["upstream"]) == ("[fd00::9]:25", None)


async def test_many_connections_leave_turns_to_others(runtime: FakeRuntime) -> None:
    runtime.flows = [flow(id=i) for i in range(10 * connections.FLOWS_PER_TURN)]
    turns = 0

    async def count_turns(task_status: trio.TaskStatus[None]) -> None:
        nonlocal turns
        task_status.started()
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        await nursery.start(count_turns)
        before = turns
        answer = await app._Admin(runtime.controls()).connections(
            server.Request(method="GET", path="/connections")
        )
        assert turns - before >= 9
        nursery.cancel_scope.cancel()
    assert [each["id"] for each in json.loads(answer.body)] == list(range(len(runtime.flows)))


async def test_stats_have_envoys_form(admin: tuple[str, int], runtime: FakeRuntime) -> None:
    ended = flow()
    runtime.metrics.opened(ended)
    runtime.metrics.closed(ended)
    lines = (await request(admin, "GET", "/stats")).body.splitlines()
    assert "interceptor_connections_active.direction.egress: 0" in lines
    assert "interceptor_connect_duration_seconds_sum.direction.egress: 0.012" in lines
    assert any(
        line.startswith("istio_tcp_sent_bytes_total.reporter.source.") and line.endswith(": 5000")
        for line in lines
    )
    assert lines == sorted(lines)
    assert not any("_bucket" in line for line in lines)


@pytest.mark.parametrize("path", ["/stats/prometheus", "/metrics"])
async def test_metrics_for_prometheus(admin: tuple[str, int], telemetry: tuple[str, int], path: str) -> None:
    for address in (telemetry, admin) if path == "/stats/prometheus" else (telemetry,):
        answer = await request(
            address, "GET", path, host="web.shop:15020" if address == telemetry else "localhost"
        )
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert 'interceptor_connections_active{direction="egress"} 0.0\n' in answer.body


async def test_readiness_says_what_is_pending(
    admin: tuple[str, int], telemetry: tuple[str, int], runtime: FakeRuntime
) -> None:
    async def ask() -> list[Answer]:
        return [await request(admin, "GET", "/ready"), await request(telemetry, "GET", "/healthz/ready")]

    assert [(each.status, each.body) for each in await ask()] == [(200, "LIVE\n"), (200, "ready\n")]
    runtime.pending = "the listener on 15006 is not open"
    assert {(each.status, each.body) for each in await ask()} == {
        (503, "not ready: the listener on 15006 is not open\n")
    }
    live = await request(telemetry, "GET", "/healthz/live")
    assert (live.status, live.body) == (200, "live\n")


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
async def test_a_change_needs_post(
    admin: tuple[str, int], runtime: FakeRuntime, root_level: logging.Logger, path: str, method: str
) -> None:
    before = root_level.level
    answer = await request(admin, method, f"{path}?level=error")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert (runtime.called, runtime.quit.is_set(), root_level.level) == ([], False, before)


@pytest.mark.parametrize("path", GETS)
async def test_reading_is_no_post(admin: tuple[str, int], path: str) -> None:
    answer = await request(admin, "POST", path)
    assert answer.status == 405
    assert "GET" in answer.headers["allow"]


async def test_telemetry_changes_nothing_and_shows_no_more(telemetry: tuple[str, int]) -> None:
    for path in (*POSTS, "/config_dump", "/connections", "/"):
        assert (await request(telemetry, "POST", path)).status == 404
        assert (await request(telemetry, "GET", path)).status == 404
    assert (await request(telemetry, "POST", "/metrics")).status == 405


async def test_drain(admin: tuple[str, int], runtime: FakeRuntime) -> None:
    answer = await request(admin, "POST", "/drain")
    assert (answer.status, answer.body, runtime.called) == (200, "draining\n", ["drain"])


async def test_quit_is_answered_before_it_is_done(runtime: FakeRuntime) -> None:
    """Quitting ends the server itself, as the runtime's quit will; the answer is out by then."""
    async with trio.open_nursery() as nursery:
        listener = socket.create_server(("127.0.0.1", 0))
        controls = replace(runtime.controls(), quit=nursery.cancel_scope.cancel)
        await nursery.start(server.serve, app.admin_app(controls), listener)
        stream = await trio.open_tcp_stream(*listener.getsockname())
        await stream.send_all(b"POST /quitquitquit HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await trio.Event().wait()  # until quit
    received = b""
    while chunk := await stream.receive_some(4096):
        received += chunk
    await stream.aclose()
    assert received.startswith(b"HTTP/1.1 200")
    assert received.endswith(b"quitting\n")


async def test_log_level(admin: tuple[str, int], root_level: logging.Logger) -> None:
    answer = await request(admin, "POST", "/logging?level=error")
    assert (answer.status, answer.body) == (200, "log level: error\n")
    assert root_level.level == logging.ERROR
    for target in ("/logging", "/logging?level=loud"):
        answer = await request(admin, "POST", target)
        assert answer.status == 400
        assert "use one of debug, info, warning, error" in answer.body
    assert root_level.level == logging.ERROR


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:15000", "127.0.0.1:15000", "127.9.9.9", "[::1]", "[::1]:15000"]
)
async def test_loopback_hosts_are_answered(admin: tuple[str, int], host: str) -> None:
    assert (await request(admin, "GET", "/ready", host=host)).status == 200


@pytest.mark.parametrize(
    "host",
    [
        *(
            "evil.example",
            "evil.example:15000",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
        ),
        *("localhost@evil.example", "evil.example#localhost", "[::2]:15000", "localhost:", "0.0.0.0", ""),
    ],
)
async def test_a_rebound_host_is_refused(admin: tuple[str, int], runtime: FakeRuntime, host: str) -> None:
    for method, path in (("GET", "/config_dump"), ("POST", "/drain")):
        answer = await request(admin, method, path, host=host)
        assert answer.status == 403
        assert "loopback Host" in answer.body
    assert runtime.called == []


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost.evil.example", "file://"]
)
async def test_a_foreign_page_changes_nothing(
    admin: tuple[str, int], runtime: FakeRuntime, origin: str
) -> None:
    answer = await request(admin, "POST", "/drain", headers=f"Origin: {origin}\r\n")
    assert (answer.status, runtime.called) == (403, [])
    assert (await request(admin, "GET", "/ready", headers=f"Origin: {origin}\r\n")).status == 200


@pytest.mark.parametrize("origin", ["http://localhost:3000", "https://127.0.0.1", "http://[::1]:8080"])
async def test_a_page_of_this_machine_may(admin: tuple[str, int], runtime: FakeRuntime, origin: str) -> None:
    answer = await request(admin, "POST", "/drain", headers=f"Origin: {origin}\r\n")
    assert (answer.status, runtime.called) == (200, ["drain"])


async def test_telemetry_serves_both_families_on_one_socket(runtime: FakeRuntime) -> None:
    async with serving(app.telemetry_app(runtime.collect, lambda: None, lambda: None), host="::") as (
        _,
        port,
    ):
        for address in ("127.0.0.1", "::1"):
            assert (await request((address, port), "GET", "/healthz/live")).status == 200


async def test_explain_hands_the_question_on_and_a_bad_one_is_refused(admin: tuple[str, int]) -> None:
    answer = await request(admin, "GET", "/explain?to=a:1&header=x:%201%0Ay:2")
    assert answer.status == 200
    assert json.loads(answer.body) == {"given": {"to": ["a:1"], "header": ["x: 1", "y:2"]}}
    answer = await request(admin, "GET", "/explain")
    assert (answer.status, answer.body) == (400, "say where\nand who\n")


async def test_readiness_for_strict_is_told_by_port(admin: tuple[str, int]) -> None:
    answer = await request(admin, "GET", "/explain?readiness")
    assert (answer.status, json.loads(answer.body)) == (200, [{"port": 80}])
