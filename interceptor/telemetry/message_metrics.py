"""Istio's counts of gRPC messages, with its labels for them: who speaks to whom, not how a call went.

A call may last for days, so what passed so far is counted when Prometheus asks, and the rest when the call is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

from interceptor.model.connection import ResponseFlag
from interceptor.telemetry.labels import ISTIO_TCP_LABELS, Certifications, Certified, tcp_labels

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import Metric

    from interceptor.config.sidecar import Sidecar
    from interceptor.model.connection import Direction
    from interceptor.model.request import RequestRecord

# Istio reports messages while the call lasts: its flags, and what else is known at its end, are no labels of them.
_AT_THE_END: Final = frozenset(("request_protocol", "response_flags", "connection_security_policy"))
LABELS: Final = tuple(name for name in ISTIO_TCP_LABELS if name not in _AT_THE_END)


class _Series:
    """What was counted for one set of labels."""

    __slots__ = ("labels", "requests", "responses")

    def __init__(self, labels: list[str]) -> None:
        self.labels = labels
        self.requests = self.responses = 0


class MessageMetrics(Collector):
    """The series of messages."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar = sidecar
        self._certified = Certifications()
        self._series: dict[tuple[Direction, str, str, Certified], _Series] = {}
        self._live: dict[RequestRecord, tuple[int, int]] = {}  # and what was counted of each

    def begun(self, record: RequestRecord) -> None:
        """A call has begun."""
        self._live[record] = (0, 0)

    def ended(self, record: RequestRecord) -> None:
        """A call is over: its messages are all there are."""
        self._count(record)
        del self._live[record]

    def _count(self, record: RequestRecord) -> None:
        """Count what has passed since it was counted last."""
        messages = record.messages
        assert messages is not None
        requests, responses = self._live[record]
        self._live[record] = (messages.requests, messages.responses)
        series = self._find(record)
        series.requests += messages.requests - requests
        series.responses += messages.responses - responses

    def _find(self, record: RequestRecord) -> _Series:
        flow, routed = record.flow, record.destination
        key = (
            flow.direction,
            flow.destination_service if routed is None else routed.service,
            flow.destination_namespace if routed is None else routed.namespace,
            self._certified(flow, record.workload)._replace(
                security="none"
            ),  # no label here says which it was
        )
        series = self._series.get(key)
        if series is None:
            direction, service, namespace, certified = key
            labels = tcp_labels(self._sidecar, direction, service, namespace, ResponseFlag.NONE, certified)
            series = self._series[key] = _Series([labels[name] for name in LABELS])
        return series

    def collect(self) -> Iterable[Metric]:
        """What Prometheus reads."""
        for record in self._live:
            self._count(record)
        requests, responses = (
            CounterMetricFamily(name, documentation, labels=LABELS)
            for name, documentation in (
                ("istio_request_messages", "Messages of gRPC that clients sent."),
                ("istio_response_messages", "Messages of gRPC that services answered."),
            )
        )
        for series in self._series.values():
            requests.add_metric(series.labels, series.requests)
            responses.add_metric(series.labels, series.responses)
        return requests, responses
