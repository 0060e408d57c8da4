"""PURE. Which endpoint of a cluster a connection or a request goes to: Istio's and Envoy's load balancing.

Sources: Istio's DestinationRule (LoadBalancerSettings) and Envoy's "Load balancing" pages (supported load balancers,
priority levels, panic threshold, slow start). Randomness, time, load and health are arguments.
"""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from interceptor.model.address import UpstreamAddress
    from interceptor.model.chance import Chance

OVERPROVISIONING: Final = (
    1.4  # Envoy's: a priority keeps all load until less than 1/1.4 of its endpoints are healthy
)
FINER: Final = 100  # of a weight of 1, while endpoints warm up
POINTS: Final = 160  # on the ring, for each unit of weight: shares are even to about 10 %; libketama's figure
POINTS_LIMIT: Final = 16_000  # of one endpoint: building its part of the ring takes some 30 ms


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of a cluster. The locality is (region, zone, subzone), as far as it is known."""

    address: UpstreamAddress
    weight: int = 1
    locality: tuple[str, ...] = ()
    priority: int = 0  # those of a lower one come first, whatever the localities
    share: int = 0  # of its locality, among the localities of its priority


@dataclass(slots=True)
class Choice:
    """What a balancer may look at: randomness, the requests in flight by address, the hash of this request."""

    rng: Chance
    active: Mapping[UpstreamAddress, int]
    key: bytes | None = None


class Balancer(Protocol):
    """Chooses among endpoints, of which there is at least one; the sequence given is the same object until it changes."""

    def choose(self, endpoints: Sequence[Endpoint], choice: Choice) -> Endpoint: ...


class RoundRobin:
    """Each endpoint in turn, as often as its weight says: earliest deadline first, so that turns are spread out."""

    def __init__(self) -> None:
        self._of: Sequence[Endpoint] = ()
        self._schedule: list[tuple[float, int, Endpoint]] = []

    def choose(self, endpoints: Sequence[Endpoint], choice: Choice) -> Endpoint:
        """The next one; after a change of the endpoints it begins at a random one, lest all proxies begin at the first."""
        if endpoints is not self._of:
            self._of = endpoints
            self._schedule = [
                (choice.rng.random() / endpoint.weight, order, endpoint)
                for order, endpoint in enumerate(endpoints)
            ]
            heapq.heapify(self._schedule)
        due, order, endpoint = self._schedule[0]
        heapq.heapreplace(self._schedule, (due + 1 / endpoint.weight, order, endpoint))
        return endpoint


class Weighted:
    """By chance, in proportion to the weights."""

    def __init__(self) -> None:
        self._of: Sequence[Endpoint] = ()
        self._sums: list[int] = []

    def choose(self, endpoints: Sequence[Endpoint], choice: Choice) -> Endpoint:
        """Any one."""
        sums = self._sums if endpoints is self._of else self._learn(endpoints)
        return endpoints[bisect_right(sums, choice.rng.random() * sums[-1])]

    def _learn(self, endpoints: Sequence[Endpoint]) -> list[int]:
        self._of, self._sums = endpoints, list(itertools.accumulate(each.weight for each in endpoints))
        return self._sums


class LeastRequest(Weighted):
    """The less loaded of two drawn by chance: nearly as good as the least loaded of all, and no herd runs to it."""

    def choose(self, endpoints: Sequence[Endpoint], choice: Choice) -> Endpoint:
        """The one with fewer requests in flight for its weight."""
        sums = self._sums if endpoints is self._of else self._learn(endpoints)
        random, most = choice.rng.random, sums[-1]
        one = endpoints[bisect_right(sums, random() * most)]
        other = endpoints[bisect_right(sums, random() * most)]
        if one is other:
            return one
        # Without the request to come: between two that are idle the weights have drawn already.
        load = choice.active.get
        return one if load(one.address, 0) * other.weight <= load(other.address, 0) * one.weight else other


class Ring:
    """Consistent hashing: a key stays at its endpoint for as long as that one is there, whatever else comes and goes.

    So an endpoint's points on the ring depend on itself alone. A ring size to be reached together, as Envoy's, would
    move keys between endpoints that did not change.
    """

    def __init__(self, least: int = 0) -> None:
        self._least = least  # points of the whole ring
        self._of: Sequence[Endpoint] = ()
        self._points: list[int] = []
        self._owners: list[Endpoint] = []

    def choose(self, endpoints: Sequence[Endpoint], choice: Choice) -> Endpoint:
        """The owner of the key; a request without a key goes anywhere."""
        point = choice.rng.getrandbits(64) if choice.key is None else hash_of(choice.key)
        return self.owner(endpoints, point)

    def owner(self, endpoints: Sequence[Endpoint], point: int) -> Endpoint:
        """The owner of the first point of the ring at or after this one."""
        if endpoints is not self._of:
            each_of = self._points_of(sum(endpoint.weight for endpoint in endpoints))
            marked = sorted(
                (hash_of(f"{endpoint.address} {number}".encode()), endpoint.address, endpoint)
                for endpoint in endpoints
                for number in range(min(each_of * endpoint.weight, POINTS_LIMIT))
            )
            self._of = endpoints
            self._points = [point for point, _, _ in marked]
            self._owners = [endpoint for _, _, endpoint in marked]
        return self._owners[bisect_left(self._points, point) % len(self._points)]

    def _points_of(self, weight: int) -> int:
        """For each unit of weight. It doubles where the ring is to be larger: one endpoint more or less changes nothing."""
        points = POINTS
        while points * weight < self._least and points < POINTS_LIMIT:
            points *= 2
        return points


def hash_of(key: bytes) -> int:
    """64 bits that are the same in every process and version."""
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big")


def loads(healthy: Sequence[tuple[int, int]]) -> list[float]:
    """The share of load of each priority, from its (healthy, all) endpoints: Envoy's spill-over.

    A priority takes 1.4 times its health, up to what is left; where all of them together cannot take everything, each
    takes in proportion. All zeros where nothing is healthy.
    """
    able = [min(1.0, OVERPROVISIONING * up / total) for up, total in healthy]
    whole = min(1.0, sum(able))
    shares: list[float] = []
    for each in able:
        shares.append(min(each / whole, 1.0 - sum(shares)) if whole else 0.0)
    return shares


def usable(
    priorities: Sequence[Sequence[Endpoint]], is_healthy: Callable[[Endpoint], bool], *, panic_below: float
) -> tuple[tuple[float, Sequence[Endpoint]], ...]:
    """The groups of endpoints to choose among now, each with its share of the load; none where there is nobody to use.

    ``panic_below`` is a share of healthy endpoints, in [0, 1]: in a priority with less than that all of its endpoints are
    used, since the few healthy ones would go down as well.
    """
    up = [[endpoint for endpoint in group if is_healthy(endpoint)] for group in priorities]
    shares = loads([(len(healthy), len(group)) for healthy, group in zip(up, priorities, strict=True)])
    if not any(shares):
        return ((1.0, priorities[0]),) if priorities and panic_below else ()
    return tuple(
        (share, group if len(healthy) < panic_below * len(group) else healthy)
        for share, healthy, group in zip(shares, up, priorities, strict=True)
        if share
    )


def drawn(groups: Sequence[tuple[float, Sequence[Endpoint]]], point: float) -> int:
    """Which of the groups a point in [0, 1) falls to, by their shares."""
    for index, (share, _) in enumerate(groups):
        point -= share
        if point < 0:
            return index
    return len(groups) - 1  # what rounding left over


def warmed(
    endpoints: Sequence[Endpoint],
    since: Mapping[UpstreamAddress, float],
    now: float,
    *,
    seconds: float,
    least: float,
    aggression: float,
) -> tuple[Endpoint, ...]:
    """The endpoints with the weights that they have by now: one that is new gets its share little by little.

    Envoy's slow start: the weight times the part of the time that has passed, to the power of 1 / ``aggression``, and no
    less than ``least`` of it. Weights are whole numbers, so all of them are finer here.
    """

    def weight(endpoint: Endpoint) -> int:
        born = since.get(endpoint.address)
        if born is None or now - born >= seconds:
            return FINER * endpoint.weight
        part: float = max(least, (max(0.0, now - born) / seconds) ** (1 / aggression))
        return max(1, round(FINER * endpoint.weight * part))

    return tuple(replace(endpoint, weight=weight(endpoint)) for endpoint in endpoints)
