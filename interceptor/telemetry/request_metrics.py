"""Istio's metrics of requests: a count and three distributions for each set of labels.

A request adds to plain numbers, found by a key of configuration (services) and of fixed sets (statuses, flags); what
Prometheus reads is made of them when it asks.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from interceptor.model.connection import ResponseFlag
from interceptor.model.workload import UNKNOWN
from interceptor.telemetry.labels import ISTIO_TCP_LABELS, Certifications, Certified, tcp_labels

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import Metric

    from interceptor.config.sidecar import Sidecar
    from interceptor.model.connection import Direction
    from interceptor.model.request import RequestRecord

# Envoy's buckets, which Istio uses for milliseconds and for bytes.
BUCKETS: Final = (
    *(
        0.5,
        1.0,
        5.0,
        10.0,
        25.0,
        50.0,
        100.0,
        250.0,
        500.0,
        1000.0,
        2500.0,
        5000.0,
        10000.0,
        30000.0,
        60000.0,
    ),
    *(300000.0, 600000.0, 1800000.0, 3600000.0),
)
_EDGES: Final = (*map(str, BUCKETS), "+Inf")

LABELS: Final = (*ISTIO_TCP_LABELS, "response_code", "grpc_response_status")


class _Series:
    """What was counted for one set of labels."""

    __slots__ = (
        "bytes_received",
        "bytes_sent",
        "durations",
        "labels",
        "received",
        "requests",
        "seconds",
        "sent",
    )

    def __init__(self, labels: list[str]) -> None:
        self.labels = labels
        self.requests = 0
        self.seconds = 0.0
        self.bytes_received = self.bytes_sent = 0
        self.durations, self.received, self.sent = ([0] * (len(BUCKETS) + 1) for _ in range(3))


class RequestMetrics(Collector):
    """The series of requests."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar = sidecar
        self._certified = Certifications()
        self._series: dict[tuple[Direction, str, str, ResponseFlag, int, str | None, Certified], _Series] = {}

    def observe(self, record: RequestRecord) -> None:
        """Count a request that is over."""
        flow, routed = record.flow, record.destination
        usual = (
            record.flag is ResponseFlag.NONE
            and (
                routed is None
                or (
                    routed.service == flow.destination_service
                    and routed.namespace == flow.destination_namespace
                )
            )
            and record.grpc_status is None
            and flow.upstream_identity is None
        )
        series = flow.series.get(record.status) if usual else None
        if series is None:
            series = self._find(record)
            if usual:
                flow.series[record.status] = series
        assert isinstance(series, _Series)
        seconds, received, sent = record.ended - record.began, record.bytes_received, record.bytes_sent
        series.requests += 1
        series.seconds += seconds
        series.bytes_received += received
        series.bytes_sent += sent
        series.durations[bisect_left(BUCKETS, seconds * 1000)] += 1
        series.received[bisect_left(BUCKETS, received)] += 1
        series.sent[bisect_left(BUCKETS, sent)] += 1

    def _find(self, record: RequestRecord) -> _Series:
        flow, routed = record.flow, record.destination
        key = (
            *(
                flow.direction,
                flow.destination_service if routed is None else routed.service,
                flow.destination_namespace if routed is None else routed.namespace,
                record.flag,
                record.status,
            ),
            record.grpc_status,
            self._certified(flow, record.workload),
        )
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = _Series(self._labels(*key))
        return series

    def _labels(  # noqa: PLR0913, PLR0917 (a key, taken apart)
        self,
        direction: Direction,
        service: str,
        namespace: str,
        flag: ResponseFlag,
        status: int,
        grpc_status: str | None,
        certified: Certified,
    ) -> list[str]:
        labels = {
            **tcp_labels(self._sidecar, direction, service, namespace, flag, certified),
            "request_protocol": "http" if grpc_status is None else "grpc",
            "response_code": str(status),
            "grpc_response_status": UNKNOWN if grpc_status is None else grpc_status,
        }
        return [labels[name] for name in LABELS]

    def collect(self) -> Iterable[Metric]:
        """What Prometheus reads."""
        requests = CounterMetricFamily("istio_requests", "Requests.", labels=LABELS)
        milliseconds, received, sent = (
            HistogramMetricFamily(name, documentation, labels=LABELS)
            for name, documentation in (
                (
                    "istio_request_duration_milliseconds",
                    "From a request's first byte to its response's last.",
                ),
                ("istio_request_bytes", "Bytes of requests' bodies."),
                ("istio_response_bytes", "Bytes of responses' bodies."),
            )
        )
        for series in self._series.values():
            requests.add_metric(series.labels, series.requests)
            milliseconds.add_metric(series.labels, _buckets(series.durations), series.seconds * 1000)
            received.add_metric(series.labels, _buckets(series.received), series.bytes_received)
            sent.add_metric(series.labels, _buckets(series.sent), series.bytes_sent)
        return requests, milliseconds, received, sent


def _buckets(counts: list[int]) -> list[tuple[str, float]]:
    return list(zip(_EDGES, accumulate(counts), strict=True))
