"""What happens at the clusters: requests in flight, turns of the balancers, endpoints that are left out for failing.

State belongs to a cluster's name and outlives snapshots. It is each worker's own, as Envoy's is each thread's or host's.
"""

from __future__ import annotations

import logging
from collections import Counter
from random import Random  # noqa: TID251 (spreads load; nobody gains by guessing it)
from typing import TYPE_CHECKING, Final

from interceptor.routing import balance
from interceptor.routing.balance import Choice, LeastRequest, Ring, RoundRobin, Weighted
from interceptor.routing.outlier import Outcome, Outliers
from interceptor.routing.retry import RetryBudget

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from interceptor.model.address import UpstreamAddress
    from interceptor.routing.balance import Balancer, Endpoint
    from interceptor.routing.clusters import Cluster

_log: Final = logging.getLogger(__name__)
FORGET: Final = 3600.0  # seconds after which the state of a cluster that nobody used is dropped

_BALANCERS: Final[dict[str, Callable[[], Balancer]]] = {
    "ROUND_ROBIN": RoundRobin,
    "LEAST_REQUEST": LeastRequest,
    "RANDOM": Weighted,
    "HASH": Ring,
}


class ClusterState:
    """One cluster."""

    def __init__(self, cluster: Cluster, chance: Random) -> None:
        self.cluster = cluster
        self.requests = 0  # in flight
        self.retries = 0  # the same, of those that are not the first attempt
        self.used_at = 0.0
        self._chance = chance
        self._active: Counter[UpstreamAddress] = Counter()
        self._endpoints = cluster.endpoints
        self._usable: Sequence[Endpoint] | None = cluster.endpoints
        self._balancer = _BALANCERS[cluster.traffic.balancing]()
        self._outliers = None if cluster.traffic.outliers is None else Outliers(cluster.traffic.outliers)
        self._sweep_at = 0.0

    def follow(self, cluster: Cluster) -> None:
        """The cluster is of a newer snapshot now; what did not change is kept."""
        before, self.cluster = self.cluster, cluster
        if cluster.endpoints != self._endpoints:
            self._endpoints, self._usable = cluster.endpoints, None
        if cluster.traffic.balancing != before.traffic.balancing:
            self._balancer = _BALANCERS[cluster.traffic.balancing]()
        if cluster.traffic.outliers != before.traffic.outliers:
            wanted = cluster.traffic.outliers
            self._outliers = None if wanted is None else Outliers(wanted)
            self._usable = None

    def pick(
        self, now: float, key: bytes | None, tried: Collection[UpstreamAddress] = ()
    ) -> UpstreamAddress | None:
        """An endpoint for a request; for another attempt at one preferably one that was not tried yet."""
        self.used_at = now
        endpoints = self._healthy(now)
        if not endpoints:
            return None
        choice = Choice(self._chance, self._active, key)
        chosen = self._balancer.choose(endpoints, choice).address
        if chosen not in tried:
            return chosen
        others = [each.address for each in endpoints if each.address not in tried]
        return others[self._chance.randrange(len(others))] if others else chosen

    def _healthy(self, now: float) -> Sequence[Endpoint]:
        outliers = self._outliers
        if outliers is not None and now >= self._sweep_at:
            self._sweep_at = now + outliers.settings.interval
            for address in outliers.sweep(now, self._members()):
                _log.info("%s of %s is used again", address, self.cluster.name)
                self._usable = None
        if self._usable is None:
            self._usable = self._endpoints
            if outliers is not None and outliers.ejected:
                self._usable = balance.candidates(
                    (self._endpoints,),
                    lambda endpoint: endpoint.address not in outliers.ejected,
                    panic_below=self.cluster.traffic.panic_below,
                    point=0.0,
                )
        return self._usable

    def _members(self) -> Collection[UpstreamAddress]:
        return self.cluster.decisions.keys()

    def full(self) -> bool:
        """Whether no further request may begin."""
        limit = self.cluster.traffic.max_requests
        return limit is not None and self.requests >= limit

    def may_retry(self) -> bool:
        """Whether there is budget for another attempt."""
        limit = self.cluster.traffic.max_retries
        if limit is not None:
            return self.retries < limit
        return RetryBudget().allows(self.requests, self.retries)

    def begin(self, address: UpstreamAddress) -> None:
        """An attempt goes to an endpoint."""
        self._active[address] += 1

    def end(self, address: UpstreamAddress) -> None:
        """It is over."""
        self._active[address] -= 1
        if not self._active[address]:
            del self._active[address]

    def note(self, address: UpstreamAddress, outcome: Outcome, now: float) -> None:
        """How an attempt went, as the endpoint's health sees it."""
        if self._outliers is None:
            return
        reason = self._outliers.note(address, outcome, now, self._members())
        if reason is not None:
            self._usable = None
            _log.warning("%s of %s is left out for a while: %s", address, self.cluster.name, reason)

    @property
    def ejected(self) -> Collection[UpstreamAddress]:
        """The endpoints that are left out."""
        return () if self._outliers is None else self._outliers.ejected


class ClusterStates:
    """The state of every cluster that is used."""

    def __init__(self, seed: int | None = None) -> None:
        self.chance: Final = Random(seed)  # noqa: S311 (as above)
        self._states: dict[str, ClusterState] = {}
        self._forget_at = 0.0

    def of(self, cluster: Cluster, now: float) -> ClusterState:
        """The state of a cluster, as its newest snapshot has it."""
        state = self._states.get(cluster.name)
        if state is None:
            if now >= self._forget_at:
                self._forget(now)
            state = self._states[cluster.name] = ClusterState(cluster, self.chance)
        elif state.cluster is not cluster:
            state.follow(cluster)
        return state

    def _forget(self, now: float) -> None:
        """Names come and go with configurations: what is not used any more is dropped."""
        self._forget_at = now + FORGET
        for name, state in list(self._states.items()):
            if not state.requests and now - state.used_at >= FORGET:
                del self._states[name]
