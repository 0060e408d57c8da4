"""What is counted, under Istio's names where Istio has one, and the text that a scrape reads.

What every connection and every request adds to stands in modules of its own (``connection_metrics``,
``request_metrics``); here is what happens seldom. All of it runs in the one trio thread.
"""

from __future__ import annotations

import errno
from importlib.metadata import version
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.registry import Collector

from interceptor.model.connection import Direction
from interceptor.model.workload import UNKNOWN
from interceptor.telemetry.connection_metrics import ConnectionMetrics
from interceptor.telemetry.health_metrics import HealthMetrics
from interceptor.telemetry.message_metrics import MessageMetrics
from interceptor.telemetry.middleware_metrics import MiddlewareMetrics
from interceptor.telemetry.plaintext import Plaintext
from interceptor.telemetry.request_metrics import RequestMetrics
from interceptor.telemetry.shadows import Shadows
from interceptor.telemetry.workload_api_metrics import WorkloadApiMetrics
from interceptor.telemetry.xds_metrics import XdsMetrics

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prometheus_client import Metric

    from interceptor.config.sidecar import Sidecar
    from interceptor.model.connection import Flow
    from interceptor.model.request import RequestRecord
    from interceptor.policy.authorization import Shadow
    from interceptor.telemetry.plaintext import Peers


class Metrics:
    """Every series of this proxy, in a registry of its own.

    The tracker calls ``opened`` and ``closed`` exactly once for each flow. Like Istio, which reports long-lived
    connections while they last, a scrape counts what live flows have moved so far.
    """

    def __init__(self, sidecar: Sidecar) -> None:
        # A second series for each counter that no dashboard of Istio's reads; the library leaves it unannotated.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        self._connections = ConnectionMetrics(sidecar)
        registry.register(self._connections)
        self._create_own(registry)
        self._requests = RequestMetrics(sidecar)
        registry.register(self._requests)
        self._messages = MessageMetrics(sidecar)
        registry.register(self._messages)
        ProcessCollector(registry=registry)

    def _create_own(self, registry: CollectorRegistry) -> None:
        """Create the series that are ours, and the children that are known beforehand."""
        self._config = Info("interceptor_config_version", "The configuration in force.", registry=registry)
        self.config_version(UNKNOWN)
        Info("interceptor_build", "This build.", registry=registry).info({"version": version("interceptor")})
        self._plaintext = Plaintext()
        registry.register(self._plaintext)
        self._shadows = Shadows()
        registry.register(self._shadows)
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
        self._name_queries = Counter(
            "interceptor_dns_queries_total",
            "Name queries: answered from the registry, forwarded to a name server, or failed.",
            ("result",),
            registry=registry,
        )
        self._mirrored = Counter(
            "interceptor_mirrored_requests_total",
            "Copies of requests that routes mirror: sent, or dropped for want of room.",
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
        """A flow was accepted and registered."""
        self._connections.opened(flow)

    def closed(self, flow: Flow) -> None:
        """A flow ended; its counters, flag and times are final."""
        self._connections.closed(flow)
        if flow.direction is Direction.INGRESS:
            self._plaintext.ended(flow)

    def plaintext(self) -> Peers:
        """Which peers did without mutual TLS, and how often."""
        return self._plaintext.peers(self._connections.live)

    def middleware(self) -> MiddlewareMetrics:
        """The series of the middleware, for a proxy that has any."""
        return MiddlewareMetrics(self._registry)

    def health(self) -> HealthMetrics:
        """The series of active health checks, for a proxy that makes some."""
        return HealthMetrics(self._registry)

    def xds(self) -> XdsMetrics:
        """The series of a control plane, for a proxy that follows one."""
        return XdsMetrics(self._registry)

    def workload_api(self) -> WorkloadApiMetrics:
        """The series of a SPIFFE agent, for a proxy that has its certificates from one."""
        return WorkloadApiMetrics(self._registry)

    def request(self, record: RequestRecord) -> None:
        """A request is over."""
        self._requests.observe(record)
        if record.messages is not None:
            self._messages.ended(record)

    def call(self, record: RequestRecord) -> None:
        """A request whose messages are counted while it lasts has begun."""
        self._messages.begun(record)

    def detected(self, flow: Flow, result: str) -> None:
        """What a flow carries was found out, or was not in time."""
        self._connections.detected(flow, result)

    def shadowed(self, flow: Flow, shadows: Sequence[Shadow]) -> None:
        """What policies in dry run would have decided, and what audits matched."""
        self._shadows.add(flow.direction, shadows)

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

    def mirrored(self, *, sent: bool) -> None:
        """A copy of a request was sent, or dropped."""
        self._mirrored.labels("sent" if sent else "dropped").inc()

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
        self._connections.bring_up_to_date()
        return self._registry.collect()


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
