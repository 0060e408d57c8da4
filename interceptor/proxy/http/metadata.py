"""What the two gateways of a mesh hop tell each other of their workloads, in headers that nobody else sees.

Only who proved to be of the mesh is told and believed. Apps and other peers get nothing of it: what comes from them in
these headers is taken away (see ``serve``).
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Final

from interceptor.model.connection import Direction
from interceptor.model.http import get
from interceptor.model.workload import SILENT, UNKNOWN
from interceptor.protocol.peer_metadata import ID, VALUE, decode_untrusted, encode
from interceptor.routing.locality import own_locality
from interceptor.telemetry.labels import workload_labels

if TYPE_CHECKING:
    from collections.abc import Mapping

    from interceptor.config.sidecar import Sidecar
    from interceptor.model.connection import Flow
    from interceptor.model.http import Headers, ResponseHead
    from interceptor.model.request import RequestRecord
    from interceptor.routing.destinations import Decision

_NAMES: Final = (ID, VALUE)
_LABELS: Final = {
    "canonical_service": "service.istio.io/canonical-name",
    "canonical_revision": "service.istio.io/canonical-revision",
}
# Of the workload's own labels: the rest may be long, and is nobody's business.
_TOLD: Final = frozenset(
    (
        "app.kubernetes.io/name",
        "app.kubernetes.io/version",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
    )
)


class Metadata:
    """What this gateway says, and how it hears the others."""

    def __init__(self, node_id: str, struct: Mapping[str, str | Mapping[str, str]]) -> None:
        self.headers: Headers = [(ID, node_id.encode("ascii", "replace")), (VALUE, encode(struct))]
        self.lines = b"".join(b"%b: %b\r\n" % each for each in self.headers)  # as HTTP/1 has it

    @cached_property
    def fields(self) -> bytes:
        """The same as HTTP/2 has it."""
        from interceptor.protocol.http2.hpack import plain  # noqa: PLC0415 (for those who speak it)

        return b"".join(map(plain, self.headers))

    def tells(self, flow: Flow, decision: Decision) -> bool:
        """Whether the upstream of a request is another gateway of the mesh."""
        tls = decision.tls
        return tls is not None and tls.kind == "mesh" and flow.direction is Direction.EGRESS

    def begun(self, record: RequestRecord) -> None:
        """Note who asks. A connection of the mesh is one workload's, so the first request on it tells for all."""
        flow = record.flow
        if flow.direction is Direction.INGRESS and flow.security == "mutual_tls":
            if flow.peer_workload is None:
                value = get(record.head.headers, VALUE)
                flow.peer_workload = SILENT if value is None else decode_untrusted(value)
            record.workload = flow.peer_workload

    def response(self, record: RequestRecord, head: ResponseHead, decision: Decision) -> ResponseHead:
        """A response's head as it goes on: without what the upstream said, or with what we say to a peer who did."""
        if record.flow.direction is Direction.INGRESS:
            if record.workload is None or record.workload is SILENT:
                return head
            said = self.headers
        elif self.tells(record.flow, decision):
            said = []
            if (value := get(head.headers, VALUE)) is not None:
                record.workload = decode_untrusted(value)
        else:
            return head
        head = head.copy()
        head.headers = [*(each for each in head.headers if each[0].lower() not in _NAMES), *said]
        return head


def metadata_of(sidecar: Sidecar) -> Metadata:
    """What is said of a workload: by the names that Istio's proxies look for, and what of ours has none."""
    spec, own = sidecar.spec, sidecar.metadata
    known = workload_labels(sidecar)
    names = ("app", "version", "canonical_service", "canonical_revision")
    labels = {_LABELS.get(each, each): known[each] for each in names if known[each] != UNKNOWN}
    labels |= {each: value for each, value in own.labels.items() if each in _TOLD}
    locality = "/".join(own_locality(own.labels))
    told = {"MESH_ID": spec.meshId, "SERVICE_NAME": spec.serviceName, "LOCALITY": locality}
    struct: dict[str, str | Mapping[str, str]] = {
        "NAME": own.name,
        "NAMESPACE": own.namespace,
        "WORKLOAD_NAME": own.name,
        "SERVICE_ACCOUNT": spec.serviceAccount,
        "LABELS": labels,
        **{each: value for each, value in told.items() if value},
    }
    xds = spec.discovery.xds
    return Metadata((xds and xds.nodeId) or f"{own.namespace}/{own.name}", struct)
