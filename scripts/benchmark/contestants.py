"""The contestants: how each is configured and started, and which of its features are on.

All listen on the same ports behind the same rules and run as the uid that the rules exempt. None writes an access log;
ours and Envoy's count in their metrics.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from scripts.benchmark.measures import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROXY_UID: Final = 1337
INGRESS_PORT: Final = 15006
EGRESS_PORT: Final = 15001
HTTP_PORT: Final = 8080
HTTP2_PORT: Final = 8082
BULK_PORT: Final = 5201
BULK_CLIENT: Final = {
    "ingress": "10.9.0.31",
    "egress": "10.9.0.32",
}  # where bulk flows come from: nginx tells them by it
UPSTREAM: Final = {"ingress": "10.9.0.2", "egress": "10.9.0.1"}
# 5 000 idle ones and room. It sizes the tables of HAProxy and nginx, and so their memory at rest.
MOST_FLOWS: Final = 6_000


@dataclass(frozen=True)
class Place:
    """Where a contestant's files are, and where its programs stand."""

    directory: Path
    peers: Path  # the virtual environment with the peers from PyPI
    ours: Path  # the one with us
    namespace: str

    def envoy(self) -> Path:
        return next(self.peers.glob("lib/python3*/site-packages/envoy/_bin/envoy"))


@dataclass(frozen=True)
class Contestant:
    """One proxy."""

    features: str
    files: Callable[[int], dict[str, str]]
    command: Callable[[Place, int], list[str]]
    version: Callable[[Place], list[str]]
    drops_root: bool = False  # started as root, it becomes the proxy's uid by itself


def _haproxy(workers: int) -> dict[str, str]:
    return {
        "haproxy.cfg": f"""\
global
  nbthread {workers}
  maxconn {MOST_FLOWS}
defaults
  mode tcp
  timeout connect 10s
  timeout client 1h
  timeout server 1h
listen ingress
  bind 0.0.0.0:{INGRESS_PORT}
  server original 0.0.0.0
listen egress
  bind 0.0.0.0:{EGRESS_PORT}
  server original 0.0.0.0
"""
    }


def _nginx(workers: int) -> dict[str, str]:
    servers = "".join(
        f"  map $remote_addr ${way} {{ default {UPSTREAM[way]}:{HTTP_PORT}; {BULK_CLIENT[way]} {UPSTREAM[way]}:{BULK_PORT}; }}\n"
        f"  server {{ listen {port} backlog=4096; proxy_pass ${way}; proxy_timeout 1h; }}\n"
        for way, port in (("ingress", INGRESS_PORT), ("egress", EGRESS_PORT))
    )
    return {
        "nginx.conf": f"""\
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
master_process {"off" if workers == 1 else "on"};
worker_processes {workers};
pid nginx.pid;
error_log stderr crit;
events {{ worker_connections {2 * MOST_FLOWS}; }}
stream {{
{servers}}}
"""
    }


def _envoy(_workers: int) -> dict[str, str]:
    original = "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst"
    tcp_proxy = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
    unlimited = {
        "thresholds": [{"max_connections": 100_000, "max_pending_requests": 100_000}]
    }  # 1 024 without

    def listener(way: str, port: int) -> dict[str, object]:
        configuration = {"@type": tcp_proxy, "stat_prefix": way, "cluster": way}
        return {
            "name": way,
            "address": {"socket_address": {"address": "0.0.0.0", "port_value": port}},
            "listener_filters": [{"name": "original_dst", "typed_config": {"@type": original}}],
            "filter_chains": [{"filters": [{"name": "tcp_proxy", "typed_config": configuration}]}],
        }

    def cluster(way: str) -> dict[str, object]:
        return {
            "name": way,
            "type": "ORIGINAL_DST",
            "lb_policy": "CLUSTER_PROVIDED",
            "connect_timeout": "10s",
            "circuit_breakers": unlimited,
        }

    ways = (("ingress", INGRESS_PORT), ("egress", EGRESS_PORT))
    resources = {"listeners": [listener(*way) for way in ways], "clusters": [cluster(way) for way, _ in ways]}
    return {"envoy.json": json.dumps({"static_resources": resources})}


def _interceptor(workers: int) -> dict[str, str]:
    several = f", workers: {workers}" if workers > 1 else ""
    return {
        "sidecar.yaml": f"""\
apiVersion: interceptor/v1
kind: Sidecar
metadata: {{name: bench}}
spec: {{detection: false, accessLog: {{path: /dev/null}}, limits: {{connections: 20000}}{several}}}
"""
    }


def _mitmdump(place: Place) -> list[str]:
    return [str(place.peers / "bin/python"), "-c", "from mitmproxy.tools.main import mitmdump; mitmdump()"]


CONTESTANTS: Final = {
    "none": Contestant("no proxy and no rules", lambda _: {}, lambda _place, _workers: [], lambda _: ["uname", "-r"]),
    "haproxy": Contestant(
        "mode tcp, to the original destination; no splice, no log, no statistics page",
        _haproxy,
        lambda place, _: ["haproxy", "-db", "-f", str(place.directory / "haproxy.cfg")],
        lambda _: ["haproxy", "-v"],
    ),
    "nginx": Contestant(
        "stream; cannot read the original destination: a fixed upstream, chosen by the client's address; no log",
        _nginx,
        lambda place, _: ["nginx", "-e", "stderr", "-p", str(place.directory), "-c", "nginx.conf"],
        lambda _: ["nginx", "-v"],
    ),
    "envoy": Contestant(
        "original_dst + tcp_proxy, defaults but for the circuit breakers; its statistics on, no access log, no admin",
        _envoy,
        lambda place, workers: [
            *(str(place.envoy()), "--config-path", str(place.directory / "envoy.json")),
            *("--concurrency", str(workers), "--disable-hot-restart", "--log-level", "error"),
        ],
        lambda place: [str(place.envoy()), "--version"],
    ),
    "mitmproxy": Contestant(
        "transparent mode, all hosts ignored (bytes relayed as they are), always one thread; no flow is kept or printed",
        lambda _: {},
        lambda place, _: [
            *_mitmdump(place),
            *("--quiet", "--mode", f"transparent@{INGRESS_PORT}", "--mode", f"transparent@{EGRESS_PORT}"),
            *("--ignore-hosts", ".*", "--set", f"confdir={place.directory}"),
        ],
        lambda place: [*_mitmdump(place), "--version"],
    ),
    "interceptor": Contestant(
        "a Sidecar document's defaults, to the original destination; metrics on, no access log, no detection of protocols",
        _interceptor,
        lambda place, _: [
            *(str(place.ours / "bin/interceptor"), "proxy"),
            *("--config", str(place.directory / "sidecar.yaml"), "--netns", place.namespace),
        ],
        lambda place: [str(place.ours / "bin/python"), "-c", "from importlib.metadata import version as v; print(v('interceptor'))"],
        drops_root=True,
    ),
}  # fmt: skip
assert tuple(CONTESTANTS) == NAMES
