"""Active health checks with the whole gateway: nginx, Redis and gRPC twice; each first one turns bad, and good again."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.gateways import Gateway, gateway
from tests.support.netns import Namespace, Topology, topology
from tests.support.processes import ROOT, interceptor, listens, wait_until

pytestmark = [pytest.mark.netns, pytest.mark.slow]

FIRST, SECOND = "10.9.0.11", "10.9.0.12"
PORTS = {"http": 8080, "redis": 6379, "grpc": 50051}
CHECKS = """
  - {host: http.example, interval: 100ms, unhealthyThreshold: 1, healthyThreshold: 2, http: {path: /healthz}}
  - {host: redis.example, interval: 100ms, unhealthyThreshold: 1, healthyThreshold: 1, tcp: {send: '50494e470d0a', receive: ['504f4e47']}}
  - {host: grpc.example, interval: 100ms, unhealthyThreshold: 1, healthyThreshold: 1, grpc: {}}
"""
ENTRY = """\
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: %(name)s, namespace: demo}
spec:
  hosts: [%(name)s.example]
  addresses: [198.51.100.%(last)s]
  resolution: STATIC
  ports: [{number: %(port)s, name: x, protocol: %(protocol)s}]
  endpoints: [{address: 10.9.0.11}, {address: 10.9.0.12}]
"""
DOCUMENTS = "".join(
    ENTRY % {"name": name, "last": at, "port": PORTS[name], "protocol": protocol}
    for at, (name, protocol) in enumerate({"http": "HTTP", "redis": "TCP", "grpc": "GRPC"}.items(), 1)
)
GRPC = (sys.executable, "-m", "tests.support.grpc_programs")
NGINX = """\
daemon off; master_process off; pid {home}/nginx.pid; error_log /dev/null;
events {{}}
http {{
  access_log off; client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f;
  uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
  server {{ listen 10.9.0.11:8080; root {home}/first; location / {{ return 200 "first\\n"; }} location = /healthz {{ }} }}
  server {{ listen 10.9.0.12:8080; root {home}/second; location / {{ return 200 "second\\n"; }} location = /healthz {{ }} }}
}}
"""


class Servers:
    """All of them, in the peer's namespace; nginx's and gRPC's are healthy while a file is there."""

    def __init__(self, where: Namespace, home: Path, stack: ExitStack) -> None:
        self._where = where
        self._stack = stack
        self._files = [(home / each, home / each / "healthz") for each in ("first", "second")]
        for directory, file in self._files:
            directory.mkdir(mode=0o755)
            file.touch()
        (home / "nginx.conf").write_text(NGINX.format(home=home))
        self._start("nginx", "-e", "/dev/null", "-p", str(home), "-c", "nginx.conf")
        self._redis = [self._start_redis(address) for address in (FIRST, SECOND)]
        for address, (_, file) in zip((FIRST, SECOND), self._files, strict=True):
            self._start("env", f"PYTHONPATH={ROOT}", *GRPC, "server", address, "50051", str(file))
        for port in PORTS.values():
            for address in (FIRST, SECOND):
                wait_until(listens(where, address, port), f"{address}:{port} listens")

    def turn(self, which: int, *, good: bool) -> None:
        """Make the first or the second one of each bad, or good."""
        _, file = self._files[which]
        if good:
            file.touch()
            self._redis[which] = self._start_redis((FIRST, SECOND)[which])
        else:
            file.unlink()
            self._redis[which].terminate()

    def _start_redis(self, address: str) -> subprocess.Popen[str]:
        options = ("--bind", address, "--port", "6379", "--save", "", "--protected-mode", "no")
        return self._start("redis-server", *options)

    def _start(self, *argv: str) -> subprocess.Popen[str]:
        process = self._where.popen(*argv, stdout=subprocess.DEVNULL)

        def end() -> None:
            process.terminate()
            process.wait(10)

        self._stack.callback(end)
        return process


@pytest.fixture
def bed() -> Iterator[Topology]:
    with topology() as made:
        for address in (FIRST, SECOND):
            made.peer.run("ip", "addr", "add", f"{address}/24", "dev", "eth0")
        yield made


def health(proxy: Gateway, name: str) -> tuple[tuple[str, bool], ...]:
    """What /clusters says of a service's endpoints."""
    known = {each["name"]: each for each in json.loads(proxy.get(15000, "/clusters")[1])}
    found = known[f"outbound|{PORTS[name]}||{name}.example"]
    [used] = found["workers"]
    return tuple((each["address"].split(":")[0], each["healthy"]) for each in used["endpoints"])


def used(proxy: Gateway, name: str, times: int = 12) -> set[str]:
    """The endpoints that so many requests or connections reached, by the access log."""
    app = proxy.bed.app
    before = proxy.log.read_text().count("\n")
    if name == "redis":
        for _ in range(times):
            assert app.run("redis-cli", "-h", "198.51.100.2", "ping").stdout == "PONG\n"
    elif name == "grpc":
        app.run("env", f"PYTHONPATH={ROOT}", *GRPC, "calls", "198.51.100.3", "50051", str(times))
    else:
        app.run("curl", "-sS", "-o", "/dev/null", f"http://198.51.100.1:8080/?[1-{times}]")
    lines = proxy.flows(before + times)[before:]
    return {str(line["upstream_host"]).partition(":")[0] for line in lines}


def told(proxy: Gateway, name: str) -> str:
    """What ``interceptor explain`` says of a request, from the running proxy."""
    argv = interceptor("explain", "--to", f"{name}.example:{PORTS[name]}", "--path", "/v1")
    return proxy.bed.app.run("env", f"PYTHONPATH={ROOT}", *argv, check=False).stdout


def await_health(proxy: Gateway, first: bool, second: bool) -> None:
    expected = dict.fromkeys(PORTS, ((FIRST, first), (SECOND, second)))
    wait_until(lambda: {name: health(proxy, name) for name in PORTS} == expected, f"{expected} in /clusters")


def test_servers_that_turn_bad_get_nothing_until_they_are_good_again(bed: Topology) -> None:
    with tempfile.TemporaryDirectory(prefix="icp-") as made, ExitStack() as stack:
        Path(made).chmod(0o755)  # for the proxy's user
        servers = Servers(bed.peer, Path(made), stack)
        proxy = stack.enter_context(gateway(bed, Path(made), "REGISTRY_ONLY", DOCUMENTS, checks=CHECKS))
        assert {name: used(proxy, name, 20) for name in PORTS} == {name: {FIRST, SECOND} for name in PORTS}
        await_health(proxy, first=True, second=True)

        servers.turn(0, good=False)
        await_health(proxy, first=False, second=True)
        assert {name: used(proxy, name) for name in PORTS} == {name: {SECOND} for name in PORTS}
        for name, why in (
            ("http", "it answered 404"),
            ("redis", "Connection refused"),
            ("grpc", "NOT_SERVING"),
        ):
            said = told(proxy, name)
            assert f"{FIRST}:{PORTS[name]} of outbound|{PORTS[name]}||{name}.example is left out" in said
            assert why in said

        servers.turn(1, good=False)
        await_health(proxy, first=False, second=False)
        answer = bed.app.run("curl", "-sS", "-w", "%{http_code}", "http://198.51.100.1:8080/").stdout
        assert answer.endswith("503")
        assert proxy.flows(1)[-1]["response_flags"] == "UH"
        assert not bed.app.run("redis-cli", "-h", "198.51.100.2", "ping", check=False).stdout.startswith(
            "PONG"
        )

        servers.turn(0, good=True)
        await_health(proxy, first=True, second=False)
        assert {name: used(proxy, name) for name in PORTS} == {name: {FIRST} for name in PORTS}
