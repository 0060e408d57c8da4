"""PURE. What resources mean together: the services, rules and routes that listeners, routes and clusters in use make."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.config.addresses import host_name
from interceptor.discovery.xds import clusters as of_clusters, routes as of_routes
from interceptor.discovery.xds.reading import alias_of, hashed, host_of, slug

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from interceptor.discovery.xds.clusters import Address
    from interceptor.discovery.xds.listeners import Chain
    from interceptor.discovery.xds.messages import Body
    from interceptor.discovery.xds.routes import Configuration, Place, VirtualHost

# No path is empty, so that nothing is taken and the answer is that of a virtual host that is not there: 404.
_NOTHING: Final[dict[str, object]] = {"match": [{"uri": {"exact": ""}}], "directResponse": {"status": 404}}


class Made(NamedTuple):
    """A document to write: its kind, the resource it is from, what tells it from others of that, and what it says."""

    kind: str
    resource: str
    told: str
    spec: dict[str, object]


class Assembly:
    """Takes the filter chains of listeners, and then says the documents."""

    def __init__(
        self, clusters: Mapping[str, Body], endpoints: Mapping[str, Body], routes: Mapping[str, Body]
    ) -> None:
        self.left_out: dict[str, str] = {}
        self._clusters = clusters
        self._routes = routes
        self._found: dict[str, list[Address]] = {}
        self._places: dict[str, Place] = {}
        for name, body in clusters.items():
            found = of_clusters.addresses(name, body, endpoints)
            self._found[name] = found
            self._places[name] = of_clusters.destination(name, body, found)
            if (problem := of_clusters.unlike(name, body, found)) is not None:
                self.left_out[f"cluster {name}"] = problem
        self._read: dict[str, Configuration] = {}
        self._routed: dict[
            str, Mapping[str, object] | None
        ] = {}  # clusters of requests, and what those are hashed on
        self._hosts: dict[str, dict[int, list[dict[str, object]]]] = {}  # routes by host and port
        self._relayed: set[str] = set()  # clusters of connections that are relayed as they are
        self._entries: list[Made] = []

    def take(self, listener: str, path: str, chain: Chain) -> None:
        """A filter chain of a listener."""
        if chain.cluster is not None:
            self._take_tcp(listener, f"{path}.cluster", chain, chain.cluster)
            return
        if chain.route_name is not None and chain.route_name not in self._routes:
            self.left_out[listener] = f"{path}: there is no route configuration '{chain.route_name}'"
            return
        self._take_http(listener, path, chain)

    def _take_tcp(self, listener: str, path: str, chain: Chain, cluster: str) -> None:
        if cluster not in self._clusters:
            self.left_out[listener] = f"{path}: there is no cluster '{cluster}'"
        elif self._clusters[cluster].get("type") == "ORIGINAL_DST":
            spec = {"hosts": [host_of(cluster)], "addresses": list(chain.ranges), "resolution": "NONE"}
            self._entry(listener, chain, {**spec, "ports": of_clusters.ports(chain.port, "TCP")})
        elif isinstance(place := self._places[cluster], str):
            self.left_out[listener] = f"{path}: the cluster '{cluster}': {place}"
        else:
            self._relayed.add(cluster)
            own = _own_host(listener, chain)
            spec = {"hosts": [own], "addresses": list(chain.ranges), "resolution": "NONE"}
            self._entry(listener, chain, {**spec, "ports": of_clusters.ports(chain.port, "TCP")})
            routes = {"hosts": [own], "tcp": [{"route": [{"destination": place}]}]}
            self._entries.append(Made("VirtualService", listener, own, routes))

    def _entry(self, listener: str, chain: Chain, spec: dict[str, object]) -> None:
        self._entries.append(
            Made("ServiceEntry", listener, f"{chain.port} {json.dumps(spec['addresses'])}", spec)
        )

    def _configuration(self, chain: Chain) -> Configuration:
        if chain.route_name is None:
            assert chain.route_config is not None
            return of_routes.read(chain.route_config)
        if chain.route_name not in self._read:
            self._read[chain.route_name] = of_routes.read(self._routes[chain.route_name])
        return self._read[chain.route_name]

    def _take_http(self, listener: str, path: str, chain: Chain) -> None:
        own = _own_host(listener, chain)
        hosts = [own]
        rest: VirtualHost | None = None
        configuration = self._configuration(chain)
        for cluster, hash_on in configuration.clusters.items():
            self._routed.setdefault(cluster, hash_on)
        for virtual_host in configuration.hosts:
            for domain in virtual_host.domains:
                if domain == "*":
                    rest = virtual_host
                elif (host := self._host(listener, path, chain.port, domain)) is not None:
                    if host not in hosts:
                        hosts.append(host)
                    self._route(listener, path, chain.port, host, virtual_host)
        if rest is None:
            self._hosts[own] = {chain.port: [_NOTHING]}
        else:
            self._route(listener, path, chain.port, own, rest)
        spec = {"hosts": hosts, "addresses": list(chain.ranges), "resolution": "NONE"}
        self._entry(listener, chain, {**spec, "ports": of_clusters.ports(chain.port, "HTTP")})

    def _host(self, listener: str, path: str, port: int, domain: str) -> str | None:
        """The host of a domain, where it can be a document's."""
        host, given = of_routes.split(domain)
        if given not in (None, port):
            self.left_out[f"{listener}, domain {domain}"] = f"{path}: requests come to the port {port} only"
            return None
        if "." not in host and ":" not in host:
            why = "a name of one label is not honoured by this version; send the whole name"
            self.left_out[f"{listener}, domain {domain}"] = f"{path}: {why}"
            return None
        return host_name(host)

    def _route(self, listener: str, path: str, port: int, host: str, given: VirtualHost) -> None:
        """What is done with requests for a host."""
        if given.plain is not None and self._clusters.get(given.plain, {}).get("type") == "ORIGINAL_DST":
            return  # nothing is said about them, and so they go where the connection goes
        made: list[dict[str, object]] = []
        for index, route in enumerate(given.routes):
            placed, problems = of_routes.placed(route, port, self._places)
            made.append(placed)
            if problems:
                where = f"{listener}, virtual host {given.name}"
                self.left_out[where] = (
                    f"{path}: routes[{index}]: {problems[0]}; its requests are answered with 503"
                )
        if self._hosts.setdefault(host, {}).setdefault(port, made or [_NOTHING]) != (made or [_NOTHING]):
            self.left_out[f"{listener}, host {host}"] = (
                f"{path}: another listener of the port {port} says something else of the host, and that holds"
            )

    def specs(self) -> Iterator[Made]:
        """Every document: services of listeners before those of clusters, for an address is the listener's first."""
        yield from self._entries
        for name, body in self._clusters.items():
            yield from self._of_cluster(name, body)
        together: dict[str, list[str]] = {}  # hosts of the same routes are one document
        for host, by_port in self._hosts.items():
            routes = [route for given in by_port.values() for route in given]
            together.setdefault(json.dumps(routes), []).append(host)
        for text, hosts in together.items():
            yield Made(
                "VirtualService",
                f"routes of {hosts[0]}",
                hosts[0],
                {"hosts": hosts, "http": json.loads(text)},
            )

    def _of_cluster(self, name: str, body: Body) -> Iterator[Made]:
        resource, found = f"cluster {name}", self._found[name]
        if resource in self.left_out or body.get("type") == "ORIGINAL_DST":
            return
        protocol = "HTTP2" if of_clusters.speaks_http2(body) else "HTTP" if name in self._routed else "TCP"
        for spec in of_clusters.entries(name, body, found, protocol):
            yield Made("ServiceEntry", resource, json.dumps(spec["ports"]), spec)
        place = self._places[name]
        if name in {*self._routed, *self._relayed} and isinstance(place, dict) and found:
            spec = {"host": place["host"], "trafficPolicy": of_clusters.rule(body, self._routed.get(name))}
            yield Made("DestinationRule", resource, alias_of(name), spec)


def _own_host(listener: str, chain: Chain) -> str:
    """The host that means what a filter chain takes, whatever its clients name."""
    return f"_listener.{slug(listener)}-{hashed(f'{listener} {chain.port} {chain.ranges}')}"
