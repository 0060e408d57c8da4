"""What policies in dry run would have decided, and what AUDIT policies matched; by policy, as Istio's shadow rules count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from interceptor.model.connection import Direction
    from interceptor.policy.authorization import Shadow

MAX_SERIES: Final = 1000  # configurations come and go; further policies are counted together
OTHER: Final = "other"


class Shadows(Collector):
    """Counts decisions that were not enforced: of requests, and of connections of anything else."""

    def __init__(self) -> None:
        self._counts: dict[tuple[Direction, Shadow], int] = {}

    def add(self, direction: Direction, shadows: Iterable[Shadow]) -> None:
        """A request, or a connection, was decided."""
        for shadow in shadows:
            key = (direction, shadow)
            if key not in self._counts and len(self._counts) >= MAX_SERIES:
                key = (direction, shadow._replace(policy=OTHER))
            self._counts[key] = self._counts.get(key, 0) + 1

    def collect(self) -> Iterator[CounterMetricFamily]:
        """For the registry."""
        family = CounterMetricFamily(
            "interceptor_authorization_shadow",
            "Requests and connections by what policies in dry run would have decided, and those that audits matched.",
            labels=("direction", "policy", "action", "result"),
        )
        for (direction, shadow), count in self._counts.items():
            family.add_metric((direction.value, *shadow), count)
        yield family
