"""Requests as Istio's metrics: read back as Prometheus reads them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from interceptor.model.connection import ResponseFlag
from interceptor.telemetry.request_metrics import BUCKETS, RequestMetrics
from tests.support.flows import settings
from tests.unit.telemetry.test_request_lines import record


def scraped(metrics: Collector) -> dict[str, list[tuple[dict[str, str], float]]]:
    registry = CollectorRegistry()
    registry.register(metrics)
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_requests_are_counted_by_their_labels() -> None:
    metrics = RequestMetrics(settings())
    for changes in ({}, {}, {"status": 503, "flag": ResponseFlag.UPSTREAM_FAILURE}, {"grpc_status": "14"}):
        metrics.observe(record(**changes))
    counts = {
        (
            labels["response_code"],
            labels["response_flags"],
            labels["request_protocol"],
            labels["grpc_response_status"],
        ): value
        for labels, value in scraped(metrics)["istio_requests_total"]
    }
    assert counts == {
        ("200", "-", "http", "unknown"): 2,
        ("503", "UF", "http", "unknown"): 1,
        ("200", "-", "grpc", "14"): 1,
    }


def test_times_and_sizes_are_distributed() -> None:
    metrics = RequestMetrics(settings())
    for seconds, received, sent in ((0.0004, 0, 1), (0.25, 100, 5000), (7200, 10**9, 10)):
        metrics.observe(record(ended=100.0 + seconds, bytes_received=received, bytes_sent=sent))
    found = scraped(metrics)

    def below(name: str) -> list[float]:
        return [value for labels, value in found[f"{name}_bucket"]]

    edges = [float(labels["le"]) for labels, _ in found["istio_request_duration_milliseconds_bucket"]]
    assert edges == [*BUCKETS, float("inf")]
    times = dict(zip(edges, below("istio_request_duration_milliseconds"), strict=True))
    assert (times[0.5], times[100.0], times[500.0], times[3600000.0], times[float("inf")]) == (1, 1, 2, 2, 3)
    assert found["istio_request_bytes_sum"][0][1] == 10**9 + 100
    assert found["istio_response_bytes_sum"][0][1] == 5011
    assert found["istio_response_bytes_count"][0][1] == 3
    sizes = dict(zip(edges, below("istio_request_bytes"), strict=True))
    assert (sizes[0.5], sizes[100.0], sizes[3600000.0]) == (1, 2, 2)
