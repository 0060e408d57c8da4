"""What active health checks find, under Envoy's names: a dashboard of Envoy's clusters reads them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from prometheus_client import Metric
from prometheus_client.registry import Collector

from interceptor.model.health import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import CollectorRegistry

_LABEL: Final = "envoy_cluster_name"
_COUNTS: Final = {
    "attempt": "Active health checks of endpoints.",
    Outcome.SUCCESS.value: "Those that found the endpoint healthy.",
    "failure": "Those that did not, by its answer or for want of one.",
    Outcome.NETWORK_FAILURE.value: "Those that got no answer.",
}


class HealthMetrics(Collector):
    """By cluster; one that is not checked any more has no series."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._members: dict[str, tuple[int, int]] = {}
        registry.register(self)

    def checked(self, cluster: str, outcome: Outcome) -> None:
        """A check has ended."""
        self._counts["attempt", cluster] += 1
        self._counts[outcome.value, cluster] += 1
        if outcome is Outcome.NETWORK_FAILURE:  # Envoy counts it as both
            self._counts["failure", cluster] += 1

    def members(self, cluster: str, healthy: int, total: int) -> None:
        """How many endpoints there are, and how many of them are healthy."""
        self._members[cluster] = (healthy, total)

    def forget(self, cluster: str) -> None:
        """It is not checked any more."""
        self._members.pop(cluster, None)
        for name in _COUNTS:
            self._counts.pop((name, cluster), None)

    def collect(self) -> Iterator[Metric]:
        """Samples under Envoy's very names, which have no ``_total``: so the type is left open."""
        for name, text in _COUNTS.items():
            family = Metric(f"envoy_cluster_health_check_{name}", text, "unknown")
            for cluster in self._members:
                family.add_sample(family.name, {_LABEL: cluster}, self._counts[name, cluster])
            yield family
        for at, (name, text) in enumerate(
            (
                ("membership_healthy", "Endpoints that are healthy by active checks."),
                ("membership_total", "Endpoints of the clusters that are checked."),
            )
        ):
            family = Metric(f"envoy_cluster_{name}", text, "gauge")
            for cluster, found in self._members.items():
                family.add_sample(family.name, {_LABEL: cluster}, found[at])
            yield family
