"""PURE. Envoy's clusters: judged alone, and as the services and the rules about them that they make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, get_args

from interceptor.config.addresses import DnsLookupFamily
from interceptor.discovery.xds import balancers, health_checks, observed, protocols, transport_sockets
from interceptor.discovery.xds.endpoints import in_use, judge_assignment
from interceptor.discovery.xds.reading import (
    ISTIO,
    UNLIMITED,
    alias_of,
    decimal,
    host_of,
    mapping,
    mappings,
    number,
    seconds,
    unknown,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from interceptor.discovery.xds.endpoints import Address
    from interceptor.discovery.xds.messages import Body

    Own = tuple[str, str] | None  # the secrets that are the workload's certificate and trust bundle

_TLS_MATCH: Final = (
    "envoy.transport_socket_match"  # the metadata of an endpoint that chooses its transport socket
)
DNS: Final = frozenset({"STRICT_DNS", "LOGICAL_DNS"})
_FAMILIES: Final = get_args(DnsLookupFamily)
_LOOPBACKS: Final = frozenset({"127.0.0.6", "::6"})
_TYPES: Final = frozenset({"STATIC", "EDS", "ORIGINAL_DST", *DNS})

# By message: the fields that are honoured, and those that say nothing of where a connection goes.
_CLUSTER: Final = observed.CLUSTER | frozenset(
    {
        *("name", "alt_stat_name", "metadata", "type", "eds_cluster_config", "load_assignment"),
        *("connect_timeout", "lb_policy", "common_lb_config", *balancers.FIELDS),
        *("dns_lookup_family", "dns_refresh_rate", "respect_dns_ttl"),
        *("circuit_breakers", "outlier_detection", "typed_extension_protocol_options"),
        *("transport_socket", "transport_socket_matches", "upstream_connection_options"),
        *("filters", "upstream_bind_config", "cleanup_interval", "health_checks"),
    }
)
_KEEPALIVE: Final = {  # the field, Istio's name of it, and the most that Linux takes
    "keepalive_probes": ("probes", 127),
    "keepalive_time": ("time", 32767),
    "keepalive_interval": ("interval", 32767),
}
_EDS: Final = frozenset({"eds_config", "service_name"})
_THRESHOLDS: Final = frozenset(
    {
        *("priority", "max_connections", "max_pending_requests", "max_requests", "max_retries"),
        *("track_remaining", "retry_budget"),
    }
)
_OUTLIERS: Final = frozenset(
    {
        *("consecutive_5xx", "interval", "base_ejection_time", "max_ejection_percent"),
        *("consecutive_gateway_failure", "split_external_local_origin_errors"),
        *("consecutive_local_origin_failure", "enforcing_consecutive_5xx", "enforcing_success_rate"),
        *("enforcing_consecutive_gateway_failure", "enforcing_consecutive_local_origin_failure"),
        *("enforcing_local_origin_success_rate", "enforcing_failure_percentage"),
        "enforcing_failure_percentage_local_origin",
    }
)
# What is ejected by: the field and Envoy's default. What of it we do not do must be switched off.
_ENFORCED: Final = {
    "enforcing_consecutive_5xx": 100,
    "enforcing_consecutive_gateway_failure": 0,
    "enforcing_consecutive_local_origin_failure": 100,
}
_NOT_ENFORCED: Final = {
    "enforcing_success_rate": 100,
    "enforcing_local_origin_success_rate": 0,  # 100 only together with split_external_local_origin_errors
    "enforcing_failure_percentage": 0,
    "enforcing_failure_percentage_local_origin": 0,
}


def judge(body: Body, connect: float, own: Own = None, trusted: tuple[str, ...] = ()) -> Iterator[str]:
    """What of a cluster is not honoured."""
    yield from unknown(body, _CLUSTER, "")
    kind = str(body.get("type", "STATIC"))
    if kind not in _TYPES:
        yield f"type: {kind} is not honoured; known are: {', '.join(sorted(_TYPES))}"
    policy = body.get("lb_policy", "ROUND_ROBIN")
    if (policy == "CLUSTER_PROVIDED") != (kind == "ORIGINAL_DST") or policy not in {
        *balancers.POLICIES,
        "CLUSTER_PROVIDED",
    }:
        yield f"lb_policy: {policy} is not honoured by a cluster of the type {kind}"
    timeout = seconds(body, "connect_timeout")
    if kind == "ORIGINAL_DST" and timeout not in (None, connect):
        yield (
            f"connect_timeout: {timeout:g}s is not honoured: the Sidecar's spec.timeouts.connect is {connect:g}s "
            "where the address that was dialled is; make the two equal, or leave this one out"
        )
    elif timeout is not None and timeout <= 0:
        yield "connect_timeout: must be more than 0s"
    if (family := body.get("dns_lookup_family", "AUTO")) not in _FAMILIES:
        yield f"dns_lookup_family: {family} is not honoured; known are: {', '.join(_FAMILIES)}"
    if "dns_refresh_rate" in body and body.get("respect_dns_ttl") is not True:
        yield "dns_refresh_rate: names hold for their TTL, from 5 s to 5 minutes; send respect_dns_ttl: true"
    yield from balancers.judge(body)
    yield from protocols.judge(kind, body)
    yield from health_checks.judge(kind, body)
    yield from _transport_faults(kind, body, own, trusted)
    yield from _istio_faults(kind, body)
    yield from _keepalive_faults(kind, body)
    yield from _breaker_faults(mapping(body, "circuit_breakers"))
    yield from _outlier_faults(mapping(body, "outlier_detection"))
    yield from _endpoints_of(kind, body)


def _istio_faults(kind: str, body: Body) -> Iterator[str]:
    """Filters that only observe, and the address by which Istio's rules know a sidecar's connections to its app."""
    for index, each in enumerate(mappings(body, "filters")):
        config = mapping(each, "typed_config")
        if observed.kind(config) not in observed.FILTERS or each.keys() - {"name", "typed_config"}:
            yield f"filters[{index}].typed_config: '{config.get('@type')}' is not honoured"
    bind = mapping(body, "upstream_bind_config")
    yield from unknown(bind, frozenset({"source_address"}), "upstream_bind_config.")
    source = mapping(bind, "source_address")
    if bind and (
        kind != "ORIGINAL_DST" or source.get("address") not in _LOOPBACKS or source.get("port_value")
    ):
        yield "upstream_bind_config: only 127.0.0.6 and ::6 are honoured, in a cluster of the type ORIGINAL_DST"


def _transport_faults(kind: str, body: Body, own: Own, trusted: tuple[str, ...]) -> Iterator[str]:
    http2, checks = protocols.speaks_http2(body), protocols.checks_names(body)
    for path, socket in _sockets(body):
        if kind == "ORIGINAL_DST" and transport_sockets.read(socket, path) is not None:
            yield f"{path.removesuffix('.')}: is not honoured in a cluster of the type ORIGINAL_DST"
        yield from transport_sockets.judge_client(
            socket, path, http2=http2, checks_names=checks, own=own, trusted=trusted
        )
    for index, each in enumerate(mappings(body, "transport_socket_matches")):
        here = f"transport_socket_matches[{index}]."
        yield from unknown(each, frozenset({"name", "match", "transport_socket"}), here)


def _sockets(body: Body) -> Iterator[tuple[str, Body]]:
    """Every transport socket of a cluster, with its path."""
    if "transport_socket" in body:
        yield "transport_socket.", mapping(body, "transport_socket")
    for index, each in enumerate(mappings(body, "transport_socket_matches")):
        yield f"transport_socket_matches[{index}].transport_socket.", mapping(each, "transport_socket")


def contexts(body: Body) -> list[transport_sockets.Context]:
    """The TLS contexts of a cluster."""
    found = (transport_sockets.read(socket, path) for path, socket in _sockets(body))
    return [each for each in found if each is not None]


def secrets(body: Body) -> list[str]:
    """The names of the secrets that a cluster cannot be used without."""
    return [name for each in contexts(body) for name in each.secrets]


def transport(name: str, body: Body, endpoints: Mapping[str, Body]) -> dict[str, object] | str | None:
    """The TLS settings of a cluster that was judged, None in the clear; or why its endpoints have none together."""
    matches = mappings(body, "transport_socket_matches")
    chosen: set[int] = set()
    for each in in_use(name, body, endpoints) if matches else ():
        given = mapping(mapping(mapping(each, "metadata"), "filter_metadata"), _TLS_MATCH)
        fits = (at for at, one in enumerate(matches) if mapping(one, "match").items() <= given.items())
        chosen.add(next(fits, len(matches)))
    if len(chosen) > 1:
        return "its endpoints ask for different transport sockets, which is not honoured by this version"
    sockets = [*(mapping(each, "transport_socket") for each in matches), mapping(body, "transport_socket")]
    socket = sockets[chosen.pop()] if chosen else sockets[-1]
    return transport_sockets.client(socket) if socket else None


def _keepalive_faults(kind: str, body: Body) -> Iterator[str]:
    options, path = mapping(body, "upstream_connection_options"), "upstream_connection_options."
    yield from unknown(options, frozenset({"tcp_keepalive"}), path)
    asked, path = mapping(options, "tcp_keepalive"), f"{path}tcp_keepalive"
    if "tcp_keepalive" in options and kind == "ORIGINAL_DST":
        yield f"{path}: is not honoured in a cluster of the type ORIGINAL_DST"
    yield from unknown(asked, frozenset(_KEEPALIVE), f"{path}.")
    for name, (_, most) in _KEEPALIVE.items():
        if not 0 <= number(asked, name, 0) <= most:
            yield f"{path}.{name}: must be from 0 to {most}"


def _keepalive(body: Body) -> dict[str, object] | None:
    """Istio's form of it; what is not given, or 0, is as the kernel has it."""
    options = mapping(body, "upstream_connection_options")
    asked = mapping(options, "tcp_keepalive")
    given = {ours: value for name, (ours, _) in _KEEPALIVE.items() if (value := number(asked, name, 0))}
    made: dict[str, object] = {
        name: value if name == "probes" else f"{value}s" for name, value in given.items()
    }
    return made if "tcp_keepalive" in options else None


def _breaker_faults(body: Body) -> Iterator[str]:
    yield from unknown(body, frozenset({"thresholds"}), "circuit_breakers.")
    for index, each in enumerate(mappings(body, "thresholds")):
        here = f"circuit_breakers.thresholds[{index}]."
        yield from unknown(each, _THRESHOLDS, here)
        if each.get("priority", "DEFAULT") != "DEFAULT":
            yield f"{here}priority: only DEFAULT is honoured"
        for name in ("max_connections", "max_pending_requests", "max_requests", "max_retries"):
            if number(each, name, 1) < 1:
                yield f"{here}{name}: must be at least 1"
        budget, here = mapping(each, "retry_budget"), f"{here}retry_budget."
        yield from unknown(budget, frozenset({"budget_percent", "min_retry_concurrency"}), here)
        yield from unknown(mapping(budget, "budget_percent"), frozenset({"value"}), f"{here}budget_percent.")
        if not 0 <= decimal(mapping(budget, "budget_percent"), "value", 20.0) <= 100:
            yield f"{here}budget_percent: must be from 0 to 100"


def _outlier_faults(body: Body) -> Iterator[str]:
    if not body:
        return
    path = "outlier_detection."
    yield from unknown(body, _OUTLIERS, path)
    for name, default in _ENFORCED.items():
        if number(body, name, default) not in {0, 100}:
            yield f"{path}{name}: only 0 and 100 are honoured"
    for name, default in _NOT_ENFORCED.items():
        if number(body, name, default):
            yield f"{path}{name}: is {number(body, name, default)}, which is not honoured by this version; send 0"
    for name in ("interval", "base_ejection_time"):
        if (given := seconds(body, name)) is not None and given <= 0:
            yield f"{path}{name}: must be more than 0s"
    if not 0 <= number(body, "max_ejection_percent", 10) <= 100:
        yield f"{path}max_ejection_percent: must be from 0 to 100"


def _endpoints_of(kind: str, body: Body) -> Iterator[str]:
    """A cluster has its endpoints inside, or from EDS over this stream, or none."""
    if kind == "EDS":
        config = mapping(body, "eds_cluster_config")
        yield from unknown(config, _EDS, "eds_cluster_config.")
        source = mapping(config, "eds_config")
        if not source.keys() & {"ads", "self"}:
            yield "eds_cluster_config.eds_config: only ads and self are honoured: endpoints come over the same stream"
    elif "eds_cluster_config" in body:
        yield f"eds_cluster_config: has no meaning in a cluster of the type {kind}"
    if "load_assignment" not in body:
        return
    if kind in {"EDS", "ORIGINAL_DST"}:
        yield f"load_assignment: has no meaning in a cluster of the type {kind}"
    else:
        yield from judge_assignment(mapping(body, "load_assignment"), "load_assignment.", names=kind in DNS)


def entries(name: str, body: Body, found: Sequence[Address], protocol: str) -> Iterator[dict[str, object]]:
    """A service for each port of the endpoints; where they have several, one more of all of them together."""
    several = sorted({each.port for each in found})
    for port in several:
        ends = {each.host: each for each in sorted(found, reverse=True) if each.port == port}
        there = sorted(ends.values())
        how = _resolution(body)
        if _is_one_name(name, body, found):
            yield {"hosts": [each.host for each in there], **how, "ports": ports(port, protocol)}
        else:
            equal = len({each.weight for each in there}) == 1
            yield {
                "hosts": [host_of(name), *([] if len(several) > 1 else [alias_of(name)])],
                **how,
                "endpoints": [_endpoint(each, weighted=not equal) for each in there],
                "ports": ports(port, protocol),
            }
    if len(several) > 1:  # the last one: an address and a port are another one's first
        yield _together(name, body, found, protocol)


def _resolution(body: Body) -> dict[str, object]:
    if str(body.get("type")) in DNS:
        return {"resolution": "DNS", "dnsLookupFamily": body.get("dns_lookup_family", "AUTO")}
    return {"resolution": "STATIC"}


def _together(name: str, body: Body, found: Sequence[Address], protocol: str) -> dict[str, object]:
    """The service that routes to endpoints of several ports lead to; nobody dials it by an address."""
    [port] = ports(_port(found), protocol)
    equal = len({each.weight for each in found}) == 1
    ends = [
        {**_endpoint(each, weighted=not equal), "ports": {port["name"]: each.port}} for each in sorted(found)
    ]
    return {"hosts": [alias_of(name)], **_resolution(body), "endpoints": ends, "ports": [port]}


def _port(found: Sequence[Address]) -> int:
    """The port of the service of all endpoints: one that each address has, else one that no app dials.

    What is dialled at an endpoint's address and this port is the service's: it must not be another one's.
    """
    by_host: dict[str, set[int]] = {}
    for each in found:
        by_host.setdefault(each.host, set()).add(each.port)
    return min(set.intersection(*by_host.values()), default=1)


def _endpoint(each: Address, *, weighted: bool) -> dict[str, object]:
    """What is as everywhere is left out: there may be thousands."""
    made: dict[str, object] = {"address": each.host}
    if weighted:
        made["weight"] = each.weight
    given = {"priority": each.priority, "localityWeight": each.share, "locality": each.locality}
    return {**made, **{name: value for name, value in given.items() if value}}


def destination(name: str, body: Body, found: Sequence[Address]) -> dict[str, object] | str:
    """Where a route to a cluster sends a request; or why it cannot."""
    if body.get("type") == "ORIGINAL_DST":
        return "it goes to the address that was dialled, which is honoured only as all that a virtual host '*' does"
    if not _is_one_name(name, body, found) or len({each.port for each in found}) > 1:
        port = _port(found) if found else 80  # without endpoints the port means nothing
        return {"host": alias_of(name), "port": {"number": port}}
    return {"host": found[0].host, "port": {"number": found[0].port}}


def rule(
    name: str, body: Body, hash_on: Body | None, tls: Body | None, times: Mapping[str, str]
) -> dict[str, object]:
    """The traffic policy of a cluster that was judged; ``times``: how long the connections last that are relayed to it."""
    thresholds = next(iter(mappings(mapping(body, "circuit_breakers"), "thresholds")), {})
    bounds = {
        "http1MaxPendingRequests": number(thresholds, "max_pending_requests", 1024),  # Envoy's defaults
        "http2MaxRequests": number(thresholds, "max_requests", 1024),
        "maxRetries": number(thresholds, "max_retries", 3),
    }
    budget = mapping(thresholds, "retry_budget")
    if "retry_budget" in thresholds:  # Envoy: it holds in place of max_retries
        bounds.pop("maxRetries")
    http, tcp = protocols.written(body)
    tcp.update(times)
    tcp["connectTimeout"] = f"{seconds(body, 'connect_timeout') or 5.0:f}s"  # Envoy's default
    if (connections := number(thresholds, "max_connections", 1024)) != UNLIMITED:
        tcp["maxConnections"] = connections
    if (keepalive := _keepalive(body)) is not None:
        tcp["tcpKeepalive"] = keepalive
    made: dict[str, object] = {
        "loadBalancer": balancers.written(body, hash_on),
        "connectionPool": {
            "http": {**{name: value for name, value in bounds.items() if value != UNLIMITED}, **http},
            "tcp": tcp,
        },
    }
    if "retry_budget" in thresholds:
        made["retryBudget"] = {
            "percent": decimal(mapping(budget, "budget_percent"), "value", 20.0),
            "minRetryConcurrency": number(budget, "min_retry_concurrency", 3),
        }
    if tls is not None:
        made["tls"] = tls
    if (check := health_checks.written(name, body)) is not None:
        made["healthCheck"] = check
    if outliers := mapping(body, "outlier_detection"):
        made["outlierDetection"] = _outliers(outliers, balancers.panic(body))
    return made


def _outliers(body: Body, panic: int) -> dict[str, object]:
    def enforced(name: str, switch: str) -> int:
        return number(body, name, 5) if number(body, switch, _ENFORCED[switch]) else 0

    return {
        "consecutive5xxErrors": enforced("consecutive_5xx", "enforcing_consecutive_5xx"),
        "consecutiveGatewayErrors": enforced(
            "consecutive_gateway_failure", "enforcing_consecutive_gateway_failure"
        ),
        "splitExternalLocalOriginErrors": bool(body.get("split_external_local_origin_errors", False)),
        "consecutiveLocalOriginFailures": enforced(
            "consecutive_local_origin_failure", "enforcing_consecutive_local_origin_failure"
        ),
        "interval": f"{seconds(body, 'interval') or 10.0:f}s",
        "baseEjectionTime": f"{seconds(body, 'base_ejection_time') or 30.0:f}s",
        "maxEjectionPercent": number(body, "max_ejection_percent", 10),
        "minHealthPercent": panic,
    }


def ports(number_: int, protocol: str) -> list[dict[str, object]]:
    """The one port of a service."""
    return [{"number": number_, "name": f"{protocol.lower()}-{number_}", "protocol": protocol}]


def _is_one_name(name: str, body: Body, found: Sequence[Address]) -> bool:
    """Whether a cluster is what one name resolves to, and no other one's by Istio's name of it."""
    istio, hosts = ISTIO.fullmatch(name), {each.host for each in found}
    if str(body.get("type")) not in DNS or len(hosts) != 1:
        return False
    return istio is None or hosts == {istio[3].lower()}
