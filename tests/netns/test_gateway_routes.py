"""Routes with the whole gateway: nginx twice, curl, a canary, a dead endpoint, one that keeps failing."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.gateways import Gateway, gateway
from tests.support.netns import Namespace, Topology, topology
from tests.support.processes import listens, run, sidecar_setup, wait_until

pytestmark = [pytest.mark.netns, pytest.mark.slow]

FIRST, SECOND, DEAD = "10.9.0.11", "10.9.0.12", "10.9.0.13"
NGINX = """\
daemon off; master_process off; pid {directory}/nginx.pid; error_log stderr;
events {{}}
http {{
  access_log off; client_body_temp_path {directory}/b; proxy_temp_path {directory}/p; fastcgi_temp_path {directory}/f;
  uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  server {{ listen 10.9.0.11:8080; location / {{ return 200 "first $http_x_envoy_attempt_count $request_uri\\n"; }} }}
  server {{
    listen 10.9.0.12:8080;
    location / {{ return 200 "second $http_x_envoy_attempt_count $request_uri\\n"; }}
    location /broken {{ return 500 "broken\\n"; }}
  }}
}}
"""
DOCUMENTS = """\
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: shop, namespace: demo}
spec:
  hosts: [shop.example]
  addresses: [198.51.100.1]
  resolution: STATIC
  ports: [{number: 8080, name: http, protocol: HTTP}]
  endpoints:
  - {address: 10.9.0.11, labels: {version: v1}}
  - {address: 10.9.0.12, labels: {version: v2}}
  - {address: 10.9.0.13, labels: {version: v3}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: shop, namespace: demo}
spec:
  host: shop.example
  trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
  - name: failing
    trafficPolicy: {outlierDetection: {consecutive5xxErrors: 2, maxEjectionPercent: 100, baseEjectionTime: 60s}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop, namespace: demo}
spec:
  hosts: [shop.example]
  http:
  - {name: all, match: [{uri: {prefix: /all}}], route: [{destination: {host: shop.example}}]}
  - {name: failing, match: [{uri: {prefix: /broken}}], route: [{destination: {host: shop.example, subset: failing}}]}
  - name: canary
    match: [{uri: {prefix: /app/}}]
    rewrite: {uri: /}
    route:
    - {destination: {host: shop.example, subset: v1}, weight: 80}
    - {destination: {host: shop.example, subset: v2}, weight: 20}
"""


@pytest.fixture
def bed() -> Iterator[Topology]:
    with topology() as made:
        for address in (FIRST, SECOND, DEAD):
            made.peer.run("ip", "addr", "add", f"{address}/24", "dev", "eth0")
        yield made
        assert run(sidecar_setup("remove", "--netns", made.app.name)).returncode == 0


@contextmanager
def nginx(where: Namespace, directory: Path) -> Iterator[None]:
    home = directory / "nginx"
    home.mkdir()
    (home / "nginx.conf").write_text(NGINX.format(directory=home))
    process = where.popen("nginx", "-e", "stderr", "-p", str(home), "-c", "nginx.conf")
    try:
        wait_until(listens(where, SECOND, 8080), "nginx listens")
        yield
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def proxy(bed: Topology) -> Iterator[Gateway]:
    with tempfile.TemporaryDirectory(prefix="icp-") as made:
        Path(made).chmod(0o755)  # for the proxy's user
        with nginx(bed.peer, Path(made)), gateway(bed, Path(made), "REGISTRY_ONLY", DOCUMENTS) as running:
            yield running


def ask(where: Namespace, path: str, times: int) -> list[str]:
    """The answers' lines, by one curl: one connection to the proxy."""
    url = f"http://198.51.100.1:8080{path}?[1-{times}]"
    options = ("--silent", "--show-error", "--max-time", "60", "-H", "Host: shop.example")
    return where.run("curl", *options, url, timeout=90).stdout.splitlines()


def test_a_canary_a_dead_endpoint_and_a_failing_one(bed: Topology, proxy: Gateway) -> None:
    canary = ask(bed.app, "/app/x", 300)
    shares = Counter(line.split()[0] for line in canary)
    assert shares.total() == 300
    assert 25 <= shares["second"] <= 100, shares  # 60 expected; 5 sigma is 35
    assert canary[0].split()[1:] == ["1", "/x?1"]

    # Each third request meets the endpoint where nobody listens, and is tried again elsewhere.
    everywhere = ask(bed.app, "/all", 30)
    assert {line.split()[0] for line in everywhere} == {"first", "second"}
    assert sum(line.split()[1] == "2" for line in everywhere) >= 8

    # In this subset the second answers 500, and the third nobody: both are left out after two failures.
    broken = ask(bed.app, "/broken", 30)
    assert broken.count("broken") == 2
    assert all(line.startswith("first") for line in broken[-15:])
    assert all(line.split()[1] == "1" for line in broken[-15:])

    known = {each["name"]: each for each in json.loads(proxy.get(15000, "/clusters")[1])}
    [used] = known["outbound|8080|failing|shop.example"]["workers"]
    ejected = {each["address"]: each["ejected"] for each in used["endpoints"]}
    assert ejected == {f"{FIRST}:8080": False, f"{SECOND}:8080": True, f"{DEAD}:8080": True}

    lines = proxy.flows(360)
    named = Counter((line["route_name"], line["upstream_cluster"]) for line in lines)
    assert named["canary", "outbound|8080|v2|shop.example"] == shares["second"]
    assert named["all", "outbound|8080||shop.example"] == 30
    assert {line["original_dst"] for line in lines} == {"198.51.100.1:8080"}
    metric = proxy.metric("istio_requests_total{")
    assert metric == 360
    assert ask(bed.app, "/nowhere", 1) == ["interceptor: no route of a VirtualService takes this request"]
