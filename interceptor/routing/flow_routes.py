"""PURE. The ``tls`` and ``tcp`` routes of VirtualService documents: where a connection goes that is relayed as it is.

Source: Istio's VirtualService reference. The ``tls`` routes of a host are asked where the client sends a ClientHello with a
server name, then its ``tcp`` routes; the first one of which a match holds is taken. Where none does the connection goes
where it would go without the document: Istio keeps the service's own filter chain then.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from interceptor.model.work import Kept, Work, done, steps
from interceptor.routing.age import oldest_first
from interceptor.routing.by_host import ByHost
from interceptor.routing.routes import drawn, weight_sums
from interceptor.routing.sources import MESH, Source

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from interceptor.config.virtual_service import (
        Destination,
        L4Match,
        RouteDestination,
        VirtualService,
    )
    from interceptor.model.address import OriginalDestination
    from interceptor.model.chance import Chance

_ANY: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FlowMatch:
    """Conditions that must all hold."""

    server_names: tuple[str, ...]  # none: not asked, as in a tcp route
    port: int | None
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]

    def failing(self, server_name: str | None, destination: OriginalDestination) -> str | None:
        """The first condition that does not hold, as an operator would say it."""
        if self.server_names and not any(_is_of(server_name or "", each) for each in self.server_names):
            return f"the server name is {' or '.join(self.server_names)}"
        if self.port not in {None, destination.port}:
            return f"the port is {self.port}"
        if self.networks:
            address = ipaddress.ip_address(destination.host)
            if not any(address in network for network in self.networks):
                return f"the destination is in {' or '.join(map(str, self.networks))}"
        return None


@dataclass(frozen=True, slots=True)
class FlowRoute:
    """One tls or tcp route of a document."""

    document: str  # namespace/name
    name: str  # its place: tls[0]
    matches: tuple[FlowMatch, ...]  # none: everything
    route: tuple[RouteDestination, ...]
    sums: tuple[int, ...]  # of the weights

    def failing(self, server_name: str | None, destination: OriginalDestination) -> tuple[str, ...] | None:
        """What does not hold, of each match; None where the route is taken."""
        failed = []
        for match in self.matches:
            said = match.failing(server_name, destination)
            if said is None:
                return None
            failed.append(said)
        return tuple(failed) if self.matches else None

    def destination(self, chance: Chance) -> Destination:
        """One of the destinations, by their weights."""
        return drawn(self.route, self.sums, chance).destination


class FlowStep(NamedTuple):
    """For explain: a route that was tried and what did not hold, None for the one that was taken."""

    route: FlowRoute
    failed: tuple[str, ...] | None


class FlowTable:
    """Every VirtualService with tls or tcp routes; immutable once made. Of two for one host the oldest wins."""

    def __init__(
        self, documents: Sequence[VirtualService] = (), labels: Mapping[str, str] | None = None
    ) -> None:
        self._tls: ByHost[tuple[FlowRoute, ...]] = ByHost()
        self._tcp: ByHost[tuple[FlowRoute, ...]] = ByHost()
        self.compiled: Kept[VirtualService, tuple[tuple[FlowRoute, ...], tuple[FlowRoute, ...]]] = Kept()
        done(self.fill(oldest_first(documents), Source(labels or {})))

    def fill(
        self,
        documents: Sequence[VirtualService],
        source: Source,
        before: FlowTable | None = None,
    ) -> Work[None]:
        """Take the routes of all documents, the oldest first, once; of those of the one before what they came to then."""
        self.compiled = Kept(None if before is None else before.compiled)
        for some in steps(documents):
            yield
            for document in some:
                spec = document.spec
                if MESH not in spec.gateways or not (spec.tls or spec.tcp):
                    continue
                tls, tcp = self.compiled.of(document, source, partial(_both, document, source))
                for table, given, routes in ((self._tls, spec.tls, tls), (self._tcp, spec.tcp, tcp)):
                    for host in spec.hosts if given else ():
                        table.add(host, routes)
        self.compiled.close()

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._tls or self._tcp)

    def asks_name(self, host: str) -> bool:
        """Whether where a connection to a host goes depends on the server name that its client asks for."""
        return bool(self._tls.find(host.encode()))

    @property
    def asks_names(self) -> bool:
        """The same of any host."""
        return bool(self._tls)

    def tried(
        self, host: str, server_name: str | None, destination: OriginalDestination
    ) -> Iterator[FlowStep]:
        """Each route of a host that is tried, up to the one that is taken."""
        key = host.encode()
        tls = self._tls.find(key) or () if server_name is not None else ()
        for route in (*tls, *(self._tcp.find(key) or ())):
            failed = route.failing(server_name, destination)
            yield FlowStep(route, failed)
            if failed is None:
                return

    def take(self, host: str, server_name: str | None, destination: OriginalDestination) -> FlowRoute | None:
        """The route that a connection takes."""
        steps = self.tried(host, server_name, destination)
        return next((step.route for step in steps if step.failed is None), None)


def _both(document: VirtualService, source: Source) -> tuple[tuple[FlowRoute, ...], tuple[FlowRoute, ...]]:
    """The tls and the tcp routes of a document."""
    spec = document.spec
    tls = [([(match.sniHosts, match) for match in each.match], each.route) for each in spec.tls]
    tcp = [([(_ANY, match) for match in each.match], each.route) for each in spec.tcp]
    return (
        tuple(_compiled(document.full_name, "tls", tls, source)),
        tuple(_compiled(document.full_name, "tcp", tcp, source)),
    )


def _compiled(
    document: str,
    kind: str,
    given: Sequence[tuple[Sequence[tuple[tuple[str, ...], L4Match]], tuple[RouteDestination, ...]]],
    source: Source,
) -> Iterator[FlowRoute]:
    for index, (matches, route) in enumerate(given):
        ours = [
            FlowMatch(names, asked.port, tuple(map(ipaddress.ip_network, asked.destinationSubnets)))
            for names, asked in matches
            if source.takes(asked)
        ]
        if ours or not matches:  # else it is for other gateways, or for workloads with other labels
            yield FlowRoute(document, f"{kind}[{index}]", tuple(ours), route, weight_sums(route))


def _is_of(name: str, host: str) -> bool:
    return host in {"*", name} or (host.startswith("*.") and name.endswith(host[1:]))
