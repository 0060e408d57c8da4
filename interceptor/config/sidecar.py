"""The Sidecar document: this proxy's own settings. Defaults stand here and nowhere else.

Durations are seconds (written ``10s``, ``1m30s``, ``1h``); addresses are ``host:port``.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from interceptor.model.ports import ADMIN_PORT, DNS_PORT, EGRESS_PORT, INGRESS_PORT, TELEMETRY_PORT

_DURATION: Final = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+)ms)?")


def _seconds(value: object) -> object:
    """Istio's duration form (Go's) in seconds; anything else is left for the type to refuse."""
    if not isinstance(value, str):
        raise ValueError("is not a duration; write it like 10s, 1m30s or 500ms")  # noqa: TRY004 (pydantic collects ValueError)
    match = _DURATION.fullmatch(value)
    if not match or not any(match.groups()):
        raise ValueError(f"'{value}' is not a duration; write it like 10s, 1m30s or 500ms")
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


Duration = Annotated[float, BeforeValidator(_seconds), Field(gt=0, le=86_400 * 30)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Strict(BaseModel):
    """A field we do not honour is an error by name, never ignored in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=False)


class Metadata(Strict):
    """The workload this proxy stands beside."""

    name: str = Field(min_length=1, max_length=253)
    namespace: str = Field(default="default", min_length=1, max_length=253)
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class AppPort(Strict):
    """A port the app serves; ``tcp`` and ``auto`` are relayed as they are."""

    port: Port
    protocol: Literal["auto", "tcp"] = "auto"


class Ingress(Strict):
    """Connections from peers to the app."""

    port: Port = INGRESS_PORT
    ports: tuple[AppPort, ...] = Field(default=(), strict=False)


class Egress(Strict):
    """Connections of the app to the world."""

    port: Port = EGRESS_PORT
    policy: Literal["ALLOW_ANY", "REGISTRY_ONLY"] = "ALLOW_ANY"


class Admin(Strict):
    """The admin endpoint: loopback only."""

    address: str = f"127.0.0.1:{ADMIN_PORT}"


class TelemetryEndpoint(Strict):
    """Metrics and health, for scrapers and probes: all addresses."""

    address: str = f"[::]:{TELEMETRY_PORT}"


class AccessLog(Strict):
    """One line per connection; ``-`` is standard output."""

    format: Literal["json", "text"] = "json"
    path: str = Field(default="-", min_length=1)


class Limits(Strict):
    """What is bounded."""

    connections: int = Field(default=10_000, ge=1, le=1_000_000)


class Timeouts(Strict):
    """What is waited for, and how long."""

    connect: Duration = 10.0  # Envoy's and Istio's default
    idle: Duration = 3600.0  # Envoy's TCP idle timeout
    linger: Duration = 60.0  # silence after a first FIN: nf_conntrack_tcp_timeout_close_wait is 60 s as well
    drainDelay: Duration = 1.0  # noqa: N815 (the document's spelling): accepts go on while readiness is seen to be off
    drain: Duration = 5.0  # Istio's terminationDrainDuration


class SidecarSpec(Strict):
    """Everything the proxy is told about itself."""

    serviceName: str | None = None  # noqa: N815 (the document's spelling, here and below)
    meshId: str | None = None  # noqa: N815
    trustDomain: str = "cluster.local"  # noqa: N815
    serviceAccount: str = "default"  # noqa: N815
    ingress: Ingress = Ingress()
    egress: Egress = Egress()
    admin: Admin = Admin()
    telemetry: TelemetryEndpoint = TelemetryEndpoint()
    accessLog: AccessLog = AccessLog()  # noqa: N815
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()


class Sidecar(Strict):
    """``apiVersion: interceptor/v1``, ``kind: Sidecar``."""

    metadata: Metadata
    spec: SidecarSpec = SidecarSpec()

    @property
    def own_ports(self) -> frozenset[int]:
        """The ports this proxy listens on: never captured on ingress, never an upstream."""
        endpoints = (self.spec.admin.address, self.spec.telemetry.address)
        named = (int(address.rpartition(":")[2]) for address in endpoints)
        return frozenset((self.spec.ingress.port, self.spec.egress.port, DNS_PORT, *named))
