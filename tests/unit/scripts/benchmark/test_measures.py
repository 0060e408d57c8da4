from __future__ import annotations

from scripts.benchmark.measures import BARS, METRICS, PEERS


def test_every_bar_is_set_for_a_known_metric_and_peer() -> None:
    keys = [metric.key for metric in METRICS]
    assert len(set(keys)) == len(keys)
    assert {bar.metric for bar in BARS} <= set(keys)
    assert {bar.peer for bar in BARS} <= set(PEERS)
