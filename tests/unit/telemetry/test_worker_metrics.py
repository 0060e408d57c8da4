from __future__ import annotations

from interceptor.telemetry.metrics import exposition
from interceptor.telemetry.worker_metrics import WorkerMetrics


def test_deaths_and_what_was_lost_with_them_are_counted() -> None:
    seats = [3, 4]
    metrics = WorkerMetrics(2, seats.__getitem__, lambda: 1)
    metrics.died(137, 5)
    metrics.died(137, 0)
    metrics.died(1, 2)
    lines = exposition(metrics.collect()).decode().splitlines()
    assert {
        "interceptor_workers_ready 1.0",
        'interceptor_worker_connections_active{worker="0"} 3.0',
        'interceptor_worker_connections_active{worker="1"} 4.0',
        'interceptor_worker_restarts_total{status="137"} 2.0',
        'interceptor_worker_restarts_total{status="1"} 1.0',
        "interceptor_worker_lost_connections_total 7.0",
    } <= set(lines)
