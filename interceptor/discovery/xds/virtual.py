"""PURE. Envoy's listener of whatever no other one takes (Istio's virtualOutbound): judged, and held against the Sidecar.

Where such connections go is the Sidecar's ``spec.egress.policy``, and what is sent to the gateway itself is refused, so
that the listener becomes no document; it has to say the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from interceptor.discovery.xds import endpoints, filters, observed
from interceptor.discovery.xds.filters import is_http
from interceptor.discovery.xds.messages import CLUSTER
from interceptor.discovery.xds.reading import mapping, mappings, unknown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from interceptor.discovery.xds.messages import Body, Key

_LISTENER: Final = observed.LISTENER | {
    *("name", "stat_prefix", "metadata", "address", "filter_chains", "traffic_direction", "use_original_dst"),
}
_CHAIN: Final = frozenset({"name", "metadata", "filter_chain_match", "filters"})


def is_virtual(body: Body) -> bool:
    """Whether a listener of what goes out is such a one."""
    return body.get("use_original_dst") is True


def judge(body: Body) -> Iterator[str]:
    """What of it is not honoured."""
    yield from unknown(body, _LISTENER, "")
    problems = list(endpoints.socket_faults(mapping(body, "address"), "address", names=False))
    yield from problems
    rest = 0
    for index, chain in enumerate(mappings(body, "filter_chains")):
        path = f"filter_chains[{index}]."
        yield from unknown(chain, _CHAIN, path)
        yield from filters.judge(chain, path)
        if (name := filters.timed(chain)) is not None:
            yield f"{path}filters: {name} of a tcp_proxy is not honoured here; it is the Sidecar's spec.timeouts.idle"
        match = mapping(chain, "filter_chain_match")
        yield from unknown(match, frozenset({"destination_port"}), f"{path}filter_chain_match.")
        rest += not match
        if match and not problems and match.get("destination_port") != endpoints.socket_of(body).port:
            yield f"{path}filter_chain_match.destination_port: only the listener's own port is honoured here"
        if is_http(chain) or filters.is_guarded(chain):
            yield f"{path}filters: only a tcp_proxy is honoured in a listener with use_original_dst"
    if rest != 1:
        yield "filter_chains: one of them must take what no other one does"


def needs(body: Body) -> Iterator[Key]:
    """What it cannot be used without."""
    for cluster, _ in _clusters(body):
        yield CLUSTER, cluster


def _clusters(body: Body) -> Iterator[tuple[str, bool]]:
    """Each cluster, and whether it is that of what is sent to the gateway itself."""
    for chain in mappings(body, "filter_chains"):
        for cluster, _ in filters.read(chain).clusters:
            yield cluster, bool(mapping(chain, "filter_chain_match"))


def unlike(body: Body, clusters: Mapping[str, Body], *, registry_only: bool) -> str | None:
    """What it says that the gateway does not do."""
    for name, own in _clusters(body):
        given = clusters.get(name, {})
        passes = given.get("type") == "ORIGINAL_DST"
        if not passes and (given.get("type", "STATIC") != "STATIC" or endpoints.addresses(name, given, {})):
            return f"the cluster '{name}' is honoured only where it has the type ORIGINAL_DST or no endpoints"
        if own and passes:
            return f"the cluster '{name}' would send what is sent to the gateway itself to the gateway again"
        if not own and passes == registry_only:
            does, wanted = ("passes", "ALLOW_ANY") if passes else ("closes", "REGISTRY_ONLY")
            return (
                f"it {does} what no document names; set the Sidecar's spec.egress.policy: {wanted} for that"
            )
    return None
