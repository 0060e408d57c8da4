from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from hypothesis import given, strategies as st

from interceptor.config.documents import load
from interceptor.config.problems import Source
from interceptor.discovery.xds.listeners import TCP_PROXY
from interceptor.discovery.xds.messages import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET, Body
from interceptor.discovery.xds.translate import Translation, Translator

TRANSLATOR = Translator("shop", 10.0)
ISTIO = "outbound|80||api.example.com"
EDS = {"type": "EDS", "eds_cluster_config": {"eds_config": {"ads": {}}}}


def socket(host: str, port: int) -> dict[str, object]:
    return {"socket_address": {"address": host, "port_value": port}}


def endpoint(host: str, port: int, **more: object) -> dict[str, object]:
    return {"endpoint": {"address": socket(host, port)}, **more}


def assignment(*given: dict[str, object], **more: object) -> dict[str, object]:
    return {"cluster_name": "x", "endpoints": [{"lb_endpoints": list(given)}], **more}


def chain(
    cluster: str = "out", match: Mapping[str, object] | None = None, **more: object
) -> dict[str, object]:
    config = {"@type": TCP_PROXY, "stat_prefix": "x", "cluster": cluster}
    made = {"filters": [{"name": "tcp", "typed_config": config}], **more}
    return made if match is None else {**made, "filter_chain_match": match}


def listener(host: str, port: int, *chains: dict[str, object], **more: object) -> dict[str, object]:
    return {"address": socket(host, port), "bind_to_port": False, "filter_chains": list(chains), **more}


def specs(made: Translation) -> list[dict[str, object]]:
    """What the documents ask for; each of them is one that the gateway accepts."""
    assert_accepted(made)
    return [json.loads(text)["spec"] for text in made.documents.values()]


def assert_accepted(made: Translation) -> None:
    loaded = load([Source(key, text) for key, text in made.documents.items()], sidecar_required=False)
    assert loaded.problems == ()
    for key, document in zip(made.documents, loaded.documents, strict=True):
        assert key == f"{document.kind}/{document.namespace}/{document.name}"


def judged(type_url: str, body: Body, name: str = "x") -> tuple[str, ...]:
    return TRANSLATOR.judge(type_url, name, body).problems


PORTS = [{"number": 80, "name": "tcp-80", "protocol": "TCP"}]


@pytest.mark.parametrize(
    ("name", "body", "expected"),
    [
        (ISTIO, {"load_assignment": assignment(endpoint("10.0.0.1", 80))}, ["api.example.com"]),
        ("api.example.com", {"load_assignment": assignment(endpoint("10.0.0.1", 80))}, ["api.example.com"]),
        ("My Service", {"load_assignment": assignment(endpoint("10.0.0.1", 80))}, ["my-service-f22f9cdd"]),
        ("10.0.0.1", {"load_assignment": assignment(endpoint("10.0.0.1", 80))}, ["10-0-0-1-0e2e1c0d"]),
    ],
)
def test_a_static_cluster_becomes_a_service_with_its_endpoints(
    name: str, body: Body, expected: list[str]
) -> None:
    assert judged(CLUSTER, body, name) == ()
    [spec] = specs(TRANSLATOR.documents({name: body}, {}, {}, {}))
    hosts = spec.pop("hosts")
    assert isinstance(hosts, list)
    assert hosts[0][:-8] == expected[0][:-8]  # the hash is what it is
    assert hosts[1].endswith(f".{hosts[0]}"), "a host that is its own"
    assert spec == {"resolution": "STATIC", "endpoints": [{"address": "10.0.0.1"}], "ports": PORTS}


def test_a_cluster_of_eds_needs_its_endpoints_and_has_those() -> None:
    named = {**EDS, "eds_cluster_config": {"eds_config": {"self": {}}, "service_name": "other"}}
    assert TRANSLATOR.judge(CLUSTER, "a", EDS).needs == ((ENDPOINT, "a"),)
    assert TRANSLATOR.judge(CLUSTER, "a", named).needs == ((ENDPOINT, "other"),)
    assert TRANSLATOR.judge(CLUSTER, "a", named).problems == ()
    given = {"other": assignment(endpoint("10.0.0.2", 80), endpoint("fd00::1", 80), endpoint("10.0.0.2", 81))}
    first, second = specs(TRANSLATOR.documents({"a": named}, given, {}, {}))
    assert first["endpoints"] == [{"address": "10.0.0.2"}, {"address": "fd00::1"}]
    assert second["endpoints"] == [{"address": "10.0.0.2"}]


def test_endpoints_that_are_down_are_left_out_and_a_cluster_without_any_is_nothing() -> None:
    body = assignment(
        endpoint("10.0.0.1", 80, health_status="DRAINING"), endpoint("10.0.0.2", 80, health_status="HEALTHY")
    )
    assert judged(ENDPOINT, body) == ()
    [spec] = specs(TRANSLATOR.documents({"a": EDS}, {"a": body}, {}, {}))
    assert spec["endpoints"] == [{"address": "10.0.0.2"}]
    assert TRANSLATOR.documents({"a": EDS}, {}, {}, {}) == ({}, {})


@pytest.mark.parametrize("kind", ["STRICT_DNS", "LOGICAL_DNS"])
def test_a_cluster_of_names_becomes_a_service_that_is_resolved(kind: str) -> None:
    body = {
        "type": kind,
        "load_assignment": assignment(endpoint("API.example.com", 80), endpoint("b.org", 443)),
    }
    assert judged(CLUSTER, body) == ()
    first, second = specs(TRANSLATOR.documents({"a": body}, {}, {}, {}))
    assert first == {"hosts": ["api.example.com"], "resolution": "DNS", "ports": PORTS}
    assert second["hosts"] == ["b.org"]


def test_a_listener_over_an_original_destination_becomes_a_service_at_its_address() -> None:
    body = listener(
        *("10.9.0.1", 80, chain()),
        listener_filters=[{"name": "envoy.filters.listener.tls_inspector"}],
        traffic_direction="OUTBOUND",
    )
    found = TRANSLATOR.judge(LISTENER, "l", body)
    assert (found.problems, found.needs) == ((), ((CLUSTER, "out"),))
    [spec] = specs(TRANSLATOR.documents({"out": {"type": "ORIGINAL_DST"}}, {}, {"l": body}, {}))
    assert spec == {"hosts": ["out"], "addresses": ["10.9.0.1"], "resolution": "NONE", "ports": PORTS}


def test_a_listener_of_any_address_has_the_ranges_of_its_chains() -> None:
    ranges = [{"address_prefix": "10.9.0.0", "prefix_len": 16}, {"address_prefix": "fd00::", "prefix_len": 8}]
    other = [{"address_prefix": "10.8.0.1", "prefix_len": 32}]
    body = listener(
        *("0.0.0.0", 80, chain(match={"prefix_ranges": ranges, "destination_port": 80})),
        chain(match={"prefix_ranges": other}),
    )
    assert judged(LISTENER, body) == ()
    first, second = specs(TRANSLATOR.documents({"out": {"type": "ORIGINAL_DST"}}, {}, {"l": body}, {}))
    assert first["addresses"] == ["10.9.0.0/16", "fd00::/8"]
    assert second["addresses"] == ["10.8.0.1/32"]


def test_what_only_shows_together_is_left_out_and_said() -> None:
    other = "outbound|80||b.example.com"
    clusters: dict[str, Body] = {
        ISTIO: {"load_assignment": assignment(endpoint("10.0.0.1", 8080))},
        other: {"type": "STRICT_DNS", "load_assignment": assignment(endpoint("a.example.com", 80))},
        "mixed": {"load_assignment": assignment(endpoint("10.0.0.1", 1), endpoint("10.0.0.1", 2))},
    }
    body = listener("10.9.0.1", 80, chain("mixed"))
    gone = listener("10.9.0.2", 80, chain("gone"))
    made = TRANSLATOR.documents(clusters, {}, {"l": body, "m": gone}, {})
    assert not any(key.startswith("VirtualService") for key in made.documents)
    assert made.left_out == {
        f"cluster {other}": "the endpoint a.example.com is another name than the service b.example.com, which is not honoured",
        "listener l": "filter_chains[0].filters[0].cluster: the cluster 'mixed': its endpoints have several ports, which is "
        "not honoured by this version",
        "listener m": "filter_chains[0].filters[0].cluster: there is no cluster 'gone'",
    }


def test_a_listener_before_endpoints_sends_connections_to_them() -> None:
    bounds = {"thresholds": [{"max_connections": 7, "max_pending_requests": 8, "max_retries": 4294967295}]}
    cluster = {"load_assignment": assignment(endpoint("10.0.0.1", 8080)), "circuit_breakers": bounds}
    assert judged(CLUSTER, cluster) == ()
    made = TRANSLATOR.documents({ISTIO: cluster}, {}, {"l": listener("10.9.0.1", 80, chain(ISTIO))}, {})
    taken, virtual, entry, rule = specs(made)
    assert (taken["addresses"], taken["resolution"]) == (["10.9.0.1"], "NONE")
    assert virtual["hosts"] == taken["hosts"]
    there = {"host": "_80.api.example.com", "port": {"number": 8080}}
    assert virtual["tcp"] == [{"route": [{"destination": there}]}]
    assert entry["hosts"] == ["api.example.com", there["host"]]
    assert rule["host"] == there["host"]
    assert rule["trafficPolicy"] == {
        "loadBalancer": {"simple": "ROUND_ROBIN"},
        "connectionPool": {
            "http": {"http1MaxPendingRequests": 8, "http2MaxRequests": 1024},
            "tcp": {"connectTimeout": "5.000000s", "maxConnections": 7},
        },
    }


def of(**given: object) -> dict[str, object]:
    return given


@pytest.mark.parametrize(
    ("type_url", "body", "path"),
    [
        (CLUSTER, of(transport_socket={}), "transport_socket:"),
        (CLUSTER, of(type="NEW"), "type:"),
        (CLUSTER, of(lb_policy="LOAD_BALANCING_POLICY_CONFIG"), "lb_policy:"),
        (CLUSTER, of(lb_policy="CLUSTER_PROVIDED"), "lb_policy:"),
        (CLUSTER, of(connect_timeout="0s"), "connect_timeout:"),
        (CLUSTER, of(dns_lookup_family="V4_ONLY"), "dns_lookup_family:"),
        (CLUSTER, of(least_request_lb_config=of(choice_count=3)), "least_request_lb_config.choice_count:"),
        (CLUSTER, of(common_lb_config=of(zone_aware_lb_config={})), "common_lb_config.zone_aware_lb_config:"),
        (CLUSTER, of(typed_extension_protocol_options=of(x={})), "typed_extension_protocol_options.x:"),
        (CLUSTER, of(circuit_breakers=of(thresholds=[of(max_connections=0)])), "circuit_breakers.thresholds[0].max_connections:"),
        (CLUSTER, of(circuit_breakers=of(thresholds=[of(priority="HIGH")])), "circuit_breakers.thresholds[0].priority:"),
        (CLUSTER, of(circuit_breakers=of(thresholds=[of(max_requests=0)])), "circuit_breakers.thresholds[0].max_requests:"),
        (CLUSTER, of(outlier_detection=of(interval="5s")), "outlier_detection.enforcing_success_rate: is 100"),
        (CLUSTER, of(outlier_detection=of(enforcing_consecutive_5xx=50)), "outlier_detection.enforcing_consecutive_5xx:"),
        (CLUSTER, of(outlier_detection=of(interval="0s")), "outlier_detection.interval:"),
        (CLUSTER, of(outlier_detection=of(max_ejection_percent=101)), "outlier_detection.max_ejection_percent:"),
        (CLUSTER, of(type="ORIGINAL_DST"), "lb_policy:"),
        (CLUSTER, of(type="ORIGINAL_DST", connect_timeout="5s"), "connect_timeout:"),
        (CLUSTER, of(type="EDS"), "eds_cluster_config.eds_config:"),
        (CLUSTER, of(eds_cluster_config={}), "eds_cluster_config:"),
        (CLUSTER, {**EDS, "load_assignment": {}}, "load_assignment:"),
        (CLUSTER, of(load_assignment=of(policy={})), "load_assignment.policy:"),
        (
            CLUSTER,
            of(load_assignment=assignment(endpoint("b.org", 80))),
            "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address:",
        ),
        (ENDPOINT, of(policy={}), "policy:"),
        (ENDPOINT, of(endpoints=[of(priority=1)]), "endpoints[0].priority:"),
        (ENDPOINT, assignment(endpoint("10.0.0.1", 80, health_status="DEGRADED")), "endpoints[0].lb_endpoints[0].health_status:"),
        (ENDPOINT, assignment(endpoint("10.0.0.1", 0)), "endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value:"),
        (ENDPOINT, assignment(endpoint("10.0.0.1", 1), endpoint("10.0.0.2", 1, load_balancing_weight=2)), "endpoints: load_balancing_weight"),
        (ENDPOINT, assignment(of(endpoint=of(address=of(pipe={})))), "endpoints[0].lb_endpoints[0].endpoint.address.pipe:"),
        (LISTENER, of(), "filter_chains:"),
        (LISTENER, listener("10.0.0.1", 80, chain(), default_filter_chain={}), "default_filter_chain:"),
        (LISTENER, listener("10.0.0.1", 80, chain(), traffic_direction="INBOUND"), "traffic_direction:"),
        (LISTENER, listener("10.0.0.1", 80, chain(), bind_to_port=True), "bind_to_port:"),
        (LISTENER, listener("10.0.0.1", 80, chain(), listener_filters=[of(name="x")]), "listener_filters[0]:"),
        (LISTENER, of(**{**listener("10.0.0.1", 80, chain()), "address": {"socket_address": {"address": "10.0.0.1", "port_value": 80, "protocol": "UDP"}}}), "address.socket_address.protocol:"),
        (LISTENER, listener("10.0.0.1", 80, chain(), chain()), "filter_chains[1].filter_chain_match:"),
        (LISTENER, listener("10.0.0.1", 80, chain(transport_socket={})), "filter_chains[0].transport_socket:"),
        (LISTENER, listener("10.0.0.1", 80, chain(match=of(server_names=["x"]))), "filter_chains[0].filter_chain_match.server_names:"),
        (LISTENER, listener("10.0.0.1", 80, chain(match=of(destination_port=81))), "filter_chains[0].filter_chain_match.destination_port:"),
        (LISTENER, listener("0.0.0.0", 80, chain()), "filter_chains[0].filter_chain_match.prefix_ranges:"),
        (LISTENER, listener("10.0.0.1", 80, chain(match=of(prefix_ranges=[of(address_prefix="10.0.0.1", prefix_len=32)]))), "filter_chains[0].filter_chain_match.prefix_ranges:"),
        (LISTENER, listener("0.0.0.0", 80, chain(match=of(prefix_ranges=[of(address_prefix="x")]))), "filter_chains[0].filter_chain_match.prefix_ranges[0]:"),
        (LISTENER, listener("10.0.0.1", 80, of(filters=[])), "filter_chains[0].filters:"),
        (LISTENER, listener("10.0.0.1", 80, of(filters=[of(name="hcm", typed_config={"@type": "http"})])), "filter_chains[0].filters[0].typed_config:"),
        (LISTENER, listener("10.0.0.1", 80, chain("")), "filter_chains[0].filters[0].typed_config.cluster:"),
        (ROUTE, of(vhds={}), "vhds:"),
        (SECRET, {}, "a Secret is not honoured"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_said_with_its_path(type_url: str, body: Body, path: str) -> None:
    problems = judged(type_url, body)
    assert any(problem.startswith(path) for problem in problems), problems


def test_timeouts_and_policies_that_are_ours_are_taken() -> None:
    assert judged(CLUSTER, of(connect_timeout="7s", lb_policy="ROUND_ROBIN")) == ()
    assert (
        judged(CLUSTER, of(type="ORIGINAL_DST", lb_policy="CLUSTER_PROVIDED", connect_timeout="10.000s"))
        == ()
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(("address", "socket_address", "port_value", "filters", "endpoints", "lb_endpoints", "endpoint", "type", "load_assignment", "filter_chains", "typed_config", "bind_to_port")),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(st.sampled_from((CLUSTER, ENDPOINT, LISTENER)), st.dictionaries(st.sampled_from(("type", "load_assignment", "endpoints", "address", "filter_chains")), JSON))  # fmt: skip
def test_whatever_a_resource_holds_it_is_judged(type_url: str, body: Body) -> None:
    assert all(isinstance(each, str) for each in judged(type_url, body))
