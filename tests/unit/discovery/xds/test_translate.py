from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, strategies as st

from interceptor.config.documents import load
from interceptor.config.problems import Source
from interceptor.discovery.xds.filters import HTTP_MANAGER, TCP_PROXY
from interceptor.discovery.xds.messages import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET, Body
from interceptor.discovery.xds.protocols import PROTOCOLS
from interceptor.discovery.xds.rbac import NETWORK as RBAC
from interceptor.discovery.xds.translate import Translation, Translator
from interceptor.discovery.xds.transport_sockets import RAW, UPSTREAM

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
    first, second, together = specs(TRANSLATOR.documents({"a": named}, given, {}, {}))
    assert first["endpoints"] == [{"address": "10.0.0.2"}, {"address": "fd00::1"}]
    assert second["endpoints"] == [{"address": "10.0.0.2"}]
    assert together["hosts"] == ["_cluster.a"]
    ends = [("10.0.0.2", 80), ("10.0.0.2", 81), ("fd00::1", 80)]
    assert together["endpoints"] == [{"address": host, "ports": {"tcp-80": port}} for host, port in ends]


def test_endpoints_that_are_down_are_left_out_and_a_cluster_without_any_is_nothing() -> None:
    body = assignment(
        endpoint("10.0.0.1", 80, health_status="DRAINING"), endpoint("10.0.0.2", 80, health_status="HEALTHY")
    )
    assert judged(ENDPOINT, body) == ()
    [spec] = specs(TRANSLATOR.documents({"a": EDS}, {"a": body}, {}, {}))
    assert spec["endpoints"] == [{"address": "10.0.0.2"}]
    assert TRANSLATOR.documents({"a": EDS}, {}, {}, {}) == Translation({}, {}, {})


@pytest.mark.parametrize(("policy", "weights"), [("LEAST_REQUEST", [1, 3]), ("RANDOM", [None, None])])
def test_endpoints_keep_their_weights_where_envoy_looks_at_them(
    policy: str, weights: list[int | None]
) -> None:
    cluster = {
        "lb_policy": policy,
        "load_assignment": assignment(
            endpoint("10.0.0.1", 80), endpoint("10.0.0.2", 80, load_balancing_weight=3)
        ),
    }
    assert judged(CLUSTER, cluster) == ()
    [spec] = specs(TRANSLATOR.documents({"a": cluster}, {}, {}, {}))
    assert [each.get("weight") for each in spec["endpoints"]] == weights  # type: ignore[attr-defined]  # plain objects, as JSON has them


@pytest.mark.parametrize("kind", ["STRICT_DNS", "LOGICAL_DNS"])
@pytest.mark.parametrize(
    ("asked", "family"),
    [({}, "AUTO"), *(({"dns_lookup_family": each}, each) for each in ("ALL", "V4_ONLY", "V6_ONLY", "V4_PREFERRED"))],
)  # fmt: skip
def test_a_cluster_of_names_becomes_a_service_that_is_resolved(
    kind: str, asked: dict[str, object], family: str
) -> None:
    body = {
        "type": kind,
        **asked,
        "load_assignment": assignment(endpoint("API.example.com", 80), endpoint("api.example.com", 443)),
    }
    assert judged(CLUSTER, body) == ()
    first, second, together = specs(TRANSLATOR.documents({"a": body}, {}, {}, {}))
    assert second["hosts"] == first["hosts"]
    assert (together["hosts"], together["dnsLookupFamily"]) == (["_cluster.a"], family)
    taken = {"hosts": ["api.example.com"], "resolution": "DNS", "dnsLookupFamily": family}
    assert first == {**taken, "ports": PORTS}


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
    clusters: dict[str, Body] = {
        ISTIO: {"load_assignment": assignment(endpoint("10.0.0.1", 8080))},
        "out": {"type": "ORIGINAL_DST"},
    }
    shares = {"clusters": [{"name": name, "weight": 1} for name in ("out", ISTIO)]}
    config = {"@type": TCP_PROXY, "stat_prefix": "x", "weighted_clusters": shares}
    body = listener("10.9.0.1", 80, {"filters": [{"name": "tcp", "typed_config": config}]})
    gone = listener("10.9.0.2", 80, chain("gone"))
    made = TRANSLATOR.documents(clusters, {}, {"l": body, "m": gone}, {})
    assert not any(key.startswith("VirtualService") for key in made.documents)
    assert made.left_out == {
        "listener l": "filter_chains[0].filters.cluster: the cluster 'out': it goes to the address that was dialled, "
        "which is honoured only as all that a virtual host '*' does",
        "listener m": "filter_chains[0].filters.cluster: there is no cluster 'gone'",
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


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({}, {}),
        ({"keepalive_probes": 0}, {}),
        (
            {"keepalive_probes": 3, "keepalive_time": 60, "keepalive_interval": 5},
            {"probes": 3, "time": "60s", "interval": "5s"},
        ),
    ],
)
def test_keepalive_of_connections_to_a_cluster(given: dict[str, object], made: dict[str, object]) -> None:
    options = {"tcp_keepalive": given}
    cluster = {
        "load_assignment": assignment(endpoint("10.0.0.1", 80)),
        "upstream_connection_options": options,
    }
    assert judged(CLUSTER, cluster) == ()
    *_, rule = specs(
        TRANSLATOR.documents({ISTIO: cluster}, {}, {"l": listener("10.9.0.1", 80, chain(ISTIO))}, {})
    )
    policy: Any = rule["trafficPolicy"]
    assert policy["connectionPool"]["tcp"]["tcpKeepalive"] == made


def of(**given: object) -> dict[str, object]:
    return given


def static(*hosts: str, port: int = 443) -> dict[str, object]:
    return {"load_assignment": assignment(*(endpoint(host, port) for host in hosts))}


def named(*names: str, cluster: str = "a") -> dict[str, object]:
    return chain(cluster, {"server_names": list(names), "transport_protocol": "tls"})


CLUSTERS: dict[str, Body] = {
    "a": static("10.0.0.1"),
    "b": static("10.0.0.2"),
    "out": {"type": "ORIGINAL_DST"},
}


def kinds(made: Translation) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for spec, key in zip(specs(made), made.documents, strict=True):
        found.setdefault(key.partition("/")[0], []).append(spec)
    return found


def test_server_names_become_routes_and_nothing_else_is_let_through() -> None:
    body = listener("10.9.0.1", 443, named("a.example.com", "*.a.example.com"), named("b.org", cluster="b"))
    assert judged(LISTENER, body) == ()
    made = kinds(TRANSLATOR.documents(CLUSTERS, {}, {"l": body}, {}))
    taken = made["ServiceEntry"][0]
    [own, *names] = taken["hosts"]
    assert names == ["a.example.com", "*.a.example.com", "b.org"]
    assert taken["ports"] == [{"number": 443, "name": "tls-443", "protocol": "TLS"}]
    tls, tcp = made["VirtualService"]
    first, second = tls["tls"]
    assert tls["hosts"] == [own, *names]
    assert first["match"] == [{"sniHosts": ["a.example.com", "*.a.example.com"]}]
    assert first["route"] == [{"destination": {"host": "_cluster.a", "port": {"number": 443}}}]
    assert second["match"] == [{"sniHosts": ["b.org"]}]
    assert tcp == {"hosts": [own], "tcp": [{"route": [{"destination": {"host": f"_nothing.{own}"}}]}]}


@pytest.mark.parametrize("where", ["default_filter_chain", "a chain"])
@pytest.mark.parametrize("cluster", ["b", "out"])
def test_what_has_no_name_of_these_goes_where_the_rest_goes(where: str, cluster: str) -> None:
    rest = chain(cluster)
    body = (
        listener("0.0.0.0", 443, named("a.example.com"), default_filter_chain=rest)
        if where == "default_filter_chain"
        else listener("0.0.0.0", 443, named("a.example.com"), rest)
    )
    found = TRANSLATOR.judge(LISTENER, "l", body)
    assert found.problems == ()
    assert found.needs == ((CLUSTER, "a"), (CLUSTER, cluster))
    made = kinds(TRANSLATOR.documents(CLUSTERS, {}, {"l": body}, {}))
    assert made["ServiceEntry"][0]["addresses"] == ["0.0.0.0/0"]
    others = made["VirtualService"][1:]
    if cluster == "out":
        assert others == [], "it goes where it was sent"
    else:
        there = {"host": "_cluster.b", "port": {"number": 443}}
        assert [each["tcp"] for each in others] == [[{"route": [{"destination": there}]}]]


def test_names_before_the_original_destination_are_left_out() -> None:
    body = listener("10.9.0.1", 443, named("a.example.com", cluster="out"))
    made = TRANSLATOR.documents(CLUSTERS, {}, {"l": body}, {})
    assert list(made.left_out) == ["listener l"]
    assert "VirtualService" not in kinds(made)


def test_connections_are_shared_out_by_weight() -> None:
    weighted = {"clusters": [{"name": "a", "weight": 1}, {"name": "b", "weight": 3}]}
    config = {"@type": TCP_PROXY, "stat_prefix": "x", "weighted_clusters": weighted}
    body = listener("10.9.0.1", 80, {"filters": [{"name": "tcp", "typed_config": config}]})
    assert TRANSLATOR.judge(LISTENER, "l", body).needs == ((CLUSTER, "a"), (CLUSTER, "b"))
    [virtual] = kinds(TRANSLATOR.documents(CLUSTERS, {}, {"l": body}, {}))["VirtualService"]
    [route] = virtual["tcp"]
    assert [each["weight"] for each in route["route"]] == [1, 3]


SECURED = {
    "typed_config": {
        "@type": UPSTREAM,
        "sni": "a.example.com",
        "common_tls_context": {
            "tls_certificate_sds_secret_configs": [{"name": "pair", "sds_config": {"ads": {}}}],
            "validation_context": {
                "trusted_ca": {"inline_string": "ca"},
                "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": "a.example.com"}}],
            },
        },
    }
}


def test_a_tls_context_becomes_the_rule_of_its_cluster_and_its_secrets_files() -> None:
    cluster = {**static("10.0.0.1"), "transport_socket": SECURED}
    found = TRANSLATOR.judge(CLUSTER, "a", cluster)
    assert (found.problems, found.needs) == ((), ((SECRET, "pair"),))
    secret = {
        "tls_certificate": {
            "certificate_chain": {"inline_string": "chain"},
            "private_key": {"inline_string": "key"},
        }
    }
    tcp = listener("10.9.0.1", 443, chain("a"))
    made = TRANSLATOR.documents({"a": cluster}, {}, {"l": tcp}, {}, {"pair": secret})
    [rule] = kinds(made)["DestinationRule"]
    tls = rule["trafficPolicy"]["tls"]
    bundle = tls.pop("caCertificates")
    assert tls == {
        "mode": "MUTUAL",
        "sni": "a.example.com",
        "subjectAltNames": ["a.example.com"],
        "clientCertificate": "sds://pair/tls.crt",
        "privateKey": "sds://pair/tls.key",
    }
    assert made.files == {"sds://pair/tls.crt": b"chain", "sds://pair/tls.key": b"key", bundle: b"ca"}
    assert "key" not in "".join(made.documents.values()).replace("tls.key", "").replace("privateKey", "")


def test_certificates_inside_a_cluster_are_judged_too() -> None:
    strict = Translator("shop", 10.0, check=lambda *_: "it holds no certificate")
    cluster = {**static("10.0.0.1"), "transport_socket": SECURED}
    assert strict.judge(CLUSTER, "a", cluster).problems == ("transport_socket: it holds no certificate",)


@pytest.mark.parametrize(("tags", "mode"), [((1, 1), "SIMPLE"), ((0, 0), None), ((1, 0), "left out")])
def test_endpoints_choose_their_transport_socket_together(tags: tuple[int, ...], mode: str | None) -> None:
    simple = json.loads(json.dumps(SECURED))
    del simple["typed_config"]["common_tls_context"]["tls_certificate_sds_secret_configs"]
    raw = {"typed_config": {"@type": RAW}}
    given = [
        endpoint(
            f"10.0.0.{index}",
            443,
            metadata={
                "filter_metadata": {"envoy.transport_socket_match": {"tlsMode": "istio"} if tag else {}}
            },
        )
        for index, tag in enumerate(tags)
    ]
    cluster = {
        "load_assignment": assignment(*given),
        "transport_socket_matches": [
            {"name": "tls", "match": {"tlsMode": "istio"}, "transport_socket": simple},
            {"name": "raw", "match": {}, "transport_socket": raw},
        ],
    }
    assert judged(CLUSTER, cluster) == ()
    made = TRANSLATOR.documents({"a": cluster}, {}, {"l": listener("10.9.0.1", 443, chain("a"))}, {})
    if mode == "left out":
        assert made.left_out["cluster a"].startswith("its endpoints ask for different transport sockets")
        return
    [rule] = kinds(made)["DestinationRule"]
    tls = rule["trafficPolicy"].get("tls")
    assert (tls and tls["mode"]) == mode


@pytest.mark.parametrize(
    ("type_url", "body", "path"),
    [
        (CLUSTER, of(transport_socket={}), "transport_socket.typed_config:"),
        (CLUSTER, of(type="NEW"), "type:"),
        (CLUSTER, of(lb_policy="LOAD_BALANCING_POLICY_CONFIG"), "lb_policy:"),
        (CLUSTER, of(lb_policy="CLUSTER_PROVIDED"), "lb_policy:"),
        (CLUSTER, of(connect_timeout="0s"), "connect_timeout:"),
        (CLUSTER, of(dns_lookup_family="V5_ONLY"), "dns_lookup_family:"),
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
        (CLUSTER, of(upstream_connection_options=of(x=1)), "upstream_connection_options.x:"),
        (CLUSTER, of(upstream_connection_options=of(tcp_keepalive=of(x=1))), "upstream_connection_options.tcp_keepalive.x:"),
        (CLUSTER, of(upstream_connection_options=of(tcp_keepalive=of(keepalive_probes=128))), "upstream_connection_options.tcp_keepalive.keepalive_probes: must be from 0 to 127"),
        (CLUSTER, of(type="ORIGINAL_DST", lb_policy="CLUSTER_PROVIDED", upstream_connection_options=of(tcp_keepalive={})), "upstream_connection_options.tcp_keepalive: is not honoured in a cluster"),
        (CLUSTER, of(type="ORIGINAL_DST"), "lb_policy:"),
        (CLUSTER, of(type="ORIGINAL_DST", transport_socket=SECURED), "transport_socket: is not honoured in a cluster"),
        (CLUSTER, of(transport_socket_matches=[of(x=1)]), "transport_socket_matches[0].x:"),
        (CLUSTER, of(typed_extension_protocol_options={PROTOCOLS: of(explicit_http_config=of(http2_protocol_options=of(x=1)))}), f"typed_extension_protocol_options.{PROTOCOLS}.explicit_http_config.http2_protocol_options.x:"),
        (CLUSTER, of(typed_extension_protocol_options={PROTOCOLS: of(upstream_http_protocol_options=of(auto_sni=True))}), f"typed_extension_protocol_options.{PROTOCOLS}.upstream_http_protocol_options.auto_sni:"),
        (LISTENER, listener("10.0.0.1", 80, of(filters=[of(typed_config={"@type": RBAC}), *chain()["filters"]], filter_chain_match=of(server_names=["a.b"]))), "filter_chains[0].filters: RBAC filters are not honoured together"),  # type: ignore[misc]  # plain objects, as JSON has them
        (LISTENER, listener("10.0.0.1", 80, of(filters=[of(typed_config={"@type": HTTP_MANAGER})], filter_chain_match=of(server_names=["a.b"]))), "filter_chains[0].filter_chain_match.server_names: are honoured before"),
        (CLUSTER, of(type="ORIGINAL_DST", connect_timeout="5s"), "connect_timeout:"),
        (CLUSTER, of(dns_refresh_rate="5s"), "dns_refresh_rate: names hold for their TTL"),
        (CLUSTER, of(circuit_breakers=of(thresholds=[of(retry_budget=of(budget_percent=of(value=101)))])), "circuit_breakers.thresholds[0].retry_budget.budget_percent:"),
        (CLUSTER, of(circuit_breakers=of(thresholds=[of(retry_budget=of(x=1))])), "circuit_breakers.thresholds[0].retry_budget.x:"),
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
        (ENDPOINT, of(endpoints=[of(priority=129)]), "endpoints[0].priority:"),
        (ENDPOINT, of(endpoints=[of(locality=of(zone="a/b"))]), "endpoints[0].locality:"),
        (ENDPOINT, assignment(endpoint("10.0.0.1", 80, health_status="DEGRADED")), "endpoints[0].lb_endpoints[0].health_status:"),
        (ENDPOINT, assignment(endpoint("10.0.0.1", 0)), "endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value:"),
        (ENDPOINT, assignment(endpoint("10.0.0.1", 1, load_balancing_weight=1_000_001)), "endpoints[0].lb_endpoints[0].load_balancing_weight:"),
        (ENDPOINT, assignment(of(endpoint=of(address=of(pipe={})))), "endpoints[0].lb_endpoints[0].endpoint.address.pipe:"),
        (LISTENER, of(), "filter_chains:"),
        (LISTENER, listener("10.0.0.1", 80, chain(), default_filter_chain={}), "default_filter_chain:"),
        (LISTENER, listener("10.0.0.1", 80, chain(), traffic_direction="NEW"), "traffic_direction:"),
        (LISTENER, listener("10.0.0.1", 80, chain(), bind_to_port=True), "bind_to_port:"),
        (LISTENER, listener("10.0.0.1", 80, chain(), listener_filters=[of(name="x")]), "listener_filters[0]:"),
        (LISTENER, of(**{**listener("10.0.0.1", 80, chain()), "address": {"socket_address": {"address": "10.0.0.1", "port_value": 80, "protocol": "UDP"}}}), "address.socket_address.protocol:"),
        (LISTENER, listener("10.0.0.1", 80, chain(), chain()), "filter_chains[1].filter_chain_match:"),
        (LISTENER, listener("10.0.0.1", 80, chain(transport_socket={})), "filter_chains[0].transport_socket:"),
        (LISTENER, listener("10.0.0.1", 80, chain(match=of(server_names=["x"]))), "filter_chains[0].filter_chain_match.server_names[0]:"),
        (LISTENER, listener("10.0.0.1", 80, chain(match=of(server_names=["a b.c"]))), "filter_chains[0].filter_chain_match.server_names[0]:"),
        (LISTENER, listener("10.0.0.1", 80, chain(match=of(transport_protocol="tls"))), "filter_chains[0].filter_chain_match.transport_protocol:"),
        (LISTENER, listener("10.0.0.1", 80, chain(match=of(application_protocols=["h2"]))), "filter_chains[0].filter_chain_match.application_protocols:"),
        (LISTENER, listener("0.0.0.0", 80, chain(match=of(server_names=["a.b"])), chain(), default_filter_chain=chain()), "default_filter_chain: a chain without"),
        (LISTENER, listener("10.0.0.1", 80, of(filters=[of(typed_config={"@type": TCP_PROXY, "weighted_clusters": of(clusters=[of(name="a")])})])), "filter_chains[0].filters[0].typed_config.weighted_clusters.clusters[0].weight:"),
        (LISTENER, listener("10.0.0.1", 80, of(filters=[of(typed_config={"@type": TCP_PROXY, "cluster": "x", "weighted_clusters": of(clusters=[])})])), "filter_chains[0].filters[0].typed_config: needs one of"),
        (LISTENER, listener("10.0.0.1", 80, chain(match=of(destination_port=81))), "filter_chains[0].filter_chain_match.destination_port:"),
        (LISTENER, listener("0.0.0.0", 80, chain()), "filter_chains[0].filter_chain_match.prefix_ranges:"),
        (LISTENER, listener("10.0.0.1", 80, chain(match=of(prefix_ranges=[of(address_prefix="10.0.0.1", prefix_len=32)]))), "filter_chains[0].filter_chain_match.prefix_ranges:"),
        (LISTENER, listener("0.0.0.0", 80, chain(match=of(prefix_ranges=[of(address_prefix="x")]))), "filter_chains[0].filter_chain_match.prefix_ranges[0]:"),
        (LISTENER, listener("10.0.0.1", 80, of(filters=[])), "filter_chains[0].filters:"),
        (LISTENER, listener("10.0.0.1", 80, of(filters=[of(name="hcm", typed_config={"@type": "http"})])), "filter_chains[0].filters[0].typed_config:"),
        (LISTENER, listener("10.0.0.1", 80, chain("")), "filter_chains[0].filters[0].typed_config.cluster:"),
        (ROUTE, of(vhds={}), "vhds:"),
        (SECRET, {}, "needs one of tls_certificate and validation_context"),
        ("type.googleapis.com/x.Other", {}, "a Other is not honoured"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_said_with_its_path(type_url: str, body: Body, path: str) -> None:
    problems = judged(type_url, body)
    assert any(problem.startswith(path) for problem in problems), problems


def test_http2_hashes_and_outliers_are_in_the_rule() -> None:
    outliers = {
        "consecutive_5xx": 7,
        "enforcing_success_rate": 0,
        "enforcing_consecutive_local_origin_failure": 0,
        "max_ejection_percent": 50,
    }
    cluster = {
        **static("10.0.0.1"),
        "lb_policy": "RING_HASH",
        "circuit_breakers": {"thresholds": [{"max_connections": 4294967295}]},
        "outlier_detection": outliers,
        "common_lb_config": {"healthy_panic_threshold": {"value": 30.0}},
        "typed_extension_protocol_options": {
            PROTOCOLS: {"explicit_http_config": {"http2_protocol_options": {}}}
        },
    }
    assert judged(CLUSTER, cluster) == ()
    made = kinds(TRANSLATOR.documents({"a": cluster}, {}, {"l": listener("10.9.0.1", 443, chain("a"))}, {}))
    [rule] = made["DestinationRule"]
    policy = rule["trafficPolicy"]
    assert policy["loadBalancer"] == {"simple": "RANDOM"}, "there is nothing to hash on"
    assert "maxConnections" not in policy["connectionPool"]["tcp"]
    found = policy["outlierDetection"]
    assert (found["consecutive5xxErrors"], found["consecutiveGatewayErrors"]) == (7, 0)
    assert (found["consecutiveLocalOriginFailures"], found["minHealthPercent"]) == (0, 30)
    assert made["ServiceEntry"][-1]["ports"][0]["protocol"] == "HTTP2"


def test_names_that_are_not_one_are_endpoints_of_one_service() -> None:
    both = {
        "type": "STRICT_DNS",
        "dns_lookup_family": "V4_ONLY",
        "load_assignment": assignment(
            endpoint("a.example.com", 80), endpoint("b.example.com", 80, load_balancing_weight=3)
        ),
    }
    own = {"type": "STRICT_DNS", "load_assignment": assignment(endpoint("other.example.com", 80))}
    for cluster in (both, own):
        assert judged(CLUSTER, cluster) == ()
    tcp = listener("10.9.0.1", 443, chain("both"))
    made = TRANSLATOR.documents({"both": both, ISTIO: own}, {}, {"l": tcp}, {})
    assert made.left_out == {}
    _, virtual, named, _, istios = specs(made)
    assert virtual["tcp"] == [{"route": [{"destination": {"host": "_cluster.both", "port": {"number": 80}}}]}]
    assert named == {
        "hosts": ["both", "_cluster.both"],
        "resolution": "DNS",
        "dnsLookupFamily": "V4_ONLY",
        "endpoints": [{"address": "a.example.com", "weight": 1}, {"address": "b.example.com", "weight": 3}],
        "ports": PORTS,
    }
    assert istios["hosts"] == ["api.example.com", "_80.api.example.com"]
    assert istios["endpoints"] == [{"address": "other.example.com"}]
    texts = [Source(key, text) for key, text in made.documents.items()]
    assert load(texts, sidecar_required=False).problems == ()


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
