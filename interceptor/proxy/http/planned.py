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
    from interceptor.routing.plans import Plan, Way
    from interceptor.routing.retry import Failure


class Planned:
    """Those of one client's connection, one after the other."""

    __slots__ = (
        "_address", "_age", "_destination", "_exchange", "_means", "_plan", "_request", "_state", "_way", "changes",
    )  # fmt: skip

    _plan: Plan  # of the request that came last, and of its snapshot
    # While a request is under way
    _way: Way
    _state: ClusterState
    _address: UpstreamAddress

    def __init__(self, means: Means, destination: OriginalDestination) -> None:
        self._means = means
        self._destination = destination
        self._request: object = None
        self._age: object = None
        self._exchange: Exchange | None = None
        self.changes = False

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
        self._follow(exchange)
        return True

    def _follow(self, exchange: Exchange) -> None:
        plan, means = self._plan, self._means
        taken, ways = plan.taken, plan.ways
        way = (
            ways[0]
            if taken is None or len(ways) == 1
            else routes.drawn(ways, taken.route.sums, means.states.chance)
        )
        cluster, keyed, every = way.cluster, way.keyed, means.serving
        now = every.hub.now
        state = means.states.of(cluster, now)
        address = None
        if (
            state.requests < state.most_requests
            and state.connections < state.most_connections
            and not plan.timed
        ):
            address = state.pick(now, exchange.flow.peer.host.encode() if keyed.by_peer else keyed.key)
        if address is None:
            Routed(means, exchange, plan.question).start_by(plan, way)
            return
        state.requests += 1
        state.connections += 1
        state.begin(address)
        self._exchange, self._way, self._state, self._address = exchange, way, state, address
        self.changes = way.changes
        exchange.routed, exchange.destination = self, way.destination
        request_id = way.request_id
        if request_id is None:
            request_id = exchange.request_id = every.request_id()
            written = b"%b%b%b" % (way.before, request_id, way.after)
        else:
            written = way.before
        if exchange.body and taken is not None and taken.route.retries.attempts:
            exchange.keep()
        exchange.go(cluster.decisions[address], cluster.traffic, written)

    # What the exchange calls

    def answered(self, head: ResponseHead) -> bool:
        """A response came; True where it is not passed on, but the request is tried again."""
        status = head.status
        if status >= 500 or status in self._plan.again:
            return self._as_any_other().answered(head)
        if self._state.watches:
            self._state.note(self._address, Outcome.SUCCESS, self._means.serving.hub.now)
        if self.changes:
            taken, chosen = self._plan.taken, self._way.chosen
            assert taken is not None
            assert chosen is not None
            assert self._exchange is not None
            routes.change_answer(head, self._exchange.head, taken, chosen)
        return False

    def replied(self, head: ResponseHead) -> None:
        """An answer of ours is passed on."""
        self._as_any_other().replied(head)

    def failed(self, failure: Failure) -> bool:
        """An attempt got no answer; whether there is another one."""
        return self._as_any_other().failed(failure)

    def finished(self) -> None:
        """The exchange is over, however it ended."""
        state = self._state
        self._exchange = None
        state.end(self._address)
        state.requests -= 1
        state.leave_connection()

    def _as_any_other(self) -> Routed:
        """The request under way, with all that may become of it."""
        exchange, self._exchange = self._exchange, None
        assert exchange is not None
        routed = exchange.routed = Routed(self._means, exchange, self._plan.question)
        routed.take_over(self._plan, self._way, self._state, self._address)
        return routed
