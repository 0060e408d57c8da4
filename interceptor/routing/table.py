"""PURE. Which route a request of the app's takes, by all that a snapshot says; and which Host may be believed.

The original destination says which service a connection is for; a client may write any Host. So a Host chooses a route
only where the original destination may be that host: the registry names it by that address, or does not know the
address at all, and the port is one of that host's (then the request is taken to the endpoints of the host it names, and is
that service's for every policy). At a port where the registry has nothing Istio has no listener: what goes there passes.
A Host that the address cannot be is a lie or a mistake: the routes are then those of the service that the address is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from interceptor.model.work import steps
from interceptor.routing.by_host import ByHost
from interceptor.routing.plans import Plans
from interceptor.routing.routes import host_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from interceptor.config.service_entry import ServiceEntry
    from interceptor.model.address import OriginalDestination
    from interceptor.model.work import Work
    from interceptor.routing.clusters import Cluster, Clusters
    from interceptor.routing.destinations import Decision
    from interceptor.routing.flow_routes import FlowRoute, FlowTable
    from interceptor.routing.routes import Question, RouteTable, Taken


@dataclass(frozen=True, slots=True)
class Found:
    """What is said about a request: the host it is taken to be for, and the route it takes."""

    host: bytes
    believed: bool  # the host is the one that the request names
    taken: Taken | None = None  # None: a document is about the host, and none of its routes holds
    cluster: Cluster | None = None  # where no VirtualService is about the host, but a DestinationRule


@dataclass(frozen=True, slots=True)
class FoundFlow:
    """What is said about a connection that is relayed as it is."""

    host: str  # that it is taken to be for
    believed: bool | None  # the host is the server name that its client asks for; None: it asks for none
    route: FlowRoute | None = None
    cluster: Cluster | None = None  # where no route takes it: of the service that was dialled


class Routing:
    """What one snapshot says about requests and connections of the app's."""

    def __init__(self, table: RouteTable, flows: FlowTable, clusters: Clusters) -> None:
        self.table = table
        self.flows = flows
        self.clusters = clusters
        self.plans = Plans()
        self._hosts: dict[str, tuple[str, ...]] = {}
        self._resolved: dict[tuple[str, int], set[str]] = {}
        self._listened: set[int] = set()
        self._ports: ByHost[set[int]] = ByHost()

    def fill(self, entries: Sequence[ServiceEntry], resolved: Mapping[str, Sequence[str]]) -> Work[None]:
        """Take all entries, once."""
        for some in steps(entries):
            yield
            for entry in some:
                self._add(entry, resolved)

    def _add(self, entry: ServiceEntry, resolved: Mapping[str, Sequence[str]]) -> None:
        spec = entry.spec
        if not spec.hosts_to_resolve:
            self._hosts[entry.full_name] = spec.hosts
        numbers = {port.number for port in spec.ports}
        self._listened |= numbers
        for host in spec.hosts:
            self._ports.setdefault(host, set()).update(numbers)
        for host in spec.hosts_to_resolve:
            for address in resolved.get(host, ()):
                for number in numbers:
                    self._resolved.setdefault((address, number), set()).add(host)

    def find(self, question: Question, decision: Decision, destination: OriginalDestination) -> Found | None:
        """What is said about a request; None where nothing is, and it goes where the connection goes."""
        host, believed = self._host(question.head.authority, decision, destination)
        routes = self.table.of_host(host) if host else ()
        if routes:
            return Found(host, believed, taken=self.table.take(question, routes))
        cluster = self._balanced(host.decode("latin-1"), decision, destination)
        return None if cluster is None else Found(host, believed, cluster=cluster)

    def find_flow(
        self, server_name: str | None, decision: Decision, destination: OriginalDestination
    ) -> FoundFlow | None:
        """What is said about a connection that is relayed as it is; None where nothing is.

        A server name is believed as the Host of a request is: one that the address cannot be counts as the name of the
        service that the address is.
        """
        host, believed = decision.service, None
        if server_name is not None:
            named = server_name.lower()
            believed = self.may_be(named, decision, destination)
            host = server_name = named if believed else host
        if decision.entry is None and not believed:
            return None
        route = self.flows.take(host, server_name, destination)
        if route is not None:
            return FoundFlow(host, believed, route)
        cluster = self._balanced(host, decision, destination)
        return None if cluster is None else FoundFlow(host, believed, cluster=cluster)

    def _balanced(self, host: str, decision: Decision, destination: OriginalDestination) -> Cluster | None:
        """The cluster of a host, or of the service that was dialled, where its endpoints are to be chosen among."""
        if decision.entry is None:
            return None
        for name in dict.fromkeys((host, decision.service)):
            managed = self.clusters.managed(name, destination.port)
            if managed is not None:
                return managed
        cluster = self.clusters.find(decision.service, destination.port, None, destination.port)
        return cluster if cluster is not None and cluster.is_behind(destination) else None

    def concerns(self, authority: bytes, decision: Decision, destination: OriginalDestination) -> bool:
        """Whether anything is said about requests for an authority."""
        host, _ = self._host(authority, decision, destination)
        if host and self.table.of_host(host):
            return True
        return self._balanced(host.decode("latin-1"), decision, destination) is not None

    def _host(
        self, authority: bytes, decision: Decision, destination: OriginalDestination
    ) -> tuple[bytes, bool]:
        """The host that a request is taken to be for, none where that is unknown, and whether it is the one that it names."""
        named = host_of(authority)
        believed = bool(named) and self.may_be(named.decode("latin-1"), decision, destination)
        dialled = b"" if decision.entry is None else decision.service.encode()
        return named if believed else dialled, believed

    def is_elsewhere(self, authority: bytes, decision: Decision) -> bool:
        """Whether documents say something about a host, but nothing about it where nobody is named."""
        return decision.entry is None and bool(self.table.routes(authority))

    def may_be(self, host: str, decision: Decision, destination: OriginalDestination) -> bool:
        """Whether the original destination may be a host."""
        if decision.entry is None:
            ports = self._ports.find(host.encode("latin-1"))
            return destination.port in (self._listened if ports is None else ports)
        if host == decision.service:
            return True
        if host in self._resolved.get((destination.host, destination.port), ()):
            return True
        hosts = self._hosts.get(decision.entry, ())
        return any(each == host or (each[:1] == "*" and host.endswith(each[1:])) for each in hosts)
