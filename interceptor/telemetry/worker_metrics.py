"""What is counted of the workers themselves, where there are several."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client import Metric


class WorkerMetrics:
    """Series of the main process, which outlive every worker."""

    def __init__(self, workers: int, connections: Callable[[int], int], ready: Callable[[], int]) -> None:
        self._registry = registry = CollectorRegistry()
        Gauge("interceptor_workers_ready", "Workers that serve connections.", registry=registry).set_function(
            ready
        )
        active = Gauge(
            "interceptor_worker_connections_active",
            "Flows that are open now, by the worker that has them.",
            ("worker",),
            registry=registry,
        )
        for slot in range(workers):
            active.labels(str(slot)).set_function(lambda slot=slot: connections(slot))  # type: ignore[misc]  # bound now
        self._restarts = Counter(
            "interceptor_worker_restarts_total",
            "Workers that died and were replaced, by the exit status (128 and the signal's number for a signal).",
            ("status",),
            registry=registry,
        )
        self._lost = Counter(
            "interceptor_worker_lost_connections_total",
            "Flows that were reset because their worker died; no access log has them.",
            registry=registry,
        )

    def died(self, status: int, connections: int) -> None:
        """A worker ended that was not told to, and took so many connections with it."""
        self._restarts.labels(str(status)).inc()
        self._lost.inc(connections)

    def collect(self) -> Iterable[Metric]:
        """Every series, as of now."""
        return self._registry.collect()
