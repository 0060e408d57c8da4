"""A request on the route that it takes: answered here, or brought to a cluster (see ``attempts``).

Source: Istio's VirtualService reference. A request is routed by the snapshot that is current when
it gets here, after the policies and the filters; where it turns out to be for another service than its connection, that
service's policies are asked as well.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from interceptor.model.connection import ResponseFlag
from interceptor.model.http import LocalReply
from interceptor.model.request import Destination
from interceptor.proxy.http import planning, replies
from interceptor.proxy.http.attempts import Attempts, Means
from interceptor.routing import routes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from interceptor.config.fault_injection import Abort
    from interceptor.config.virtual_service import HTTPRouteDestination
    from interceptor.model.address import OriginalDestination, UpstreamAddress
    from interceptor.model.http import ResponseHead
    from interceptor.proxy.clusters import ClusterState
    from interceptor.proxy.http.exchange import Exchange
    from interceptor.routing.clusters import Cluster
    from interceptor.routing.plans import Plan, Way
    from interceptor.routing.routes import Question, Taken
    from interceptor.routing.table import Routing

_NO_ROUTE: Final = replies.reply(
    404, ResponseFlag.NO_ROUTE, "route_not_found", "no route of a VirtualService takes this request"
)
_NO_CLUSTER: Final = replies.reply(
    503, ResponseFlag.NO_CLUSTER, "cluster_not_found", "the route's destination is not in the registry"
)


class Routed(Attempts):
    """One request on its route."""

    __slots__ = ("_destination", "_taken")

    def __init__(self, means: Means, exchange: Exchange, question: Question) -> None:
        super().__init__(means, exchange, question)
        self._taken: Taken | None = None
        self._destination: HTTPRouteDestination | None = None

    def start(self, routing: Routing, destination: OriginalDestination) -> bool:
        """Whether something is said about the request; it is on its way then, or answered."""
        exchange, decision = self._exchange, self._exchange.decision
        found = routing.find(self._question, decision, destination)
        if found is None:
            return False
        exchange.routed = self
        if found.cluster is not None:
            self._plan(routing, [found.cluster])
            self._bring(found.cluster, None)
        elif found.taken is None:
            exchange.destination = Destination("-", decision.service, decision.namespace)
            exchange.reply(_NO_ROUTE)
        else:
            name = found.taken.route.name
            exchange.destination = Destination("-", decision.service, decision.namespace, name)
            self._take(found.taken, routing)
        return True

    def _take(self, taken: Taken, routing: Routing) -> None:
        """Do what the route says, in Envoy's order: preflights, faults, then an answer, or a destination."""
        cors = taken.route.cors
        allowed = None if cors is None else cors.answer(self._exchange.head)
        if allowed is not None:
            self._exchange.reply(LocalReply(200, ResponseFlag.NONE, "cors_response", b"", allowed))
            return
        self._taken = taken
        chance, fault = self._means.states.chance, taken.route.spec.fault
        delay = None if fault is None else fault.delay
        if delay is not None and chance.random() * 100 < delay.percentage.value:
            self._exchange.injected = ResponseFlag.DELAY_INJECTED
            self._waiting = self._timer(delay.fixedDelay, lambda: self._delayed(taken, routing))
        else:
            self._after_delay(taken, routing)

    def _delayed(self, taken: Taken, routing: Routing) -> None:
        if not self._exchange.over:
            self._after_delay(taken, routing)
            self._exchange.catch_up()

    def _after_delay(self, taken: Taken, routing: Routing) -> None:
        exchange, spec = self._exchange, taken.route.spec
        chance = self._means.states.chance
        abort = None if spec.fault is None else spec.fault.abort
        if abort is not None and chance.random() * 100 < abort.percentage.value:
            exchange.reply(_aborted(abort))
        elif spec.redirect is not None:
            status, location = routes.redirection(taken, self._question)
            exchange.reply(
                LocalReply(status, ResponseFlag.NONE, "direct_response", b"", [(b"location", location)])
            )
        elif spec.directResponse is not None:
            body = spec.directResponse.body.string.encode()
            local = LocalReply(spec.directResponse.status, ResponseFlag.NONE, "direct_response", body)
            routes.change_headers(local.headers, spec.headers.response)
            exchange.reply(local)
        else:
            self._to_destination(taken, routing)

    def _to_destination(self, taken: Taken, routing: Routing) -> None:
        exchange = self._exchange
        find = partial(self._cluster_of, routing)
        chosen = self._destination = taken.route.destination(self._means.states.chance)
        cluster = find(chosen)
        if cluster is None:
            name = routes.cluster_name(chosen.destination, self._question.port)
            exchange.destination = Destination(name, chosen.destination.host, "unknown", taken.route.name)
            exchange.reply(_NO_CLUSTER)
            return
        self._policy = taken.route.retries
        self._head = routes.changed(exchange.head, taken, self._question, chosen)
        self._plan(routing, map(find, taken.route.spec.route))
        self._bring(cluster, taken.route.spec.timeout, self._mirrors(taken, routing), taken.route.name)

    def _cluster_of(self, routing: Routing, chosen: HTTPRouteDestination) -> Cluster | None:
        to = chosen.destination
        port = None if to.port is None else to.port.number
        return routing.clusters.find(to.host, port, to.subset, self._question.port)

    def _mirrors(self, taken: Taken, routing: Routing) -> Sequence[tuple[Cluster | None, bool]]:
        """Where copies of the request go, and whether with the host as it is."""
        find, asked = routing.clusters.find, self._question.port
        found = []
        for each, keeps_host in taken.route.mirrored(self._means.states.chance):
            port = None if each.port is None else each.port.number
            found.append((find(each.host, port, each.subset, asked), keeps_host))
        return found

    def _plan(self, routing: Routing, clusters: Iterable[Cluster | None]) -> None:
        """Keep what was decided for those that say the same, where that would be decided of each of them."""
        exchange, means = self._exchange, self._means
        request, decision, destination = exchange.request, exchange.decision, exchange.flow.original_dst
        assert destination is not None
        if (
            request.upgrade is None
            and request.head.version == b"1.1"
            and means.serving.filters is None
            and not means.judged()
            and routing.plans.comes_again(request, decision, destination)
        ):
            plan = planning.make(request, self._question, self._taken, clusters)
            if plan is not None:
                routing.plans.keep(request, decision, destination, plan)

    # By a plan

    def start_by(self, plan: Plan, way: Way) -> None:
        """Go to the destination that was drawn, where more has to be done than a plan says."""
        self._exchange.routed = self
        self._learn(plan, way)
        taken = plan.taken
        self._bring(
            way.cluster, None if taken is None else taken.route.spec.timeout, (), way.destination.route
        )

    def take_over(self, plan: Plan, way: Way, state: ClusterState, address: UpstreamAddress) -> None:
        """Go on with a request of which the first attempt is under way, by a plan, and counted."""
        self._learn(plan, way)
        self._cluster, self._state, self._address = way.cluster, state, address
        self._attempts, self._inside = 1, True
        self._tried.append(address)
        if self._policy.attempts and not self._exchange.body:
            self._exchange.keep()

    def _learn(self, plan: Plan, way: Way) -> None:
        self._head = self._exchange.own_head()
        if plan.taken is not None and way.chosen is not None:
            self._taken, self._destination, self._policy = plan.taken, way.chosen, plan.taken.route.retries
            self._head = routes.changed(self._head, plan.taken, self._question, way.chosen)

    # What the exchange calls

    @property
    def changes(self) -> bool:
        """Whether the response is changed."""
        taken, chosen = self._taken, self._destination
        return self._cookie is not None or (
            taken is not None and chosen is not None and routes.changes_answers(taken, chosen)
        )

    def answered(self, head: ResponseHead) -> bool:
        """A response came; True where it is not passed on, but the request is tried again."""
        if super().answered(head):
            return True
        if self._taken is not None and self._destination is not None and self.changes:
            routes.change_answer(head, self._exchange.head, self._taken, self._destination)
        return False

    def replied(self, head: ResponseHead) -> None:
        """An answer of ours is passed on: pages of other origins are told whether they may read it."""
        cors = None if self._taken is None else self._taken.route.cors
        if cors is not None:
            cors.change(self._exchange.head, head.headers)


def _aborted(abort: Abort) -> LocalReply:
    """The answer that a route's fault asks for; one of gRPC to whatever client, as Envoy has it."""
    flag, details = ResponseFlag.FAULT_INJECTED, "fault_filter_abort"
    if abort.grpcStatus is None:
        assert abort.httpStatus is not None  # the document was refused without
        return replies.reply(abort.httpStatus, flag, details, "fault filter abort")
    status = [(b"content-type", b"application/grpc"), (b"grpc-status", b"%d" % abort.grpcStatus)]
    return LocalReply(200, flag, details, b"", [*status, (b"grpc-message", b"fault filter abort")])
