"""PURE. Which route a request of the app's takes, and why; for people and for programs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from interceptor.config.addresses import is_ip_address
from interceptor.routing import locality, routes
from interceptor.routing.balance import Ring, hash_of
from interceptor.routing.routes import Question
from interceptor.routing.traffic import hash_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from interceptor.config.virtual_service import Destination
    from interceptor.model.address import OriginalDestination
    from interceptor.model.health import Unhealthy
    from interceptor.model.http import RequestHead
    from interceptor.routing.clusters import Cluster
    from interceptor.routing.destinations import Decision
    from interceptor.routing.routes import Taken
    from interceptor.routing.table import Found, Routing
    from interceptor.state.question import Question as Asked

T = TypeVar("T")
SHOWN: Final = 5  # endpoints in one line
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
    entries: tuple[str, ...] = ()  # the ServiceEntry documents of the clusters
    served: bool = True  # somebody is there, as far as documents and addresses go
    done: tuple[str, ...] = ()  # what else is done with the request

    @property
    def summary(self) -> str:
        """Who gets it, in one line."""
        goes = [f"{each['share']:g}% {each['name']} ({few(each['endpoints'])})" for each in self.clusters]
        return f"{self.document or 'no document'}, {self.route or 'no route'}: {'; '.join(goes) or '-'}"

    def as_mapping(self) -> dict[str, object]:
        """For JSON."""
        return {
            "document": self.document,
            "route": self.route,
            "clusters": [dict(each) for each in self.clusters],
            "because": list(self.because),
        }


def route_reason(
    routing: Routing, head: RequestHead, asked: Asked, decision: Decision, destination: OriginalDestination
) -> RouteReason | None:
    """The route of a request; None where no document says where it goes. Without a Host it is for the name dialled."""
    to, peer = asked.to, asked.peer
    if not head.authority and to is not None and not is_ip_address(to):
        head = replace(head, authority=to.encode())
    question = Question(head, destination.port)
    found = routing.find(question, decision, destination)
    if found is None:
        return None
    because = list(_host(found, head, decision))
    if found.cluster is not None:
        because.append(f"no VirtualService is about the host; {_balanced_by(found.cluster)}")
        return RouteReason(
            document=found.cluster.rule,
            route=None,
            clusters=(_cluster(found.cluster, 100.0),),
            because=(*because, *_endpoints(found.cluster, question, peer)),
            entries=_entries([found.cluster]),
            served=_served([found.cluster]),
        )
    because += _steps(routing, question, found.host)
    if found.taken is None:
        because.append("no route takes it: 404")
        return RouteReason(document=None, route=None, clusters=(), because=tuple(because))
    route = found.taken.route
    given = [(each.destination, share) for each, share in _shares(route.spec.route, route.sums)]
    goes = [_destination(routing, each, share, destination.port, question, peer) for each, share in given]
    because += [line for each in goes for line in each.lines]
    done = tuple(_done(found.taken, question))
    return RouteReason(
        document=f"VirtualService {route.document}",
        route=route.name,
        clusters=tuple(each.mapping for each in goes),
        because=(*because, *done),
        entries=_entries([each.cluster for each in goes]),
        served=not goes or _served([each.cluster for each in goes]),
        done=done,
    )


def flow_reason(
    routing: Routing, asked: Asked, decision: Decision, destination: OriginalDestination
) -> RouteReason | None:
    """Where a connection goes that is relayed as it is; None where no document says it."""
    server_name = asked.sni or None
    found = routing.find_flow(server_name, decision, destination)
    if found is None:
        return None
    because = []
    if found.believed is False:
        because.append(
            f"the server name {asked.sni} is not believed: the address is that of {decision.service} ({decision.policy}), "
            "whose routes hold"
        )
    elif found.believed:
        because.append(f"the host is {found.host}, the server name")
    name = None if server_name is None else found.host
    for route, failed in routing.flows.tried(found.host, name, destination):
        said = (
            "taken" if failed is None else f"not taken, since it is not so that {'; nor that '.join(failed)}"
        )
        because.append(f"VirtualService {route.document}, route {route.name}: {said}")
    if found.route is None:
        assert found.cluster is not None
        cluster = found.cluster
        ends = (
            ["it goes to the address that was dialled, within the limits of the cluster"]
            if cluster.original
            else list(_endpoints(cluster, None, asked.peer))
        )
        return RouteReason(
            document=cluster.rule,
            route=None,
            clusters=(_cluster(cluster, 100.0),),
            because=(*because, f"it goes to {cluster.name}", *ends),
            entries=_entries([cluster]),
            served=_served([cluster]),
        )
    given = [(each.destination, share) for each, share in _shares(found.route.route, found.route.sums)]
    goes = [_destination(routing, each, share, destination.port, None, asked.peer) for each, share in given]
    return RouteReason(
        document=f"VirtualService {found.route.document}",
        route=found.route.name,
        clusters=tuple(each.mapping for each in goes),
        because=(*because, *(line for each in goes for line in each.lines)),
        entries=_entries([each.cluster for each in goes]),
        served=_served([each.cluster for each in goes]),
    )


def _entries(clusters: Sequence[Cluster | None]) -> tuple[str, ...]:
    return tuple({each.base.entry: None for each in clusters if each is not None and each.base.entry})


def _served(clusters: Sequence[Cluster | None]) -> bool:
    """Whether any of them has anybody."""
    return any(each is not None and (each.original or each.endpoints) for each in clusters)


def few(endpoints: object) -> str:
    """Some of many endpoints, and how many more there are."""
    texts = list(map(str, endpoints)) if isinstance(endpoints, list) else []
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more


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


def _shares(route: Sequence[T], sums: Sequence[int]) -> Iterator[tuple[T, float]]:
    before = 0
    for each, upto in zip(route, sums, strict=True):
        yield each, 100 * (upto - before) / sums[-1]
        before = upto


class _Goes(NamedTuple):
    """One destination of a route."""

    lines: tuple[str, ...]
    mapping: Mapping[str, object]
    cluster: Cluster | None


def _destination(
    routing: Routing, asked: Destination, share: float, dialled: int, question: Question | None, peer: str
) -> _Goes:
    port = None if asked.port is None else asked.port.number
    cluster = routing.clusters.find(asked.host, port, asked.subset, dialled)
    if cluster is None:
        name = routes.cluster_name(asked, dialled)
        mapping = {"name": name, "share": share, "endpoints": []}
        said = "503" if question is not None else "a reset"
        return _Goes(
            (f"{share:g}% go to {name}", f"  which the registry does not have: {said}"), mapping, None
        )
    lines = (
        f"{share:g}% go to {cluster.name}",
        *(f"  {line}" for line in _endpoints(cluster, question, peer)),
    )
    return _Goes(lines, _cluster(cluster, share), cluster)


def _cluster(cluster: Cluster, share: float) -> Mapping[str, object]:
    return {
        "name": cluster.name,
        "share": share,
        "document": cluster.document,
        "rule": cluster.rule,
        "balancing": cluster.traffic.balancing,
        "endpoints": [str(endpoint.address) for endpoint in cluster.endpoints],
    }


def _balanced_by(cluster: Cluster) -> str:
    """What has a cluster's endpoints chosen among where no route leads to it."""
    if cluster.rule is not None:
        return "a DestinationRule is"
    if cluster.traffic.check is not None:
        return "its endpoints are chosen among, for spec.healthChecks is about it"
    return "its endpoints are chosen among, for the address that was dialled stands for them"


def left_out(routed: RouteReason, unhealthy: Unhealthy) -> Iterator[str]:
    """The endpoints on a request's way that get nothing now, for their checks fail."""
    for cluster in routed.clusters:
        name = str(cluster["name"])  # outbound|80|subset|host, and a subset may have any name
        down = unhealthy.get((name.rpartition("|")[2], int(name.split("|")[1])), {})
        for address, why in down.items():
            if str(address) in cluster["endpoints"]:  # type: ignore[operator]  # a list of them
                yield f"{address} of {cluster['name']} is left out: its health check fails: {why}"


def _endpoints(cluster: Cluster, question: Question | None, peer: str) -> Iterator[str]:
    if not cluster.endpoints:
        yield f"{cluster.document} has no endpoint for it: {'a reset' if question is None else '503'}"
        return
    traffic, by = cluster.traffic, f", by {cluster.rule}" if cluster.rule else ""
    ends = ", ".join(
        str(each.address) if each.weight == 1 else f"{each.address} (weight {each.weight})"
        for each in cluster.endpoints
    )
    yield f"{_HOW[traffic.balancing]}{by}, of {ends}"
    if traffic.hash_on is not None:
        what, key = hash_key(traffic.hash_on, question, peer)
        if key is None:
            yield f"it has no {what}, so it goes to any one"
        else:
            owner = Ring(traffic.hash_on.ring).owner(cluster.endpoints, hash_of(key))
            yield f"by its {what} that is {owner.address}, as long as it is there"
    if cluster.graded:
        yield from _grades(cluster)
    if (near := traffic.near) is not None and near.shares:
        shares = ", ".join(f"{share}% to {'/'.join(place) or 'anywhere'}" for place, share in near.shares)
        yield f"by locality, for this proxy is in {'/'.join(near.own)}: {shares}"
    elif near is not None:
        groups = locality.priorities(cluster.endpoints, near)
        first = ", ".join(str(each.address) for each in groups[0])
        yield f"the nearest of them to {'/'.join(near.own).replace(chr(0), '?')} first, as long as they are healthy: {first}"
    if traffic.check is not None:
        yield "without those whose health check fails; a running proxy, asked, names them"
    if traffic.outliers is not None:
        yield "without those that are left out for failing; /clusters of the running proxy shows them"


def _grades(cluster: Cluster) -> Iterator[str]:
    """What each priority, and each of its localities, gets while all endpoints are healthy."""
    first = min(each.priority for each in cluster.endpoints)
    for share, group in locality.graded(cluster.endpoints, lambda _: True, panic_below=0.0):
        place = f" in {'/'.join(group[0].locality) or 'no locality'}" if group[0].share else ""
        ends = ", ".join(str(each.address) for each in group)
        yield f"{100 * share:.0f}% to those of the priority {first}{place}, as long as they are healthy: {ends}"


def _done(taken: Taken, question: Question) -> Iterator[str]:
    """What else is done with the request."""
    spec = taken.route.spec
    if spec.fault is not None:
        for name, fault in (("held back", spec.fault.delay), ("answered with an error", spec.fault.abort)):
            if fault is not None:
                yield f"{fault.percentage.value:g}% are {name} by its fault"
    for destination, share, _ in spec.copies:
        yield f"copies of {share:g}% are sent to {routes.cluster_name(destination, question.port)}; their answers are dropped"
    if spec.corsPolicy is not None:
        yield "preflights of the origins of its corsPolicy are answered here, and what these origins may read is added"
    if spec.redirect is not None:
        status, location = routes.redirection(taken, question)
        yield f"it is redirected: {status}, {location.decode('latin-1')}"
    if spec.directResponse is not None:
        yield f"it is answered: {spec.directResponse.status}"
    yield from _changes(taken, question)
    yield from _limits(taken)


def _changes(taken: Taken, question: Question) -> Iterator[str]:
    """What its endpoint sees otherwise than the app wrote it, and the app than the endpoint."""
    spec = taken.route.spec
    target = routes.rewritten(taken, question)
    if target != question.head.target:
        yield f"the path is rewritten to {target.decode('latin-1')}"
    if spec.rewrite is not None and spec.rewrite.authority is not None:
        yield f"the host is rewritten to {spec.rewrite.authority}"
    for whose, said in (("its", spec.headers.request), ("the answer's", spec.headers.response)):
        if changed := sorted((*said.set, *said.add, *said.remove)):
            yield f"{whose} headers are changed: {', '.join(changed)}"


def _limits(taken: Taken) -> Iterator[str]:
    """What a document says of its time, and of other attempts."""
    spec, policy = taken.route.spec, taken.route.retries
    if spec.route and spec.timeout:
        yield f"it may take {spec.timeout:g} s"
    if spec.route and spec.retries is not None:
        each = "" if policy.per_try_timeout is None else f", {policy.per_try_timeout:g} s each"
        after = f" after {', '.join(sorted(policy.conditions))}" if policy.attempts else ""
        yield f"it is tried again at most {policy.attempts} times{after}{each}"
