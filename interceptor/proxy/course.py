"""The course of a flow that is relayed as it is: which cluster documents bring it to, and which endpoint takes it.

Sources: Istio's VirtualService (tls and tcp routes) and DestinationRule, and Envoy's TCP proxy. A flow counts among its
cluster's connections from when it is dialled until it ends; one that its endpoint does not take is offered to another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from interceptor.model.connection import Direction, ResponseFlag
from interceptor.proxy import endings, permission
from interceptor.proxy.endings import TurnedAwayError
from interceptor.routing.outlier import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.model.address import OriginalDestination, UpstreamAddress
    from interceptor.model.connection import Flow
    from interceptor.policy.policies import Policies
    from interceptor.proxy.clusters import ClusterState, ClusterStates
    from interceptor.proxy.permission import SnapshotView
    from interceptor.routing.clusters import Cluster
    from interceptor.routing.destinations import Decision
    from interceptor.routing.table import Routing

ATTEMPTS: Final = (
    3  # at one flow, as at a request: Istio's default is two more, where the upstream saw nothing
)


class Course:
    """One flow's."""

    def __init__(self, cluster: Cluster, state: ClusterState, key: bytes, original: Decision | None) -> None:
        """``original``: it goes where its sender sent it, and is counted here."""
        self.cluster = cluster
        self._state = state
        self._key = key
        self._original = original
        self._tried: list[UpstreamAddress] = []
        self._inside = False
        self._address: UpstreamAddress | None = None
        self.decision = cluster.base  # of the endpoint that was chosen last

    def enter(self, destination: OriginalDestination) -> None:
        """Take a place among the cluster's connections. Raises TurnedAwayError."""
        if not self._state.has_connection():
            details = (
                f"{self.cluster.name} has as many connections as connectionPool.tcp.maxConnections allows"
            )
            raise TurnedAwayError(destination, endings.Outcome(ResponseFlag.OVERFLOW, details))
        self._state.connections += 1
        self._inside = True

    def next(self, destination: OriginalDestination, now: float) -> Decision:
        """An endpoint that was not tried yet, and the decision of who goes there. Raises TurnedAwayError."""
        if self._original is not None:
            address = self._original.upstreams[0]
        else:
            found = self._state.pick(now, self._key, self._tried)
            if found is None:
                details = f"no endpoint of {self.cluster.name} is there, or none is healthy"
                raise TurnedAwayError(destination, endings.Outcome(ResponseFlag.NO_HEALTHY_UPSTREAM, details))
            address = found
        self._address = address
        self._tried.append(address)
        self._state.begin(address)
        self.decision = (
            self._original or self.cluster.decisions.get(address) or self._state.cluster.decisions[address]
        )
        return self.decision

    def took(self, now: float) -> None:
        """The endpoint accepted."""
        if self._address is not None:
            self._state.note(self._address, Outcome.SUCCESS, now)

    def failed(self, now: float) -> bool:
        """The endpoint did not; whether there is another one to try."""
        address, self._address = self._address, None
        if address is not None:
            self._state.end(address)
            self._state.note(address, Outcome.LOCAL_FAILURE, now)
        more = self._state.cluster.decisions.keys() - set(self._tried)
        return self._original is None and bool(more) and len(self._tried) < ATTEMPTS

    def leave(self) -> None:
        """The flow is over, or was no such flow."""
        address, self._address = self._address, None
        if address is not None:
            self._state.end(address)
        if self._inside:
            self._inside = False
            self._state.leave_connection()


class Courses:
    """Those of all flows."""

    def __init__(
        self, view: Callable[[], SnapshotView], states: ClusterStates, clock: Callable[[], float]
    ) -> None:
        self._view = view
        self._states = states
        self._clock = clock
        self._live: dict[int, Course] = {}  # by flow

    def silent(self, flow: Flow, decision: Decision) -> bool:
        """Whether documents say nothing of where a flow goes, whatever server name it has."""
        routing = self._view().routing
        if routing is None or flow.direction is not Direction.EGRESS or flow.original_dst is None:
            return True
        if routing.flows.asks_name(decision.service):
            return False
        return routing.find_flow(None, decision, flow.original_dst) is None

    def asks_name(self, flow: Flow, decision: Decision) -> bool:
        """Whether where a flow goes depends on the server name of its ClientHello, so that the client speaks first."""
        routing = self._view().routing
        return (
            routing is not None
            and flow.direction is Direction.EGRESS
            and routing.flows.asks_name(decision.service)
        )

    def may_depart(self, flow: Flow, decision: Decision) -> bool:
        """Whether a flow that was dialled before its server name was known may belong elsewhere."""
        routing = self._view().routing
        if routing is None or flow.server_name is None or flow.original_dst is None:
            return False
        if flow.direction is not Direction.EGRESS:
            return False
        found = routing.find_flow(flow.server_name, decision, flow.original_dst)
        return found is not None and found.route is not None

    def begin(self, flow: Flow, decision: Decision) -> Course | None:
        """The course of a flow, which has its place from now on; None where nothing is said. Raises TurnedAwayError."""
        view = self._view()
        if view.routing is None or flow.original_dst is None or flow.direction is not Direction.EGRESS:
            return None
        found = self._found(flow, decision, view.routing, flow.original_dst)
        if found is None:
            return None
        cluster, original = found
        self._admit(flow, decision, cluster, view.policies)
        self.leave(flow)  # of another attempt
        course = Course(cluster, self._states.of(cluster, self._clock()), flow.peer.host.encode(), original)
        course.enter(flow.original_dst)
        self._live[flow.id] = course
        return course

    def _found(
        self, flow: Flow, decision: Decision, routing: Routing, destination: OriginalDestination
    ) -> tuple[Cluster, Decision | None] | None:
        found = routing.find_flow(flow.server_name, decision, destination)
        if found is None:
            return None
        if found.cluster is not None:
            return found.cluster, decision if found.cluster.original else None
        assert found.route is not None
        chosen = found.route.destination(self._states.chance)
        port = None if chosen.port is None else chosen.port.number
        cluster = routing.clusters.find(chosen.host, port, chosen.subset, destination.port)
        if cluster is None:
            details = (
                f"VirtualService {found.route.document}, {found.route.name}: its destination {chosen.host} is not in the "
                "registry; add a ServiceEntry that names it, and a DestinationRule for the subset if there is one"
            )
            raise TurnedAwayError(destination, endings.Outcome(ResponseFlag.NO_CLUSTER, details))
        return cluster, None

    def _admit(self, flow: Flow, decision: Decision, cluster: Cluster, policies: Policies | None) -> None:
        """Ask the policies about another service than the one that was dialled."""
        flow.routed_entry = None if cluster.base.entry == decision.entry else cluster.base.entry
        if flow.routed_entry is None:
            return
        judged = permission.opaque(flow, cluster.base, policies)
        if judged.denied is not None:
            refusal = endings.Outcome(ResponseFlag.DENY, judged.details)
            assert flow.original_dst is not None
            raise TurnedAwayError(flow.original_dst, refusal, denied=judged.denied, policy=judged.policy)

    def note(self, flow: Flow, course: Course, decision: Decision) -> None:
        """What is recorded of the flow: the destination that it has in the end."""
        base = course.cluster.base
        flow.upstream_cluster = base.cluster
        flow.destination_service, flow.destination_namespace = base.service, base.namespace
        if flow.routed_entry is not None:
            flow.policy = decision.policy
        course.took(self._clock())

    def failed(self, course: Course) -> bool:
        """The endpoint did not take the flow; whether there is another one."""
        return course.failed(self._clock())

    def next(self, flow: Flow, course: Course) -> Decision:
        """An endpoint to dial. Raises TurnedAwayError."""
        assert flow.original_dst is not None
        return course.next(flow.original_dst, self._clock())

    def turn_back(self, flow: Flow, decision: Decision) -> Decision:
        """The flow turned out to be one of requests; the decision by which it was dialled, or the one before."""
        course = self._live.get(flow.id)
        self.leave(flow)
        return decision if course is None else course.decision

    def cluster(self, flow: Flow) -> Cluster | None:
        """The cluster that a flow goes to, where documents say something of it."""
        course = self._live.get(flow.id)
        return None if course is None else course.cluster

    def leave(self, flow: Flow) -> None:
        """The flow is over, or goes elsewhere."""
        course = self._live.pop(flow.id, None)
        if course is not None:
            course.leave()
