"""PURE. Envoy's listeners by original destination: judged, and what each filter chain of one takes and where it goes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.config.addresses import ip_address_or_network
from interceptor.discovery.xds import routes
from interceptor.discovery.xds.clusters import Address, socket_faults, socket_of
from interceptor.discovery.xds.messages import CLUSTER, ROUTE
from interceptor.discovery.xds.reading import mapping, mappings, seconds, unknown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.discovery.xds.messages import Body, Key

TCP_PROXY: Final = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
HTTP_MANAGER: Final = (
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
)
ROUTER: Final = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
_INSPECTORS: Final = frozenset(
    f"envoy.filters.listener.{name}" for name in ("tls_inspector", "original_dst", "http_inspector")
)
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
_HTTP: Final = frozenset(
    {
        *("@type", "stat_prefix", "codec_type", "rds", "route_config", "http_filters", "upgrade_configs"),
        *("use_remote_address", "generate_request_id", "stream_idle_timeout", "normalize_path"),
    }
)
_ANYWHERE: Final = {"0.0.0.0": "0.0.0.0/0", "::": "::/0"}  # noqa: S104 (what a listener that takes any destination has)


class Chain(NamedTuple):
    """What a filter chain takes, and what it is given to: a cluster, or a route configuration inside or by name."""

    ranges: tuple[str, ...]
    port: int
    cluster: str | None = None
    route_name: str | None = None
    route_config: Body | None = None


def judge(body: Body) -> Iterator[str]:
    """What of a listener is not honoured."""
    yield from unknown(body, _LISTENER, "")
    if body.get("traffic_direction", "OUTBOUND") != "OUTBOUND":
        yield "traffic_direction: only OUTBOUND is honoured: what is accepted for the app is the Sidecar's spec.ingress"
    if body.get("bind_to_port", True):
        yield "bind_to_port: must be false: connections come by their original destination, and no other port is opened"
    for index, each in enumerate(mappings(body, "listener_filters")):
        if (name := str(each.get("name", ""))) not in _INSPECTORS:
            yield f"listener_filters[{index}]: '{name}' is not honoured"
    problems = list(socket_faults(mapping(body, "address"), "address", names=False))
    yield from problems
    given = mappings(body, "filter_chains")
    if not given:
        yield "filter_chains: there are none; nothing would be done with a connection"
    seen: set[str] = set()
    for index, chain in enumerate(given):
        yield from _chain(chain, body, f"filter_chains[{index}].", known_address=not problems)
        key = json.dumps(mapping(chain, "filter_chain_match"), sort_keys=True)
        if key in seen:
            yield f"filter_chains[{index}].filter_chain_match: is that of a chain before it"
        seen.add(key)


def _chain(chain: Body, listener: Body, path: str, *, known_address: bool) -> Iterator[str]:
    yield from unknown(chain, _CHAIN, path)
    match = mapping(chain, "filter_chain_match")
    yield from unknown(match, _MATCH, f"{path}filter_chain_match.")
    filters = mappings(chain, "filters")
    http = any(mapping(each, "typed_config").get("@type") == HTTP_MANAGER for each in filters)
    if known_address:
        yield from _range_faults(match, socket_of(listener), f"{path}filter_chain_match.", http=http)
    if len(filters) != 1:
        yield f"{path}filters: one filter, a tcp_proxy or an http_connection_manager, is honoured, not {len(filters)}"
    for index, each in enumerate(filters):
        here = f"{path}filters[{index}]."
        yield from unknown(each, frozenset({"name", "typed_config"}), here)
        config = mapping(each, "typed_config")
        if config.get("@type") == HTTP_MANAGER:
            yield from _http_faults(config, f"{here}typed_config.")
        elif config.get("@type") == TCP_PROXY:
            yield from unknown(config, _TCP, f"{here}typed_config.")
            if not config.get("cluster"):
                yield f"{here}typed_config.cluster: is required; weighted_clusters are not honoured"
        else:
            yield (
                f"{here}typed_config: '{config.get('@type')}' is not honoured; known are a tcp_proxy and an "
                "http_connection_manager"
            )


def _http_faults(body: Body, path: str) -> Iterator[str]:
    yield from unknown(body, _HTTP, path)
    if body.get("codec_type", "AUTO") != "AUTO":
        yield f"{path}codec_type: only AUTO is honoured: the client's first bytes say what it speaks"
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
        if config.get("@type") != ROUTER:
            yield f"{here}typed_config: '{config.get('@type')}' is not honoured; known is a router"
        else:
            yield from unknown(config, frozenset({"@type"}), f"{here}typed_config.")


def _range_faults(match: Body, address: Address, path: str, *, http: bool) -> Iterator[str]:
    if match.get("destination_port", address.port) != address.port:
        yield f"{path}destination_port: a listener of port {address.port} never sees another one"
    ranges = mappings(match, "prefix_ranges")
    anywhere = address.host in _ANYWHERE
    if anywhere and not ranges and not http:
        yield f"{path}prefix_ranges: the address {address.host} is every destination; which are honoured is to be said here"
    if ranges and not anywhere:
        yield f"{path}prefix_ranges: are honoured only where the listener's address is 0.0.0.0 or ::"
    for index, each in enumerate(ranges):
        here = f"{path}prefix_ranges[{index}]"
        yield from unknown(each, _RANGE, f"{here}.")
        try:
            ip_address_or_network(_range(each))
        except ValueError as error:
            yield f"{here}: {error}"


def _range(each: Body) -> str:
    return f"{each.get('address_prefix', '')}/{each.get('prefix_len', 0)}"


def chains(body: Body) -> Iterator[Chain]:
    """The chains of a listener that was judged."""
    address = socket_of(body)
    for chain in mappings(body, "filter_chains"):
        ranges = mappings(mapping(chain, "filter_chain_match"), "prefix_ranges")
        given = tuple(ip_address_or_network(_range(each)) for each in ranges)
        place = (given or (_ANYWHERE.get(address.host, address.host),), address.port)
        config = mapping(mappings(chain, "filters")[0], "typed_config")
        if config.get("@type") == TCP_PROXY:
            yield Chain(*place, cluster=str(config["cluster"]))
        elif "rds" in config:
            yield Chain(*place, route_name=str(mapping(config, "rds")["route_config_name"]))
        else:
            yield Chain(*place, route_config=mapping(config, "route_config"))


def needs(body: Body) -> Iterator[Key]:
    """What a listener that was judged cannot be used without."""
    for chain in chains(body):
        if chain.cluster is not None:
            yield CLUSTER, chain.cluster
        elif chain.route_name is not None:
            yield ROUTE, chain.route_name
        else:
            assert chain.route_config is not None
            for cluster in routes.read(chain.route_config).clusters:
                yield CLUSTER, cluster
