"""Which requests are routed by themselves: by a plan where there is one, else by all that documents say (see ``routed``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.model.connection import Direction
from interceptor.proxy.http.attempts import Means
from interceptor.proxy.http.exchange import Exchange
from interceptor.proxy.http.planned import Planned
from interceptor.proxy.http.routed import Routed
from interceptor.routing.routes import Question

if TYPE_CHECKING:
    from interceptor.model.connection import Flow
    from interceptor.model.http import RequestHead
    from interceptor.proxy.http.roles import Served
    from interceptor.routing.destinations import Decision


class Router(Means):
    """Routes the requests of all connections."""

    def active(self, flow: Flow) -> bool:
        """Whether requests of a flow may be routed by themselves."""
        return flow.direction is Direction.EGRESS and self.routing() is not None

    def concerns(self, flow: Flow, head: RequestHead, decision: Decision) -> bool:
        """Whether something is said about a request, which then does not go where its connection goes."""
        routing, destination = self.routing(), flow.original_dst
        if routing is None or destination is None or flow.direction is not Direction.EGRESS:
            return False
        return routing.concerns(head.authority, decision, destination)

    def follows_plan(self, exchange: Served) -> Planned | None:
        """What brings a request, and others of its connection, where those went that said the same; it is on its way then."""
        routing, flow = self.routing(), exchange.flow
        destination = flow.original_dst
        if routing is None or destination is None or flow.direction is not Direction.EGRESS:
            return None
        assert isinstance(exchange, Exchange)  # as below
        if routing.plans.find(exchange.request, exchange.decision, destination) is None:
            return None
        planned = Planned(self, destination)
        planned.takes(exchange)
        return planned

    def about(self, exchange: Served) -> bool:
        """Whether something is said about a request, which is then on its way."""
        routing = self.routing()
        if routing is None or exchange.flow.direction is not Direction.EGRESS:
            return False
        assert isinstance(exchange, Exchange)  # those of HTTP/2 are asked about by ``concerns``
        destination = exchange.flow.original_dst
        assert destination is not None
        return Routed(self, exchange, Question(exchange.head, destination.port)).start(routing, destination)
