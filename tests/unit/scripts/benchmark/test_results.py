from __future__ import annotations

import json

import pytest

from scripts.benchmark.measures import METRICS, Direction, Metric
from scripts.benchmark.results import Discarded, Results, Sample


def results(**medians: float) -> Results:
    """Ingress samples of requests@50, for each name around its median."""
    spread = (-1.0, 0.0, 5.0)
    return Results(
        [
            Sample(number, "ingress", name, "requests@50", median + off)
            for name, median in medians.items()
            for number, off in enumerate(spread)
        ]
    )


def metric(key: str) -> Metric:
    return next(metric for metric in METRICS if metric.key == key)


def test_a_median_is_taken_over_the_rounds_of_one_direction() -> None:
    measured = results(envoy=100.0)
    assert measured.median("ingress", "envoy", "requests@50") == 100.0
    assert measured.median("egress", "envoy", "requests@50") is None
    assert measured.median("ingress", "haproxy", "requests@50") is None


def test_a_ratio_is_ours_through_the_peers() -> None:
    measured = results(envoy=100.0, interceptor=150.0)
    assert measured.ratio("ingress", "requests@50", "envoy") == pytest.approx(1.5)
    assert measured.ratio("ingress", "requests@50", "haproxy") is None
    assert results(envoy=100.0).ratio("ingress", "requests@50", "envoy") is None
    assert Results(
        [Sample(0, "ingress", "envoy", "idle", 0.0), Sample(0, "ingress", "interceptor", "idle", 1.0)]
    ).ratio("ingress", "idle", "envoy") is None  # fmt: skip


def test_names_and_metrics_come_in_the_known_order() -> None:
    measured = results(interceptor=1.0, none=2.0)
    measured.samples.append(Sample(0, "egress", "envoy", "p50@1", 1.0))
    assert measured.names() == ("none", "envoy", "interceptor")
    assert [found.key for found in measured.metrics("ingress")] == ["requests@50"]
    assert [found.key for found in measured.metrics("egress")] == ["p50@1"]


@pytest.mark.parametrize(
    ("ours", "envoy", "haproxy"), [(129.0, False, True), (130.0, True, True), (99.0, False, False)]
)
def test_more_is_better_at_requests(ours: float, envoy: bool, haproxy: bool) -> None:
    verdicts = results(envoy=100.0, haproxy=100.0, interceptor=ours).verdicts(metric("requests@50"))
    assert [(verdict.bar.peer, verdict.reached) for verdict in verdicts] == [
        ("envoy", envoy),
        ("haproxy", haproxy),
    ]


@pytest.mark.parametrize(("ours", "reached", "word"), [(0.6, True, "reached"), (0.61, False, "NOT reached")])
def test_less_is_better_at_memory(ours: float, reached: bool, word: str) -> None:
    samples = [Sample(0, "ingress", "envoy", "rest", 1.0), Sample(0, "ingress", "interceptor", "rest", ours)]
    (verdict,) = Results(samples).verdicts(metric("rest"))
    assert verdict.reached is reached
    assert str(verdict) == f"<= 0.6 x envoy: {word}"


def test_what_was_not_measured_is_not_judged() -> None:
    (verdict,) = Results().verdicts(metric("connections"))
    assert verdict.reached is None
    assert str(verdict) == ">= 1.2 x envoy: not measured"
    assert Results().verdicts(metric("p50@500")) == []


def test_egress_does_not_count_for_the_bar() -> None:
    way: Direction = "egress"
    measured = Results([Sample(0, way, name, "rest", 1.0) for name in ("envoy", "interceptor")])
    assert [verdict.reached for verdict in measured.verdicts(metric("rest"))] == [None]


def test_json_holds_medians_ratios_bar_samples_and_what_was_discarded() -> None:
    measured = results(envoy=100.0, interceptor=150.0)
    measured.discarded.append(Discarded(0, "ingress", "envoy", "bulk", "no reason"))
    said = json.loads(json.dumps(measured.as_json()))
    row = said["results"]["ingress"]["requests@50"]
    assert row["medians"] == {"envoy": 100.0, "interceptor": 150.0}
    assert row["ratio_us_to"] == {"envoy": 1.5}
    assert {"metric": "requests@50", "peer": "envoy", "factor": 1.3, "ratio": 1.5, "reached": True} in said[
        "bar"
    ]
    assert len(said["samples"]) == 6
    assert said["discarded"] == [
        {"round": 0, "direction": "ingress", "name": "envoy", "measure": "bulk", "reason": "no reason"}
    ]
