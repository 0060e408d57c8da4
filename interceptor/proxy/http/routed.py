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
from interceptor.proxy.http import replies
from interceptor.proxy.http.attempts import Attempts, Means
from interceptor.proxy.http.exchange import Exchange
from interceptor.routing import routes
from interceptor.routing.routes import Question

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from interceptor.config.virtual_service import Abort, HTTPRouteDestination
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
        self, serving: Serving, routing: Callable[[], Routing | None], states: ClusterStates
    ) -> None:
        super().__init__(serving, states)
        self._routing = routing

    def active(self, flow: Flow) -> bool:
        """Whether requests of a flow may be routed by themselves."""
        return flow.direction is Direction.EGRESS and self._routing() is not None

    def concerns(self, flow: Flow, head: RequestHead, decision: Decision) -> bool:
        """Whether something is said about a request, which then does not go where its connection goes."""
        routing, destination = self._routing(), flow.original_dst
        if routing is None or destination is None or flow.direction is not Direction.EGRESS:
            return False
        return routing.concerns(head.authority, decision, destination)

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
        chosen = self._destination = taken.route.destination(self._means.states.chance)
        port = None if chosen.destination.port is None else chosen.destination.port.number
        cluster = routing.clusters.find(
            chosen.destination.host, port, chosen.destination.subset, self._question.port
        )
        if cluster is None:
            name = routes.cluster_name(chosen.destination, self._question.port)
            self._exchange.destination = Destination(
                name, chosen.destination.host, "unknown", taken.route.name
            )
            self._exchange.reply(_NO_CLUSTER)
            return
        self._policy = taken.route.retries
        self._head = self._changed(taken, chosen)
        self._bring(cluster, taken.route.spec.timeout, self._mirrors(taken, routing), taken.route.name)

    def _mirrors(self, taken: Taken, routing: Routing) -> Sequence[Cluster | None]:
        """Where copies of the request go."""
        drawn = taken.route.mirrored(self._means.states.chance)
        ports = [(each, None if each.port is None else each.port.number) for each in drawn]
        find, asked = routing.clusters.find, self._question.port
        return [find(each.host, port, each.subset, asked) for each, port in ports]

    def _changed(self, taken: Taken, chosen: HTTPRouteDestination) -> RequestHead:
        """The head as the upstream is to see it; the log has the client's."""
        head, spec = self._exchange.head, taken.route.spec
        target = routes.rewritten(taken, self._question)
        headers, authority = list(head.headers), head.authority
        if target != head.target:
            http.put(headers, b"x-envoy-original-path", self._question.head.path)
        if spec.rewrite is not None and spec.rewrite.authority is not None:
            authority = spec.rewrite.authority.encode()
            http.put(headers, b"host", authority)
        routes.change_headers(headers, spec.headers.request, chosen.headers.request)
        return RequestHead(head.method, target, authority, head.scheme, head.version, headers)

    # What the exchange calls

    def answered(self, head: ResponseHead) -> bool:
        """A response came; True where it is not passed on, but the request is tried again."""
        if super().answered(head):
            return True
        if self._taken is not None and self._destination is not None:
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
