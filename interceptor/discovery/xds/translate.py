"""PURE. Envoy's resources, in their JSON form, become our documents; what cannot be honoured is said with its path.

Every field of a resource is honoured, or says nothing of where a connection goes, or is refused by name: nothing is
ignored in silence. ``judge`` looks at one resource alone, ``documents`` at what is in use together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.config.addresses import host_name, ip_address, ip_address_or_network, is_ip_address
from interceptor.discovery.xds.messages import CLUSTER, ENDPOINT, LISTENER, Body, Judged

if TYPE_CHECKING:
    from collections.abc import Iterator

TCP_PROXY: Final = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
_INSPECTORS: Final = frozenset(
    {"envoy.filters.listener.tls_inspector", "envoy.filters.listener.original_dst"}
)
_ISTIO: Final = re.compile(
    r"outbound\|(\d{1,5})\|([^|]*)\|([^|]+)"
)  # Istio's cluster names: port, subset, host
_DNS: Final = frozenset({"STRICT_DNS", "LOGICAL_DNS"})
_TYPES: Final = frozenset({"STATIC", "EDS", "ORIGINAL_DST", *_DNS})
_POLICIES: Final = {
    "ORIGINAL_DST": "CLUSTER_PROVIDED"
}  # what lb_policy must be; of the others ROUND_ROBIN, the default
_IN_USE: Final = frozenset({"UNKNOWN", "HEALTHY"})
_NOT_IN_USE: Final = frozenset({"UNHEALTHY", "DRAINING", "TIMEOUT"})

# By message: the fields that are honoured, and those that say nothing of where a connection goes.
_CLUSTER: Final = frozenset(
    {
        *(
            "name",
            "alt_stat_name",
            "metadata",
            "type",
            "eds_cluster_config",
            "load_assignment",
            "connect_timeout",
        ),
        "lb_policy",
    }
)
_EDS: Final = frozenset({"eds_config", "service_name"})
_ASSIGNMENT: Final = frozenset({"cluster_name", "endpoints"})
_LOCALITY: Final = frozenset({"locality", "metadata", "lb_endpoints", "load_balancing_weight"})
_LB_ENDPOINT: Final = frozenset({"endpoint", "health_status", "metadata", "load_balancing_weight"})
_ENDPOINT: Final = frozenset({"address", "hostname"})
_SOCKET: Final = frozenset({"address", "port_value", "protocol"})
_LISTENER: Final = frozenset(
    {
        *("name", "stat_prefix", "metadata", "address", "bind_to_port", "filter_chains", "listener_filters"),
        "traffic_direction",
    }
)
_CHAIN: Final = frozenset({"name", "metadata", "filter_chain_match", "filters"})
_MATCH: Final = frozenset({"destination_port", "prefix_ranges"})
_RANGE: Final = frozenset({"address_prefix", "prefix_len"})
_TCP: Final = frozenset({"@type", "stat_prefix", "cluster"})


class Translation(NamedTuple):
    """The documents by ``Kind/namespace/name``; and the resources that are in none of them, and why."""

    documents: dict[str, str]
    left_out: dict[str, str]


class _Address(NamedTuple):
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Translator:
    """What of it depends on this proxy."""

    namespace: str  # of the documents
    connect: float  # seconds that the proxy waits for an upstream, whatever the cluster

    def judge(self, type_url: str, name: str, body: Body) -> Judged:
        """Whether one resource can be honoured, as far as it says so itself, and what it needs."""
        if type_url == CLUSTER:
            service = _service(name, body)
            return Judged(tuple(self._cluster(name, body)), () if service is None else ((ENDPOINT, service),))
        if type_url == ENDPOINT:
            return Judged(tuple(_assignment(body, "", names=False)))
        if type_url == LISTENER:
            problems = tuple(_listener(body))
            clusters = () if problems else dict.fromkeys(cluster for _, cluster in _chains(body))
            return Judged(problems, tuple((CLUSTER, cluster) for cluster in clusters))
        return Judged((f"a {type_url.rpartition('.')[2]} is not honoured by this version",))

    def documents(
        self, clusters: Mapping[str, Body], endpoints: Mapping[str, Body], listeners: Mapping[str, Body]
    ) -> Translation:
        """The documents of what is in use."""
        made = Translation({}, {})
        for name, body in clusters.items():
            service = _service(name, body)
            given = _mapping(body, "load_assignment") if service is None else endpoints.get(service, {})
            addresses = list(_addresses(given))
            if (problem := _unlike(name, body, addresses)) is not None:
                made.left_out[f"cluster {name}"] = problem
            elif body.get("type") != "ORIGINAL_DST":
                for spec in _of_cluster(name, body, addresses):
                    self._add(made, f"cluster {name}", spec)
        for name, body in listeners.items():
            for index, (place, cluster) in enumerate(_chains(body)):
                if cluster not in clusters:
                    why = f"there is no cluster '{cluster}'"
                elif clusters[cluster].get("type") != "ORIGINAL_DST":
                    why = (
                        f"'{cluster}' is not an ORIGINAL_DST cluster, and this version sends a connection only to the "
                        "address that was dialled"
                    )
                else:
                    spec = {"hosts": [_host(cluster)], "addresses": list(place.ranges), "resolution": "NONE"}
                    self._add(made, f"listener {name}", {**spec, "ports": _ports(place.port)})
                    continue
                made.left_out[f"listener {name}"] = f"filter_chains[{index}].filters[0].cluster: {why}"
        return made

    def _add(self, made: Translation, resource: str, spec: Mapping[str, object]) -> None:
        told = f"{resource} {json.dumps(spec['ports'])} {json.dumps(spec.get('addresses'))}"
        slug = re.sub(r"[^a-z0-9]+", "-", resource.lower())[:40].strip("-")
        name = f"{slug}-{sha256(told.encode()).hexdigest()[:12]}"
        document = {
            "apiVersion": "networking.istio.io/v1",
            "kind": "ServiceEntry",
            "metadata": {
                "name": name,
                "namespace": self.namespace,
                "annotations": {"interceptor/xds": resource},
            },
            "spec": spec,
        }
        made.documents[f"ServiceEntry/{self.namespace}/{name}"] = json.dumps(document)

    def _cluster(self, name: str, body: Body) -> Iterator[str]:
        yield from _unknown(body, _CLUSTER, "")
        kind = str(body.get("type", "STATIC"))
        if kind not in _TYPES:
            yield f"type: {kind} is not honoured; known are: {', '.join(sorted(_TYPES))}"
        if (policy := body.get("lb_policy", "ROUND_ROBIN")) != _POLICIES.get(kind, "ROUND_ROBIN"):
            yield f"lb_policy: {policy} is not honoured by a cluster of the type {kind}"
        timeout = str(body.get("connect_timeout", f"{self.connect}s")).removesuffix("s")
        if float(timeout) != self.connect:
            yield (
                f"connect_timeout: {timeout}s is not honoured: the Sidecar's spec.timeouts.connect is {self.connect:g}s "
                "for all clusters; make the two equal, or leave this one out"
            )
        if (istio := _ISTIO.fullmatch(name)) and istio[2]:
            yield f"name: the subset '{istio[2]}' is not honoured by this version"
        yield from _endpoints_of(kind, body)


def _endpoints_of(kind: str, body: Body) -> Iterator[str]:
    """A cluster has its endpoints inside, or from EDS over this stream, or none."""
    if kind == "EDS":
        config = _mapping(body, "eds_cluster_config")
        yield from _unknown(config, _EDS, "eds_cluster_config.")
        source = _mapping(config, "eds_config")
        if not source.keys() & {"ads", "self"}:
            yield "eds_cluster_config.eds_config: only ads and self are honoured: endpoints come over the same stream"
    elif "eds_cluster_config" in body:
        yield f"eds_cluster_config: has no meaning in a cluster of the type {kind}"
    if "load_assignment" not in body:
        return
    if kind in {"EDS", "ORIGINAL_DST"}:
        yield f"load_assignment: has no meaning in a cluster of the type {kind}"
    else:
        yield from _assignment(_mapping(body, "load_assignment"), "load_assignment.", names=kind in _DNS)


def _assignment(body: Body, path: str, *, names: bool) -> Iterator[str]:
    yield from _unknown(body, _ASSIGNMENT, path)
    weights: set[str] = set()
    for index, locality in enumerate(_mappings(body, "endpoints")):
        here = f"{path}endpoints[{index}]."
        yield from _unknown(locality, _LOCALITY, here)
        for number, each in enumerate(_mappings(locality, "lb_endpoints")):
            weights.add(str(each.get("load_balancing_weight", 1)))
            yield from _endpoint(each, f"{here}lb_endpoints[{number}].", names=names)
    if len(weights) > 1:
        yield f"{path}endpoints: load_balancing_weight differs between endpoints, which is not honoured by this version"


def _endpoint(body: Body, path: str, *, names: bool) -> Iterator[str]:
    yield from _unknown(body, _LB_ENDPOINT, path)
    if (status := str(body.get("health_status", "UNKNOWN"))) not in _IN_USE | _NOT_IN_USE:
        yield f"{path}health_status: {status} is not honoured"
    inside = _mapping(body, "endpoint")
    yield from _unknown(inside, _ENDPOINT, f"{path}endpoint.")
    yield from _socket(_mapping(inside, "address"), f"{path}endpoint.address", names=names)


def _socket(address: Body, path: str, *, names: bool) -> Iterator[str]:
    yield from _unknown(address, frozenset({"socket_address"}), f"{path}.")
    inside = _mapping(address, "socket_address")
    here = f"{path}.socket_address."
    yield from _unknown(inside, _SOCKET, here)
    if inside.get("protocol", "TCP") != "TCP":
        yield f"{here}protocol: only TCP is honoured"
    try:
        (host_name if names else ip_address)(str(inside.get("address", "")))
    except ValueError as error:
        yield f"{here}address: {error}"
    port = inside.get("port_value", 0)
    if not isinstance(port, int) or not 1 <= port <= 65535:
        yield f"{here}port_value: {port} is not a port"


def _addresses(assignment: Body) -> Iterator[_Address]:
    """The endpoints that are in use; of an assignment that was judged."""
    for locality in _mappings(assignment, "endpoints"):
        for each in _mappings(locality, "lb_endpoints"):
            if each.get("health_status", "UNKNOWN") in _IN_USE:
                socket = _mapping(_mapping(_mapping(each, "endpoint"), "address"), "socket_address")
                port = socket["port_value"]
                assert isinstance(port, int)
                yield _Address(host_name(str(socket["address"])), port)


def _unlike(name: str, body: Body, addresses: Sequence[_Address]) -> str | None:
    """What Istio's name of a cluster says, and its endpoints do not."""
    istio = _ISTIO.fullmatch(name)
    if istio is None:
        return None
    for host, port in addresses:
        if port != int(istio[1]):
            return f"the endpoint {host} has another port ({port}) than the service ({istio[1]}), which is not honoured"
        if str(body.get("type")) in _DNS and host != istio[3].lower():
            return f"the endpoint {host} is another name than the service {istio[3]}, which is not honoured"
    return None


def _of_cluster(name: str, body: Body, addresses: Sequence[_Address]) -> Iterator[dict[str, object]]:
    """One service entry for each port of the endpoints."""
    for port in sorted({each.port for each in addresses}):
        hosts = sorted({each.host for each in addresses if each.port == port})
        if str(body.get("type")) in _DNS:
            yield {"hosts": hosts, "resolution": "DNS", "ports": _ports(port)}
        else:
            endpoints = [{"address": host} for host in hosts]
            yield {
                "hosts": [_host(name)],
                "resolution": "STATIC",
                "endpoints": endpoints,
                "ports": _ports(port),
            }


class _Place(NamedTuple):
    """What a filter chain matches."""

    ranges: tuple[str, ...]
    port: int


def _listener(body: Body) -> Iterator[str]:
    yield from _unknown(body, _LISTENER, "")
    if body.get("traffic_direction", "OUTBOUND") != "OUTBOUND":
        yield "traffic_direction: only OUTBOUND is honoured: what is accepted for the app is the Sidecar's spec.ingress"
    if body.get("bind_to_port", True):
        yield "bind_to_port: must be false: connections come by their original destination, and no other port is opened"
    for index, each in enumerate(_mappings(body, "listener_filters")):
        if (name := str(each.get("name", ""))) not in _INSPECTORS:
            yield f"listener_filters[{index}]: '{name}' is not honoured"
    problems = list(_socket(_mapping(body, "address"), "address", names=False))
    yield from problems
    chains = _mappings(body, "filter_chains")
    if not chains:
        yield "filter_chains: there are none; nothing would be done with a connection"
    seen: set[str] = set()
    for index, chain in enumerate(chains):
        yield from _chain(chain, body, f"filter_chains[{index}].", known_address=not problems)
        key = json.dumps(_mapping(chain, "filter_chain_match"), sort_keys=True)
        if key in seen:
            yield f"filter_chains[{index}].filter_chain_match: is that of a chain before it"
        seen.add(key)


def _chain(chain: Body, listener: Body, path: str, *, known_address: bool) -> Iterator[str]:
    yield from _unknown(chain, _CHAIN, path)
    match = _mapping(chain, "filter_chain_match")
    yield from _unknown(match, _MATCH, f"{path}filter_chain_match.")
    if known_address:
        yield from _range_faults(match, _socket_of(listener), f"{path}filter_chain_match.")
    filters = _mappings(chain, "filters")
    if len(filters) != 1:
        yield f"{path}filters: one filter, a tcp_proxy, is honoured, not {len(filters)}"
    for index, each in enumerate(filters):
        here = f"{path}filters[{index}]."
        yield from _unknown(each, frozenset({"name", "typed_config"}), here)
        config = _mapping(each, "typed_config")
        if config.get("@type") != TCP_PROXY:
            yield f"{here}typed_config: '{config.get('@type')}' is not honoured; known is a tcp_proxy"
            continue
        yield from _unknown(config, _TCP, f"{here}typed_config.")
        if not config.get("cluster"):
            yield f"{here}typed_config.cluster: is required; weighted_clusters are not honoured"


def _range_faults(match: Body, address: _Address, path: str) -> Iterator[str]:
    if match.get("destination_port", address.port) != address.port:
        yield f"{path}destination_port: a listener of port {address.port} never sees another one"
    ranges = _mappings(match, "prefix_ranges")
    anywhere = address.host in {"0.0.0.0", "::"}  # noqa: S104 (what a listener that takes any destination has)
    if anywhere and not ranges:
        yield f"{path}prefix_ranges: the address {address.host} is every destination; which are honoured is to be said here"
    if ranges and not anywhere:
        yield f"{path}prefix_ranges: are honoured only where the listener's address is 0.0.0.0 or ::"
    for index, each in enumerate(ranges):
        here = f"{path}prefix_ranges[{index}]"
        yield from _unknown(each, _RANGE, f"{here}.")
        try:
            ip_address_or_network(_range(each))
        except ValueError as error:
            yield f"{here}: {error}"


def _range(each: Body) -> str:
    return f"{each.get('address_prefix', '')}/{each.get('prefix_len', 0)}"


def _socket_of(listener: Body) -> _Address:
    socket = _mapping(_mapping(listener, "address"), "socket_address")
    port = socket["port_value"]
    assert isinstance(port, int)
    return _Address(ip_address(str(socket["address"])), port)


def _chains(body: Body) -> list[tuple[_Place, str]]:
    """What each chain of a listener that was judged matches, and the cluster it goes to."""
    address = _socket_of(body)
    chains: list[tuple[_Place, str]] = []
    for chain in _mappings(body, "filter_chains"):
        ranges = _mappings(_mapping(chain, "filter_chain_match"), "prefix_ranges")
        given = tuple(ip_address_or_network(_range(each)) for each in ranges)
        config = _mapping(_mappings(chain, "filters")[0], "typed_config")
        chains.append((_Place(given or (address.host,), address.port), str(config["cluster"])))
    return chains


def _ports(number: int) -> list[dict[str, object]]:
    return [{"number": number, "name": f"tcp-{number}", "protocol": "TCP"}]


def _service(name: str, body: Body) -> str | None:
    """The name by which a cluster's endpoints are asked for."""
    if body.get("type") != "EDS":
        return None
    return str(_mapping(body, "eds_cluster_config").get("service_name") or name)


def _host(cluster: str) -> str:
    """The host that a cluster is known by: Istio's, its name where that is one, else one made of it."""
    istio = _ISTIO.fullmatch(cluster)
    name = istio[3] if istio else cluster
    try:
        if not is_ip_address(name):
            return host_name(name)
    except ValueError:
        pass
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower())[:40].strip("-")
    return f"{slug or 'cluster'}-{sha256(name.encode()).hexdigest()[:8]}"


def _unknown(body: Body, honoured: frozenset[str], path: str) -> Iterator[str]:
    for field in sorted(body.keys() - honoured):
        yield f"{path}{field}: is not honoured by this version"


def _mapping(body: Body, field: str) -> Body:
    value = body.get(field)
    return value if isinstance(value, Mapping) else {}


def _mappings(body: Body, field: str) -> list[Body]:
    value = body.get(field)
    given = value if isinstance(value, Sequence) and not isinstance(value, str) else ()
    return [each if isinstance(each, Mapping) else {} for each in given]
