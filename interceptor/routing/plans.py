"""PURE. What routing decided about a request, kept for those that say the same: most clients repeat themselves.

A plan is of one snapshot and dies with it. It is made when the same request comes again, and only where nothing about it
depends on more than the request, its client's address and the draw of a destination: no fault, no copy, no policy, no filter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.routing.traffic import hash_key

if TYPE_CHECKING:
    from interceptor.config.virtual_service import HTTPRouteDestination
    from interceptor.model.address import OriginalDestination
    from interceptor.model.request import Destination
    from interceptor.routing.clusters import Cluster
    from interceptor.routing.destinations import Decision
    from interceptor.routing.routes import Question, Taken

MOST: Final = 512  # as many as heads are known again, for two destinations
ATTEMPT: Final = b"x-envoy-attempt-count"
_ID: Final = "x-request-id"  # made for each request: what depends on it is no plan


class Keyed(NamedTuple):
    """What of a request its endpoint depends on: the same for all that say the same, or their client's address."""

    key: bytes | None
    by_peer: bool


class Way(NamedTuple):
    """To one of the destinations, and the bytes of the head for the first attempt; an id that it does not have goes in between."""

    cluster: Cluster
    chosen: HTTPRouteDestination | None
    destination: Destination  # as it is recorded
    keyed: Keyed
    changes: bool  # whether answers are changed
    plain: bool  # whether an answer that tells of no failure is passed on without a look at it
    before: bytes
    request_id: bytes | None
    after: bytes


class Plan(NamedTuple):
    """Where a request goes."""

    question: Question
    taken: Taken | None
    ways: tuple[Way, ...]
    again: frozenset[int] = frozenset()  # statuses below 500 after which there may be another attempt
    timeout: float | None = None
    tries_timed: bool = False  # an attempt may not take as long as it likes


class _Known(NamedTuple):
    request: object
    service: str
    entry: str | None
    destination: OriginalDestination
    plan: Plan | None


class Plans:
    """Those of one snapshot, found by the request's very object."""

    def __init__(self) -> None:
        self.age: Final = (
            object()
        )  # who keeps a plan keeps this to see that the snapshot is another one: not the snapshot
        self._known: dict[int, _Known] = {}

    def find(self, request: object, decision: Decision, destination: OriginalDestination) -> Plan | None:
        """The plan for a request on a connection to a destination."""
        known = self._known.get(id(request))
        return known.plan if known is not None and _is_of(known, request, decision, destination) else None

    def comes_again(self, request: object, decision: Decision, destination: OriginalDestination) -> bool:
        """Whether it was here before; it is known from now on."""
        known = self._known.get(id(request))
        if known is not None and _is_of(known, request, decision, destination):
            return True
        self._keep(request, decision, destination, None)
        return False

    def keep(self, request: object, decision: Decision, destination: OriginalDestination, plan: Plan) -> None:
        """What holds for it from now on."""
        self._keep(request, decision, destination, plan)

    def _keep(
        self, request: object, decision: Decision, destination: OriginalDestination, plan: Plan | None
    ) -> None:
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[id(request)] = _Known(request, decision.service, decision.entry, destination, plan)


def _is_of(known: _Known, request: object, decision: Decision, destination: OriginalDestination) -> bool:
    return (
        known.request is request
        and known.service == decision.service
        and known.entry == decision.entry
        and known.destination == destination
    )


def may_be_kept(taken: Taken | None) -> bool:
    """Whether the route does to each request like this one the same, but for the draw of a destination."""
    if taken is None:
        return True
    spec = taken.route.spec
    said = (condition.said for match in taken.route.matches for condition in match.conditions)
    return spec.fault is None and not spec.copies and not any(_ID in each for each in said)


def keyed(cluster: Cluster, question: Question) -> Keyed | None:
    """What an endpoint of a cluster is chosen by, for each request like this one; None where that is another thing each time."""
    on = cluster.traffic.hash_on
    if on is None:
        return Keyed(None, by_peer=False)
    if on.header == _ID.encode():
        return None
    if (on.header, on.parameter, on.cookie) == (None, None, None):
        return Keyed(None, by_peer=True)
    key = hash_key(on, question, "")[1]
    return None if key is None and on.cookie is not None else Keyed(key, by_peer=False)
