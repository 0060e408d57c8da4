"""PURE. Which route a request of the app's takes, and why; for people and for programs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from interceptor.config.addresses import is_ip_address
from interceptor.routing import routes
from interceptor.routing.routes import Question

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from interceptor.config.virtual_service import HTTPRouteDestination
    from interceptor.model.address import OriginalDestination
    from interceptor.model.http import RequestHead
    from interceptor.routing.clusters import Cluster
    from interceptor.routing.destinations import Decision
    from interceptor.routing.routes import Taken
    from interceptor.routing.table import Found, Routing

_HOW = {
    "ROUND_ROBIN": "each in turn",
    "LEAST_REQUEST": "the less loaded of two drawn by chance",
    "RANDOM": "any one by chance",
    "HASH": "the one that the hash of the request's key falls to",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteReason:
    """What routing says about a request."""

    document: str | None
    route: str | None
    clusters: tuple[Mapping[str, object], ...]
    because: tuple[str, ...]

    def as_mapping(self) -> dict[str, object]:
        """For JSON."""
        return {
            "document": self.document,
            "route": self.route,
            "clusters": [dict(each) for each in self.clusters],
            "because": list(self.because),
        }


def route_reason(
    routing: Routing, head: RequestHead, to: str | None, decision: Decision, destination: OriginalDestination
) -> RouteReason | None:
    """The route of a request; None where no document says where it goes. Without a Host it is for the name dialled."""
    if not head.authority and to is not None and not is_ip_address(to):
        head = replace(head, authority=to.encode())
    question = Question(head, destination.port)
    found = routing.find(question, decision, destination)
    if found is None:
        return None
    because = list(_host(found, head, decision))
    if found.cluster is not None:
        because.append("no VirtualService is about the host; a DestinationRule is")
        return RouteReason(
            document=found.cluster.rule,
            route=None,
            clusters=(_cluster(found.cluster, 100.0),),
            because=(*because, *_endpoints(found.cluster)),
        )
    because += _steps(routing, question, found.host)
    if found.taken is None:
        because.append("no route takes it: 404")
        return RouteReason(document=None, route=None, clusters=(), because=tuple(because))
    clusters = []
    for each, share in _shares(found.taken):
        name, lines, mapping = _destination(routing, each, share, destination.port)
        because += [f"{share:g}% go to {name}", *(f"  {line}" for line in lines)]
        clusters.append(mapping)
    because += _done(found.taken, question)
    return RouteReason(
        document=f"VirtualService {found.taken.route.document}",
        route=found.taken.route.name,
        clusters=tuple(clusters),
        because=tuple(because),
    )


def _host(found: Found, head: RequestHead, decision: Decision) -> Iterator[str]:
    if found.believed:
        yield f"the host is {found.host.decode()}"
    else:
        said = head.authority.decode("latin-1") or "(none)"
        yield (
            f"the Host {said} is not believed: the address is that of {decision.service} ({decision.policy}), "
            "whose routes hold"
        )


def _steps(routing: Routing, question: Question, host: bytes) -> Iterator[str]:
    for route, failed in routing.table.explain(question, host):
        name = f"VirtualService {route.document}, route {route.name}"
        if failed is None:
            yield f"{name}: taken"
        else:
            yield f"{name}: not taken, since it is not so that {'; nor that '.join(failed)}"


def _shares(taken: Taken) -> Iterator[tuple[HTTPRouteDestination, float]]:
    before, sums = 0, taken.route.sums
    for each, upto in zip(taken.route.spec.route, sums, strict=True):
        yield each, 100 * (upto - before) / sums[-1]
        before = upto


def _destination(
    routing: Routing, each: HTTPRouteDestination, share: float, dialled: int
) -> tuple[str, list[str], Mapping[str, object]]:
    asked = each.destination
    port = None if asked.port is None else asked.port.number
    cluster = routing.clusters.find(asked.host, port, asked.subset, dialled)
    if cluster is None:
        name = routes.cluster_name(asked, dialled)
        return (
            name,
            ["which the registry does not have: 503"],
            {"name": name, "share": share, "endpoints": []},
        )
    return cluster.name, list(_endpoints(cluster)), _cluster(cluster, share)


def _cluster(cluster: Cluster, share: float) -> Mapping[str, object]:
    return {
        "name": cluster.name,
        "share": share,
        "document": cluster.document,
        "rule": cluster.rule,
        "balancing": cluster.traffic.balancing,
        "endpoints": [str(endpoint.address) for endpoint in cluster.endpoints],
    }


def _endpoints(cluster: Cluster) -> Iterator[str]:
    if not cluster.endpoints:
        yield f"{cluster.document} has no endpoint for it: 503"
        return
    by = f", by {cluster.rule}" if cluster.rule else ""
    yield f"{_HOW[cluster.traffic.balancing]}{by}, of {', '.join(str(each.address) for each in cluster.endpoints)}"


def _done(taken: Taken, question: Question) -> Iterator[str]:
    """What else is done with the request."""
    spec = taken.route.spec
    if spec.fault is not None:
        for name, fault in (("held back", spec.fault.delay), ("answered with an error", spec.fault.abort)):
            if fault is not None:
                yield f"{fault.percentage.value:g}% are {name} by its fault"
    if spec.redirect is not None:
        status, location = routes.redirection(taken, question)
        yield f"it is redirected: {status}, {location.decode('latin-1')}"
    if spec.directResponse is not None:
        yield f"it is answered: {spec.directResponse.status}"
    target = routes.rewritten(taken, question)
    if target != question.head.target:
        yield f"the path is rewritten to {target.decode('latin-1')}"
