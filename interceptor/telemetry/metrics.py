"""What is counted, under Istio's names where Istio has one, and the text that a scrape reads.

Label children are looked up once per bounded key and kept; a key is made of configuration (services) and of fixed
sets (directions, flags, relays), never of an address. All of it runs in the one trio thread.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.registry import Collector

from interceptor.model.connection import Direction, ResponseFlag
from interceptor.telemetry.labels import ISTIO_TCP_LABELS, UNKNOWN, Certifications, Certified, tcp_labels
from interceptor.telemetry.middleware_metrics import MiddlewareMetrics
from interceptor.telemetry.plaintext import Plaintext
from interceptor.telemetry.request_metrics import RequestMetrics
from interceptor.telemetry.xds_metrics import XdsMetrics

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import Metric

    from interceptor.config.sidecar import Sidecar
    from interceptor.model.connection import Flow
    from interceptor.model.request import RequestRecord
    from interceptor.telemetry.plaintext import Peers


# From a connect on loopback (some 50 us) to beyond the default connect timeout (10 s).
CONNECT_BUCKETS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
# From one short request to a database pool's connection: flows live for milliseconds or for hours (the default idle
# timeout is 1 h), so the steps are coarse and even on a logarithmic scale.
DURATION_BUCKETS: Final = (
    *(0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0),
    *(60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 24 * 3600.0),
)

MOST_PORTS: Final = 256  # of which detections are counted one by one


class _Tally:
    """A counter's child and what is still to be added to it.

    Adding to the child takes a lock and some checks; a flow adds to a plain number instead, and a scrape brings it over.
    """

    __slots__ = ("_counter", "pending")

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self.pending = 0

    def flush(self) -> None:
        self._counter.inc(self.pending)
        self.pending = 0


@dataclass(slots=True)
class _Series:
    """Istio's four counters for one set of labels."""

    opened: _Tally
    closed: _Tally
    sent: _Tally
    received: _Tally


@dataclass(slots=True)
class _Side:
    """What is kept for one direction."""

    direction: Direction
    connect: Histogram
    duration: Histogram
    active: int = 0
    series: dict[tuple[str, str, ResponseFlag, Certified], _Series] = field(default_factory=dict)
    relays: dict[str, _Tally] = field(default_factory=dict)


class Metrics:
    """Every series of this proxy, in a registry of its own.

    The tracker calls ``opened`` and ``closed`` exactly once for each flow. Like Istio, which reports long-lived
    connections while they last, a scrape counts what live flows have moved so far.
    """

    def __init__(self, sidecar: Sidecar) -> None:
        # A second series for each counter that no dashboard of Istio's reads; the library leaves it unannotated.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._sidecar = sidecar
        self._registry = registry = CollectorRegistry()
        # What was counted of a live flow: (received, sent), or None before it counted as opened.
        self._live: dict[Flow, tuple[int, int] | None] = {}
        self._tallies: list[_Tally] = []
        self._certified = Certifications()
        self._istio = tuple(
            Counter(name, help_, ISTIO_TCP_LABELS, registry=registry)
            for name, help_ in (
                ("istio_tcp_connections_opened_total", "Connections opened."),
                ("istio_tcp_connections_closed_total", "Connections closed."),
                ("istio_tcp_sent_bytes_total", "Bytes sent to the peer (the response)."),
                ("istio_tcp_received_bytes_total", "Bytes received from the peer (the request)."),
            )
        )
        self._create_own(registry)
        self._requests = RequestMetrics(sidecar)
        registry.register(self._requests)
        ProcessCollector(registry=registry)

    def _create_own(self, registry: CollectorRegistry) -> None:
        """Create the series that are ours, and the children that are known beforehand."""
        active = Gauge(
            "interceptor_connections_active", "Flows that are open now.", ("direction",), registry=registry
        )
        self._denied = Counter(
            "interceptor_connections_denied_total",
            "Flows refused, by the reason.",
            ("direction", "reason"),
            registry=registry,
        )
        self._errors = Counter(
            "interceptor_connection_errors_total",
            "Flows that ended with something wrong, by Envoy's response flag; refusals by policy are not among them.",
            ("direction", "response_flags"),
            registry=registry,
        )
        self._relay_bytes = Counter(
            "interceptor_relay_bytes_total",
            "Bytes moved, both ways together, by the relay that moved them.",
            ("direction", "relay"),
            registry=registry,
        )
        connect = Histogram(
            "interceptor_connect_duration_seconds",
            "Time until the upstream accepted.",
            ("direction",),
            buckets=CONNECT_BUCKETS,
            registry=registry,
        )
        duration = Histogram(
            "interceptor_connection_duration_seconds",
            "Time from accept to the end of the flow.",
            ("direction",),
            buckets=DURATION_BUCKETS,
            registry=registry,
        )
        self._ingress, self._egress = (
            _Side(direction, connect.labels(direction.value), duration.labels(direction.value))
            for direction in (Direction.INGRESS, Direction.EGRESS)
        )
        active.labels("ingress").set_function(lambda: self._ingress.active)
        active.labels("egress").set_function(lambda: self._egress.active)
        self._config = Info("interceptor_config_version", "The configuration in force.", registry=registry)
        self.config_version(UNKNOWN)
        Info("interceptor_build", "This build.", registry=registry).info({"version": version("interceptor")})
        self._plaintext = Plaintext()
        registry.register(self._plaintext)
        self._config_rejected = Counter(
            "interceptor_config_rejected",
            "Changes that were refused; the one before stayed.",
            registry=registry,
        )
        self._config_accepted_at = Gauge(
            "interceptor_config_last_accepted_timestamp_seconds",
            "When the last change was accepted, or the proxy started.",
            registry=registry,
        )
        self._expiry = Gauge(
            "interceptor_certificate_expiry_seconds",
            "Time until the first certificate of a file expires; negative once it has.",
            ("file",),
            registry=registry,
        )
        self._log_dropped = Counter(
            "interceptor_access_log_dropped_total",
            "Access log lines lost because their reader was slow or gone.",
            registry=registry,
        )
        self._accept_errors = Counter(
            "interceptor_accept_errors_total", "Failed accepts, by errno.", ("errno",), registry=registry
        )
        self._detections: dict[tuple[str, str, str], _Tally] = {}
        self._detected = Counter(
            "interceptor_detections_total",
            "What flows to ports without a declared protocol carry, by their first bytes; timeout: they did not say in time.",
            ("direction", "port", "result"),
            registry=registry,
        )
        self._name_queries = Counter(
            "interceptor_dns_queries_total",
            "Name queries: answered from the registry, forwarded to a name server, or failed.",
            ("result",),
            registry=registry,
        )
        self._internal_errors = Counter(
            "interceptor_internal_errors_total", "Faults of ours, each with a log line.", registry=registry
        )

    def name_query(self, result: str) -> None:
        """A name query has ended."""
        self._name_queries.labels(result).inc()

    def opened(self, flow: Flow) -> None:
        """A flow was accepted and registered. Istio's count of it waits until its destination is decided."""
        self._live[flow] = None
        self._side(flow).active += 1

    def closed(self, flow: Flow) -> None:
        """A flow ended; its counters, flag and times are final."""
        series = self._count(flow)
        if series is not None:
            series.closed.pending += 1
        del self._live[flow]
        side = self._side(flow)
        side.active -= 1
        if flow.direction is Direction.INGRESS:
            self._plaintext.ended(flow)
        if flow.connect_seconds is not None:
            side.connect.observe(flow.connect_seconds)
        if flow.closed is not None:
            side.duration.observe(flow.closed - flow.opened)
        if flow.denied is not None:
            self._denied.labels(flow.direction.value, flow.denied).inc()
        if flow.flag is not ResponseFlag.NONE and flow.flag is not ResponseFlag.DENY:
            self._errors.labels(flow.direction.value, flow.flag.value).inc()

    def plaintext(self) -> Peers:
        """Which peers did without mutual TLS, and how often."""
        return self._plaintext.peers(self._live)

    def middleware(self) -> MiddlewareMetrics:
        """The series of the middleware, for a proxy that has any."""
        return MiddlewareMetrics(self._registry)

    def xds(self) -> XdsMetrics:
        """The series of a control plane, for a proxy that follows one."""
        return XdsMetrics(self._registry)

    def request(self, record: RequestRecord) -> None:
        """A request is over."""
        self._requests.observe(record)

    def detected(self, flow: Flow, result: str) -> None:
        """What a flow carries was found out, or was not in time."""
        port = "unknown" if flow.original_dst is None else str(flow.original_dst.port)
        key = (flow.direction.value, port, result)
        tally = self._detections.get(key)
        if tally is None:
            if len(self._detections) >= MOST_PORTS:  # a client may ask for every port there is
                key = (flow.direction.value, "other", result)
            tally = self._detections.get(key) or self._tally(self._detected.labels(*key))
            self._detections[key] = tally
        tally.pending += 1

    def config_version(self, name: str) -> None:
        """Another version of the configuration is in force."""
        self._config.info({"version": name})

    def config_changed(self, *, accepted: bool, at: float) -> None:
        """A change of the configuration came in."""
        if accepted:
            self._config_accepted_at.set(at)
        else:
            self._config_rejected.inc()

    def access_log_dropped(self, lines: int) -> None:
        """Access log lines were lost."""
        self._log_dropped.inc(lines)

    def certificate_expiry(self, seconds: dict[str, float]) -> None:
        """In how many seconds the certificates of some files expire."""
        for file, left in seconds.items():
            self._expiry.labels(file).set(left)

    def accept_error(self, number: int) -> None:
        """An accept failed with this errno."""
        self._accept_errors.labels(errno.errorcode.get(number, UNKNOWN)).inc()

    def internal_error(self) -> None:
        """Something of ours went wrong and was logged."""
        self._internal_errors.inc()

    def render(self) -> bytes:
        """The exposition text (Prometheus 0.0.4) of everything, live flows included."""
        return exposition(self.collect())

    def collect(self) -> Iterable[Metric]:
        """The same as objects, for other renderings."""
        self._bring_up_to_date()
        return self._registry.collect()

    def _bring_up_to_date(self) -> None:
        for flow in self._live:
            # Decided, and its relay too: its labels will not change but for the flag.
            if flow.upstream_cluster != UNKNOWN and flow.relay != "-":
                self._count(flow)
        for tally in self._tallies:
            tally.flush()

    def _side(self, flow: Flow) -> _Side:
        return self._egress if flow.direction is Direction.EGRESS else self._ingress

    def _count(self, flow: Flow) -> _Series | None:
        """Count what the flow did since it was counted last; of one that carries requests, only its bytes."""
        side = self._side(flow)
        counted = self._live[flow]
        series = None if flow.http else self._series(side, flow)
        if counted is None:
            counted = (0, 0)
            if series is not None:
                series.opened.pending += 1
        # Istio reports both from the opener's request and response, for either reporter: received is the request,
        # read from the peer (Envoy's downstream bytes received), sent is the response, written to the peer.
        received = flow.bytes_received - counted[0]
        sent = flow.bytes_sent - counted[1]
        if received or sent:
            if series is not None:
                series.received.pending += received
                series.sent.pending += sent
            relay = side.relays.get(flow.relay)
            if relay is None:
                child = self._relay_bytes.labels(side.direction.value, flow.relay)
                relay = side.relays[flow.relay] = self._tally(child)
            relay.pending += received + sent
        self._live[flow] = (flow.bytes_received, flow.bytes_sent)
        return series

    def _series(self, side: _Side, flow: Flow) -> _Series:
        certified = self._certified(flow)
        key = (flow.destination_service, flow.destination_namespace, flow.flag, certified)
        series = side.series.get(key)
        if series is None:
            labels = tcp_labels(self._sidecar, side.direction, *key)
            series = side.series[key] = _Series(*(self._tally(each.labels(**labels)) for each in self._istio))
        return series

    def _tally(self, counter: Counter) -> _Tally:
        tally = _Tally(counter)
        self._tallies.append(tally)
        return tally


class _Given(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def exposition(families: Iterable[Metric]) -> bytes:
    """The text that Prometheus reads (0.0.4)."""
    registry = CollectorRegistry()
    registry.register(_Given(families))
    return generate_latest(registry)
