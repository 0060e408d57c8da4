"""What is kept of a decision over a request, for whom, and for how long."""

from __future__ import annotations

import pytest

from interceptor.config.plain import plain
from interceptor.model.address import OriginalDestination, SocketAddress
from interceptor.model.http import RequestHead
from interceptor.routing.clusters import Cluster
from interceptor.routing.destinations import Decision
from interceptor.routing.plans import MOST, Keyed, Plan, Plans, keyed, may_be_kept
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
    ("route", "expected"),
    [
        ("", True),
        (f"{{{TO}}}", True),
        (f"{{timeout: 1s, rewrite: {{uri: /x}}, {TO}}}", True),
        (f"{{match: [{{uri: {{prefix: /}}}}], {TO}}}", True),
        (f"{{match: [{{headers: {{x-request-id: {{regex: '.*'}}}}}}, {{uri: {{prefix: /}}}}], {TO}}}", False),
        (f"{{fault: {{delay: {{percentage: {{value: 1}}, fixedDelay: 1s}}}}, {TO}}}", False),
        (f"{{mirror: {{host: shop.example}}, {TO}}}", False),
        (f"{{corsPolicy: {{allowOrigins: [{{exact: 'http://a'}}]}}, {TO}}}", True),
        ("{route: [{destination: {host: shop.example}, weight: 1}, {destination: {host: shop.example}, weight: 1}]}", True),
    ],
)  # fmt: skip
def test_what_a_fault_a_copy_or_an_id_has_a_say_in_is_no_plan(route: str, *, expected: bool) -> None:
    assert may_be_kept(taken_of(route)[0]) is expected


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("", Keyed(None, by_peer=False)),
        ("{loadBalancer: {consistentHash: {httpHeaderName: x-user}}}", Keyed(b"me", by_peer=False)),
        ("{loadBalancer: {consistentHash: {httpHeaderName: x-other}}}", Keyed(None, by_peer=False)),
        ("{loadBalancer: {consistentHash: {useSourceIp: true}}}", Keyed(None, by_peer=True)),
        ("{loadBalancer: {consistentHash: {httpCookie: {name: there, ttl: 0s}}}}", Keyed(b"c", by_peer=False)),
        ("{loadBalancer: {consistentHash: {httpCookie: {name: made, ttl: 0s}}}}", None),
        ("{loadBalancer: {consistentHash: {httpHeaderName: X-Request-Id}}}", None),
    ],
)  # fmt: skip
def test_what_an_endpoint_is_chosen_by(policy: str, expected: Keyed | None) -> None:
    head = RequestHead(
        b"GET", b"/", b"shop.example", b"http", b"1.1", [(b"x-user", b"me"), (b"cookie", b"there=c")]
    )
    assert keyed(taken_of("", policy)[1], Question(head, 80)) == expected


def test_a_plan_is_for_the_same_request_on_the_same_way() -> None:
    plans, request, other = Plans(), object(), object()
    plan = Plan(Question(HEAD, 80), None, ())
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


def test_each_snapshot_has_an_age_of_its_own() -> None:
    assert Plans().age is not Plans().age


def test_plans_are_bounded() -> None:
    plans, requests = Plans(), [object() for _ in range(MOST + 1)]
    for request in requests:
        assert not plans.comes_again(request, DECISION, HERE)
    assert plans.comes_again(requests[-1], DECISION, HERE)
    assert not plans.comes_again(requests[0], DECISION, HERE)
