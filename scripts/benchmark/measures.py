"""What is measured, in which unit, which way is better, and the bar the project set itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Direction = Literal["ingress", "egress"]
DIRECTIONS: Final[tuple[Direction, ...]] = ("ingress", "egress")


OURS: Final = "interceptor"
PEERS: Final = ("none", "haproxy", "nginx", "envoy", "mitmproxy")
NAMES: Final = (*PEERS, OURS)

# Each proxy is started once for all measures where it relays bytes, and once more to serve requests.
TCP_MEASURES: Final = ("memory", "requests", "connections", "bulk", "fairness")
HTTP_MEASURES: Final = ("http", "http2")
MESH_MEASURE: Final = "mesh"  # two gateways and mutual TLS between them, once a round whatever the directions
POLICY_MEASURE: Final = "policy"  # in this process, once a round: only ours
ROUTES_MEASURE: Final = (
    "routes"  # requests that are routed beside requests that pass, once a round: only ours
)
MEASURES: Final = (*TCP_MEASURES, *HTTP_MEASURES, MESH_MEASURE, POLICY_MEASURE, ROUTES_MEASURE)
MESH_NAMES: Final = ("envoy", OURS)
HTTP_NAMES: Final = ("none", "haproxy", "envoy", OURS)  # who can serve requests to their original destination

CONNECTION_COUNTS: Final = (1, 50, 500)
HTTP2_SHAPES: Final = ((50, 1), (10, 10), (1, 100))  # connections, and streams at once on each
STREAM_COUNTS: Final = (1, 8)
CLIENTS: Final = 20  # that open new connections as fast as they can: enough to keep one worker busy
FAIRNESS_CONNECTIONS: Final = 10  # that make small requests beside the bulk flow


@dataclass(frozen=True)
class Metric:
    """One row of the result."""

    key: str
    title: str
    unit: str
    better: Literal["higher", "lower"]


METRICS: Final = (
    *(
        Metric(f"requests@{n}", f"requests, {n} conn{'s' * (n > 1)}", "1/s", "higher")
        for n in CONNECTION_COUNTS
    ),
    *(Metric(f"p50@{n}", f"p50, {n} conn{'s' * (n > 1)}", "ms", "lower") for n in CONNECTION_COUNTS),
    *(Metric(f"p99@{n}", f"p99, {n} conn{'s' * (n > 1)}", "ms", "lower") for n in CONNECTION_COUNTS),
    Metric("cpu/100k", "CPU per 100 000 requests", "s", "lower"),
    Metric("own-cpu/100k", "proxy's CPU per 100 000 requests", "s", "lower"),
    Metric("connections", "new connections", "1/s", "higher"),
    Metric("cpu/connection", "CPU per connection", "us", "lower"),
    Metric("own-cpu/connection", "proxy's CPU per connection", "us", "lower"),
    *(
        Metric(f"{way}@{n}", f"{way}, {n} stream{'s' * (n > 1)}", "Gbit/s", "higher")
        for n in STREAM_COUNTS
        for way in ("up", "down")
    ),
    *(Metric(f"cpu/GB-{way}", f"CPU per GB {way}, 1 stream", "s", "lower") for way in ("up", "down")),
    Metric("fair-p99", "p99 beside a bulk flow", "ms", "lower"),
    Metric("fair-bulk", "bulk beside small requests", "Gbit/s", "higher"),
    *(
        Metric(f"http@{n}", f"HTTP requests, {n} conn{'s' * (n > 1)}", "1/s", "higher")
        for n in CONNECTION_COUNTS
    ),
    *(
        Metric(f"http-p50@{n}", f"HTTP p50, {n} conn{'s' * (n > 1)}", "ms", "lower")
        for n in CONNECTION_COUNTS
    ),
    *(
        Metric(f"http-p99@{n}", f"HTTP p99, {n} conn{'s' * (n > 1)}", "ms", "lower")
        for n in CONNECTION_COUNTS
    ),
    *(
        Metric(
            f"http2@{n}x{m}",
            f"HTTP/2 requests, {n} conn{'s' * (n > 1)} of {m} stream{'s' * (m > 1)}",
            "1/s",
            "higher",
        )
        for n, m in HTTP2_SHAPES
    ),
    Metric("http-own-cpu/100k", "proxy's CPU per 100 000 HTTP requests", "s", "lower"),
    Metric("mesh-requests", "mutual TLS: requests, 50 conns", "1/s", "higher"),
    Metric("mesh-up", "mutual TLS: up, 1 stream", "Gbit/s", "higher"),
    Metric("mesh-down", "mutual TLS: down, 1 stream", "Gbit/s", "higher"),
    Metric("mesh-handshakes", "mutual TLS: full handshakes, server", "1/s", "higher"),
    Metric("mesh-resumed", "mutual TLS: resumed handshakes, both gateways", "1/s", "higher"),
    Metric("policy", "a request by 1 000 policies, the slowest kind", "us", "lower"),
    Metric("routed-rule", "requests by a DestinationRule, of those that pass (bar: 0.9)", "-", "higher"),
    Metric("routed-routes", "requests by a VirtualService, of those that pass (bar: 0.9)", "-", "higher"),
    Metric("lookup", "a route among 5 000 virtual hosts (bar: 20)", "us", "lower"),
    Metric("rest", "memory at rest", "MB", "lower"),
    Metric("idle", "memory per 1 000 idle conns", "MB", "lower"),
)


@dataclass(frozen=True)
class Bar:
    """A ratio us/peer that is to be reached: at least ``factor`` where higher is better, at most where lower is."""

    metric: str
    peer: str
    factor: float


# The bars of issues 4, 5 and 6: ingress, as many workers as the peer has threads.
BARS: Final = (
    Bar("requests@50", "envoy", 1.3),
    Bar("requests@50", "haproxy", 1.0),
    *(Bar(f"{percentile}@{n}", "envoy", 1.0) for n in (1, 50) for percentile in ("p50", "p99")),
    Bar("connections", "envoy", 1.2),
    *(Bar(f"{way}@{n}", "envoy", 1.0) for n in STREAM_COUNTS for way in ("up", "down")),
    Bar("http@50", "envoy", 2.0),
    Bar("http-p99@50", "envoy", 1.0),
    *(Bar(f"http2@{n}x{m}", "envoy", 0.5) for n, m in HTTP2_SHAPES),
    Bar("mesh-requests", "envoy", 0.8),
    Bar("mesh-up", "envoy", 1.0),
    Bar("mesh-down", "envoy", 1.0),
    Bar("mesh-handshakes", "envoy", 0.8),
    Bar("rest", "envoy", 0.6),
    Bar("idle", "envoy", 1.0),
    Bar("cpu/100k", "envoy", 1.0),
)
