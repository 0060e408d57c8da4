"""What is kept of a decision over a request, for whom, and for how long."""

from __future__ import annotations

import pytest

from interceptor.config.plain import plain
from interceptor.model.address import OriginalDestination, SocketAddress
from interceptor.model.http import RequestHead
from interceptor.routing.clusters import Cluster
from interceptor.routing.destinations import Decision
from interceptor.routing.plans import MOST, Plan, Plans, always
from interceptor.routing.routes import Question, Taken
from interceptor.state.snapshot import take
from tests.support.documents import configuration
from tests.support.routed import document, shop

HERE = OriginalDestination(SocketAddress("198.51.100.1", 80))
THERE = OriginalDestination(SocketAddress("198.51.100.2", 80))
DECISION = Decision((), "c", "shop.example", "p", entry="default/shop")
HEAD = RequestHead(b"GET", b"/", b"shop.example", b"http", b"1.1", [])


def taken_of(route: str, rule: str = "") -> tuple[Taken | None, Cluster]:
    """The route that a request takes, and where it goes."""
    documents = [shop(80, ("10.1.0.1", "v1"))]
    if route:
        documents.append(document("VirtualService", f"hosts: [shop.example]\nhttp:\n- {route}"))
    if rule:
        documents.append(document("DestinationRule", f"host: shop.example\ntrafficPolicy: {rule}"))
    routing = take(plain(configuration(*documents))).routing
    assert routing is not None
    cluster = routing.clusters.find("shop.example", 80, None, 80)
    assert cluster is not None
    found = routing.find(Question(HEAD, 80), DECISION, HERE)
    return (None if found is None else found.taken), cluster


TO = "route: [{destination: {host: shop.example}}]"


@pytest.mark.parametrize(
    ("route", "rule", "expected"),
    [
        ("", "", True),
        (f"{{{TO}}}", "", True),
        (f"{{timeout: 1s, rewrite: {{uri: /x}}, {TO}}}", "", True),
        (f"{{match: [{{uri: {{prefix: /}}}}], {TO}}}", "", True),
        (f"{{match: [{{headers: {{x-request-id: {{regex: '.*'}}}}}}, {{uri: {{prefix: /}}}}], {TO}}}", "", False),
        (f"{{fault: {{delay: {{percentage: {{value: 1}}, fixedDelay: 1s}}}}, {TO}}}", "", False),
        (f"{{mirror: {{host: shop.example}}, {TO}}}", "", False),
        (f"{{corsPolicy: {{allowOrigins: [{{exact: 'http://a'}}]}}, {TO}}}", "", False),
        ("{route: [{destination: {host: shop.example}, weight: 1}, {destination: {host: shop.example}, weight: 1}]}", "", False),
        ("", "{loadBalancer: {consistentHash: {httpHeaderName: x-user}}}", True),
        ("", "{loadBalancer: {consistentHash: {httpHeaderName: X-Request-Id}}}", False),
    ],
)  # fmt: skip
def test_what_is_left_to_chance_or_to_an_id_is_no_plan(route: str, rule: str, *, expected: bool) -> None:
    assert always(*taken_of(route, rule)) is expected


def test_a_plan_is_for_the_same_request_on_the_same_way() -> None:
    plans, request, other = Plans(), object(), object()
    _, cluster = taken_of("")
    plan = Plan(Question(HEAD, 80), cluster, None, None, b"", None, b"")
    assert not plans.comes_again(request, DECISION, HERE)
    assert plans.find(request, DECISION, HERE) is None
    assert plans.comes_again(request, DECISION, HERE)
    plans.keep(request, DECISION, HERE, plan)
    assert plans.find(request, DECISION, HERE) is plan
    assert plans.find(other, DECISION, HERE) is None
    assert plans.find(request, DECISION, THERE) is None
    elsewhere = Decision((), "c", "bank.example", "p", entry="default/bank")
    assert plans.find(request, elsewhere, HERE) is None
    assert not plans.comes_again(request, DECISION, THERE), "and the last way counts"
    assert plans.find(request, DECISION, HERE) is None


def test_plans_are_bounded() -> None:
    plans, requests = Plans(), [object() for _ in range(MOST + 1)]
    for request in requests:
        assert not plans.comes_again(request, DECISION, HERE)
    assert plans.comes_again(requests[-1], DECISION, HERE)
    assert not plans.comes_again(requests[0], DECISION, HERE)
