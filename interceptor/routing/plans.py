"""PURE. What routing decided about a request, kept for those that say the same: most clients repeat themselves.

A plan is of one snapshot and dies with it. It is made when the same request comes again, and only where nothing about it is
left to chance or to what comes later: no fault, no copy, one destination, no policy, no filter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from interceptor.config.virtual_service import HTTPRouteDestination
    from interceptor.model.address import OriginalDestination
    from interceptor.routing.clusters import Cluster
    from interceptor.routing.destinations import Decision
    from interceptor.routing.routes import Question, Taken

MOST: Final = 512  # as many as heads are known again, for two destinations
ATTEMPT: Final = b"x-envoy-attempt-count"
_ID: Final = "x-request-id"  # made for each request: what depends on it is no plan


class Plan(NamedTuple):
    """Where a request goes, and the bytes of its head for the first attempt; an id that it does not have goes in between."""

    question: Question
    cluster: Cluster
    taken: Taken | None
    chosen: HTTPRouteDestination | None
    before: bytes
    request_id: bytes | None
    after: bytes


class _Known(NamedTuple):
    request: object
    service: str
    entry: str | None
    destination: OriginalDestination
    plan: Plan | None


class Plans:
    """Those of one snapshot, found by the request's very object."""

    def __init__(self) -> None:
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


def always(taken: Taken | None, cluster: Cluster) -> bool:
    """Whether a request like this one would be treated the same each time."""
    on = cluster.traffic.hash_on
    if on is not None and on.header == _ID.encode():
        return False
    if taken is None:
        return True
    spec, route = taken.route.spec, taken.route
    said = (condition.said for match in route.matches for condition in match.conditions)
    return (
        len(spec.route) == 1
        and spec.fault is None
        and route.cors is None
        and not spec.copies
        and not any(_ID in each for each in said)
    )
