"""What is counted of a control plane, where one is followed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


class XdsMetrics:
    """Responses by type and result, and whether a server is connected."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._connected = Gauge(
            "interceptor_xds_connected", "1 while a control plane is connected and answers", registry=registry
        )
        self._updates = Counter(
            "interceptor_xds_updates",
            "Responses of control planes: accepted, rejected (NACK) or ignored (of a type not asked for)",
            ("type", "result"),
            registry=registry,
        )

    def connected(self, value: bool) -> None:  # noqa: FBT001 (what it is)
        """The control plane came or went."""
        self._connected.set(value)

    def updated(self, kind: str, result: str) -> None:
        """A response was judged."""
        self._updates.labels(kind, result).inc()
