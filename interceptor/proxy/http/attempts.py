"""A request's attempts at a cluster: its limits, an endpoint each time, how long it may take, and another try where that may be.

Source: Envoy's router filter. What a cluster may have in flight is counted from when the request is brought to it until
the exchange is over, however it ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from interceptor.model import http
from interceptor.model.connection import ResponseFlag
from interceptor.model.http import LocalReply
from interceptor.model.request import Destination
from interceptor.proxy.http import replies
from interceptor.proxy.http.mirror import Mirrors
from interceptor.proxy.http.timer import Timer
from interceptor.routing import retry
from interceptor.routing.outlier import Outcome
from interceptor.routing.plans import ATTEMPT
from interceptor.routing.retry import GATEWAY_ERRORS, Attempt, Failure, RetryPolicy
from interceptor.routing.traffic import hash_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from interceptor.model.address import UpstreamAddress
    from interceptor.model.http import ResponseHead
    from interceptor.proxy.clusters import ClusterState, ClusterStates
    from interceptor.proxy.http.exchange import Exchange
    from interceptor.proxy.http.serve import Serving
    from interceptor.routing.clusters import Cluster
    from interceptor.routing.routes import Question
    from interceptor.routing.table import Routing

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
_ONCE: Final = RetryPolicy()
_TIMEOUT: Final = replies.reply(
    504, ResponseFlag.UPSTREAM_TIMEOUT, "response_timeout",
    "the upstream did not answer within the route's timeout",
)  # fmt: skip
_TRY_TIMEOUT: Final = replies.reply(
    504, ResponseFlag.UPSTREAM_TIMEOUT, "upstream_per_try_timeout",
    "the upstream did not answer within the route's perTryTimeout",
)  # fmt: skip


class Means:
    """What requests are brought to clusters with."""

    def __init__(
        self,
        serving: Serving,
        routing: Callable[[], Routing | None],
        states: ClusterStates,
        judged: Callable[[], bool] = lambda: True,
    ) -> None:
        """``judged``: whether policies are asked about requests."""
        self.serving = serving
        self.routing = routing
        self.states = states
        self.judged = judged
        self.mirrors = Mirrors(serving, states)


class Attempts:
    """Those of one request."""

    __slots__ = (
        "_address", "_attempts", "_cluster", "_cookie", "_deadline", "_exchange", "_head", "_inside", "_means", "_mirrored", "_policy",
        "_question", "_retrying", "_state", "_tried", "_try_deadline", "_waiting",
    )  # fmt: skip

    def __init__(self, means: Means, exchange: Exchange, question: Question) -> None:
        self._means = means
        self._exchange = exchange
        self._question = question  # what routes were asked about it
        self._head = exchange.head  # as the upstream is to see it
        self._policy = _ONCE
        self._cluster: Cluster | None = None
        self._state: ClusterState | None = None  # from when the request counts as in flight there
        self._address: UpstreamAddress | None = None  # where the attempt under way goes
        self._attempts = 0
        self._retrying = False
        self._inside = False  # it has one of the connections that the cluster may have
        # What gets a copy, and whether with the host as it is; None: a cluster that is not in the registry.
        self._mirrored: Sequence[tuple[Cluster | None, bool]] = ()
        self._cookie: bytes | None = None  # that keeps the client at its endpoint, where we made it
        self._tried: list[UpstreamAddress] = []
        self._deadline: Timer | None = None
        self._try_deadline: Timer | None = None
        self._waiting: Timer | None = None

    def _bring(
        self,
        cluster: Cluster,
        timeout: float | None,
        mirrored: Sequence[tuple[Cluster | None, bool]] = (),
        route: str | None = None,
    ) -> None:
        """Bring the request to an endpoint of a cluster, if the cluster's policies let it."""
        exchange, every = self._exchange, self._means.serving
        self._cluster, base = cluster, cluster.base
        exchange.destination = Destination(cluster.name, base.service, base.namespace, route)
        if base.entry != exchange.decision.entry and every.authorize is not None:
            denied = every.authorize(exchange, base)
            if denied is not None:
                exchange.reply(denied)
                return
        state = self._means.states.of(cluster, every.hub.now)
        if state.full():
            exchange.reply(_OVERFLOW)
            return
        self._state = state
        state.requests += 1
        if timeout is not None:
            self.limit(timeout)
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
            self._means.serving.fault(self._exchange)

    def _attempt(self) -> None:
        exchange, state, cluster = self._exchange, self._state, self._cluster
        assert state is not None
        assert cluster is not None
        every = self._means.serving
        self._attempts += 1
        key = None if cluster.traffic.hash_on is None else self._key(cluster)
        policy = self._policy
        tried = self._tried if policy.other_endpoints else ()
        address = state.pick(every.hub.now, key, tried, elsewhere=policy.other_places)
        if address is None:
            exchange.reply(_NO_ENDPOINT)
            return
        self._address = address
        self._tried.append(address)
        state.begin(address)
        http.put(self._head.headers, ATTEMPT, b"%d" % self._attempts)
        if policy.per_try_timeout is not None:
            self._try_deadline = self._timer(policy.per_try_timeout, self._try_is_late)
        decision = cluster.decisions.get(address) or state.cluster.decisions[address]
        exchange.attempt(decision, self._head, cluster.traffic)

    def _key(self, cluster: Cluster) -> bytes | None:
        """What of this request its endpoint depends on."""
        on = cluster.traffic.hash_on
        if on is None:
            return None
        key = hash_key(on, self._question, self._exchange.flow.peer.host)[1]
        if key is None and on.cookie is not None:
            if self._cookie is None:
                self._cookie = b"%016x" % self._means.states.chance.getrandbits(64)
            key = self._cookie
        return key

    # What the exchange calls

    indifferent: Final = False  # each answer is of interest

    @property
    def changes(self) -> bool:
        """Whether something is added to the response."""
        return self._cookie is not None

    def answered(self, head: ResponseHead) -> bool:
        """A response came; True where it is not passed on, but the request is tried again."""
        if self._state is None or self._address is None:
            return False
        status = head.status
        outcome = Outcome.SUCCESS
        if status >= 500:
            outcome = Outcome.GATEWAY_ERROR if status in GATEWAY_ERRORS else Outcome.SERVER_ERROR
        if self._state.watches:
            self._state.note(self._address, outcome, self._means.serving.clock())
        # gRPC is spoken in HTTP/2 only.
        grpc = None if self._exchange.head.version != b"2" else http.get(head.headers, b"grpc-status")
        if status >= 400 or grpc is not None or self._policy.status_codes:
            number = int(grpc) if grpc is not None and grpc.isdigit() else None
            if self._again(Attempt(status=status, grpc_status=number)):
                return True
        self._stop_try()
        self._mirror()
        if self._cookie is not None:
            self._give_cookie(head)
        return False

    def _mirror(self) -> None:
        """Send the copies, once all of the request has come."""
        exchange, mirrored = self._exchange, self._mirrored
        if not mirrored or not exchange.complete:
            return
        self._mirrored = ()
        for cluster, keeps_host in mirrored:
            self._means.mirrors.send(exchange.flow, self._head, exchange.kept, cluster, keeps_host=keeps_host)

    def _give_cookie(self, head: ResponseHead) -> None:
        on = None if self._cluster is None else self._cluster.traffic.hash_on
        if self._cookie is None or on is None or on.cookie is None:
            return
        parts = [b'%b="%b"' % (on.cookie.name, self._cookie)]
        if on.cookie.ttl:
            parts.append(b"Max-Age=%d" % on.cookie.ttl)
        if on.cookie.path is not None:
            parts.append(b"Path=" + on.cookie.path)
        head.headers.append((b"set-cookie", b"; ".join((*parts, *on.cookie.attributes, b"HttpOnly"))))

    def failed(self, failure: Failure) -> bool:
        """An attempt got no answer; whether there is another one."""
        if self._state is None or self._address is None:
            return False
        self._state.note(self._address, Outcome.LOCAL_FAILURE, self._means.serving.clock())
        return self._again(Attempt(failure))

    def _again(self, attempt: Attempt) -> bool:
        exchange, state, policy = self._exchange, self._state, self._policy
        assert state is not None
        if (
            exchange.responded
            or not exchange.replayable
            or not policy.attempts
            or retry.reason_to_retry(policy, exchange.head.method, attempt) is None
        ):
            return False
        if self._attempts > policy.attempts:
            exchange.injected = ResponseFlag.RETRY_LIMIT  # of an answer; a failure has its own flag
            return False
        if not self._retrying:
            if not state.may_retry():
                return False
            self._retrying = True
            state.retries += 1
        self._leave()
        exchange.drop_attempt()
        pause = retry.backoff(policy, self._attempts, self._means.states.chance)
        self._waiting = self._timer(pause, self._retry)
        return True

    def _retry(self) -> None:
        if not self._exchange.replayable:  # more of the body has come meanwhile than is kept
            self._exchange.refuse(replies.CLOSED)
        elif not self._exchange.over:
            self._attempt()
            self._exchange.catch_up()

    def limit(self, seconds: float) -> None:
        """It may not take longer from now on."""
        self._deadline = self._timer(seconds, self.is_late)

    def is_late(self) -> None:
        """It took as long as it may."""
        if not self._exchange.over:
            if self._address is not None and self._state is not None:
                self._state.note(self._address, Outcome.LOCAL_FAILURE, self._means.serving.clock())
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
            if state.waiting:
                state.waiting.pop(self, None)
            state.requests -= 1
            state.retries -= self._retrying
        if self._deadline is not None:
            self._deadline.stop()
        if self._waiting is not None:
            self._waiting.stop()
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
        return Timer(self._exchange, self._means.serving, seconds, action)
