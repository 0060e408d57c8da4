from __future__ import annotations

from interceptor.model.health import Outcome
from interceptor.telemetry.metrics import Metrics
from tests.support.documents import sidecar

NAME = "outbound|80||shop.example"


def series(metrics: Metrics) -> dict[str, str]:
    lines = metrics.render().decode().splitlines()
    found = (line.rpartition(" ") for line in lines if line.startswith("envoy_cluster_"))
    return {name: value for name, _, value in found}


def test_checks_are_counted_as_envoy_counts_them_and_forgotten_with_their_cluster() -> None:
    metrics = Metrics(sidecar())
    health = metrics.health()
    health.members(NAME, 1, 3)
    for outcome in (Outcome.SUCCESS, Outcome.FAILURE, Outcome.NETWORK_FAILURE, Outcome.NETWORK_FAILURE):
        health.checked(NAME, outcome)
    label = f'{{envoy_cluster_name="{NAME}"}}'
    assert series(metrics) == {
        f"envoy_cluster_health_check_attempt{label}": "4.0",
        f"envoy_cluster_health_check_success{label}": "1.0",
        f"envoy_cluster_health_check_failure{label}": "3.0",
        f"envoy_cluster_health_check_network_failure{label}": "2.0",
        f"envoy_cluster_membership_healthy{label}": "1.0",
        f"envoy_cluster_membership_total{label}": "3.0",
    }
    health.forget(NAME)
    assert series(metrics) == {}
