"""RateLimit: how often requests or connections may come, as a document of its own that may change at any time.

It is enforced where the Sidecar's ``spec.middleware`` has an item ``use: rateLimitDocuments``, at its place in that list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field

from interceptor.config.addresses import ip_address_or_network
from interceptor.config.base import Document, Duration, Fault, Port, Strict

if TYPE_CHECKING:
    from collections.abc import Iterator


class RateLimitSpec(Strict):
    """One limit for all together that it is about: ``number`` every ``interval``, and ``burst`` of them at once."""

    direction: Literal["ingress", "egress"]
    ports: tuple[Port, ...] = Field(default=(), strict=False)  # of the original destination; none: all
    exceptPorts: tuple[Port, ...] = Field(default=(), strict=False)  # noqa: N815 (the document's spelling)
    addresses: tuple[Annotated[str, AfterValidator(ip_address_or_network)], ...] = Field(
        default=(), strict=False
    )  # of the original destination; none: all
    scope: Literal["request", "connection"] = "request"
    number: int = Field(ge=1, le=1_000_000_000)
    interval: Duration = 1.0
    burst: int = Field(ge=1, le=1_000_000_000)


class RateLimit(Document):
    """``apiVersion: interceptor/v1``, ``kind: RateLimit``."""

    spec: RateLimitSpec

    def faults(self) -> Iterator[Fault]:
        """Ports are named, or excepted."""
        if self.spec.ports and self.spec.exceptPorts:
            yield Fault(("spec", "exceptPorts"), "has no meaning beside ports; leave one of them out")
