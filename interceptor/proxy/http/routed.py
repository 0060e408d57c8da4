"""A request on the route that it takes: answered here, or brought to a cluster (see ``attempts``).

Source: Istio's VirtualService reference. A request is routed by the snapshot that is current when
it gets here, after the policies and the filters; where it turns out to be for another service than its connection, that
service's policies are asked as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from interceptor.model import http
from interceptor.model.connection import Direction, ResponseFlag
from interceptor.model.http import LocalReply, RequestHead
from interceptor.model.request import Destination
from interceptor.protocol import http1
from interceptor.protocol.translation import multiplexes
from interceptor.proxy.http import replies
from interceptor.proxy.http.attempts import Attempts, Means
from interceptor.proxy.http.exchange import Exchange
from interceptor.proxy.http.serve import MARK, complete
from interceptor.routing import routes
from interceptor.routing.plans import ATTEMPT, Plan, always
from interceptor.routing.routes import Question

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from interceptor.config.fault_injection import Abort
    from interceptor.config.virtual_service import HTTPRouteDestination
    from interceptor.model.address import OriginalDestination
    from interceptor.model.connection import Flow
    from interceptor.model.http import ResponseHead
    from interceptor.proxy.clusters import ClusterStates
    from interceptor.proxy.http.roles import Served
    from interceptor.proxy.http.serve import Serving
    from interceptor.routing.clusters import Cluster
    from interceptor.routing.destinations import Decision
    from interceptor.routing.routes import Taken
    from interceptor.routing.table import Routing

_NO_ROUTE: Final = replies.reply(
    404, ResponseFlag.NO_ROUTE, "route_not_found", "no route of a VirtualService takes this request"
)
_NO_CLUSTER: Final = replies.reply(
    503, ResponseFlag.NO_CLUSTER, "cluster_not_found", "the route's destination is not in the registry"
)


class Router(Means):
    """Routes the requests of all connections."""

    def __init__(
        self,
        serving: Serving,
        routing: Callable[[], Routing | None],
        states: ClusterStates,
        judged: Callable[[], bool] = lambda: True,
    ) -> None:
        """``judged``: whether policies are asked about requests."""
        super().__init__(serving, states)
        self._routing = routing
        self._judged = judged

    def active(self, flow: Flow) -> bool:
        """Whether requests of a flow may be routed by themselves."""
        return flow.direction is Direction.EGRESS and self._routing() is not None

    def concerns(self, flow: Flow, head: RequestHead, decision: Decision) -> bool:
        """Whether something is said about a request, which then does not go where its connection goes."""
        routing, destination = self._routing(), flow.original_dst
        if routing is None or destination is None or flow.direction is not Direction.EGRESS:
            return False
        return routing.concerns(head.authority, decision, destination)

    def is_judged(self) -> bool:
        """Whether policies are asked about requests."""
        return self._judged()

    def follows_plan(self, exchange: Served) -> bool:
        """Whether a request says what others said, which then goes where they went."""
        routing, flow = self._routing(), exchange.flow
        destination = flow.original_dst
        if routing is None or destination is None or flow.direction is not Direction.EGRESS:
            return False
        assert isinstance(exchange, Exchange)  # as below
        plan = routing.plans.find(exchange.request, exchange.decision, destination)
        if plan is None:
            return False
        Routed(self, exchange, plan.question).follow(plan)
        return True

    def about(self, exchange: Served) -> bool:
        """Whether something is said about a request, which is then on its way."""
        routing = self._routing()
        if routing is None or exchange.flow.direction is not Direction.EGRESS:
            return False
        assert isinstance(exchange, Exchange)  # those of HTTP/2 are asked about by ``concerns``
        destination = exchange.flow.original_dst
        assert destination is not None
        return Routed(self, exchange, Question(exchange.head, destination.port)).start(routing, destination)


class Routed(Attempts):
    """One request on its route."""

    __slots__ = ("_by_plan", "_destination", "_taken")

    def __init__(self, means: Means, exchange: Exchange, question: Question) -> None:
        super().__init__(means, exchange, question)
        self._taken: Taken | None = None
        self._destination: HTTPRouteDestination | None = None
        self._by_plan = False

    def start(self, routing: Routing, destination: OriginalDestination) -> bool:
        """Whether something is said about the request; it is on its way then, or answered."""
        exchange, decision = self._exchange, self._exchange.decision
        found = routing.find(self._question, decision, destination)
        if found is None:
            return False
        exchange.routed = self
        if found.cluster is not None:
            self._plan(found.cluster, routing, destination)
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
        chosen = self._destination = taken.route.destination(self._means.states.chance)
        port = None if chosen.destination.port is None else chosen.destination.port.number
        cluster = routing.clusters.find(
            chosen.destination.host, port, chosen.destination.subset, self._question.port
        )
        if cluster is None:
            name = routes.cluster_name(chosen.destination, self._question.port)
            exchange.destination = Destination(name, chosen.destination.host, "unknown", taken.route.name)
            exchange.reply(_NO_CLUSTER)
            return
        self._policy = taken.route.retries
        self._head = self._changed(exchange.head, taken, chosen)
        assert exchange.flow.original_dst is not None
        self._plan(cluster, routing, exchange.flow.original_dst)
        self._bring(cluster, taken.route.spec.timeout, self._mirrors(taken, routing), taken.route.name)

    def _mirrors(self, taken: Taken, routing: Routing) -> Sequence[tuple[Cluster | None, bool]]:
        """Where copies of the request go, and whether with the host as it is."""
        find, asked = routing.clusters.find, self._question.port
        found = []
        for each, keeps_host in taken.route.mirrored(self._means.states.chance):
            port = None if each.port is None else each.port.number
            found.append((find(each.host, port, each.subset, asked), keeps_host))
        return found

    def _changed(self, head: RequestHead, taken: Taken, chosen: HTTPRouteDestination) -> RequestHead:
        """The head as the upstream is to see it; the log has the client's."""
        spec = taken.route.spec
        target = routes.rewritten(taken, self._question)
        headers, authority = list(head.headers), head.authority
        if target != head.target:
            http.put(headers, b"x-envoy-original-path", self._question.head.path)
        if spec.rewrite is not None and spec.rewrite.authority is not None:
            authority = spec.rewrite.authority.encode()
            http.put(headers, b"host", authority)
        routes.change_headers(headers, spec.headers.request, chosen.headers.request)
        return RequestHead(head.method, target, authority, head.scheme, head.version, headers)

    def _plan(self, cluster: Cluster, routing: Routing, destination: OriginalDestination) -> None:
        """Keep what was decided for those that say the same, where that would be decided of each of them."""
        exchange, means = self._exchange, self._means
        request, decision = exchange.request, exchange.decision
        if (
            request.upgrade is not None
            or request.head.version != b"1.1"
            or multiplexes(cluster.base.protocol, request.head, None)
            or means.serving.filters is not None
            or (isinstance(means, Router) and means.is_judged())
            or not routing.plans.comes_again(request, decision, destination)
            or not always(self._taken, cluster)
        ):
            return
        head = request.head.copy()
        request_id = complete(head, lambda: MARK)
        if self._taken is not None and self._destination is not None:
            head = self._changed(head, self._taken, self._destination)
        http.put(head.headers, ATTEMPT, b"1")
        before, mark, after = http1.request_head(head, request.body).partition(MARK)
        if bool(mark) is (request_id is None):
            plan = Plan(self._question, cluster, self._taken, self._destination, before, request_id, after)
            routing.plans.keep(request, decision, destination, plan)

    def follow(self, plan: Plan) -> None:
        """Go where requests that say the same went."""
        exchange = self._exchange
        exchange.routed, self._by_plan = self, True
        request_id, taken = plan.request_id, plan.taken
        if request_id is None:
            request_id = exchange.request_id = self._means.serving.request_id()
            self._written = b"%b%b%b" % (plan.before, request_id, plan.after)
        else:
            self._written = plan.before
        if taken is None:
            self._bring(plan.cluster, None)
            return
        self._taken, self._destination, self._policy = taken, plan.chosen, taken.route.retries
        self._bring(plan.cluster, taken.route.spec.timeout, (), taken.route.name)

    def _prepare_again(self) -> None:
        """A plan has the bytes of the first attempt only."""
        if not self._by_plan:
            return
        self._by_plan = False
        self._head = self._exchange.own_head()
        if self._taken is not None and self._destination is not None:
            self._head = self._changed(self._head, self._taken, self._destination)

    # What the exchange calls

    @property
    def changes(self) -> bool:
        """Whether the response is changed."""
        if self._cookie is not None:
            return True
        if self._taken is None or self._destination is None:
            return False
        route, said = self._taken.route, self._destination.headers.response
        return route.cors is not None or routes.says(route.spec.headers.response) or routes.says(said)

    def answered(self, head: ResponseHead) -> bool:
        """A response came; True where it is not passed on, but the request is tried again."""
        if super().answered(head):
            return True
        if self._taken is not None and self._destination is not None and self.changes:
            spec = self._taken.route.spec
            routes.change_headers(head.headers, spec.headers.response, self._destination.headers.response)
            self.replied(head)
        return False

    def replied(self, head: ResponseHead) -> None:
        """A response, the upstream's or ours, is passed on: pages of other origins are told whether they may read it."""
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
