"""Requests that go where others went which said the same: counted at their cluster and sent, with no line more than that needs.

Where one needs more (another attempt, a limit that is reached, a timeout), it becomes one like any other: see ``routed``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.proxy.http.routed import Routed
from interceptor.routing import routes
from interceptor.routing.outlier import Outcome

if TYPE_CHECKING:
    from interceptor.model.address import OriginalDestination, UpstreamAddress
    from interceptor.model.http import ResponseHead
    from interceptor.proxy.clusters import ClusterState
    from interceptor.proxy.http.attempts import Means
    from interceptor.proxy.http.exchange import Exchange
    from interceptor.proxy.http.roles import Served
    from interceptor.proxy.http.serve import Service
    from interceptor.routing.plans import Plan, Way
    from interceptor.routing.retry import Failure


class Planned:
    """Those of one client's connection, one after the other."""

    __slots__ = (
        "_address", "_age", "_destination", "_exchange", "_means", "_plan", "_request", "_service", "_state", "_way",
        "changes", "indifferent",
    )  # fmt: skip

    _plan: Plan  # of the request that came last, and of its snapshot
    _address: UpstreamAddress  # while a request is under way

    def __init__(self, means: Means, destination: OriginalDestination) -> None:
        self._means = means
        self._destination = destination
        self._request: object = None
        self._age: object = None
        self._exchange: Exchange | None = None
        self._way: Way | None = None
        self._state: ClusterState | None = None
        self._service: Service | None = None
        self.changes = False
        self.indifferent = False  # to an answer that tells of no failure

    def takes(self, exchange: Served) -> bool:
        """Whether there is a plan for a request; it is on its way then, or answered."""
        if TYPE_CHECKING:
            assert isinstance(exchange, Exchange)  # what is not never says the same
        routing, request = self._means.routing(), exchange.request
        if self._exchange is not None or routing is None:
            return False
        plans = routing.plans
        if request is not self._request or plans.age is not self._age:
            plan = plans.find(request, exchange.decision, self._destination)
            if plan is None:
                return False
            self._request, self._age, self._plan = request, plans.age, plan
        else:
            plan = self._plan
        taken, ways = plan.taken, plan.ways
        if taken is None or len(ways) == 1:
            way = ways[0]
        else:
            way = routes.drawn(ways, taken.route.sums, self._means.states.chance)
        self._follow(exchange, plan, way)
        return True

    def _follow(self, exchange: Exchange, plan: Plan, way: Way) -> None:
        every = self._means.serving
        now, cluster, keyed = every.hub.now, way.cluster, way.keyed
        state = self._state
        if state is None or state.cluster is not cluster or not state.there:
            state = self._state = self._means.states.of(cluster, now)
        address = None
        if not plan.tries_timed:
            address = state.enter(now, exchange.flow.peer.host.encode() if keyed.by_peer else keyed.key)
        if address is None:
            Routed(self._means, exchange, plan.question).start_by(plan, way)
            return
        self._exchange, self._address = exchange, address
        if plan.timeout is not None:
            every.deadlines.add(self, plan.timeout)
        if way is not self._way:
            self._way, self.changes = way, way.changes
        self.indifferent = way.plain and not state.watches
        exchange.routed, exchange.destination = self, way.destination
        request_id = way.request_id
        if request_id is None:
            request_id = exchange.request_id = every.request_id()
            written = b"%b%b%b" % (way.before, request_id, way.after)
        else:
            written = way.before
        if exchange.body and plan.taken is not None and plan.taken.route.retries.attempts:
            exchange.keep()
        decision, service = cluster.decisions[address], self._service
        if service is None or service.decision is not decision:
            service = self._service = exchange.towards(decision, cluster.traffic)
        exchange.go(service, written, cluster.traffic.connect_timeout)

    # What the exchange calls

    def answered(self, head: ResponseHead) -> bool:
        """A response came; True where it is not passed on, but the request is tried again."""
        status, plan, state, way = head.status, self._plan, self._state, self._way
        if status >= 500 or status in plan.again:
            return self._as_any_other().answered(head)
        if TYPE_CHECKING:
            assert state is not None
            assert way is not None
            assert self._exchange is not None
        if state.watches:
            state.note(self._address, Outcome.SUCCESS, self._means.serving.hub.now)
        if plan.taken is not None and way.chosen is not None and way.changes:
            routes.change_answer(head, self._exchange.head, plan.taken, way.chosen)
        return False

    def replied(self, head: ResponseHead) -> None:
        """An answer of ours is passed on."""
        self._as_any_other().replied(head)

    def failed(self, failure: Failure) -> bool:
        """An attempt got no answer; whether there is another one."""
        return self._as_any_other().failed(failure)

    def finished(self) -> None:
        """The exchange is over, however it ended."""
        self._exchange = None
        if self._plan.timeout is not None:
            self._means.serving.deadlines.remove(self, self._plan.timeout)
        if self._state is not None:
            self._state.leave(self._address)

    # What the deadlines call

    def late(self) -> None:
        """The request under way has taken as long as it may."""
        exchange = self._exchange
        assert exchange is not None
        try:
            self._as_any_other().is_late()
        except Exception:  # noqa: BLE001 (a fault while one request is served must not end the others)
            self._means.serving.fault(exchange)

    def _as_any_other(self) -> Routed:
        """The request under way, with all that may become of it."""
        exchange, self._exchange = self._exchange, None
        assert exchange is not None
        assert self._way is not None
        assert self._state is not None
        routed = exchange.routed = Routed(self._means, exchange, self._plan.question)
        routed.take_over(self._plan, self._way, self._state, self._address)
        timeout, deadlines = self._plan.timeout, self._means.serving.deadlines
        due = None if timeout is None else deadlines.remove(self, timeout)
        if due is not None:
            routed.limit(due - deadlines.clock())
        return routed
