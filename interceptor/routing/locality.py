"""PURE. Where endpoints are: which of them come first, or which shares of the load each place gets.

Source: Istio's LocalityLoadBalancerSetting. A locality is (region, zone, subzone), as far as it is known.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from interceptor.routing.balance import OVERPROVISIONING, usable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from interceptor.model.address import UpstreamAddress
    from interceptor.routing.balance import Endpoint

Locality: TypeAlias = tuple[str, ...]

# By which Istio's proxies know where they are; the first is one text of all three, with dots between.
_WHOLE: Final = "istio-locality"
_PARTS: Final = ("topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone")

_NOWHERE: Final = "\0"  # no label is this


@dataclass(frozen=True, slots=True)
class Nearness:
    """What a DestinationRule says about localities, for a proxy at one of them."""

    own: Locality
    failover: Mapping[str, str]  # region -> the one that comes next
    shares: tuple[tuple[Locality, int], ...] = ()  # of the load, by locality; none: nearest first


def parse(text: str) -> Locality:
    """``region/zone/subzone``; what is not said, or ``*``, is left out."""
    return tuple(part for part in text.split("/") if part not in {"", "*"})


def own_locality(labels: Mapping[str, str]) -> Locality:
    """Where a workload is, by its labels."""
    if whole := labels.get(_WHOLE):
        return tuple(part for part in whole.split(".") if part)
    parts = [labels.get(name, "") for name in _PARTS]
    return tuple(parts[: parts.index("")] if "" in parts else parts)


def ranking(counting: Sequence[str], labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Istio's failoverPriority: each label that counts, with the value that it must have to be near to us."""
    found = []
    for each in counting:
        name, _, value = each.partition("=")
        found.append((name, value or labels.get(name) or _NOWHERE))
    return tuple(found)


def place_by(counting: Sequence[str], labels: Mapping[str, str], locality: Locality) -> Locality:
    """Where an endpoint is by the labels that count; those of topology it has by its locality too."""
    known = {**dict(zip(_PARTS, locality, strict=False)), **labels}
    return tuple(known.get(each.partition("=")[0], "") for each in counting)


def is_in(locality: Locality, place: Locality) -> bool:
    """Whether a locality is a place, or within it."""
    return locality[: len(place)] == place


def priorities(endpoints: Sequence[Endpoint], near: Nearness) -> tuple[tuple[Endpoint, ...], ...]:
    """Endpoints in groups: same subzone, same zone, same region, the region to fail over to, anywhere."""
    after = near.failover.get(near.own[0]) if near.own else None
    groups: dict[float, list[Endpoint]] = {}
    for endpoint in endpoints:
        rank: float = -_shared(endpoint.locality, near.own)
        if not rank and after is not None and endpoint.locality[:1] == (after,):
            rank = -0.5
        groups.setdefault(rank, []).append(endpoint)
    return tuple(tuple(groups[rank]) for rank in sorted(groups))


def untried(
    endpoints: Sequence[Endpoint], near: Nearness | None, tried: Collection[UpstreamAddress]
) -> list[Sequence[Endpoint]]:
    """The priorities without any endpoint that was tried: those that documents give, else by how near they are, else localities."""
    groups: dict[object, list[Endpoint]] = {}
    if near is not None and not near.shares:
        groups = {rank: list(group) for rank, group in enumerate(priorities(endpoints, near))}
    else:
        for endpoint in sorted(endpoints, key=lambda each: each.priority):
            groups.setdefault((endpoint.priority, endpoint.locality), []).append(endpoint)
    return [group for group in groups.values() if not any(each.address in tried for each in group)]


def _shared(one: Locality, other: Locality) -> int:
    count = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        count += 1
    return count


def distributed(
    endpoints: Sequence[Endpoint], near: Nearness, is_healthy: Callable[[Endpoint], bool]
) -> tuple[tuple[float, Sequence[Endpoint]], ...]:
    """The healthy endpoints of each place with its share of the load: less where too few of it are healthy.

    An endpoint counts to the most exact place that it is in; one that is in none of them gets nothing.
    """
    places = sorted(near.shares, key=lambda each: -len(each[0]))
    groups: dict[Locality, list[Endpoint]] = {place: [] for place, _ in places}
    for endpoint in endpoints:
        place = next((place for place, _ in places if is_in(endpoint.locality, place)), None)
        if place is not None:
            groups[place].append(endpoint)
    able = []
    for place, share in places:
        healthy = [endpoint for endpoint in groups[place] if is_healthy(endpoint)]
        if healthy:
            able.append((share * min(1.0, OVERPROVISIONING * len(healthy) / len(groups[place])), healthy))
    whole = sum(share for share, _ in able)
    return tuple((share / whole, healthy) for share, healthy in able)


def graded(
    endpoints: Sequence[Endpoint], is_healthy: Callable[[Endpoint], bool], *, panic_below: float
) -> tuple[tuple[float, Sequence[Endpoint]], ...]:
    """The groups to choose among where documents give priorities, or weights of localities: Envoy's rules of both."""
    by_priority: dict[int, list[Endpoint]] = {}
    for endpoint in endpoints:
        by_priority.setdefault(endpoint.priority, []).append(endpoint)
    ordered = [by_priority[priority] for priority in sorted(by_priority)]
    groups = usable(ordered, is_healthy, panic_below=panic_below)
    if not any(endpoint.share for endpoint in endpoints):
        return groups
    totals = Counter((endpoint.priority, endpoint.locality) for endpoint in endpoints)
    return tuple(part for load, group in groups for part in _by_share(load, group, totals))


def _by_share(
    load: float, group: Sequence[Endpoint], totals: Mapping[tuple[int, Locality], int]
) -> Iterator[tuple[float, Sequence[Endpoint]]]:
    """The load of a priority by its localities: each its share, less where too few of its endpoints are healthy."""
    places: dict[Locality, list[Endpoint]] = {}
    for endpoint in group:
        if endpoint.share:
            places.setdefault(endpoint.locality, []).append(endpoint)
    able = {
        place: there[0].share * min(1.0, OVERPROVISIONING * len(there) / totals[there[0].priority, place])
        for place, there in places.items()
    }
    whole = sum(able.values())
    for place, there in places.items():
        yield load * able[place] / whole, there
