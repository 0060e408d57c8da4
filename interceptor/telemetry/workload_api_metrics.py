"""What is counted of a SPIFFE agent, where one gives the certificates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


class WorkloadApiMetrics:
    """Answers by result, and whether the agent is there."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._connected = Gauge(
            "interceptor_workload_api_connected", "1 while the SPIFFE agent answers", registry=registry
        )
        self._updates = Counter(
            "interceptor_workload_api_updates",
            "Answers of the SPIFFE agent: accepted or rejected",
            ("result",),
            registry=registry,
        )

    def connected(self, value: bool) -> None:  # noqa: FBT001 (what it is)
        """The agent came or went."""
        self._connected.set(value)

    def updated(self, result: str) -> None:
        """An answer was judged."""
        self._updates.labels(result).inc()
