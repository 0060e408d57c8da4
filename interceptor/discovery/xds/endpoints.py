"""PURE. Envoy's endpoints: judged, and those of a cluster that are in use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.config.addresses import host_name, ip_address
from interceptor.discovery.xds import balancers
from interceptor.discovery.xds.reading import mapping, mappings, number, unknown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from interceptor.discovery.xds.messages import Body

_HEAVIEST: Final = 1_000_000  # of an endpoint of a ServiceEntry
_IN_USE: Final = frozenset({"UNKNOWN", "HEALTHY"})
_NOT_IN_USE: Final = frozenset({"UNHEALTHY", "DRAINING", "TIMEOUT"})
_ASSIGNMENT: Final = frozenset({"cluster_name", "endpoints"})
_LOCALITY: Final = frozenset({"locality", "metadata", "lb_endpoints", "load_balancing_weight", "priority"})
_PLACE: Final = ("region", "zone", "sub_zone")
_LAST: Final = 128  # priority, as in Envoy
_LB_ENDPOINT: Final = frozenset({"endpoint", "health_status", "metadata", "load_balancing_weight"})
_ENDPOINT: Final = frozenset({"address", "hostname"})
_SOCKET: Final = frozenset({"address", "port_value", "protocol"})


class Address(NamedTuple):
    """Where an endpoint is."""

    host: str
    port: int
    weight: int = 1
    priority: int = 0
    locality: str = ""  # where it counts
    share: int = 0  # of the locality


def judge_assignment(body: Body, path: str, *, names: bool) -> Iterator[str]:
    """What of a ClusterLoadAssignment is not honoured; ``names``: its endpoints are looked up."""
    yield from unknown(body, _ASSIGNMENT, path)
    for index, locality in enumerate(mappings(body, "endpoints")):
        here = f"{path}endpoints[{index}]."
        yield from unknown(locality, _LOCALITY, here)
        if not 0 <= number(locality, "priority", 0) <= _LAST:
            yield f"{here}priority: must be from 0 to {_LAST}"
        if any("/" in str(part) for part in mapping(locality, "locality").values()):
            yield f"{here}locality: '/' is not honoured in its names"
        for position, each in enumerate(mappings(locality, "lb_endpoints")):
            yield from _endpoint(each, f"{here}lb_endpoints[{position}].", names=names)


def _endpoint(body: Body, path: str, *, names: bool) -> Iterator[str]:
    yield from unknown(body, _LB_ENDPOINT, path)
    if (status := str(body.get("health_status", "UNKNOWN"))) not in _IN_USE | _NOT_IN_USE:
        yield f"{path}health_status: {status} is not honoured"
    if not 1 <= (weight := number(body, "load_balancing_weight", 1)) <= _HEAVIEST:
        yield f"{path}load_balancing_weight: {weight} is not honoured; known are 1 to {_HEAVIEST}"
    inside = mapping(body, "endpoint")
    yield from unknown(inside, _ENDPOINT, f"{path}endpoint.")
    yield from socket_faults(mapping(inside, "address"), f"{path}endpoint.address", names=names)


def socket_faults(address: Body, path: str, *, names: bool) -> Iterator[str]:
    """What is wrong with an Address."""
    yield from unknown(address, frozenset({"socket_address"}), f"{path}.")
    inside = mapping(address, "socket_address")
    here = f"{path}.socket_address."
    yield from unknown(inside, _SOCKET, here)
    if inside.get("protocol", "TCP") != "TCP":
        yield f"{here}protocol: only TCP is honoured"
    try:
        (host_name if names else ip_address)(str(inside.get("address", "")))
    except ValueError as error:
        yield f"{here}address: {error}"
    port = inside.get("port_value", 0)
    if not isinstance(port, int) or not 1 <= port <= 65535:
        yield f"{here}port_value: {port} is not a port"


def socket_of(body: Body) -> Address:
    """The Address in a message that was judged."""
    socket = mapping(mapping(body, "address"), "socket_address")
    port = socket["port_value"]
    assert isinstance(port, int)
    return Address(host_name(str(socket["address"])), port)


def service(name: str, body: Body) -> str | None:
    """The name by which a cluster's endpoints are asked for."""
    if body.get("type") != "EDS":
        return None
    return str(mapping(body, "eds_cluster_config").get("service_name") or name)


def addresses(name: str, body: Body, endpoints: Mapping[str, Body]) -> list[Address]:
    """The endpoints of a cluster that are in use. Where localities have weights, one without any gets nothing."""
    weighted = body.get("lb_policy") != "RANDOM"  # Envoy's chance knows no weights
    shared = balancers.by_locality(body)
    made = []
    for locality in _localities(name, body, endpoints):
        share = number(locality, "load_balancing_weight", 0) if shared else 0
        if shared and not share:
            continue
        told = mapping(locality, "locality")
        place = "/".join(str(told.get(part, "")) for part in _PLACE).rstrip("/") if shared else ""
        priority = number(locality, "priority", 0)
        for each in _used(locality):
            found = socket_of(mapping(each, "endpoint"))
            weight = number(each, "load_balancing_weight", 1) if weighted else 1
            made.append(Address(found.host, found.port, weight, priority, place, share))
    return made


def in_use(name: str, body: Body, endpoints: Mapping[str, Body]) -> Iterator[Body]:
    """The same as they came."""
    for locality in _localities(name, body, endpoints):
        yield from _used(locality)


def _localities(name: str, body: Body, endpoints: Mapping[str, Body]) -> list[Body]:
    asked = service(name, body)
    return mappings(
        mapping(body, "load_assignment") if asked is None else endpoints.get(asked, {}), "endpoints"
    )


def _used(locality: Body) -> Iterator[Body]:
    for each in mappings(locality, "lb_endpoints"):
        if each.get("health_status", "UNKNOWN") in _IN_USE:
            yield each
