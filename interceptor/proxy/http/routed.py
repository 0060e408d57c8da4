"""A request on the route that it takes: answered here, or brought to an endpoint of a cluster, again where that may be.

Sources: Istio's VirtualService reference and Envoy's router filter. A request is routed by the snapshot that is current when
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
from interceptor.proxy.http.exchange import Exchange
from interceptor.proxy.http.mirror import Mirrors
from interceptor.proxy.http.timer import Timer
from interceptor.routing import retry, routes
from interceptor.routing.clusters import hash_key
from interceptor.routing.outlier import Outcome
from interceptor.routing.retry import GATEWAY_ERRORS, Attempt, Failure, RetryPolicy
from interceptor.routing.routes import Question

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from interceptor.config.virtual_service import HTTPRouteDestination
    from interceptor.model.address import UpstreamAddress
    from interceptor.model.connection import Flow
    from interceptor.model.http import ResponseHead
    from interceptor.proxy.clusters import ClusterState, ClusterStates
    from interceptor.proxy.http.roles import Served
    from interceptor.proxy.http.serve import Serving
    from interceptor.routing.clusters import Cluster
    from interceptor.routing.destinations import Decision
    from interceptor.routing.routes import Taken
    from interceptor.routing.table import Routing

_NO_ROUTE: Final = replies.reply(
    404, ResponseFlag.NO_ROUTE, "route_not_found", "no route of a VirtualService takes this request"
)
_NO_ENDPOINT: Final = replies.reply(
    503, ResponseFlag.NO_HEALTHY_UPSTREAM, "no_healthy_upstream",
    "no endpoint of the destination is there, or none is healthy",
)  # fmt: skip
_OVERFLOW: Final = LocalReply(
    503,
    ResponseFlag.OVERFLOW,
    "overflow",
    b"interceptor: the destination has as many requests in flight as connectionPool.http.http2MaxRequests allows\n",
    [(b"x-envoy-overloaded", b"true")],
)
_PENDING_OVERFLOW: Final = LocalReply(
    503,
    ResponseFlag.OVERFLOW,
    "overflow",
    b"interceptor: all connections that connectionPool.tcp.maxConnections allows carry a request, and as many wait as "
    b"http1MaxPendingRequests allows\n",
    [(b"x-envoy-overloaded", b"true")],
)
_NO_CLUSTER: Final = replies.reply(
    503, ResponseFlag.NO_CLUSTER, "cluster_not_found", "the route's destination is not in the registry"
)
_ONCE: Final = RetryPolicy()
_TIMEOUT: Final = replies.reply(
    504, ResponseFlag.UPSTREAM_TIMEOUT, "response_timeout",
    "the upstream did not answer within the route's timeout",
)  # fmt: skip
_TRY_TIMEOUT: Final = replies.reply(
    504, ResponseFlag.UPSTREAM_TIMEOUT, "upstream_per_try_timeout",
    "the upstream did not answer within the route's perTryTimeout",
)  # fmt: skip


class Router:
    """Routes the requests of all connections."""

    def __init__(
        self, serving: Serving, routing: Callable[[], Routing | None], states: ClusterStates
    ) -> None:
        self.serving = serving
        self.states = states
        self.mirrors = Mirrors(serving, states)
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
        assert isinstance(exchange, Exchange)  # those of HTTP/2 are asked about by ``refusal``
        return Routed(self, exchange).start(routing)


class Routed:
    """One request on its route."""

    __slots__ = (
        "_address", "_attempts", "_cluster", "_cookie", "_deadline", "_destination", "_exchange", "_head", "_inside", "_mirrored", "_policy",
        "_question", "_retrying", "_router", "_state", "_taken", "_tried", "_try_deadline", "_waiting",
    )  # fmt: skip

    def __init__(self, router: Router, exchange: Exchange) -> None:
        self._router = router
        self._exchange = exchange
        self._head = exchange.head  # as the upstream is to see it
        self._taken: Taken | None = None
        self._destination: HTTPRouteDestination | None = None
        self._policy = _ONCE
        self._cluster: Cluster | None = None
        self._state: ClusterState | None = None  # from when the request counts as in flight there
        self._address: UpstreamAddress | None = None  # where the attempt under way goes
        self._attempts = 0
        self._retrying = False
        self._inside = False  # it has one of the connections that the cluster may have
        self._mirrored: Sequence[
            Cluster | None
        ] = ()  # that get a copy; None: one that is not in the registry
        self._cookie: bytes | None = None  # that keeps the client at its endpoint, where we made it
        self._tried: list[UpstreamAddress] = []
        self._deadline: Timer | None = None
        self._try_deadline: Timer | None = None
        self._waiting: Timer | None = None

    def start(self, routing: Routing) -> bool:
        """Whether something is said about the request; it is on its way then, or answered."""
        exchange = self._exchange
        destination = exchange.flow.original_dst
        assert destination is not None
        question = self._question = Question(exchange.head, destination.port)
        decision = exchange.decision
        found = routing.find(question, decision, destination)
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
        chance, fault = self._router.states.chance, taken.route.spec.fault
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
        chance = self._router.states.chance
        abort = None if spec.fault is None else spec.fault.abort
        if abort is not None and chance.random() * 100 < abort.percentage.value:
            exchange.reply(
                replies.reply(
                    abort.httpStatus, ResponseFlag.FAULT_INJECTED, "fault_filter_abort", "fault filter abort"
                )
            )
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
        chosen = self._destination = taken.route.destination(self._router.states.chance)
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
        self._bring(cluster, taken.route.spec.timeout, self._mirrors(taken, routing))

    def _mirrors(self, taken: Taken, routing: Routing) -> Sequence[Cluster | None]:
        """Where copies of the request go."""
        drawn = taken.route.mirrored(self._router.states.chance)
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

    def _bring(
        self, cluster: Cluster, timeout: float | None, mirrored: Sequence[Cluster | None] = ()
    ) -> None:
        """Bring the request to an endpoint of a cluster, if the cluster's policies let it."""
        exchange, every = self._exchange, self._router.serving
        self._cluster, base = cluster, cluster.base
        name = None if self._taken is None else self._taken.route.name
        exchange.destination = Destination(cluster.name, base.service, base.namespace, name)
        if base.entry != exchange.decision.entry and every.authorize is not None:
            denied = every.authorize(exchange, base)
            if denied is not None:
                exchange.reply(denied)
                return
        state = self._router.states.of(cluster, every.clock())
        if state.full():
            exchange.reply(_OVERFLOW)
            return
        self._state = state
        state.requests += 1
        if timeout is not None:
            self._deadline = self._timer(timeout, self._is_late)
        self._mirrored = mirrored
        if self._policy.attempts or mirrored:
            exchange.keep()
        if state.has_connection():
            self._enter(state)
        elif state.may_wait():
            state.waiting[self] = self._admitted
        else:
            exchange.reply(_PENDING_OVERFLOW)

    def _enter(self, state: ClusterState) -> None:
        self._inside = True
        state.connections += 1
        self._attempt()

    def _admitted(self) -> None:
        """Another request has left its connection."""
        try:
            if self._state is not None and not self._exchange.over:
                self._enter(self._state)
                self._exchange.catch_up()
        except Exception:  # noqa: BLE001 (a fault while one request is served must not end the other, which calls)
            self._router.serving.fault(self._exchange)

    def _attempt(self) -> None:
        exchange, state, cluster = self._exchange, self._state, self._cluster
        assert state is not None
        assert cluster is not None
        every = self._router.serving
        self._attempts += 1
        address = state.pick(every.clock(), self._key(cluster), self._tried)
        if address is None:
            exchange.reply(_NO_ENDPOINT)
            return
        self._address = address
        self._tried.append(address)
        state.begin(address)
        http.put(self._head.headers, b"x-envoy-attempt-count", b"%d" % self._attempts)
        if self._policy.per_try_timeout is not None:
            self._try_deadline = self._timer(self._policy.per_try_timeout, self._try_is_late)
        decision = cluster.decisions.get(address) or state.cluster.decisions[address]
        exchange.attempt(decision, self._head, cluster.traffic.connect_timeout)

    def _key(self, cluster: Cluster) -> bytes | None:
        """What of this request its endpoint depends on."""
        on = cluster.traffic.hash_on
        if on is None:
            return None
        key = hash_key(on, self._question, self._exchange.flow.peer.host)[1]
        if key is None and on.cookie is not None:
            if self._cookie is None:
                self._cookie = b"%016x" % self._router.states.chance.getrandbits(64)
            key = self._cookie
        return key

    # What the exchange calls

    def answered(self, head: ResponseHead) -> bool:
        """A response came; True where it is not passed on, but the request is tried again."""
        if self._state is None or self._address is None:
            return False
        status = head.status
        outcome = Outcome.SUCCESS
        if status >= 500:
            outcome = Outcome.GATEWAY_ERROR if status in GATEWAY_ERRORS else Outcome.SERVER_ERROR
        self._state.note(self._address, outcome, self._router.serving.clock())
        grpc = http.get(head.headers, b"grpc-status")
        attempt = Attempt(
            status=status, grpc_status=int(grpc) if grpc is not None and grpc.isdigit() else None
        )
        if self._again(attempt):
            return True
        self._stop_try()
        self._mirror()
        self._give_cookie(head)
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

    def _mirror(self) -> None:
        """Send the copies, once all of the request has come."""
        exchange, mirrored = self._exchange, self._mirrored
        if not mirrored or not exchange.complete:
            return
        self._mirrored = ()
        for cluster in mirrored:
            self._router.mirrors.send(exchange.flow, self._head, exchange.kept, cluster)

    def _give_cookie(self, head: ResponseHead) -> None:
        on = None if self._cluster is None else self._cluster.traffic.hash_on
        if self._cookie is None or on is None or on.cookie is None:
            return
        parts = [b'%b="%b"' % (on.cookie.name, self._cookie)]
        if on.cookie.ttl:
            parts.append(b"Max-Age=%d" % on.cookie.ttl)
        if on.cookie.path is not None:
            parts.append(b"Path=" + on.cookie.path)
        head.headers.append((b"set-cookie", b"; ".join((*parts, b"HttpOnly"))))

    def failed(self, failure: Failure) -> bool:
        """An attempt got no answer; whether there is another one."""
        if self._state is None or self._address is None:
            return False
        self._state.note(self._address, Outcome.LOCAL_FAILURE, self._router.serving.clock())
        return self._again(Attempt(failure))

    def _again(self, attempt: Attempt) -> bool:
        exchange, state, policy = self._exchange, self._state, self._policy
        assert state is not None
        if (
            exchange.responded
            or not exchange.replayable
            or self._attempts > policy.attempts
            or retry.reason_to_retry(policy, exchange.head.method, attempt) is None
        ):
            return False
        if not self._retrying:
            if not state.may_retry():
                return False
            self._retrying = True
            state.retries += 1
        self._leave()
        exchange.drop_attempt()
        pause = retry.backoff(policy, self._attempts, self._router.states.chance)
        self._waiting = self._timer(pause, self._retry)
        return True

    def _retry(self) -> None:
        if not self._exchange.replayable:  # more of the body has come meanwhile than is kept
            self._exchange.refuse(replies.CLOSED)
        elif not self._exchange.over:
            self._attempt()
            self._exchange.catch_up()

    def _is_late(self) -> None:
        if not self._exchange.over:
            if self._address is not None and self._state is not None:
                self._state.note(self._address, Outcome.LOCAL_FAILURE, self._router.serving.clock())
            self._exchange.refuse(_TIMEOUT)

    def _try_is_late(self) -> None:
        exchange = self._exchange
        if not exchange.over and not exchange.responded and not self.failed(Failure.RESET):
            exchange.refuse(_TRY_TIMEOUT)

    def finished(self) -> None:
        """The exchange is over, however it ended."""
        self._leave()
        self._mirror()
        state, self._state = self._state, None
        if state is not None:
            state.waiting.pop(self, None)
            state.requests -= 1
            state.retries -= self._retrying
        for timer in (self._deadline, self._waiting):
            if timer is not None:
                timer.stop()
        if state is not None and self._inside:
            state.leave_connection()

    def _leave(self) -> None:
        """The attempt is over."""
        self._stop_try()
        address, self._address = self._address, None
        if address is not None and self._state is not None:
            self._state.end(address)

    def _stop_try(self) -> None:
        timer, self._try_deadline = self._try_deadline, None
        if timer is not None:
            timer.stop()

    def _timer(self, seconds: float, action: Callable[[], None]) -> Timer:
        return Timer(self._exchange, self._router.serving, seconds, action)
