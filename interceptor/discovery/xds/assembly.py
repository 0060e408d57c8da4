"""PURE. What resources mean together: the services, rules and routes that listeners, routes and clusters in use make."""

from __future__ import annotations

import json
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.config.addresses import host_name
from interceptor.discovery.xds import (
    clusters as of_clusters,
    inbound,
    per_filter,
    protocols,
    routes as of_routes,
    virtual,
)
from interceptor.discovery.xds.memory import Routed
from interceptor.discovery.xds.reading import alias_of, document_name, hashed, host_of, slug

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from interceptor.discovery.xds.listeners import Chain
    from interceptor.discovery.xds.memory import KnownCluster, Memory
    from interceptor.discovery.xds.messages import Body
    from interceptor.discovery.xds.rbac import Policy
    from interceptor.discovery.xds.routes import Configuration, VirtualHost

# No path is empty, so that nothing is taken and the answer is that of a virtual host that is not there: 404.
_NOTHING: Final[dict[str, object]] = {"match": [{"uri": {"exact": ""}}], "directResponse": {"status": 404}}

_host_name: Final = lru_cache(1 << 15)(
    host_name
)  # the same thousands each time; one that is none is asked anew
_INBOUND: Final = "inbound listeners"
_NO_LABELS: Final = (
    "whether peers must speak mutual TLS cannot be said of a Sidecar without metadata.labels; add some"
)


class Made(NamedTuple):
    """A document to write: its kind, the resource it is from, what tells it from others of that, and what it says."""

    kind: str
    resource: str
    told: str
    spec: dict[str, object] | str  # as JSON, where it is written already
    dry_run: bool = False


class Assembly:
    """Takes the filter chains of listeners, and then says the documents."""

    def __init__(
        self,
        clusters: Mapping[str, Body],
        endpoints: Mapping[str, Body],
        routes: Mapping[str, Body],
        labels: Mapping[str, str],
        memory: Memory,
    ) -> None:
        """``labels`` are the workload's."""
        self._labels = labels
        self.left_out: dict[str, str] = {}
        self._clusters = clusters
        self._routes = routes
        self._known = memory.clusters(clusters, endpoints)
        self._memory = memory
        self._places = {name: each.place for name, each in self._known.items()}
        for name, each in self._known.items():
            if each.problem is not None:
                self.left_out[f"cluster {name}"] = each.problem
        self._routed: dict[
            str, Mapping[str, object] | None
        ] = {}  # clusters of requests, and what those are hashed on
        self._hosts: dict[str, dict[int, tuple[list[dict[str, object]], str]]] = {}  # routes by host and port
        # Clusters of connections that are relayed as they are, and how long those last.
        self._relayed: dict[str, tuple[tuple[str, str], ...]] = {}
        self._lasting: dict[
            str, tuple[tuple[str, str], ...]
        ] = {}  # the same where they go to their destination
        self._entries: list[Made] = []
        self._made: dict[tuple[str, int, str], Routed] = {}

    def take(self, listener: str, chains: Sequence[Chain]) -> None:
        """The filter chains of a listener."""
        together: dict[tuple[str, ...], list[Chain]] = {}
        sniffed = any(each.sniffed for each in chains)
        rest = next((each for each in chains if sniffed and not each.sniffed), None)
        for chain in chains:
            if chain is rest:
                continue  # it is taken together with the other one
            if chain.filters.clusters:
                together.setdefault(chain.ranges, []).append(chain)
            elif chain.filters.route_name is not None and chain.filters.route_name not in self._routes:
                self.left_out[listener] = (
                    f"{chain.path}: there is no route configuration '{chain.filters.route_name}'"
                )
            else:
                self._take_http(listener, chain, rest)
        for members in together.values():
            if any(each.names for each in members):
                self._take_names(listener, members)
            else:
                self._take_tcp(listener, members[0])

    def _take_tcp(self, listener: str, chain: Chain) -> None:
        own = _own_host(listener, chain)
        spec: dict[str, object] = {
            "hosts": [own],
            "addresses": list(chain.ranges),
            "resolution": "NONE",
            "ports": of_clusters.ports(chain.port, "TCP"),
        }
        if (original := self._original(chain)) is not None:
            host = host_of(original)
            self._entry(listener, chain, {**spec, "hosts": [host]})
            self._last(listener, chain, self._lasting, host)
        elif (routes := self._destinations(listener, chain)) is not None:
            self._entry(listener, chain, spec)
            self._entries.append(
                Made("VirtualService", listener, own, {"hosts": [own], "tcp": [{"route": routes}]})
            )

    def _take_names(self, listener: str, chains: Sequence[Chain]) -> None:
        """Chains that the server name tells apart, and what is done where none of them fits: nothing, as in Envoy."""
        own = _own_host(listener, chains[0])
        names: dict[str, None] = {}
        tls: list[dict[str, object]] = []
        rest: list[dict[str, object]] | None = [{"destination": {"host": f"_nothing.{own}"}}]
        for chain in chains:
            original = self._original(chain) is not None
            if not chain.names and original:
                rest = None  # it goes where it was sent
                continue
            routes = None if original else self._destinations(listener, chain)
            if original:
                why = "server_names are not honoured before a cluster of the type ORIGINAL_DST"
                self.left_out[listener] = f"{chain.path}: {why}"
            if routes is None:
                return
            if chain.names:
                names |= dict.fromkeys(chain.names)
                tls.append({"match": [{"sniHosts": list(chain.names)}], "route": routes})
            else:
                rest = routes
        spec = {"hosts": [own, *names], "addresses": list(chains[0].ranges), "resolution": "NONE"}
        self._entry(listener, chains[0], {**spec, "ports": of_clusters.ports(chains[0].port, "TLS")})
        self._entries.append(
            Made("VirtualService", listener, f"{own} tls", {"hosts": [own, *names], "tls": tls})
        )
        if rest is not None:
            self._entries.append(
                Made("VirtualService", listener, own, {"hosts": [own], "tcp": [{"route": rest}]})
            )

    def _original(self, chain: Chain) -> str | None:
        """The cluster of the original destination that a chain is given to, where it is."""
        [(cluster, _), *others] = chain.filters.clusters
        is_original = self._clusters.get(cluster, {}).get("type") == "ORIGINAL_DST"
        return cluster if is_original and not others else None

    def _destinations(self, listener: str, chain: Chain) -> list[dict[str, object]] | None:
        """Where the connections of a chain go; None where they cannot, which is said."""
        made: list[dict[str, object]] = []
        for cluster, weight in chain.filters.clusters:
            if cluster not in self._clusters:
                self.left_out[listener] = f"{chain.path}.cluster: there is no cluster '{cluster}'"
                return None
            if isinstance(place := self._places[cluster], str):
                self.left_out[listener] = f"{chain.path}.cluster: the cluster '{cluster}': {place}"
                return None
            made.append(
                {"destination": place, **({"weight": weight} if len(chain.filters.clusters) > 1 else {})}
            )
        for cluster, _ in chain.filters.clusters:
            self._last(listener, chain, self._relayed, cluster)
        return made

    def _last(
        self, listener: str, chain: Chain, known: dict[str, tuple[tuple[str, str], ...]], name: str
    ) -> None:
        """How long the connections of a chain last, where it leads."""
        if known.setdefault(name, chain.filters.times) != chain.filters.times:
            self.left_out[f"{listener}, '{name}'"] = (
                f"{chain.path}: another chain that leads there says something else of how long connections last, and that holds"
            )

    def _entry(self, listener: str, chain: Chain, spec: dict[str, object]) -> None:
        told = f"{chain.port} {json.dumps(spec['addresses'])}"
        self._entries.append(Made("ServiceEntry", listener, told, spec))
        entry = {"group": "networking.istio.io", "kind": "ServiceEntry"}
        about = {"targetRefs": [{**entry, "name": document_name(listener, told)}]}
        for index, policy in enumerate(chain.filters.policies):
            self._policy(listener, f"{told} policy {index}", policy, about)
        place = {"direction": "egress", "ports": [chain.port], "addresses": list(chain.ranges)}
        for index, limit in enumerate(chain.filters.limits):
            self._entries.append(
                Made("RateLimit", listener, f"{told} limit {index}", {**place, **limit.written()})
            )

    def _policy(self, listener: str, told: str, policy: Policy, about: Mapping[str, object]) -> None:
        spec: dict[str, object] = {**about, "action": policy.action, "rules": policy.rules}
        self._entries.append(Made("AuthorizationPolicy", listener, told, spec, dry_run=policy.dry_run))

    def take_virtual(self, listener: str, body: Body, *, registry_only: bool) -> None:
        """The listener of what no other one takes."""
        if (why := virtual.unlike(body, self._clusters, registry_only=registry_only)) is not None:
            self.left_out[listener] = why

    def take_inbound(self, listeners: Mapping[str, Body]) -> None:
        """The listeners of what comes in: what they say of who may holds, wherever they lead."""
        given: list[inbound.Port] = []
        for name, body in listeners.items():
            own = inbound.ports(body)
            given += own
            for each in own:
                if (why := inbound.elsewhere(each.filters, self._clusters, self._routes)) is not None:
                    self.left_out[f"listener {name}"] = f"{each.path}: {why}"
            if not self._labels:
                self.left_out[f"listener {name}"] = _NO_LABELS
        if given and self._labels:
            spec = inbound.peer_authentication(given, self._labels)
            self._entries.append(Made("PeerAuthentication", _INBOUND, "", spec))
        about = {"selector": {"matchLabels": dict(self._labels)}} if self._labels else {}
        for told, policy in inbound.authorization(given):
            self._policy(_INBOUND, told, policy, about)
        for told, spec in inbound.rate_limits(given):
            self._entries.append(Made("RateLimit", _INBOUND, told, spec))

    def _configuration(self, chain: Chain) -> Configuration:
        if chain.filters.route_name is None:
            assert chain.filters.route_config is not None
            return of_routes.read(chain.filters.route_config)
        return self._memory.routes(chain.filters.route_name, self._routes[chain.filters.route_name])

    def _take_http(self, listener: str, chain: Chain, other: Chain | None) -> None:
        """``other``: the chain of what is not HTTP by its first bytes."""
        own, path = _own_host(listener, chain), chain.path
        hosts = {own: None}
        rest: VirtualHost | None = None
        configuration = self._configuration(chain)
        for cluster, hash_on in configuration.clusters.items():
            self._routed.setdefault(cluster, hash_on)
        for cluster in configuration.mirrors:
            self._routed.setdefault(cluster, None)
        for virtual_host in configuration.hosts:
            for domain in virtual_host.domains:
                if domain == "*":
                    rest = virtual_host
                elif (host := self._host(listener, path, chain.port, domain)) is not None:
                    hosts[host] = None
                    self._route(listener, path, chain, host, virtual_host)
        if rest is None:
            self._hosts[own] = {chain.port: ([_NOTHING], json.dumps([_NOTHING]))}
        else:
            self._route(listener, path, chain, own, rest)
        spec = {"hosts": list(hosts), "addresses": list(chain.ranges), "resolution": "NONE"}
        protocol = "HTTP" if other is None else "AUTO"
        self._entry(listener, chain, {**spec, "ports": of_clusters.ports(chain.port, protocol)})
        if other is not None and self._original(other) is None:
            nothing: list[dict[str, object]] = [{"destination": {"host": f"_nothing.{own}"}}]
            tcp = [{"route": self._destinations(listener, other) or nothing}]
            self._entries.append(
                Made("VirtualService", listener, f"{own} rest", {"hosts": [own], "tcp": tcp})
            )

    def _host(self, listener: str, path: str, port: int, domain: str) -> str | None:
        """The host of a domain, where it can be a document's."""
        host, given = of_routes.split(domain)
        if given not in (None, port):
            self.left_out[f"{listener}, domain {domain}"] = f"{path}: requests come to the port {port} only"
            return None
        return _host_name(host)

    def _route(self, listener: str, path: str, chain: Chain, host: str, given: VirtualHost) -> None:
        """What is done with requests for a host."""
        port = chain.port
        if given.plain is not None and self._clusters.get(given.plain, {}).get("type") == "ORIGINAL_DST":
            return  # nothing is said about them, and so they go where the connection goes
        made = self._made_of(listener, port, host, given, chain.filters.of_routes)
        if made.problems:
            self.left_out[f"{listener}, virtual host {given.name}"] = f"{path}: {made.problems[0]}"
        first, _ = self._hosts.setdefault(host, {}).setdefault(port, (made.made, made.text))
        if first != made.made:
            self.left_out[f"{listener}, host {host}"] = (
                f"{path}: another listener of the port {port} says something else of the host, and that holds"
            )

    def _made_of(
        self, listener: str, port: int, host: str, given: VirtualHost, fields: frozenset[str]
    ) -> Routed:
        """The routes of a virtual host, as they were where nothing of them has changed."""
        key = (listener, port, host)
        before = self._memory.routed.get(key)
        if before is not None and before.holds(given, self._places, fields):
            self._made[key] = before
            return before
        made: list[dict[str, object]] = []
        problems: list[str] = []
        for index, route in enumerate(given.routes):
            given_route = {
                name: what for name, what in route.items() if name not in per_filter.FIELDS - fields
            }
            placed, wrong = of_routes.placed(given_route, port, self._places)
            made.append(placed)
            problems += (f"routes[{index}]: {each}" for each in wrong)
        made = made or [_NOTHING]
        places = {name: self._places.get(name) for name in of_routes.destinations(given.routes)}
        found = self._made[key] = Routed(given, fields, places, made, json.dumps(made), tuple(problems))
        return found

    def files(self) -> dict[str, bytes]:
        """The certificates that came inside clusters."""
        return {path: data for each in self._known.values() for path, data in each.files.items()}

    def documents(self, write: Callable[[Made], tuple[str, str]]) -> Iterator[tuple[str, str]]:
        """Every document, written: services of listeners before those of clusters, for an address is the listener's first."""
        yield from map(write, self._entries)
        for host, times in self._lasting.items():
            if times:
                spec_of: dict[str, object] = {
                    "host": host,
                    "trafficPolicy": {"connectionPool": {"tcp": dict(times)}},
                }
                yield write(Made("DestinationRule", f"connections to {host}", host, spec_of))
        used = {*self._routed, *self._relayed}
        for name, known in self._known.items():
            protocol = (
                "HTTP2" if protocols.speaks_http2(known.body) else "HTTP" if name in self._routed else "TCP"
            )
            key = (protocol, name in used, self._routed.get(name), self._relayed.get(name))
            if known.key != key:
                known.key, known.written = (
                    key,
                    list(map(write, self._of_cluster(name, known, protocol, used))),
                )
            yield from known.written
        together: dict[str, list[str]] = {}  # hosts of the same routes are one document
        for host, by_port in self._hosts.items():
            texts = [text for _, text in by_port.values()]
            routes = texts[0] if len(texts) == 1 else f"[{', '.join(text[1:-1] for text in texts)}]"
            together.setdefault(routes, []).append(host)
        yield from self._memory.written(
            {
                (" ".join(hosts), routes): partial(_routes, write, hosts, routes)
                for routes, hosts in together.items()
            }
        )
        self._memory.forget(self._routes, self._made)

    def _of_cluster(self, name: str, known: KnownCluster, protocol: str, used: set[str]) -> Iterator[Made]:
        resource = f"cluster {name}"
        if known.problem is not None or known.body.get("type") == "ORIGINAL_DST":
            return
        for spec in of_clusters.entries(name, known.body, known.found, protocol):
            together = "together " if spec["hosts"] == [alias_of(name)] else ""
            yield Made("ServiceEntry", resource, f"{together}{json.dumps(spec['ports'])}", spec)
        if name in used and isinstance(known.place, dict) and known.found:
            times = dict(self._relayed.get(name, ()))
            policy = of_clusters.rule(name, known.body, self._routed.get(name), known.tls, times)
            spec = {"host": known.place["host"], "trafficPolicy": policy}
            yield Made("DestinationRule", resource, alias_of(name), spec)


def _routes(write: Callable[[Made], tuple[str, str]], hosts: Sequence[str], routes: str) -> tuple[str, str]:
    """The document of hosts that have the same routes."""
    spec = f'{{"hosts": {json.dumps(list(map(_whole, hosts)))}, "http": {routes}}}'
    return write(Made("VirtualService", f"routes of {hosts[0]}", hosts[0], spec))


def _whole(host: str) -> str:
    """A host as documents write it: with a dot at its end where it is of one label."""
    return host if "." in host or ":" in host else f"{host}."


def _own_host(listener: str, chain: Chain) -> str:
    """The host that means what a filter chain takes, whatever its clients name."""
    return f"_listener.{slug(listener)}-{hashed(f'{listener} {chain.port} {chain.ranges}')}"
