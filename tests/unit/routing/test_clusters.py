from __future__ import annotations

import math

import pytest

from interceptor.config.plain import plain
from interceptor.routing.balance import Endpoint
from interceptor.routing.clusters import Cluster, Clusters
from interceptor.routing.outlier import OutlierDetection
from interceptor.routing.reuse import KeepAlive, Reuse
from interceptor.routing.traffic import HashOn
from interceptor.state.snapshot import take
from tests.support.documents import configuration
from tests.support.routed import document, shop

RESOLVED = {"db.example": ("203.0.113.1", "203.0.113.2")}
DB = document(
    "ServiceEntry",
    """
    hosts: [db.example]
    ports: [{number: 80, name: http, protocol: HTTP}]
    resolution: DNS
    """,
    "db",
)
VIP = document(
    "ServiceEntry",
    """
    hosts: [vip.example]
    addresses: [192.0.2.9, 10.0.0.0/8]
    ports: [{number: 80, name: a}, {number: 81, name: b}]
    """,
    "vip",
)


def clusters(*documents: str) -> Clusters:
    made = plain(configuration(*documents))
    snapshot = take(made, RESOLVED)
    return Clusters(made.service_entries, made.destination_rules, RESOLVED, snapshot.security)


def found(cluster: Cluster | None) -> Cluster:
    assert cluster is not None
    return cluster


def hosts(cluster: Cluster | None) -> list[str]:
    return [endpoint.address.host for endpoint in found(cluster).endpoints]


def rule(text: str) -> str:
    return document("DestinationRule", text, "rule")


def test_endpoints_come_from_the_document_or_from_names_or_are_its_addresses() -> None:
    made = clusters(shop(80, ("10.1.0.1", "v1"), ("10.1.0.2", "v2")), DB, VIP)
    assert hosts(made.find("shop.example", None, None, 80)) == ["10.1.0.1", "10.1.0.2"]
    assert hosts(made.find("db.example", None, None, 80)) == ["203.0.113.1", "203.0.113.2"]
    assert hosts(made.find("vip.example", 81, None, 80)) == ["192.0.2.9"]
    cluster = found(made.find("vip.example", 81, None, 80))
    assert cluster is made.find("vip.example", 81, None, 80)
    assert cluster.name == "outbound|81||vip.example"
    [endpoint] = cluster.endpoints
    assert isinstance(endpoint, Endpoint)
    assert cluster.decisions[endpoint.address].upstreams == (endpoint.address,)
    assert cluster.base.upstreams == ()


def test_the_port_is_the_one_named_the_one_dialled_or_the_only_one() -> None:
    made = clusters(shop(80, ("10.1.0.1", "v1")), VIP)
    assert found(made.find("shop.example", None, None, 8080)).name == "outbound|80||shop.example"
    assert made.find("shop.example", 8080, None, 80) is None
    assert found(made.find("vip.example", None, None, 81)).name == "outbound|81||vip.example"
    assert made.find("vip.example", None, None, 82) is None
    assert made.find("nobody.example", None, None, 80) is None


def test_a_subset_is_by_labels_and_has_to_be_said() -> None:
    subsets = rule("host: '*.example'\nsubsets: [{name: v2, labels: {version: v2}}, {name: all}]")
    made = clusters(shop(80, ("10.1.0.1", "v1"), ("10.1.0.2", "v2")), DB, subsets)
    assert hosts(made.find("shop.example", None, "v2", 80)) == ["10.1.0.2"]
    assert hosts(made.find("shop.example", None, "all", 80)) == ["10.1.0.1", "10.1.0.2"]
    assert made.find("shop.example", None, "v3", 80) is None
    assert hosts(made.find("db.example", None, "v2", 80)) == []  # a name's addresses have no labels
    assert clusters(DB).find("db.example", None, "v2", 80) is None


def test_a_subset_says_how_it_is_used_or_the_rule_does() -> None:
    text = """
    host: shop.example
    trafficPolicy:
      loadBalancer: {consistentHash: {httpHeaderName: X-User}}
      connectionPool: {http: {http2MaxRequests: 7, maxRetries: 2}, tcp: {connectTimeout: 3s}}
      outlierDetection: {consecutive5xxErrors: 1, interval: 1s, minHealthPercent: 40}
    subsets:
    - {name: own, trafficPolicy: {loadBalancer: {simple: RANDOM}}}
    """
    made = clusters(shop(80, ("10.1.0.1", "v1")), rule(text))
    general = found(made.managed("shop.example", 80)).traffic
    assert (general.balancing, general.hash_on) == ("HASH", HashOn(b"x-user"))
    assert (general.max_requests, general.max_retries, general.connect_timeout) == (7, 2, 3)
    assert general.outliers == OutlierDetection(consecutive_5xx=1, interval=1)
    assert general.panic_below == 0.4
    own = found(made.find("shop.example", None, "own", 80)).traffic
    assert (own.balancing, own.hash_on, own.max_requests) == ("RANDOM", None, 7)


def test_how_connections_are_kept_is_said_by_port_and_by_subset_too() -> None:
    text = """
    host: shop.example
    trafficPolicy:
      connectionPool: {tcp: {idleTimeout: 9s, tcpKeepalive: {time: 60s}}}
      portLevelSettings: [{port: {number: 80}, connectionPool: {tcp: {idleTimeout: 8s, tcpKeepalive: {probes: 2}}}}]
    subsets:
    - {name: own, trafficPolicy: {connectionPool: {tcp: {idleTimeout: 0s}}}}
    """
    for port, idle, keepalive in ((80, 8, KeepAlive(probes=2)), (81, 9, KeepAlive(time=60))):
        made = clusters(shop(port, ("10.1.0.1", "v1")), rule(text))
        traffic = found(made.managed("shop.example", port)).traffic
        assert (traffic.idle_timeout, traffic.reuse) == (idle, Reuse(keepalive=keepalive))
        own = found(made.find("shop.example", None, "own", port)).traffic
        assert (own.idle_timeout, own.reuse) == (math.inf, None)


@pytest.mark.parametrize(
    ("text", "managed"),
    [
        ("{loadBalancer: {simple: ROUND_ROBIN}}", True),
        ("{loadBalancer: {consistentHash: {useSourceIp: true}}}", True),
        ("{loadBalancer: {consistentHash: {httpQueryParameterName: u}}}", True),
        ("{outlierDetection: {}}", True),
        ("{connectionPool: {}}", True),
        ("{tls: {mode: SIMPLE}}", False),
    ],
)
def test_a_service_is_managed_where_a_rule_says_how_its_endpoints_are_used(text: str, managed: bool) -> None:
    made = clusters(shop(80, ("10.1.0.1", "v1")), rule(f"host: shop.example\ntrafficPolicy: {text}"))
    assert (made.managed("shop.example", 80) is not None) is managed
    assert made.managed("other.example", 80) is None


def test_tls_is_the_endpoints_own() -> None:
    made = clusters(
        shop(80, ("10.1.0.1", "v1")), rule("host: shop.example\ntrafficPolicy: {tls: {mode: SIMPLE}}")
    )
    [decision] = found(made.find("shop.example", None, None, 80)).decisions.values()
    assert decision.tls is not None
    assert decision.tls.server_name == "shop.example"


@pytest.mark.parametrize(
    ("pool", "spoken"),
    [
        ("{h2UpgradePolicy: UPGRADE}", "http2"),
        ("{h2UpgradePolicy: DO_NOT_UPGRADE}", "http"),
        ("{useClientProtocol: true}", "auto"),
        ("{}", "http"),
    ],
)
def test_what_endpoints_are_spoken_to_in(pool: str, spoken: str) -> None:
    text = rule(f"host: shop.example\ntrafficPolicy: {{connectionPool: {{http: {pool}}}}}")
    cluster = found(clusters(shop(80, ("10.1.0.1", "v1")), text).managed("shop.example", 80))
    assert {cluster.base.protocol, *(each.protocol for each in cluster.decisions.values())} == {spoken}


CHECKED = """
apiVersion: interceptor/v1
kind: Sidecar
metadata: {name: app}
spec:
  healthChecks:
  - {host: '*.example', healthyPanicThreshold: 40, tcp: {}}
  - {host: db.example, port: 80, http: {path: /healthz}}
"""


def test_a_health_check_is_that_of_the_port_the_host_or_the_longest_wildcard() -> None:
    given = plain(configuration(CHECKED, shop(80, ("10.1.0.1", "v1")), DB, VIP, rule("host: db.example")))
    made = Clusters(given.service_entries, (), RESOLVED, None, checks=given.sidecar.spec.healthChecks)
    assert {cluster.name for cluster in made.checked()} == {
        "outbound|80||shop.example",
        "outbound|80||db.example",
    }, "and not those of the resolution NONE, which have no endpoints"
    database = made.managed("db.example", 80)
    assert database is not None
    assert database.traffic.check is not None
    assert database.traffic.check.http is not None
    other = made.check("db.example", 81)
    assert other is not None
    assert other.tcp is not None
    shopping = found(made.managed("shop.example", 80))
    assert shopping.traffic.panic_below == 0.4
    assert made.check("example", 80) is None
    assert list(Clusters(given.service_entries, (), RESOLVED, None).checked()) == []


def test_a_check_and_a_rule_hold_together() -> None:
    limits = rule("host: db.example\ntrafficPolicy: {outlierDetection: {minHealthPercent: 30}}")
    given = plain(configuration(CHECKED, DB, limits))
    rules = given.destination_rules
    made = Clusters(given.service_entries, rules, RESOLVED, None, checks=given.sidecar.spec.healthChecks)
    assert found(made.managed("db.example", 80)).traffic.panic_below == 0.3
    assert found(made.managed("db.example", 80)).traffic.check is not None
