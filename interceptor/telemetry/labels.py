"""Istio's labels, out of a Sidecar document and what was decided of a flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.model.connection import Direction
from interceptor.model.workload import SILENT, UNKNOWN

if TYPE_CHECKING:
    from interceptor.config.sidecar import Sidecar
    from interceptor.model.connection import Flow, ResponseFlag
    from interceptor.model.identity import Security, SpiffeId
    from interceptor.model.workload import Workload


# Clusters that stand for no service: Istio puts their name in destination_service_name.
_NO_SERVICE: Final = frozenset(("PassthroughCluster", "BlackHoleCluster", "InboundPassthroughCluster"))

_WORKLOAD_LABELS: Final = (
    *("workload", "workload_namespace", "principal", "app", "version"),
    *("canonical_service", "canonical_revision", "cluster"),
)
ISTIO_TCP_LABELS: Final = (
    "reporter",
    *(f"source_{name}" for name in _WORKLOAD_LABELS),
    *(f"destination_{name}" for name in _WORKLOAD_LABELS),
    *("destination_service", "destination_service_name", "destination_service_namespace"),
    *("request_protocol", "response_flags", "connection_security_policy"),
)


MOST_IDENTITIES: Final = 1000  # of peers: an authority may issue without end, a metric may not


class Certified(NamedTuple):
    """What certificates proved of the other side, and what it said of itself."""

    security: Security
    other: SpiffeId | None  # the peer on ingress, the upstream on egress
    workload: Workload = SILENT


class Certifications:
    """Reads it from flows, for as many identities and workloads as a metric may have."""

    def __init__(self) -> None:
        self._known: set[SpiffeId] = set()
        self._workloads: set[Workload] = set()

    def __call__(self, flow: Flow, workload: Workload | None = None) -> Certified:
        other = flow.upstream_identity if flow.direction is Direction.EGRESS else flow.peer_identity
        if other is not None and other not in self._known:
            if len(self._known) >= MOST_IDENTITIES:
                other = None
            else:
                self._known.add(other)
        if workload is None:
            return Certified(flow.security, other)
        if workload not in self._workloads:
            if len(self._workloads) >= MOST_IDENTITIES:
                workload = SILENT
            else:
                self._workloads.add(workload)
        return Certified(flow.security, other, workload)


UNCERTIFIED: Final = Certified("none", None)


def tcp_labels(
    sidecar: Sidecar,
    direction: Direction,
    service: str,
    namespace: str,
    flag: ResponseFlag,
    certified: Certified = UNCERTIFIED,
) -> dict[str, str]:
    """Istio's labels of a TCP flow: our workload is the source on egress and the destination on ingress."""
    egress = direction is Direction.EGRESS
    ours = workload_labels(sidecar)
    unknown = dict.fromkeys(_WORKLOAD_LABELS, UNKNOWN) | certified.workload._asdict()
    if certified.other is not None:
        unknown |= {
            "principal": str(certified.other),
            "workload_namespace": certified.other.namespace,
        }
    source, destination = (ours, unknown) if egress else (unknown, ours)
    host, name, host_namespace = _service(sidecar, direction, service, namespace)
    return {
        "reporter": "source" if egress else "destination",
        **{f"source_{key}": value for key, value in source.items()},
        **{f"destination_{key}": value for key, value in destination.items()},
        "destination_service": host,
        "destination_service_name": name,
        "destination_service_namespace": host_namespace,
        "request_protocol": "tcp",
        "response_flags": flag.value,
        # Only the end that terminates can tell: Istio's source reporter says unknown.
        "connection_security_policy": UNKNOWN if egress else certified.security,
    }


def workload_labels(sidecar: Sidecar) -> dict[str, str]:
    """Our own side. The canonical names fall back in Istio's order, so that its dashboards group as they do there."""
    labels = sidecar.metadata.labels
    name = sidecar.metadata.name
    return {
        "workload": name,
        "workload_namespace": sidecar.metadata.namespace,
        "principal": UNKNOWN,  # a principal is what a certificate proved, not what a document says
        "app": labels.get("app", UNKNOWN),
        "version": labels.get("version", UNKNOWN),
        "canonical_service": _first(
            labels, "service.istio.io/canonical-name", "app.kubernetes.io/name", "app", default=name
        ),
        "canonical_revision": _first(
            labels,
            *("service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"),
            default="latest",
        ),
        "cluster": UNKNOWN,
    }


def _first(labels: dict[str, str], *names: str, default: str) -> str:
    return next((labels[name] for name in names if name in labels), default)


def _service(sidecar: Sidecar, direction: Direction, service: str, namespace: str) -> tuple[str, str, str]:
    """The destination service as Istio splits it: host, name, namespace."""
    if service in _NO_SERVICE:
        return UNKNOWN, service, UNKNOWN
    if service != UNKNOWN:
        return service, service, namespace  # Istio's name of a ServiceEntry's service is its host
    own = sidecar.spec.serviceName
    if direction is Direction.EGRESS or own is None:
        return UNKNOWN, UNKNOWN, UNKNOWN
    ours = sidecar.metadata.namespace
    host = own if "." in own else f"{own}.{ours}.svc.cluster.local"  # Kubernetes' default cluster domain
    return host, own.partition(".")[0], ours
