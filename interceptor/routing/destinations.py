"""Where a flow may go: the egress policy over the registry, and the app's own ports on ingress.

Pure: the registry holds addresses that somebody else resolved. Lookups are by hash for single addresses and by
longest prefix for CIDRs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interceptor.model.address import UpstreamAddress


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided for a flow, once, from plain data."""

    upstreams: tuple[UpstreamAddress, ...]  # tried in order; the next only where the one before refused
    cluster: (
        str  # Envoy's cluster names: PassthroughCluster, BlackHoleCluster, outbound|443||host, inbound|8080||
    )
    service: (
        str  # the ServiceEntry host, or Istio's PassthroughCluster, BlackHoleCluster; "unknown" on ingress
    )
    policy: str  # the document or setting that decided, for the log: "egress.policy=ALLOW_ANY", "ServiceEntry ns/name"
    denied: str | None = None  # the reason label when refused ("registry", "loop"); upstreams is then empty
    details: str = "-"  # one sentence for the operator
