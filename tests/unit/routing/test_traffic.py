from __future__ import annotations

import pytest

from interceptor.config.health_check import HealthCheck
from interceptor.config.plain import plain
from interceptor.model.http import RequestHead
from interceptor.routing import traffic
from interceptor.routing.clusters import Cluster, Clusters
from interceptor.routing.retry import RetryBudget
from interceptor.routing.reuse import Reuse
from interceptor.routing.routes import Question
from interceptor.routing.traffic import HashCookie, HashOn
from tests.support.documents import configuration
from tests.support.routed import document, shop


def cluster(policy: str, subset: str | None = None, more: str = "") -> Cluster:
    text = f"host: shop.example\ntrafficPolicy: {policy}\n{more}"
    made = plain(configuration(shop(80, ("10.1.0.1", "v1")), document("DestinationRule", text)))
    found = Clusters(made.service_entries, made.destination_rules, {}, None).find(
        "shop.example", None, subset, 80
    )
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("{httpHeaderName: X-User, minimumRingSize: 2048}", HashOn(b"x-user", ring=2048)),
        (
            "{httpQueryParameterName: u, ringHash: {minimumRingSize: 9}}",
            HashOn(parameter=b"u", ring=9),
        ),
        ("{useSourceIp: true, maglev: {}}", HashOn()),
        (
            "{httpCookie: {name: c, ttl: 5s, path: /a, attributes: [{name: SameSite, value: Lax}, {name: Secure}]}}",
            HashOn(cookie=HashCookie(b"c", b"/a", 5.0, (b"SameSite=Lax", b"Secure"))),
        ),
    ],
)
def test_what_requests_are_hashed_on(fields: str, expected: HashOn) -> None:
    assert cluster(f"{{loadBalancer: {{consistentHash: {fields}}}}}").traffic.hash_on == expected


def test_a_connection_may_last_only_so_long() -> None:
    made = cluster("{connectionPool: {tcp: {maxConnectionDuration: 90s}}}").traffic
    assert (made.longest, made.reuse) == (90.0, Reuse(longest=90.0))
    assert cluster("{loadBalancer: {simple: RANDOM}}").traffic.longest is None


def test_a_budget_of_retries_is_the_rules_or_the_subsets() -> None:
    more = "subsets: [{name: v1, labels: {version: v1}, trafficPolicy: {retryBudget: {percent: 50}}}, {name: all}]"
    policy = "{retryBudget: {percent: 10, minRetryConcurrency: 1}}"
    assert cluster(policy, None, more).traffic.retries == RetryBudget(10.0, 1)
    assert cluster(policy, "v1", more).traffic.retries == RetryBudget(50.0, 3)
    assert cluster(policy, "all", more).traffic.retries == RetryBudget(10.0, 1)


def test_a_rule_with_a_budget_alone_is_about_the_endpoints() -> None:
    made = plain(
        configuration(
            shop(80, ("10.1.0.1", "v1")),
            document("DestinationRule", "host: shop.example\ntrafficPolicy: {retryBudget: {}}"),
        )
    )
    assert Clusters(made.service_entries, made.destination_rules, {}, None).managed("shop.example", 80)


def test_keys() -> None:
    head = RequestHead(
        b"GET", b"/?u=1", b"shop.example", b"http", b"1.1", [(b"x-user", b"ann"), (b"cookie", b"c=2")]
    )
    question = Question(head, 80)
    assert traffic.hash_key(HashOn(b"x-user"), question, "10.0.0.9") == ("header x-user", b"ann")
    assert traffic.hash_key(HashOn(parameter=b"u"), question, "10.0.0.9") == ("parameter u", b"1")
    assert traffic.hash_key(HashOn(cookie=HashCookie(b"c", None, 0)), question, "x") == ("cookie c", b"2")
    assert traffic.hash_key(HashOn(), question, "10.0.0.9") == ("source address", b"10.0.0.9")
    assert traffic.hash_key(HashOn(b"x-user"), None, "10.0.0.9") == ("source address", b"10.0.0.9")


def test_a_rule_has_its_endpoints_checked_where_the_sidecar_says_nothing_of_the_host() -> None:
    text = "host: shop.example\ntrafficPolicy: {healthCheck: {interval: 3s, tcp: {}}}"
    given = configuration(shop(80, ("10.1.0.1", "v1")), document("DestinationRule", text))
    made = plain(given)
    found = Clusters(made.service_entries, made.destination_rules, {}, None)
    assert found.are_checked
    [checked] = found.checked()
    assert checked.traffic.check is not None
    assert (checked.name, checked.traffic.check.interval) == ("outbound|80||shop.example", 3.0)
    assert found.managed("shop.example", 80) is checked
    assert found.check("other.example", 80) is None
    own = HealthCheck.model_validate({"host": "shop.example", "interval": "9s", "tcp": {}})
    both = Clusters(made.service_entries, made.destination_rules, {}, None, checks=[own])
    assert both.check("shop.example", 80) is own
