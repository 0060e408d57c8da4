"""Plans are made here, of what was decided about a request that came again: see ``routing.plans``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.model import http
from interceptor.model.request import Destination
from interceptor.protocol import http1
from interceptor.protocol.translation import multiplexes
from interceptor.proxy.http.serve import MARK, complete
from interceptor.routing import retry, routes
from interceptor.routing.plans import ATTEMPT, Plan, Way, keyed, may_be_kept

if TYPE_CHECKING:
    from collections.abc import Iterable

    from interceptor.config.virtual_service import HTTPRouteDestination
    from interceptor.routing.clusters import Cluster
    from interceptor.routing.routes import Question, Taken


def make(
    request: http1.Request, question: Question, taken: Taken | None, clusters: Iterable[Cluster | None]
) -> Plan | None:
    """The plan for a request; ``clusters``: of each destination of its route, or the one it goes to without a route."""
    if not may_be_kept(taken):
        return None
    chosen = (None,) if taken is None else taken.route.spec.route
    ways = []
    for each, cluster in zip(chosen, clusters, strict=True):
        way = None if cluster is None else _way(request, question, taken, each, cluster)
        if way is None:
            return None
        ways.append(way)
    if taken is None:
        return Plan(question, None, tuple(ways))
    retries = taken.route.retries
    return Plan(
        question,
        taken,
        tuple(ways),
        retry.retried_below_500(retries),
        taken.route.spec.timeout,
        retries.per_try_timeout is not None,
    )


def _way(
    request: http1.Request,
    question: Question,
    taken: Taken | None,
    chosen: HTTPRouteDestination | None,
    cluster: Cluster,
) -> Way | None:
    key = keyed(cluster, question)
    if key is None or multiplexes(cluster.base.protocol, request.head, None):
        return None
    head, name = request.head.copy(), None
    request_id = complete(head, lambda: MARK)
    changes, plain = False, True
    if taken is not None and chosen is not None:
        head, name = routes.changed(head, taken, question, chosen), taken.route.name
        changes = routes.changes_answers(taken, chosen)
        plain = not (changes or any(status < 400 for status in taken.route.retries.status_codes))
    http.put(head.headers, ATTEMPT, b"1")
    before, mark, after = http1.request_head(head, request.body).partition(MARK)
    if bool(mark) is not (request_id is None):  # the route does something about the id
        return None
    destination = Destination(cluster.name, cluster.base.service, cluster.base.namespace, name)
    return Way(cluster, chosen, destination, key, changes, plain, before, request_id, after)
