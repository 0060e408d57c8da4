"""What the middleware did, by the name that the configuration gives it: created only where there is any."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import Counter, Histogram

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

# From a call that looks at a header (some 10 us) to the default timeout (1 s) and beyond.
DURATION_BUCKETS: Final = (0.00001, 0.00005, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)


class MiddlewareMetrics:
    """Failures of all, and the time that the user's own takes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._errors = Counter(
            "interceptor_middleware_errors_total",
            "Exceptions in middleware, and time budgets exceeded; the program log has each.",
            ("name",),
            registry=registry,
        )
        self._duration = Histogram(
            "interceptor_middleware_duration_seconds",
            "Time the user's own middleware took for a request or a connection, without waiting for others.",
            ("name",),
            buckets=DURATION_BUCKETS,
            registry=registry,
        )

    def failed(self, name: str) -> None:
        """It raised an exception, or took longer than its time budget."""
        self._errors.labels(name).inc()

    def took(self, name: str, seconds: float) -> None:
        """It was done with a request or a connection."""
        self._duration.labels(name).observe(seconds)
