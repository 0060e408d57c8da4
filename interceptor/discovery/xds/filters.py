"""PURE. The filters of a chain: those that stand before the last one, a tcp_proxy or an http_connection_manager."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.discovery.xds import cors, fault, observed, per_filter, rate_limits, rbac, routes
from interceptor.discovery.xds.reading import mapping, mappings, number, seconds, unknown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.discovery.xds.messages import Body
    from interceptor.discovery.xds.rate_limits import Limit
    from interceptor.discovery.xds.rbac import Policy

TCP_PROXY: Final = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
HTTP_MANAGER: Final = (
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
)
ROUTER: Final = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
_TIMES: Final = {  # of a tcp_proxy: Istio's name of it
    "idle_timeout": "idleTimeout",
    "max_downstream_connection_duration": "maxConnectionDuration",
}
_TCP: Final = observed.TCP | {"@type", "stat_prefix", "cluster", "weighted_clusters", *_TIMES}
_HTTP: Final = observed.HTTP | frozenset(
    {
        *("@type", "stat_prefix", "codec_type", "rds", "route_config", "http_filters", "upgrade_configs"),
        *("use_remote_address", "generate_request_id", "stream_idle_timeout", "normalize_path"),
        *("path_with_escaped_slashes_action", "forward_client_cert_details", "proxy_status_config"),
        "set_current_client_cert_details",
    }
)
# In these alone Envoy does what we do; what is first is what it does where it is told nothing.
_ONLY: Final = {
    "codec_type": ("AUTO",),
    "path_with_escaped_slashes_action": ("IMPLEMENTATION_SPECIFIC_DEFAULT", "KEEP_UNCHANGED"),
    "forward_client_cert_details": ("SANITIZE", "APPEND_FORWARD"),
}
_HEAVIEST: Final = 1_000_000  # of a VirtualService
_GUARDS: Final = frozenset({rbac.NETWORK, rbac.HTTP, rate_limits.NETWORK, rate_limits.HTTP})


class Filters(NamedTuple):
    """What the filters of a chain that was judged do."""

    clusters: tuple[tuple[str, int], ...] = ()  # each with its weight
    times: tuple[
        tuple[str, str], ...
    ] = ()  # how long its connections last: fields of a connection pool's tcp
    route_name: str | None = None
    route_config: Body | None = None
    of_routes: frozenset[str] = frozenset()  # fields of routes whose filters are there
    policies: tuple[Policy, ...] = ()
    limits: tuple[Limit, ...] = ()

    @property
    def of_requests(self) -> bool:
        """Whether the last one is an http_connection_manager."""
        return not self.clusters


def is_http(chain: Body) -> bool:
    """Whether a chain takes requests."""
    return any(
        mapping(each, "typed_config").get("@type") == HTTP_MANAGER for each in mappings(chain, "filters")
    )


def judge(chain: Body, path: str) -> Iterator[str]:
    """What of the filters of a chain is not honoured."""
    given = mappings(chain, "filters")
    known = (TCP_PROXY, HTTP_MANAGER)
    if not given or mapping(given[-1], "typed_config").get("@type") not in known:
        yield f"{path}filters: the last one must be a tcp_proxy or an http_connection_manager"
    allowing = 0
    for index, each in enumerate(given):
        here = f"{path}filters[{index}]."
        yield from unknown(each, frozenset({"name", "typed_config"}), here)
        config, here = mapping(each, "typed_config"), f"{here}typed_config."
        kind = config.get("@type")
        if kind == HTTP_MANAGER and index == len(given) - 1:
            yield from _http_faults(config, here)
        elif kind == TCP_PROXY and index == len(given) - 1:
            yield from _tcp_faults(config, here)
        elif kind == rbac.NETWORK:
            said: list[str] = []
            allowing += _allowing(rbac.read(config, here, said, http=False))
            yield from said
        elif kind == rate_limits.NETWORK:
            yield from rate_limits.judge(config, here, http=False)
        elif index < len(given) - 1 and observed.kind(config) in observed.FILTERS:
            continue
        else:
            yield f"{here.removesuffix('.')}: '{kind}' is not honoured here; known are rbac and local_ratelimit filters before the last one"
    if given:
        allowing += _allowing(_of_requests(mapping(given[-1], "typed_config")))
    if allowing > 1:
        yield f"{path}filters: several RBAC filters that ALLOW are not honoured by this version: each would have to"


def _allowing(policies: list[Policy]) -> int:
    return sum(each.action == "ALLOW" and not each.dry_run for each in policies)


def _of_requests(manager: Body) -> list[Policy]:
    configs = [mapping(each, "typed_config") for each in mappings(manager, "http_filters")]
    given = (rbac.read(each, "", [], http=True) for each in configs if each.get("@type") == rbac.HTTP)
    return [policy for each in given for policy in each]


def is_guarded(chain: Body) -> bool:
    """Whether a chain has filters that may turn away what comes."""
    given = [mapping(each, "typed_config") for each in mappings(chain, "filters")]
    given += [mapping(each, "typed_config") for config in given for each in mappings(config, "http_filters")]
    return any(each.get("@type") in _GUARDS for each in given)


def read(chain: Body) -> Filters:
    """The filters of a chain that was judged."""
    configs = [mapping(each, "typed_config") for each in mappings(chain, "filters")]
    guards = (each for each in configs if each.get("@type") == rbac.NETWORK)
    before = [policy for each in guards for policy in rbac.read(each, "", [], http=False)]
    limits = rate_limits.read(configs[:-1])
    config = configs[-1]
    if config.get("@type") == TCP_PROXY:
        return Filters(_clusters(config), _times(config), policies=tuple(before), limits=tuple(limits))
    of_requests = [mapping(each, "typed_config") for each in mappings(config, "http_filters")]
    inside = [each.get("@type") for each in of_requests]
    named = "rds" in config
    return Filters(
        route_name=str(mapping(config, "rds")["route_config_name"]) if named else None,
        route_config=None if named else mapping(config, "route_config"),
        of_routes=per_filter.honoured(inside),
        policies=(*before, *_of_requests(config)),
        limits=(*limits, *rate_limits.read(of_requests)),
    )


def _tcp_faults(config: Body, path: str) -> Iterator[str]:
    yield from unknown(config, _TCP, path)
    if ("cluster" in config) == ("weighted_clusters" in config):
        yield f"{path.removesuffix('.')}: needs one of cluster and weighted_clusters"
    if seconds(config, "max_downstream_connection_duration") == 0:
        yield f"{path}max_downstream_connection_duration: must be more than 0s"
    given = mappings(mapping(config, "weighted_clusters"), "clusters")
    yield from unknown(
        mapping(config, "weighted_clusters"), frozenset({"clusters"}), f"{path}weighted_clusters."
    )
    for index, each in enumerate(given):
        here = f"{path}weighted_clusters.clusters[{index}]."
        yield from unknown(each, frozenset({"name", "weight"}), here)
        if not 1 <= number(each, "weight", 0) <= _HEAVIEST:
            yield f"{here}weight: {number(each, 'weight', 0)} is not honoured; known are 1 to {_HEAVIEST}"
    if not all(name for name, _ in _clusters(config)) or not _clusters(config):
        yield f"{path}cluster: is required"


def _times(config: Body) -> tuple[tuple[str, str], ...]:
    given = ((ours, seconds(config, name)) for name, ours in _TIMES.items())
    return tuple((ours, f"{value:f}s") for ours, value in given if value is not None)


def timed(chain: Body) -> str | None:
    """The field of a chain's tcp_proxy that says how long connections last, where one does."""
    config = mapping((mappings(chain, "filters") or [{}])[-1], "typed_config")
    return next((name for name in _TIMES if name in config), None)


def _clusters(config: Body) -> tuple[tuple[str, int], ...]:
    """The clusters of a tcp_proxy."""
    given = mappings(mapping(config, "weighted_clusters"), "clusters")
    if not given:
        return ((str(config.get("cluster", "")), 1),)
    return tuple((str(each.get("name", "")), number(each, "weight", 1)) for each in given)


def _http_faults(body: Body, path: str) -> Iterator[str]:
    yield from unknown(body, _HTTP, path)
    for name, known in _ONLY.items():
        if (given := body.get(name, known[0])) not in known:
            yield f"{path}{name}: {given} is not honoured; known are: {', '.join(known)}"
    told = mapping(body, "set_current_client_cert_details")
    yield from unknown(told, frozenset({"subject", "dns", "uri"}), f"{path}set_current_client_cert_details.")
    yield from unknown(mapping(body, "proxy_status_config"), frozenset(), f"{path}proxy_status_config.")
    yield from _routes_faults(body, path)
    for name, only in {
        "use_remote_address": False,
        "generate_request_id": True,
        "normalize_path": True,
    }.items():
        if body.get(name, only) is not only:
            yield f"{path}{name}: only {str(only).lower()} is honoured"
    if seconds(body, "stream_idle_timeout"):
        yield f"{path}stream_idle_timeout: only 0s is honoured by this version"
    for index, each in enumerate(mappings(body, "upgrade_configs")):
        if str(each.get("upgrade_type", "")).lower() != "websocket" or len(each) > 1:
            yield f"{path}upgrade_configs[{index}]: only websocket, without more, is honoured"
    yield from _filter_faults(mappings(body, "http_filters"), f"{path}http_filters")


def _routes_faults(body: Body, path: str) -> Iterator[str]:
    rds = mapping(body, "rds")
    if ("rds" in body) == ("route_config" in body):
        yield f"{path.removesuffix('.')}: needs one of rds and route_config"
    elif "rds" in body:
        yield from unknown(rds, frozenset({"config_source", "route_config_name"}), f"{path}rds.")
        if not mapping(rds, "config_source").keys() & {"ads", "self"}:
            yield f"{path}rds.config_source: only ads and self are honoured: routes come over the same stream"
        if not rds.get("route_config_name"):
            yield f"{path}rds.route_config_name: is required"
    yield from routes.read(mapping(body, "route_config"), f"{path}route_config.").said


def _filter_faults(filters: list[Body], path: str) -> Iterator[str]:
    if not filters or mapping(filters[-1], "typed_config").get("@type") != ROUTER:
        yield f"{path}: the last one must be a router"
    for index, each in enumerate(filters):
        here = f"{path}[{index}]."
        yield from unknown(each, frozenset({"name", "typed_config"}), here)
        config = mapping(each, "typed_config")
        kind = config.get("@type")
        if kind == rbac.HTTP:
            said: list[str] = []
            rbac.read(config, f"{here}typed_config.", said, http=True)
            yield from said
        elif kind == rate_limits.HTTP:
            yield from rate_limits.judge(config, f"{here}typed_config.", http=True)
        elif observed.kind(config) in observed.HTTP_FILTERS:
            continue
        elif kind in {ROUTER, cors.FILTER, fault.FILTER}:
            yield from unknown(config, frozenset({"@type"}), f"{here}typed_config.")
        else:
            yield f"{here}typed_config: '{kind}' is not honoured; known are a router, cors, rbac and local_ratelimit"
