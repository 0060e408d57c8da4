"""Registries of several processes, read as one."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from interceptor.telemetry.merge import kept, merged
from interceptor.telemetry.metrics import exposition


def process(flows: int, version: str = "v1", expiry: float = 100.0) -> CollectorRegistry:
    """What one process counted."""
    registry = CollectorRegistry()
    counter = Counter("flows_total", "Flows.", ("direction",), registry=registry)
    counter.labels("ingress").inc(flows)
    if flows > 5:
        counter.labels("egress").inc()
    Gauge("flows_active", "Open.", registry=registry).set(flows)
    Gauge("certificate_expiry_seconds", "When.", registry=registry).set(expiry)
    Gauge("process_max_fds", "Most.", registry=registry).set(20_000)
    Info("config_version", "Which.", registry=registry).info({"version": version})
    histogram = Histogram("seconds", "How long.", buckets=(1.0, 2.0), registry=registry)
    for _ in range(flows):
        histogram.observe(1.5)
    return registry


def lines(*parts: CollectorRegistry) -> dict[str, float]:
    text = exposition(merged(part.collect() for part in parts)).decode()
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in pairs if "_created" not in name}


def test_what_counts_is_added_and_what_describes_is_told_once() -> None:
    found = lines(process(3, expiry=200.0), process(6))
    assert found == {
        'flows_total{direction="ingress"}': 9,
        'flows_total{direction="egress"}': 1,
        "flows_active": 9,
        "certificate_expiry_seconds": 100,
        "process_max_fds": 20_000,
        'config_version_info{version="v1"}': 1,
        'seconds_bucket{le="1.0"}': 0,
        'seconds_bucket{le="2.0"}': 9,
        'seconds_bucket{le="+Inf"}': 9,
        "seconds_count": 9,
        "seconds_sum": 13.5,
    }


def test_two_versions_in_force_are_both_told() -> None:
    found = lines(process(1, "v1"), process(1, "v2"))
    assert {name for name in found if name.startswith("config_version")} == {
        'config_version_info{version="v1"}',
        'config_version_info{version="v2"}',
    }


def test_of_a_process_that_ended_what_grows_is_kept() -> None:
    past = kept(process(4).collect())
    assert {family.name for family in past} == {"flows", "seconds"}
    again = merged((kept(process(2).collect()), past, process(1).collect()))
    values = {(sample.name, *sample.labels.values()): sample.value for f in again for sample in f.samples}
    assert values["flows_total", "ingress"] == 7
    assert values["flows_active",] == 1


def test_the_text_is_what_one_process_would_have_written() -> None:
    registry = process(6)
    assert exposition(merged([registry.collect()])) == exposition(registry.collect())
