"""What is counted of connections: Istio's four counters, and how many are open, refused, failed, how long they took.

A flow adds to plain numbers, found by a key of configuration (services) and of fixed sets (directions, flags, relays),
never of an address; what Prometheus reads is made of them when it asks. A flow that nothing is remarkable about is found
by its service alone.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from interceptor.model.connection import Direction, ResponseFlag
from interceptor.model.workload import UNKNOWN
from interceptor.telemetry.labels import ISTIO_TCP_LABELS, Certifications, Certified, tcp_labels

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import Metric

    from interceptor.config.sidecar import Sidecar
    from interceptor.model.connection import Flow


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

# Looking a member of an enumeration up costs as much as a call.
_EGRESS: Final = Direction.EGRESS
_NONE: Final = ResponseFlag.NONE
_DENY: Final = ResponseFlag.DENY


class _Distribution:
    """A histogram's numbers."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add_to(self, family: HistogramMetricFamily, label: str) -> None:
        edges = (*map(floatToGoString, self.bounds), "+Inf")
        family.add_metric((label,), list(zip(edges, accumulate(self.counts), strict=True)), self.total)


class _Series:
    """Istio's four counters for one set of labels."""

    __slots__ = ("closed", "labels", "opened", "received", "sent")

    def __init__(self, labels: list[str]) -> None:
        self.labels = labels
        self.opened = self.closed = self.sent = self.received = 0


class _Side:
    """What is kept for one direction."""

    def __init__(self, direction: Direction) -> None:
        self.direction = direction
        self.active = 0
        self.connect = _Distribution(CONNECT_BUCKETS)
        self.duration = _Distribution(DURATION_BUCKETS)
        self.ordinary: dict[tuple[str, str], _Series] = {}  # of flows without an identity that end well
        self.series: dict[tuple[str, str, ResponseFlag, Certified], _Series] = {}
        self.relays: dict[str, int] = {}  # bytes
        self.denied: dict[str, int] = {}
        self.errors: dict[ResponseFlag, int] = {}


class ConnectionMetrics(Collector):
    """The series of connections. The tracker's flows come here, each once to either method."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar = sidecar
        self._certified = Certifications()
        self._ingress, self._egress = _Side(Direction.INGRESS), _Side(Direction.EGRESS)
        # What was counted of a live flow: (received, sent), or None before it counted as opened.
        self.live: dict[Flow, tuple[int, int] | None] = {}
        self._detections: dict[tuple[str, str, str], int] = {}

    def opened(self, flow: Flow) -> None:
        """A flow was accepted and registered. Istio's count of it waits until its destination is decided."""
        self.live[flow] = None
        side = self._egress if flow.direction is _EGRESS else self._ingress
        side.active += 1

    def closed(self, flow: Flow) -> None:
        """A flow ended; its counters, flag and times are final."""
        side = self._egress if flow.direction is _EGRESS else self._ingress
        series = self._count(side, flow)
        if series is not None:
            series.closed += 1
        del self.live[flow]
        side.active -= 1
        if (seconds := flow.connect_seconds) is not None:
            side.connect.counts[bisect_left(CONNECT_BUCKETS, seconds)] += 1
            side.connect.total += seconds
        if flow.closed is not None:
            seconds = flow.closed - flow.opened
            side.duration.counts[bisect_left(DURATION_BUCKETS, seconds)] += 1
            side.duration.total += seconds
        if flow.denied is not None:
            side.denied[flow.denied] = side.denied.get(flow.denied, 0) + 1
        flag = flow.flag
        if flag is not _NONE and flag is not _DENY:
            side.errors[flag] = side.errors.get(flag, 0) + 1

    def bring_up_to_date(self) -> None:
        """Count what live flows have moved so far, like Istio, which reports long-lived connections while they last."""
        for flow in self.live:
            # Decided, and its relay too: its labels will not change but for the flag.
            if flow.upstream_cluster != UNKNOWN and flow.relay != "-":
                side = self._egress if flow.direction is _EGRESS else self._ingress
                self._count(side, flow)
                self.live[flow] = (flow.bytes_received, flow.bytes_sent)

    def detected(self, flow: Flow, result: str) -> None:
        """What a flow carries was found out, or was not in time."""
        port = "unknown" if flow.original_dst is None else str(flow.original_dst.port)
        key = (flow.direction.value, port, result)
        if key not in self._detections and len(self._detections) >= MOST_PORTS:
            key = (flow.direction.value, "other", result)  # a client may ask for every port there is
        self._detections[key] = self._detections.get(key, 0) + 1

    def _count(self, side: _Side, flow: Flow) -> _Series | None:
        """Count what the flow did since it was counted last; of one that carries requests, only its bytes."""
        counted = self.live[flow]
        series = None if flow.http else self._of(side, flow)
        # Istio reports both from the opener's request and response, for either reporter: received is the request,
        # read from the peer (Envoy's downstream bytes received), sent is the response, written to the peer.
        received, sent = flow.bytes_received, flow.bytes_sent
        if counted is not None:
            received, sent = received - counted[0], sent - counted[1]
        elif series is not None:
            series.opened += 1
        if received or sent:
            if series is not None:
                series.received += received
                series.sent += sent
            relay = flow.relay
            side.relays[relay] = side.relays.get(relay, 0) + received + sent
        return series

    def _of(self, side: _Side, flow: Flow) -> _Series:
        certified = None
        if (
            flow.flag is not _NONE
            or flow.security != "none"
            or flow.peer_identity is not None
            or flow.upstream_identity is not None
        ):
            certified = self._certified(flow)
            key = (flow.destination_service, flow.destination_namespace, flow.flag, certified)
            found = side.series.get(key)
        else:
            found = side.ordinary.get((flow.destination_service, flow.destination_namespace))
        return found or self._new(side, flow, certified)

    def _new(self, side: _Side, flow: Flow, certified: Certified | None) -> _Series:
        certified = certified or self._certified(flow)
        key = (flow.destination_service, flow.destination_namespace, flow.flag, certified)
        labels = tcp_labels(self._sidecar, side.direction, *key)
        series = side.series.setdefault(key, _Series([labels[name] for name in ISTIO_TCP_LABELS]))
        if flow.flag is _NONE and certified == Certified("none", None):
            side.ordinary[key[:2]] = series
        return series

    def collect(self) -> Iterable[Metric]:
        """What Prometheus reads."""
        return [*self._istio(), *self._own(), self._detected()]

    def _istio(self) -> Iterable[Metric]:
        opened, closed, sent, received = (
            CounterMetricFamily(name, documentation, labels=ISTIO_TCP_LABELS)
            for name, documentation in (
                ("istio_tcp_connections_opened", "Connections opened."),
                ("istio_tcp_connections_closed", "Connections closed."),
                ("istio_tcp_sent_bytes", "Bytes sent to the peer (the response)."),
                ("istio_tcp_received_bytes", "Bytes received from the peer (the request)."),
            )
        )
        for side in (self._ingress, self._egress):
            for series in side.series.values():
                opened.add_metric(series.labels, series.opened)
                closed.add_metric(series.labels, series.closed)
                sent.add_metric(series.labels, series.sent)
                received.add_metric(series.labels, series.received)
        return opened, closed, sent, received

    def _own(self) -> Iterable[Metric]:
        way = ("direction",)
        active = GaugeMetricFamily("interceptor_connections_active", "Flows that are open now.", labels=way)
        denied = CounterMetricFamily(
            "interceptor_connections_denied", "Flows refused, by the reason.", labels=(*way, "reason")
        )
        errors = CounterMetricFamily(
            "interceptor_connection_errors",
            "Flows that ended with something wrong, by Envoy's response flag; refusals by policy are not among them.",
            labels=(*way, "response_flags"),
        )
        moved = CounterMetricFamily(
            "interceptor_relay_bytes",
            "Bytes moved, both ways together, by the relay that moved them.",
            labels=(*way, "relay"),
        )
        connect = HistogramMetricFamily(
            "interceptor_connect_duration_seconds", "Time until the upstream accepted.", labels=way
        )
        duration = HistogramMetricFamily(
            "interceptor_connection_duration_seconds", "Time from accept to the end of the flow.", labels=way
        )
        for side in (self._ingress, self._egress):
            name = side.direction.value
            active.add_metric((name,), side.active)
            for family, counts in ((denied, side.denied), (moved, side.relays)):
                for label, count in counts.items():
                    family.add_metric((name, label), count)
            for flag, count in side.errors.items():
                errors.add_metric((name, flag.value), count)
            side.connect.add_to(connect, name)
            side.duration.add_to(duration, name)
        return active, denied, errors, moved, connect, duration

    def _detected(self) -> Metric:
        family = CounterMetricFamily(
            "interceptor_detections",
            "What flows to ports without a declared protocol carry, by their first bytes; timeout: they did not say in time.",
            labels=("direction", "port", "result"),
        )
        for labels, count in self._detections.items():
            family.add_metric(labels, count)
        return family
