"""What happens at the clusters: requests in flight, turns of the balancers, endpoints that are left out for failing.

State belongs to a cluster's name and outlives snapshots. It is each worker's own, as Envoy's is each thread's or host's.
"""

from __future__ import annotations

import logging
import math
from random import Random  # noqa: TID251 (spreads load; nobody gains by guessing it)
from typing import TYPE_CHECKING, Final

from interceptor.routing import balance, locality
from interceptor.routing.balance import Choice, LeastRequest, Ring, RoundRobin, Weighted
from interceptor.routing.locality import distributed
from interceptor.routing.outlier import Outcome, Outliers
from interceptor.routing.retry import RetryBudget

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from interceptor.model.address import UpstreamAddress
    from interceptor.model.health import Unhealthy
    from interceptor.routing.balance import Balancer, Endpoint
    from interceptor.routing.clusters import Cluster, Clusters

_log: Final = logging.getLogger(__name__)
WARM_STEPS: Final = 20  # how often weights grow while endpoints warm up
FORGET: Final = 3600.0  # seconds after which the state of a cluster that nobody used is dropped

_BUDGET: Final = RetryBudget()
_BALANCERS: Final[dict[str, Callable[[], Balancer]]] = {
    "ROUND_ROBIN": RoundRobin,
    "LEAST_REQUEST": LeastRequest,
    "RANDOM": Weighted,
}


class ClusterState:
    """One cluster."""

    def __init__(self, cluster: Cluster, chance: Random) -> None:
        self.cluster = cluster
        self.requests = 0  # in flight
        self.retries = 0  # the same, of those that are not the first attempt
        self.connections = 0  # that carry something: opaque flows, and requests of HTTP/1
        self.waiting: dict[object, Callable[[], None]] = {}  # who waits for a connection, and how it is told
        self.used_at = 0.0
        self.there = True  # among the states: who keeps one sees that it is the cluster's no more
        self._handing = False
        self._chance = chance
        self._active: dict[UpstreamAddress, int] = {}
        self._choice = Choice(chance, self._active)
        self._unhealthy: frozenset[UpstreamAddress] = frozenset()  # by active checks
        self._since: dict[UpstreamAddress, float] = {}  # of those that are new: from when
        self._sweep_at = 0.0
        self._warm_at = 0.0  # when weights are looked at again; 0: nobody warms up
        self._groups: tuple[tuple[float, Sequence[Endpoint]], ...] | None = None
        self._look_at = 0.0  # when something may have to be done about them
        self._lone: UpstreamAddress | None = None  # the only endpoint to choose, where there is one
        self._balancers: dict[int, Balancer] = {}  # by group
        self._set_limits()
        self._set_outliers()

    def _set_limits(self) -> None:
        """What is asked at each request, at hand."""
        traffic = self.cluster.traffic
        self.most_requests = math.inf if traffic.max_requests is None else traffic.max_requests
        self.most_connections = math.inf if traffic.max_connections is None else traffic.max_connections

    def _set_outliers(self) -> None:
        wanted = self.cluster.traffic.outliers
        self._outliers = None if wanted is None else Outliers(wanted)
        self.watches = wanted is not None  # whether it matters how attempts go

    def follow(self, cluster: Cluster, now: float) -> None:
        """The cluster is of a newer snapshot now; what did not change is kept."""
        before, self.cluster = self.cluster, cluster
        self._look_at = 0.0
        if cluster.endpoints != before.endpoints:
            for address in cluster.decisions.keys() - before.decisions.keys():
                self._since[address] = now
            for address in self._since.keys() - cluster.decisions.keys():
                del self._since[address]
            self._groups = self._lone = None
        if cluster.traffic != before.traffic:
            self._groups = self._lone = None
            if (cluster.traffic.balancing, cluster.traffic.hash_on) != (
                before.traffic.balancing,
                before.traffic.hash_on,
            ):
                self._balancers.clear()
        self._set_limits()
        if cluster.traffic.outliers != before.traffic.outliers:
            self._set_outliers()

    def enter(self, now: float, key: bytes | None) -> UpstreamAddress | None:
        """Count a request in, and its connection, where both may begin at once; the endpoint for it."""
        if self.requests >= self.most_requests or self.connections >= self.most_connections:
            return None
        address = self._lone
        if address is None or now >= self._look_at:
            address = self.pick(now, key)
            if address is None:
                return None
        else:
            self.used_at = now
        self.requests += 1
        self.connections += 1
        active = self._active
        active[address] = active.get(address, 0) + 1
        return address

    def leave(self, address: UpstreamAddress) -> None:
        """Such a request is over."""
        self.requests -= 1
        self.connections -= 1
        active = self._active
        left = active[address] - 1
        if left:
            active[address] = left
        else:
            del active[address]
        if self.waiting:
            self._hand_over()

    def pick(
        self,
        now: float,
        key: bytes | None,
        tried: Collection[UpstreamAddress] = (),
        *,
        elsewhere: bool = False,
    ) -> UpstreamAddress | None:
        """An endpoint for a request or a flow; for another attempt at one preferably one that was not tried yet.

        ``elsewhere``: preferably one of another priority or locality.
        """
        self.used_at = now
        if elsewhere and tried and (other := self._elsewhere(tried)) is not None:
            return other
        groups = self._groups
        if groups is None or now >= self._look_at:
            groups = self._look(now)
        if self._lone is not None:
            return self._lone
        if not groups:
            return None
        index = 0 if len(groups) == 1 else balance.drawn(groups, self._chance.random())
        balancer = self._balancers.get(index)
        if balancer is None:
            balancer = self._balancers[index] = self._balancer()
        self._choice.key = key
        chosen = balancer.choose(groups[index][1], self._choice).address
        if chosen not in tried:
            return chosen
        others = [each.address for _, group in groups for each in group if each.address not in tried]
        return others[self._chance.randrange(len(others))] if others else chosen

    def _elsewhere(self, tried: Collection[UpstreamAddress]) -> UpstreamAddress | None:
        """A healthy endpoint of a priority, or a locality, that was not tried, if there is one."""
        near = None if self.cluster.graded else self.cluster.traffic.near
        groups = locality.untried(self.cluster.endpoints, near, tried)
        usable = balance.usable(groups, self._is_healthy, panic_below=0.0)
        if not usable:
            return None
        endpoints = usable[balance.drawn(usable, self._chance.random())][1]
        return LeastRequest().choose(endpoints, self._choice).address

    def _balancer(self) -> Balancer:
        traffic = self.cluster.traffic
        if traffic.hash_on is not None:
            return Ring(traffic.hash_on.ring)
        return _BALANCERS[traffic.balancing]()

    def _look(self, now: float) -> tuple[tuple[float, Sequence[Endpoint]], ...]:
        """The groups of endpoints to choose among; made anew when something about them has changed."""
        outliers = self._outliers
        if outliers is not None and now >= self._sweep_at:
            self._sweep_at = now + outliers.settings.interval
            for address in outliers.sweep(now, self._members()):
                _log.info("%s of %s is used again", address, self.cluster.name)
                self._groups = self._lone = None
        groups = self._groups
        if groups is None or (self._warm_at and now >= self._warm_at):
            groups = self._groups = self._grouped(now)
            alone = len(groups) == 1 and len(groups[0][1]) == 1
            self._lone = groups[0][1][0].address if alone else None
        self._look_at = min(math.inf if outliers is None else self._sweep_at, self._warm_at or math.inf)
        return groups

    def _grouped(self, now: float) -> tuple[tuple[float, Sequence[Endpoint]], ...]:
        endpoints, traffic = self._weighted(now), self.cluster.traffic
        if self.cluster.graded:
            return locality.graded(endpoints, self._is_healthy, panic_below=traffic.panic_below)
        near = traffic.near
        if near is not None and near.shares:
            groups = distributed(endpoints, near, self._is_healthy)
            if groups:
                return groups
        if near is None and not self.ejected and not self._unhealthy:
            return ((1.0, endpoints),) if endpoints else ()
        priorities = (endpoints,) if near is None or near.shares else locality.priorities(endpoints, near)
        return balance.usable(priorities, self._is_healthy, panic_below=traffic.panic_below)

    def _weighted(self, now: float) -> Sequence[Endpoint]:
        """The endpoints with the weights that they have by now."""
        slow, self._warm_at = self.cluster.traffic.slow_start, 0.0
        if slow is None:
            return self.cluster.endpoints
        if not any(now - since < slow.seconds for since in self._since.values()):
            self._since.clear()
            return self.cluster.endpoints
        self._warm_at = now + slow.seconds / WARM_STEPS
        return balance.warmed(
            self.cluster.endpoints,
            self._since,
            now,
            seconds=slow.seconds,
            least=slow.least,
            aggression=slow.aggression,
        )

    def _is_healthy(self, endpoint: Endpoint) -> bool:
        return endpoint.address not in self._unhealthy and endpoint.address not in self.ejected

    def _members(self) -> Collection[UpstreamAddress]:
        return self.cluster.decisions.keys()

    def full(self) -> bool:
        """Whether no further request may begin."""
        return self.requests >= self.most_requests

    def has_connection(self) -> bool:
        """Whether one more connection may carry something."""
        return self.connections < self.most_connections

    def may_wait(self) -> bool:
        """Whether one more request may wait for a connection."""
        limit = self.cluster.traffic.max_pending
        return limit is None or len(self.waiting) < limit

    def leave_connection(self) -> None:
        """A connection carries nothing any more: who waits longest has it. One that is over at once leaves it to the next."""
        self.connections -= 1
        if self.waiting:
            self._hand_over()

    def _hand_over(self) -> None:
        if self._handing:
            return
        self._handing = True
        try:
            while self.waiting and self.has_connection():
                waiter = next(iter(self.waiting))
                self.waiting.pop(waiter)()
        finally:
            self._handing = False

    def may_retry(self) -> bool:
        """Whether there is budget for another attempt."""
        limit = self.cluster.traffic.max_retries
        if limit is not None:
            return self.retries < limit
        budget = self.cluster.traffic.retries or _BUDGET
        return budget.allows(self.requests, self.retries)

    def begin(self, address: UpstreamAddress) -> None:
        """An attempt goes to an endpoint."""
        self._active[address] = self._active.get(address, 0) + 1

    def end(self, address: UpstreamAddress) -> None:
        """It is over."""
        left = self._active[address] - 1
        if left:
            self._active[address] = left
        else:
            del self._active[address]

    def note(self, address: UpstreamAddress, outcome: Outcome, now: float) -> None:
        """How an attempt went, as the endpoint's health sees it."""
        if self._outliers is None:
            return
        reason = self._outliers.note(address, outcome, now, self._members())
        if reason is not None:
            self._groups = self._lone = None
            _log.warning("%s of %s is left out for a while: %s", address, self.cluster.name, reason)

    def judge(self, unhealthy: frozenset[UpstreamAddress], now: float) -> None:
        """What active checks say of the endpoints. One that is healthy again warms up."""
        if unhealthy == self._unhealthy:
            return
        for address in (self._unhealthy - unhealthy) & self.cluster.decisions.keys():
            self._since[address] = now
        self._unhealthy, self._groups, self._lone = unhealthy, None, None

    @property
    def ejected(self) -> Collection[UpstreamAddress]:
        """The endpoints that are left out for failing."""
        return () if self._outliers is None else self._outliers.ejected

    def dump(self) -> dict[str, object]:
        """For ``/clusters``."""
        return {
            "requests": self.requests,
            "connections": self.connections,
            "waiting": len(self.waiting),
            "endpoints": [
                {
                    "address": str(endpoint.address),
                    "weight": endpoint.weight,
                    "locality": "/".join(endpoint.locality),
                    "active": self._active.get(endpoint.address, 0),
                    "healthy": endpoint.address not in self._unhealthy,
                    "ejected": endpoint.address in self.ejected,
                }
                for endpoint in self.cluster.endpoints
            ],
        }


class ClusterStates:
    """The state of every cluster that is used."""

    def __init__(self, seed: int | None = None) -> None:
        self.chance: Final = Random(seed)  # noqa: S311 (as above)
        self._states: dict[str, ClusterState] = {}
        self._unhealthy: Unhealthy = {}
        self._forget_at = 0.0

    def of(self, cluster: Cluster, now: float) -> ClusterState:
        """The state of a cluster, as its newest snapshot has it."""
        state = self._states.get(cluster.name)
        if state is None:
            if now >= self._forget_at:
                self._forget(now)
            state = self._states[cluster.name] = ClusterState(cluster, self.chance)
            if found := self._unhealthy.get((cluster.base.service, cluster.port)):
                state.judge(frozenset(found), now)
        elif state.cluster is not cluster:
            state.follow(cluster, now)
        return state

    def follow(
        self, clusters: Clusters | None, now: float
    ) -> tuple[set[UpstreamAddress], set[UpstreamAddress]]:
        """Other clusters are in force: the addresses that are endpoints no more, of those in use, and all that are."""
        gone: set[UpstreamAddress] = set()
        there: set[UpstreamAddress] = set()
        for name, state in list(self._states.items()):
            host, port = state.cluster.base.service, state.cluster.port
            subset = name.removeprefix(f"outbound|{port}|").removesuffix(f"|{host}")
            before = state.cluster.decisions.keys()
            found = None if clusters is None else clusters.find(host, port, subset or None, port)
            if found is not None:
                state.follow(found, now)
                there |= found.decisions.keys()
            elif not state.requests and not state.connections:
                self._drop(state)
            gone |= before - (() if found is None else found.decisions.keys())
        return gone - there, there

    def judge(self, unhealthy: Unhealthy, now: float) -> None:
        """What active checks say of the endpoints of all clusters."""
        self._unhealthy = unhealthy
        for state in self._states.values():
            service = state.cluster.base.service, state.cluster.port
            state.judge(frozenset(unhealthy.get(service, ())), now)

    def dump(self) -> dict[str, dict[str, object]]:
        """Every cluster that is used, by its name."""
        return {name: state.dump() for name, state in self._states.items()}

    def _forget(self, now: float) -> None:
        """Names come and go with configurations: what is not used any more is dropped."""
        self._forget_at = now + FORGET
        for state in list(self._states.values()):
            if not state.requests and not state.connections and now - state.used_at >= FORGET:
                self._drop(state)

    def _drop(self, state: ClusterState) -> None:
        state.there = False
        del self._states[state.cluster.name]
