"""PURE. Who we are to a control plane, and what an operator is told of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from interceptor.config.sidecar import Sidecar
    from interceptor.config.xds import Xds
    from interceptor.discovery.xds.messages import Key


@dataclass(frozen=True, slots=True)
class Status:
    """What an operator is told."""

    connected: str | None = None  # the server's address
    reason: str = "no server has been reached yet"  # why it is not connected
    versions: Mapping[str, str] = field(default_factory=dict)
    rejected: Mapping[Key, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    waiting: tuple[Key, ...] = ()

    def dump(self) -> dict[str, object]:
        """As JSON has it."""
        return {
            "connected": self.connected,
            "reason": None if self.connected else self.reason,
            "versions": {short(type_url): version for type_url, version in self.versions.items()},
            "rejected": {f"{short(of)} {name}": why for (of, name), why in self.rejected.items()},
            "leftOut": dict(self.left_out),
            "waiting": [f"{short(of)} {name}" for of, name in self.waiting],
        }


def short(type_url: str) -> str:
    """A type by its last name."""
    return type_url.rpartition(".")[2]


def node(sidecar: Sidecar, settings: Xds) -> dict[str, object]:
    """Who we are, for the control plane."""
    spec, metadata = sidecar.spec, sidecar.metadata
    given = {
        "NAME": metadata.name,
        "NAMESPACE": metadata.namespace,
        "LABELS": dict(metadata.labels),
        "SERVICE_ACCOUNT": spec.serviceAccount,
        **({"MESH_ID": spec.meshId} if spec.meshId else {}),
    }
    where = settings.locality
    return {
        "id": settings.nodeId or f"{metadata.namespace}/{metadata.name}",
        "cluster": sidecar.service_name,
        "locality": {"region": where.region, "zone": where.zone, "subZone": where.subZone},
        "metadata": given,
        "userAgentName": "interceptor",
    }
