from __future__ import annotations

from prometheus_client import CollectorRegistry

from interceptor.telemetry.middleware_metrics import MiddlewareMetrics


def test_failures_and_time_are_counted_by_name() -> None:
    registry = CollectorRegistry()
    metrics = MiddlewareMetrics(registry)
    for name in ("mine", "mine", "other"):
        metrics.failed(name)
    metrics.took("mine", 0.002)
    metrics.took("mine", 3)

    def value(metric: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"interceptor_middleware_{metric}", labels)

    assert (value("errors_total", name="mine"), value("errors_total", name="other")) == (2, 1)
    assert value("errors_total", name="silent") is None
    assert value("duration_seconds_count", name="mine") == 2
    assert value("duration_seconds_sum", name="mine") == 3.002
    assert [value("duration_seconds_bucket", name="mine", le=le) for le in ("0.001", "0.005", "5.0")] == [
        0,
        1,
        2,
    ]
