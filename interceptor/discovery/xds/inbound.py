"""PURE. Envoy's listeners of what comes in for the app: judged, and what they say of who may, port by port.

What is accepted, and what is spoken there, is the Sidecar's ``spec.ingress``; these listeners say whether peers have to
speak mutual TLS (PeerAuthentication) and what they may do (AuthorizationPolicy).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.discovery.xds import endpoints, filters, observed, routes, transport_sockets
from interceptor.discovery.xds.rbac import Policy
from interceptor.discovery.xds.reading import mapping, mappings, number, texts, unknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from interceptor.discovery.xds.filters import Filters
    from interceptor.discovery.xds.messages import Body
    from interceptor.discovery.xds.rate_limits import Limit

_LISTENER: Final = observed.LISTENER | frozenset(
    {
        *("name", "stat_prefix", "metadata", "address", "bind_to_port", "filter_chains", "listener_filters"),
        *("traffic_direction", "use_original_dst"),
    }
)
_CHAIN: Final = frozenset({"name", "metadata", "filter_chain_match", "filters", "transport_socket"})
_MATCH: Final = frozenset({"destination_port", "transport_protocol", "application_protocols"})
_INSPECTORS: Final = frozenset(
    f"envoy.filters.listener.{name}" for name in ("tls_inspector", "original_dst", "http_inspector")
)
_HTTP: Final = frozenset({"http/1.0", "http/1.1", "h2c"})  # what http_inspector finds in the clear
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1"})


class Port(NamedTuple):
    """What a chain says of a port of the app's; None: of all that no other chain names."""

    number: int | None
    mutual: bool  # it terminates mutual TLS
    path: str
    filters: Filters


def is_inbound(body: Body) -> bool:
    """Whether a listener is one of these."""
    return body.get("traffic_direction") == "INBOUND"


def judge(body: Body, own: tuple[str, str] | None, trusted: tuple[str, ...] = ()) -> list[str]:
    """What of a listener is not honoured; ``own`` names the secrets that are the workload's certificate and bundle."""
    said = list(_faults(body, own, trusted))
    if not said:
        unlike = _unlike(ports(body))
        said += [
            f"{path}: chains of one port that differ in their rbac or local_ratelimit filters are not honoured"
            for path in unlike.values()
        ]
    return said


def _unlike(given: Iterable[Port]) -> dict[int | None, str]:
    """Ports whose chains have different policies or limits, and where. Requests may have others than opaque connections."""
    first: dict[tuple[int | None, bool], Port] = {}
    bounds: dict[int | None, list[Limit]] = {}
    found: dict[int | None, str] = {}
    for each in given:
        same = first.setdefault((each.number, each.filters.of_requests), each)
        of_connections = [limit for limit in each.filters.limits if limit.scope == "connection"]
        guards, others = each.filters, same.filters
        if (guards.policies, guards.limits) != (others.policies, others.limits) or (
            bounds.setdefault(each.number, of_connections) != of_connections
        ):
            found[each.number] = each.path
    return found


def _faults(body: Body, own: tuple[str, str] | None, trusted: tuple[str, ...]) -> Iterator[str]:
    yield from unknown(body, _LISTENER, "")
    virtual = _is_virtual(body)
    if body.get("bind_to_port", True) and not virtual:
        yield "bind_to_port: must be false, or use_original_dst true: no port is opened beside spec.ingress.port"
    for index, each in enumerate(mappings(body, "listener_filters")):
        if (name := str(each.get("name", ""))) not in _INSPECTORS:
            yield f"listener_filters[{index}]: '{name}' is not honoured"
    yield from endpoints.socket_faults(mapping(body, "address"), "address", names=False)
    if not mappings(body, "filter_chains"):
        yield "filter_chains: there are none; nothing would be accepted"
    seen: set[str] = set()
    for index, chain in enumerate(mappings(body, "filter_chains")):
        path = f"filter_chains[{index}]."
        yield from _chain(chain, path, own, trusted)
        yield from _foreign_tls_faults(chain, mappings(body, "filter_chains"), path)
        key = json.dumps(mapping(chain, "filter_chain_match"), sort_keys=True)
        if key in seen:
            yield f"{path}filter_chain_match: is that of a chain before it"
        seen.add(key)


def _is_virtual(body: Body) -> bool:
    """Whether a listener is about every port: it looks the original destination up."""
    given = {each.get("name") for each in mappings(body, "listener_filters")}
    looks = body.get("bind_to_port", True) and "envoy.filters.listener.original_dst" in given
    return body.get("use_original_dst") is True or bool(looks)


def _foreign_tls_faults(chain: Body, chains: Sequence[Body], path: str) -> Iterator[str]:
    """TLS of the app's own is passed on where plaintext is."""
    match = mapping(chain, "filter_chain_match")
    if match.get("transport_protocol") != "tls" or "transport_socket" in chain:
        return
    for each in chains:
        other = mapping(each, "filter_chain_match")
        clear = other.get("transport_protocol") == "raw_buffer" and "transport_socket" not in each
        if clear and other.get("destination_port") == match.get("destination_port"):
            return
    yield f"{path}filter_chain_match.transport_protocol: 'tls' is not honoured without a chain of raw_buffer for the port"


def _chain(chain: Body, path: str, own: tuple[str, str] | None, trusted: tuple[str, ...]) -> Iterator[str]:
    yield from unknown(chain, _CHAIN, path)
    match, here = mapping(chain, "filter_chain_match"), f"{path}filter_chain_match."
    yield from unknown(match, _MATCH, here)
    context = transport_sockets.read(
        mapping(chain, "transport_socket"), f"{path}transport_socket.", server=True
    )
    secured = "transport_socket" in chain and context is not None
    if context is not None and secured:
        yield from context.said
        if not context.requires_client:
            yield f"{path}transport_socket.typed_config.require_client_certificate: only true is honoured"
        if transport_sockets.strange_clients(context, trusted):
            yield (
                f"{path}transport_socket: clients are those of the Sidecar's spec.trustDomain and trustDomainAliases; "
                f"its names of clients are other ones: {', '.join(context.prefixes)}"
            )
        if not transport_sockets.is_own(context, own, trusted):
            yield (
                f"{path}transport_socket: its certificate and authorities must be the workload's own; name their secrets "
                "in the Sidecar's spec.tls.sds"
            )
    wanted = {"", "tls"} if secured else {"", "raw_buffer", "tls"}
    if (given := match.get("transport_protocol", "")) not in wanted:
        yield f"{here}transport_protocol: '{given}' is not honoured {'with' if secured else 'without'} a transport socket"
    words = texts(match, "application_protocols")
    clear = match.get("transport_protocol") == "raw_buffer"
    if not all(each.startswith("istio") if secured else clear and each in _HTTP for each in words):
        yield (
            f"{here}application_protocols: only Istio's own are honoured before a transport socket, and without one "
            "http/1.0, http/1.1 and h2c of raw_buffer"
        )
    yield from filters.judge(chain, path)
    if (name := filters.timed(chain)) is not None:
        yield f"{path}filters: {name} of a tcp_proxy is not honoured here; it is the Sidecar's spec.timeouts.idle"


def ports(body: Body) -> list[Port]:
    """What a listener that was judged says."""
    listens = endpoints.socket_of(body).port
    bound = None if _is_virtual(body) else listens
    made = []
    for index, chain in enumerate(mappings(body, "filter_chains")):
        given = number(mapping(chain, "filter_chain_match"), "destination_port", 0) or bound
        if bound is None and given == listens:
            continue  # what is sent to the gateway itself is refused, whoever sends it
        socket = mapping(chain, "transport_socket")
        mutual = bool(socket) and transport_sockets.read(socket, "", server=True) is not None
        made.append(Port(given, mutual, f"filter_chains[{index}].filters", filters.read(chain)))
    return made


def secrets(body: Body) -> list[str]:
    """The names of the secrets that a listener cannot be used without."""
    sockets = (mapping(chain, "transport_socket") for chain in mappings(body, "filter_chains"))
    found = (transport_sockets.read(each, "", server=True) for each in sockets if each)
    return [name for each in found if each is not None for name in each.secrets]


def modes(given: Iterable[Port]) -> dict[int | None, str]:
    """How each port is spoken to."""
    kinds: dict[int | None, set[bool]] = {}
    for each in given:
        kinds.setdefault(each.number, set()).add(each.mutual)
    names = {(True,): "STRICT", (False,): "DISABLE", (False, True): "PERMISSIVE"}
    return {port: names[tuple(sorted(kind))] for port, kind in kinds.items()}


def peer_authentication(given: Sequence[Port], labels: Mapping[str, str]) -> dict[str, object]:
    """What a PeerAuthentication says of all ports."""
    found = modes(given)
    by_port = {str(port): {"mode": mode} for port, mode in found.items() if port is not None}
    made: dict[str, object] = {"selector": {"matchLabels": dict(labels)}, "portLevelMtls": by_port}
    return {**made, "mtls": {"mode": found[None]}} if None in found else made


def authorization(given: Sequence[Port]) -> Iterator[tuple[str, Policy]]:
    """Every policy, of its port alone, and what tells it from the others.

    ALLOW policies of a workload are about all of its ports together: a port without one is let through by another.
    """
    numbers = sorted({each.number for each in given if each.number is not None})
    free = []
    said = _policies(given)
    for port, kind, found in said:
        if not any(each.action == "ALLOW" and not each.dry_run for each in found):
            free.append((port, kind))
        for index, policy in enumerate(found):
            rules = [_at(rule, port, numbers, kind) for rule in policy.rules]
            yield " ".join((str(port), *([kind] if kind else []), str(index))), policy._replace(rules=rules)
    if len(free) < len(said) and free:
        rules = [_at({}, port, numbers, kind) for port, kind in free]
        yield "free", Policy("ALLOW", rules, dry_run=False)


def _policies(given: Sequence[Port]) -> list[tuple[int | None, str | None, tuple[Policy, ...]]]:
    """Those of each port; where they differ, of its requests and of its other connections."""
    unlike = _unlike(given)
    kinds: dict[int | None, dict[str, tuple[Policy, ...]]] = {}
    for each in given:
        kinds.setdefault(each.number, {})["http" if each.filters.of_requests else "tcp"] = (
            each.filters.policies
        )
    made: list[tuple[int | None, str | None, tuple[Policy, ...]]] = []
    for port, by_kind in kinds.items():
        if port in unlike:  # of several listeners: nobody can say which holds
            made.append((port, None, (Policy("DENY", [{}], dry_run=False),)))
        elif len(by_kind) == 1 or by_kind["http"] == by_kind["tcp"]:
            made.append((port, None, next(iter(by_kind.values()))))
        else:
            made += ((port, kind, found) for kind, found in by_kind.items())
    return made


def rate_limits(given: Sequence[Port]) -> Iterator[tuple[str, dict[str, object]]]:
    """Every limit, of its port alone, and what tells it from the others; chains of one port have one together."""
    numbers = sorted({each.number for each in given if each.number is not None})
    ordered = sorted(given, key=lambda each: each.filters.of_requests)  # of requests there may be more
    for port, limits in {each.number: each.filters.limits for each in ordered}.items():
        place = {"ports": [port]} if port is not None else {"exceptPorts": numbers}
        for index, limit in enumerate(limits):
            yield f"{port} limit {index}", {"direction": "ingress", **place, **limit.written()}


def _at(
    rule: Mapping[str, object], port: int | None, others: Sequence[int], kind: str | None
) -> dict[str, object]:
    """A rule that holds at a port alone; None: at all but the others; and of a kind of connections alone."""
    given = rule.get("when", [])
    assert isinstance(given, list)
    when = list(given)
    if port is not None:
        when.append({"key": "destination.port", "values": [str(port)]})
    elif others:
        when.append({"key": "destination.port", "notValues": list(map(str, others))})
    if kind is not None:
        when.append({"key": "connection.protocol", "values": [kind]})
    return {**rule, "when": when} if when else dict(rule)


def elsewhere(given: Filters, clusters: Mapping[str, Body], read: Mapping[str, Body]) -> str | None:
    """Why filters do not lead to the app; None where they do."""
    named = [cluster for cluster, _ in given.clusters]
    if not named:
        config = given.route_config if given.route_config is not None else read.get(str(given.route_name))
        if config is None:
            return f"there is no route configuration '{given.route_name}'"
        hosts = routes.read(config).hosts
        if len(hosts) != 1 or hosts[0].domains != ("*",) or hosts[0].plain is None:
            return "its routes do more than to pass every request on to the app, which is not honoured"
        named = [hosts[0].plain]
    for cluster in named:
        body = clusters.get(cluster, {})
        there = endpoints.addresses(cluster, body, {})
        if body.get("type") != "ORIGINAL_DST" and not all(each.host in _LOOPBACK for each in there):
            return f"the cluster '{cluster}' is not the app, which is not honoured"
    return None
