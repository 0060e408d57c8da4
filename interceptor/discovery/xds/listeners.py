"""PURE. Envoy's listeners by original destination: judged, and what each filter chain of one takes and where it goes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.config.addresses import host_name, ip_address_or_network
from interceptor.discovery.xds import filters, observed, routes, virtual
from interceptor.discovery.xds.endpoints import Address, socket_faults, socket_of
from interceptor.discovery.xds.filters import is_http
from interceptor.discovery.xds.messages import CLUSTER, ROUTE
from interceptor.discovery.xds.reading import mapping, mappings, texts, unknown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.discovery.xds.filters import Filters
    from interceptor.discovery.xds.messages import Body, Key

_INSPECTORS: Final = frozenset(
    f"envoy.filters.listener.{name}" for name in ("tls_inspector", "original_dst", "http_inspector")
)
_LISTENER: Final = observed.LISTENER | frozenset(
    {
        *("name", "stat_prefix", "metadata", "address", "bind_to_port", "filter_chains", "listener_filters"),
        *("traffic_direction", "default_filter_chain"),
    }
)
_CHAIN: Final = frozenset({"name", "metadata", "filter_chain_match", "filters"})
_MATCH: Final = frozenset(
    {
        *("destination_port", "prefix_ranges", "server_names", "transport_protocol"),
        "application_protocols",
    }
)
_HTTP: Final = frozenset({"http/1.0", "http/1.1", "h2c"})  # what http_inspector finds in the clear
_RANGE: Final = frozenset({"address_prefix", "prefix_len"})
_ANYWHERE: Final = {"0.0.0.0": "0.0.0.0/0", "::": "::/0"}  # noqa: S104 (what a listener that takes any destination has)


class Chain(NamedTuple):
    """What a filter chain takes, and what it does with it."""

    ranges: tuple[str, ...]
    port: int
    path: str
    filters: Filters
    names: tuple[str, ...] = ()  # that the client's ClientHello asks for
    sniffed: bool = False  # it takes what is HTTP by its first bytes, and another one the rest


def judge(body: Body) -> Iterator[str]:
    """What of a listener is not honoured."""
    yield from virtual.judge(body) if virtual.is_virtual(body) else _faults(body)


def _faults(body: Body) -> Iterator[str]:
    yield from unknown(body, _LISTENER, "")
    if (direction := body.get("traffic_direction", "OUTBOUND")) != "OUTBOUND":
        yield f"traffic_direction: {direction} is not honoured; known are OUTBOUND and INBOUND"
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
    named = any(mapping(chain, "filter_chain_match").get("server_names") for chain in given)
    default = [mapping(body, "default_filter_chain")] if "default_filter_chain" in body else []
    yield from _sniffing_faults([*given, *default], named=named)
    seen: set[str] = set()
    for index, chain in enumerate(given):
        path = f"filter_chains[{index}]."
        yield from _chain(chain, path)
        if not problems:
            apart = named or any(map(_is_sniffed, given))
            yield from _range_faults(chain, socket_of(body), f"{path}filter_chain_match.", named=apart)
        key = json.dumps(mapping(chain, "filter_chain_match"), sort_keys=True)
        if key in seen:
            yield f"filter_chains[{index}].filter_chain_match: is that of a chain before it"
        seen.add(key)
    if "default_filter_chain" in body:
        yield from _default_faults(mapping(body, "default_filter_chain"), given, named=named)


def _default_faults(chain: Body, given: list[Body], *, named: bool) -> Iterator[str]:
    """The chain of what no other one takes: what that is can be said where the others are told apart by names alone."""
    path = "default_filter_chain."
    yield from _chain(chain, path)
    matches = [mapping(each, "filter_chain_match") for each in (*given, chain)]
    apart = named or any(map(_is_sniffed, given))
    if not apart or any(each.get("prefix_ranges") for each in matches) or matches[-1]:
        yield (
            "default_filter_chain: is honoured only where the other chains are told apart by server_names alone, "
            "or by application_protocols"
        )
    if named and not all(each.get("server_names") for each in matches[:-1]):
        yield "default_filter_chain: a chain without server_names leaves nothing to it"


def _is_sniffed(chain: Body) -> bool:
    return "application_protocols" in mapping(chain, "filter_chain_match")


def _sniffing_faults(given: list[Body], *, named: bool) -> Iterator[str]:
    """Chains that the client's first bytes tell apart: one for HTTP in the clear, and one for the rest."""
    if not any(map(_is_sniffed, given)):
        return
    path = "filter_chains: application_protocols"
    if named or sum(map(_is_sniffed, given)) > 1 or len(given) > 2:
        yield f"{path} are honoured in one chain of a listener, beside one for the rest, and not beside server_names"
    if any(is_http(each) != _is_sniffed(each) for each in given):
        yield f"{path} are honoured before an http_connection_manager, and what is not HTTP before a tcp_proxy"
    if any(map(filters.is_guarded, given)):
        yield f"{path} are not honoured together with RBAC or local_ratelimit filters"


def _chain(chain: Body, path: str) -> Iterator[str]:
    yield from unknown(chain, _CHAIN, path)
    match = mapping(chain, "filter_chain_match")
    yield from _match_faults(match, f"{path}filter_chain_match.", http=is_http(chain))
    yield from filters.judge(chain, path)
    for index, each in enumerate(mappings(chain, "filters")):
        told = mapping(each, "typed_config").get("forward_client_cert_details", "SANITIZE")
        if told == "APPEND_FORWARD":  # what the app says of peers is removed here: it would be its word alone
            where = f"{path}filters[{index}].typed_config.forward_client_cert_details"
            yield f"{where}: {told} is honoured in inbound listeners only"
    if match.get("server_names") and filters.is_guarded(chain):
        yield f"{path}filters: RBAC filters are not honoured together with server_names"


def _match_faults(match: Body, path: str, *, http: bool) -> Iterator[str]:
    yield from unknown(match, _MATCH, path)
    names = texts(match, "server_names")
    if names and http:
        yield f"{path}server_names: are honoured before a tcp_proxy only: TLS is not terminated for the app"
    for index, name in enumerate(names):
        try:
            host_name(name)
        except ValueError as error:
            yield f"{path}server_names[{index}]: {error}"
        if "." not in name:
            yield f"{path}server_names[{index}]: '{name}' has one label, which is not honoured by this version"
    words = set(texts(match, "application_protocols"))
    if (words and not words >= {"http/1.1", "h2c"}) or words - _HTTP:
        yield f"{path}application_protocols: {', '.join(sorted(words))} is not honoured; known are http/1.1, h2c and http/1.0"
    wanted = {"", "raw_buffer"} if words else {"", "tls"} if names else {""}
    if (given := match.get("transport_protocol", "")) not in wanted:
        yield (
            f"{path}transport_protocol: '{given}' is not honoured; known is tls together with server_names, and "
            "raw_buffer together with application_protocols"
        )


def _range_faults(chain: Body, address: Address, path: str, *, named: bool) -> Iterator[str]:
    match = mapping(chain, "filter_chain_match")
    if match.get("destination_port", address.port) != address.port:
        yield f"{path}destination_port: a listener of port {address.port} never sees another one"
    ranges = mappings(match, "prefix_ranges")
    anywhere = address.host in _ANYWHERE
    if anywhere and not ranges and not named and not is_http(chain):
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
    given = mappings(body, "filter_chains")
    rest = [mapping(body, "default_filter_chain")] if "default_filter_chain" in body else []
    for index, chain in enumerate([*given, *rest]):
        path = f"filter_chains[{index}]" if index < len(given) else "default_filter_chain"
        ranges = mappings(mapping(chain, "filter_chain_match"), "prefix_ranges")
        there = tuple(ip_address_or_network(_range(each)) for each in ranges)
        there = there or (_ANYWHERE.get(address.host, address.host),)
        place = (there, address.port, f"{path}.filters")
        names = texts(mapping(chain, "filter_chain_match"), "server_names")
        yield Chain(*place, filters.read(chain), tuple(map(host_name, names)), _is_sniffed(chain))


def needs(body: Body) -> Iterator[Key]:
    """What a listener that was judged cannot be used without."""
    if virtual.is_virtual(body):
        yield from virtual.needs(body)
        return
    for chain in chains(body):
        yield from of_filters(chain.filters)


def of_filters(given: Filters) -> Iterator[Key]:
    """What filters cannot be used without."""
    for cluster, _ in given.clusters:
        yield CLUSTER, cluster
    if given.route_name is not None:
        yield ROUTE, given.route_name
    elif given.route_config is not None:
        for cluster in routes.read(given.route_config).needs():
            yield CLUSTER, cluster
