from __future__ import annotations

from interceptor.config.sidecar import Sidecar
from interceptor.telemetry.metrics import Metrics


def test_an_agent_is_counted_where_there_is_one() -> None:
    metrics = Metrics(Sidecar.model_validate({"metadata": {"name": "web"}}))
    assert b"interceptor_workload_api" not in metrics.render()
    made = metrics.workload_api()
    made.connected(True)
    for result in ("accepted", "rejected", "accepted"):
        made.updated(result)
    rendered = metrics.render()
    assert b"interceptor_workload_api_connected 1.0" in rendered
    assert b'interceptor_workload_api_updates_total{result="accepted"} 2.0' in rendered
    made.connected(False)
    assert b"interceptor_workload_api_connected 0.0" in metrics.render()
