"""What Istio's control plane sends to a sidecar, read from its bytes, is accepted; what of it would change anything is not."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any, Final

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.json_format import ParseDict

from interceptor.config.documents import load
from interceptor.config.problems import Source
from interceptor.discovery.xds.codec import decode
from interceptor.discovery.xds.messages import CLUSTER, ENDPOINT, LISTENER, ROUTE, Body
from interceptor.discovery.xds.translate import Translation, Translator
from interceptor.model.address import OriginalDestination, SocketAddress
from interceptor.model.http import RequestHead
from interceptor.routing.routes import Question
from interceptor.state.snapshot import take
from tests.support.documents import configuration

if TYPE_CHECKING:
    from collections.abc import Mapping

GOOGLE: Final = "type.googleapis.com/"
ENVOY: Final = f"{GOOGLE}envoy.extensions."
KINDS: Final[Mapping[str, Any]] = {
    CLUSTER: cluster_pb2.Cluster,
    ENDPOINT: endpoint_pb2.ClusterLoadAssignment,
    LISTENER: listener_pb2.Listener,
    ROUTE: route_pb2.RouteConfiguration,
}
TRANSLATOR = Translator("shop", 10.0, labels={"app": "web"}, trusted=("cluster.local",))
WEB: Final = "outbound|80||web.shop.svc.cluster.local"
DNS: Final = "outbound|53||kube-dns.kube-system.svc.cluster.local"
NAMED: Final = "outbound|80||api.example.com"  # of a ServiceEntry with the resolution DNS
ADS = {"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"}
PASSTHROUGH = "PassthroughCluster"


def filter_of(name: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": kind, **more}}


def struct(name: str, kind: str, value: Any) -> dict[str, Any]:
    return filter_of(name, f"{GOOGLE}udpa.type.v1.TypedStruct", type_url=GOOGLE + kind, value=value)


ACCESS = [
    {
        **filter_of("envoy.access_loggers.file", f"{ENVOY}access_loggers.file.v3.FileAccessLog", path="/dev/stdout",
            log_format={"text_format_source": {"inline_string": "[%START_TIME%]\n"}}),
        "filter": {"response_flag_filter": {"flags": ["NR"]}},
    }
]  # fmt: skip
EXCHANGE = filter_of("istio.metadata_exchange", f"{GOOGLE}envoy.tcp.metadataexchange.config.MetadataExchange")
STATS = struct("istio.stats", "stats.PluginConfig", {"disable_host_header_fallback": True})


def tcp(cluster: str) -> dict[str, Any]:
    return filter_of(
        *("envoy.filters.network.tcp_proxy", f"{ENVOY}filters.network.tcp_proxy.v3.TcpProxy"),
        stat_prefix=cluster,
        cluster=cluster,
        access_log=ACCESS,
    )


def manager(prefix: str, **more: Any) -> dict[str, Any]:
    peers: dict[str, Any] = {
        "upstream_discovery": [{"istio_headers": {}}],
        "upstream_propagation": [{"istio_headers": {}}],
    }
    http = f"{ENVOY}filters.http."
    inside = [
        struct("istio.metadata_exchange", "io.istio.http.peer_metadata.Config", peers),
        filter_of("envoy.filters.http.grpc_stats", f"{http}grpc_stats.v3.FilterConfig", emit_filter_state=True, stats_for_all_methods=False),
        filter_of("istio.alpn", f"{GOOGLE}istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig"),
        filter_of("envoy.filters.http.fault", f"{http}fault.v3.HTTPFault"),
        filter_of("envoy.filters.http.cors", f"{http}cors.v3.Cors"),
        STATS,
        filter_of("envoy.filters.http.router", f"{http}router.v3.Router"),
    ]  # fmt: skip
    uuid = filter_of(
        *("x", f"{ENVOY}request_id.uuid.v3.UuidRequestIdConfig"), use_request_id_for_trace_sampling=True
    )
    return filter_of(
        *("envoy.filters.network.http_connection_manager",),
        f"{ENVOY}filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=prefix,
        http_filters=inside,
        tracing={"client_sampling": {"value": 100}, "random_sampling": {"value": 1}, "overall_sampling": {"value": 100},
                 "custom_tags": [{"tag": "istio.mesh_id", "literal": {"value": "cluster.local"}}]},
        access_log=ACCESS,
        use_remote_address=False,
        upgrade_configs=[{"upgrade_type": "websocket"}],
        stream_idle_timeout="0s",
        normalize_path=True,
        request_id_extension={"typed_config": uuid["typed_config"]},
        path_with_escaped_slashes_action="KEEP_UNCHANGED",
        proxy_status_config={},
        **more,
    )  # fmt: skip


def socket(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


INSPECTORS = [
    filter_of(f"envoy.filters.listener.{name}", f"{ENVOY}filters.listener.{name}.v3.{kind}")
    for name, kind in (("tls_inspector", "TlsInspector"), ("http_inspector", "HttpInspector"))
]
SERVICE: dict[str, Any] = {
    "traffic_direction": "OUTBOUND",
    "listener_filters": INSPECTORS,
    "listener_filters_timeout": "0s",
    "continue_on_listener_filters_timeout": True,
    "bind_to_port": False,
}


def agents(*, client: bool, host: str = "") -> dict[str, Any]:
    """A TLS context with the secrets of the agent beside a sidecar."""
    api = {"api_type": "GRPC", "transport_api_version": "V3", "set_node_on_first_message_only": True,
           "grpc_services": [{"envoy_grpc": {"cluster_name": "sds-grpc"}}]}  # fmt: skip
    given = {
        "sds_config": {"api_config_source": api, "initial_fetch_timeout": "0s", "resource_api_version": "V3"}
    }
    names = (
        [{"exact": "spiffe://cluster.local/ns/shop/sa/web"}]
        if client
        else [{"prefix": "spiffe://cluster.local/"}]
    )
    params: dict[str, Any] = {
        "tls_minimum_protocol_version": "TLSv1_2",
        "tls_maximum_protocol_version": "TLSv1_3",
    }
    if not client:
        params["cipher_suites"] = [f"{exchange}AES{size}" for exchange in ("ECDHE-ECDSA-", "ECDHE-RSA-", "")
                                   for size in ("256-GCM-SHA384", "128-GCM-SHA256")]  # fmt: skip
    common = {
        "tls_params": params,
        "alpn_protocols": ["istio-peer-exchange", "istio"] if client else ["istio-peer-exchange", "h2", "http/1.1"],
        "tls_certificate_sds_secret_configs": [{"name": "default", **given}],
        "combined_validation_context": {
            "default_validation_context": {"match_subject_alt_names": names},
            "validation_context_sds_secret_config": {"name": "ROOTCA", **given},
        },
    }  # fmt: skip
    tls = f"{ENVOY}transport_sockets.tls.v3."
    if client:
        return filter_of(
            "envoy.transport_sockets.tls", f"{tls}UpstreamTlsContext", common_tls_context=common, sni=host
        )
    return filter_of(
        *("envoy.transport_sockets.tls", f"{tls}DownstreamTlsContext"),
        common_tls_context=common,
        require_client_certificate=True,
    )


def inbound_chains(port: int | None) -> list[dict[str, Any]]:
    """What Istio makes of a port in PERMISSIVE mode; None: of all the others."""
    cluster = "InboundPassthroughCluster" if port is None else f"inbound|{port}||"
    timeouts = {"max_stream_duration": "0s", "grpc_timeout_header_max": "0s"}
    route = {"cluster": cluster, "timeout": "0s", "max_stream_duration": timeouts}
    every = {
        "name": "default",
        "match": {"prefix": "/"},
        "route": route,
        "decorator": {"operation": f":{port}/*"},
    }
    hosts = [{"name": f"inbound|http|{port}", "domains": ["*"], "routes": [every]}]
    http = manager(
        f"inbound_0.0.0.0_{port}",
        route_config={"name": cluster, "virtual_hosts": hosts, "validate_clusters": False},
        server_name="istio-envoy",
        forward_client_cert_details="APPEND_FORWARD",
        set_current_client_cert_details={"subject": True, "dns": True, "uri": True},
    )
    of = {} if port is None else {"destination_port": port}
    secured = {"transport_socket": agents(client=False)}
    words = {"tls": ["istio-http/1.0", "istio-http/1.1", "istio-h2"], "raw_buffer": ["http/1.1", "h2c"]}
    kinds: list[tuple[str, list[str], list[dict[str, Any]], dict[str, Any]]] = [
        ("tls", words["tls"], [http], secured),
        ("raw_buffer", words["raw_buffer"], [http], {}),
        ("tls", ["istio-peer-exchange", "istio"], [EXCHANGE, STATS, tcp(cluster)], secured),
        ("raw_buffer", [], [STATS, tcp(cluster)], {}),
        ("tls", [], [STATS, tcp(cluster)], {}),
    ]
    return [
        {"filter_chain_match": {**of, "transport_protocol": protocol, "application_protocols": names},
         "filters": filters, "name": f"0.0.0.0_{port}", **more}
        for protocol, names, filters, more in kinds
    ]  # fmt: skip


LISTENERS: dict[str, Body] = {
    "virtualOutbound": {
        "address": socket("0.0.0.0", 15001),
        "filter_chains": [
            {"filter_chain_match": {"destination_port": 15001}, "filters": [STATS, tcp("BlackHoleCluster")], "name": "virtualOutbound-blackhole"},
            {"filters": [STATS, tcp(PASSTHROUGH)], "name": "virtualOutbound-catchall-tcp"},
        ],
        "use_original_dst": True,
        "traffic_direction": "OUTBOUND",
        "access_log": ACCESS,
    },
    "virtualInbound": {
        "address": socket("0.0.0.0", 15006),
        "filter_chains": [
            {"filter_chain_match": {"destination_port": 15006}, "filters": [STATS, tcp("BlackHoleCluster")], "name": "virtualInbound-blackhole"},
            *inbound_chains(None),
            *inbound_chains(8080),
        ],
        "listener_filters": [filter_of("envoy.filters.listener.original_dst", f"{ENVOY}filters.listener.original_dst.v3.OriginalDst"), *INSPECTORS],
        "listener_filters_timeout": "0s",
        "continue_on_listener_filters_timeout": True,
        "traffic_direction": "INBOUND",
        "access_log": ACCESS,
        "connection_balance_config": {"exact_balance": {}},
    },
    "0.0.0.0_80": {
        "address": socket("0.0.0.0", 80),
        "filter_chains": [
            {
                "filter_chain_match": {"transport_protocol": "raw_buffer", "application_protocols": ["http/1.1", "h2c"]},
                "filters": [manager("outbound_0.0.0.0_80", rds={"config_source": ADS, "route_config_name": "80"})],
            }
        ],
        "default_filter_chain": {"filter_chain_match": {}, "filters": [STATS, tcp(PASSTHROUGH)], "name": "PassthroughFilterChain"},
        **SERVICE,
    },
    "10.96.0.10_53": {
        "address": socket("10.96.0.10", 53),
        "filter_chains": [{"filters": [STATS, tcp(DNS)]}],
        "traffic_direction": "OUTBOUND",
        "bind_to_port": False,
    },
}  # fmt: skip


def of_istio(host: str) -> dict[str, Any]:
    return {"metadata": {"filter_metadata": {"istio": {"services": [{"host": host, "name": "x", "namespace": "shop"}]}}},
            "connect_timeout": "10s", "filters": [EXCHANGE], "circuit_breakers": {"thresholds": [
                {"max_connections": 2**32 - 1, "max_pending_requests": 2**32 - 1, "max_requests": 2**32 - 1,
                 "max_retries": 2**32 - 1, "track_remaining": True}]}}  # fmt: skip


def speaking(**more: Any) -> dict[str, Any]:
    name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {"typed_extension_protocol_options": {name: {"@type": GOOGLE + name, **more}}}


def eds(name: str) -> dict[str, Any]:
    sni = name.replace("|", "_.")
    modes = [
        {"name": "tlsMode-istio", "match": {"tlsMode": "istio"}, "transport_socket": agents(client=True, host=sni)},
        {"name": "tlsMode-disabled", "match": {}, "transport_socket": filter_of("envoy.transport_sockets.raw_buffer", f"{ENVOY}transport_sockets.raw_buffer.v3.RawBuffer")},
    ]  # fmt: skip
    return {
        **of_istio(name),
        "type": "EDS",
        "eds_cluster_config": {"eds_config": ADS, "service_name": name},
        "lb_policy": "LEAST_REQUEST",
        "common_lb_config": {},
        "alt_stat_name": f"{name};",
        "transport_socket_matches": modes,
    }


HTTP2 = {"http2_protocol_options": {"max_concurrent_streams": 2**30}}
ORIGINAL = {**of_istio("x"), "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"}
TO_APP = {**ORIGINAL, "cleanup_interval": "60s", "upstream_bind_config": {"source_address": {"address": "127.0.0.6", "port_value": 0}},
          **speaking(use_downstream_protocol_config={"http_protocol_options": {}, **HTTP2})}  # fmt: skip
CLUSTERS: dict[str, Body] = {
    PASSTHROUGH: {
        **ORIGINAL,
        **speaking(use_downstream_protocol_config={"http_protocol_options": {}, **HTTP2}),
    },
    "BlackHoleCluster": {"type": "STATIC", "connect_timeout": "10s"},
    "InboundPassthroughCluster": TO_APP,
    "inbound|8080||": TO_APP,
    WEB: {**eds(WEB), **speaking(explicit_http_config=HTTP2)},
    DNS: eds(DNS),
}


def assignment(host: str, port: int, mode: str) -> Body:
    metadata = {"envoy.transport_socket_match": {"tlsMode": mode}, "istio": {"workload": "web;shop;web;v1"}}
    endpoint = {
        "endpoint": {"address": socket(host, port)},
        "health_status": "HEALTHY",
        "load_balancing_weight": 1,
    }
    place = {"region": "eu", "zone": "eu-1"}
    given = [{**endpoint, "metadata": {"filter_metadata": metadata}}]
    return {"endpoints": [{"locality": place, "lb_endpoints": given, "load_balancing_weight": 1}]}  # fmt: skip


ENDPOINTS = {
    WEB: assignment("10.244.0.5", 8080, "istio"),
    DNS: assignment("10.244.0.2", 53, "disabled"),
}
RETRIES = {
    "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
    "num_retries": 2,
    "retry_host_predicate": [
        filter_of(
            "envoy.retry_host_predicates.previous_hosts",
            f"{ENVOY}retry.host.previous_hosts.v3.PreviousHostsPredicate",
        )
    ],
    "host_selection_retry_max_attempts": "5",
    "retriable_status_codes": [503],
}
CLUSTERS[NAMED] = {
    **{name: what for name, what in eds(NAMED).items() if name != "eds_cluster_config"},
    "type": "STRICT_DNS",
    "dns_refresh_rate": "60s",
    "respect_dns_ttl": True,
    "dns_jitter": "0.100s",
    "dns_lookup_family": "V4_ONLY",
    "load_assignment": {"cluster_name": NAMED, **assignment("api.example.com", 80, "disabled")},
}


def virtual_host(name: str, cluster: str, *domains: str, **more: Any) -> dict[str, Any]:
    zero = {"max_stream_duration": "0s", "grpc_timeout_header_max": "0s"}
    route = {"cluster": cluster, "timeout": "0s", "max_stream_duration": zero, **more}
    operation = {"operation": f"{name}/*"}
    every = {"name": "default", "match": {"prefix": "/"}, "route": route, "decorator": operation}
    return {"name": name, "domains": list(domains), "routes": [every], "include_request_attempt_count": True}


ROUTES: dict[str, Body] = {
    "80": {
        "virtual_hosts": [
            virtual_host("allow_any", PASSTHROUGH, "*"),
            virtual_host("web.shop.svc.cluster.local:80", WEB, "web.shop.svc.cluster.local", "web.shop.svc", "web.shop", "web", "10.96.0.20", retry_policy=RETRIES),
        ],
        "validate_clusters": False,
        "max_direct_response_body_size_bytes": 1048576,
        "ignore_port_in_host_matching": True,
    }
}  # fmt: skip


def sent(type_url: str, given: dict[str, Body]) -> dict[str, Body]:
    """Resources as they are read from the bytes of a response, each of them accepted."""
    made = discovery_pb2.DiscoveryResponse(type_url=type_url)
    for name, body in given.items():
        message = KINDS[type_url]()
        ParseDict({("cluster_name" if type_url == ENDPOINT else "name"): name, **body}, message)
        made.resources.append(Packed())
        made.resources[-1].Pack(message)
    found: dict[str, Body] = {}
    for each in decode(made.SerializeToString(), delta=False).resources:
        assert each.problem is None, each
        assert each.body is not None
        found[each.name] = each.body
    return found


def made_of(translator: Translator = TRANSLATOR) -> Translation:
    clusters, endpoints = sent(CLUSTER, CLUSTERS), sent(ENDPOINT, ENDPOINTS)
    listeners, routes = sent(LISTENER, LISTENERS), sent(ROUTE, ROUTES)
    for kind, given in ((CLUSTER, clusters), (ENDPOINT, endpoints), (LISTENER, listeners), (ROUTE, routes)):
        for name, body in given.items():
            assert translator.judge(kind, name, body).problems == (), name
    made = translator.documents(clusters, endpoints, listeners, routes)
    texts = [Source(key, text) for key, text in made.documents.items()]
    assert load(texts, sidecar_required=False).problems == ()
    return made


def specs(made: Translation, kind: str) -> list[dict[str, Any]]:
    return [json.loads(text)["spec"] for key, text in made.documents.items() if key.startswith(f"{kind}/")]


def test_all_that_istio_sends_to_a_sidecar_is_accepted_and_becomes_documents() -> None:
    made = made_of()
    assert made.left_out == {}
    [modes] = specs(made, "PeerAuthentication")
    ports = {port: each["mode"] for port, each in modes["portLevelMtls"].items()}
    assert (modes["mtls"], ports) == ({"mode": "PERMISSIVE"}, {"8080": "PERMISSIVE"})
    taken = {tuple(each["addresses"]): each for each in specs(made, "ServiceEntry") if "addresses" in each}
    assert taken["0.0.0.0/0",]["ports"][0]["protocol"] == "AUTO"
    assert "web.shop.svc.cluster.local" in taken["0.0.0.0/0",]["hosts"]
    [named] = [each for each in specs(made, "ServiceEntry") if each["resolution"] == "DNS"]
    assert (named["hosts"], named["dnsLookupFamily"]) == (["api.example.com"], "V4_ONLY")
    assert taken["10.96.0.10",]["ports"][0]["protocol"] == "TCP"
    rules = {each["host"]: each["trafficPolicy"] for each in specs(made, "DestinationRule")}
    web = rules["_80.web.shop.svc.cluster.local"]["tls"]
    assert web == {"mode": "ISTIO_MUTUAL", "sni": WEB.replace("|", "_."), "subjectAltNames": ["spiffe://cluster.local/ns/shop/sa/web"]}  # fmt: skip
    assert "tls" not in rules["_53.kube-dns.kube-system.svc.cluster.local"]


def test_what_its_rules_and_routes_come_to_is_accepted() -> None:
    """A DestinationRule with a hash, a warm-up, a failover and timeouts; a VirtualService with a fault and retries elsewhere."""
    tuned = {
        **CLUSTERS[WEB],
        "lb_policy": "RING_HASH",
        "ring_hash_lb_config": {"minimum_ring_size": 1024},
        "common_lb_config": {"healthy_panic_threshold": {}, "locality_weighted_lb_config": {}},
        "outlier_detection": {"enforcing_success_rate": 0, "consecutive_5xx": 7},
        **speaking(
            explicit_http_config=HTTP2,
            common_http_protocol_options={"idle_timeout": "60s", "max_requests_per_connection": 9},
        ),
    }
    warming = {**CLUSTERS[DNS], "least_request_lb_config": {"slow_start_config": {
        "slow_start_window": "30s", "aggression": {"default_value": 1, "runtime_key": "x"}, "min_weight_percent": {"value": 10}}}}  # fmt: skip
    near = assignment("10.244.0.5", 8080, "istio")["endpoints"]
    far = assignment("10.244.9.5", 8080, "istio")["endpoints"]
    assert isinstance(near, list)
    assert isinstance(far, list)
    both = {"endpoints": [near[0], {**far[0], "priority": 1}]}
    remote = filter_of(
        "x", f"{ENVOY}retry.priority.previous_priorities.v3.PreviousPrioritiesConfig", update_frequency=2
    )
    fault = filter_of(
        "x",
        f"{ENVOY}filters.http.fault.v3.HTTPFault",
        abort={"http_status": 500, "percentage": {"numerator": 1}},
    )
    route = {
        "match": {"prefix": "/"},
        "route": {"cluster": WEB, "retry_policy": {**RETRIES, "retry_priority": remote},
                  "request_mirror_policies": [{"cluster": DNS, "disable_shadow_host_suffix_append": True}]},
        "typed_per_filter_config": {"envoy.filters.http.fault": fault["typed_config"]},
    }  # fmt: skip
    for kind, name, body in (
        (CLUSTER, WEB, tuned),
        (CLUSTER, DNS, warming),
        (ENDPOINT, WEB, both),
        (ROUTE, "80", {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [route]}]}),
    ):
        assert TRANSLATOR.judge(kind, name, sent(kind, {name: body})[name]).problems == ()


def test_requests_and_opaque_connections_may_have_other_policies() -> None:
    """As they have where an AuthorizationPolicy asks for methods or paths: on TCP such rules are others."""
    body: Any = json.loads(json.dumps(LISTENERS["virtualInbound"]))  # in which no part is another one's
    anybody = {"principals": [{"any": True}]}
    gets = {"permissions": [{"header": {"name": ":method", "string_match": {"exact": "GET"}}}], **anybody}
    for chain in body["filter_chains"][1:]:
        last = chain["filters"][-1]["typed_config"]
        if "http_filters" in last:
            guard = f"{ENVOY}filters.http.rbac.v3.RBAC"
            last["http_filters"].insert(0, filter_of("rbac", guard, rules={"policies": {"p": gets}}))
        else:
            chain["filters"].insert(0, GUARD)
    judged = TRANSLATOR.judge(
        LISTENER, "virtualInbound", sent(LISTENER, {"virtualInbound": body})["virtualInbound"]
    )
    assert judged.problems == ()


@pytest.mark.parametrize(
    ("authority", "routed"),
    [
        (b"web", True),
        (b"WEB:80", True),
        (b"web.shop", True),
        (b"web2", False),
        (b"web.", True),
        (b"x.web", False),
    ],
)
def test_a_name_of_one_label_is_routed_by_itself_alone(authority: bytes, routed: bool) -> None:
    routes = ("ServiceEntry/", "VirtualService/")
    texts = (text for key, text in made_of().documents.items() if key.startswith(routes))
    of = take(configuration(*texts))
    there = OriginalDestination(SocketAddress("10.96.0.20", 80))
    assert of.routing is not None
    head = RequestHead(b"GET", b"/", authority, b"http", b"1.1", [])
    found = of.routing.find(Question(head, 80), of.egress(there), there)
    assert (found is not None and found.taken is not None and found.believed) is routed


def test_what_is_not_http_goes_where_its_chain_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    rest = {"filter_chain_match": {}, "filters": [STATS, tcp(DNS)]}
    monkeypatch.setitem(LISTENERS, "0.0.0.0_80", {**LISTENERS["0.0.0.0_80"], "default_filter_chain": rest})
    made = made_of()
    routes = [each["tcp"] for each in specs(made, "VirtualService") if "tcp" in each]
    there = {"host": "_53.kube-dns.kube-system.svc.cluster.local", "port": {"number": 53}}
    assert routes == [[{"route": [{"destination": there}]}]] * 2
    monkeypatch.delitem(CLUSTERS, DNS)
    made = made_of()
    assert "there is no cluster" in made.left_out["listener 0.0.0.0_80"]
    [route] = [each["tcp"][0]["route"] for each in specs(made, "VirtualService") if "tcp" in each]
    assert route[0]["destination"]["host"].startswith("_nothing.")


@pytest.mark.parametrize(
    ("clusters", "registry_only", "why"),
    [
        ({}, True, "it passes what no document names; set the Sidecar's spec.egress.policy: ALLOW_ANY"),
        ({PASSTHROUGH: CLUSTERS["BlackHoleCluster"]}, False, "it closes what no document names"),
        ({PASSTHROUGH: CLUSTERS["BlackHoleCluster"]}, True, None),
        ({PASSTHROUGH: CLUSTERS[WEB]}, False, "is honoured only where it has the type ORIGINAL_DST or no endpoints"),
        ({"BlackHoleCluster": CLUSTERS[PASSTHROUGH]}, False, "to the gateway again"),
    ],
)  # fmt: skip
def test_what_no_listener_takes_is_held_against_the_sidecar(
    clusters: dict[str, Body], registry_only: bool, why: str | None
) -> None:
    translator = Translator("shop", 10.0, registry_only=registry_only)
    virtual = {"virtualOutbound": LISTENERS["virtualOutbound"]}
    found = translator.documents({**CLUSTERS, **clusters}, {}, virtual, {}).left_out
    assert (why is None) == (found == {})
    assert why is None or why in found["listener virtualOutbound"]
    needs = translator.judge(LISTENER, "l", LISTENERS["virtualOutbound"]).needs
    assert needs == ((CLUSTER, "BlackHoleCluster"), (CLUSTER, PASSTHROUGH))


FIRST = "filter_chains[0]."
MANAGER = f"{FIRST}filters[0].typed_config."
GUARD = filter_of("rbac", f"{ENVOY}filters.network.rbac.v3.RBAC", rules={"policies": {}})


@pytest.mark.parametrize(
    ("name", "at", "value", "said"),
    [
        ("virtualOutbound", ("bind_to_port",), False, "bind_to_port: is not"),
        ("virtualOutbound", ("filter_chains", 0, "filter_chain_match", "destination_port"), 80, f"{FIRST}filter_chain_match.destination_port: only the listener's own"),
        ("virtualOutbound", ("filter_chains", 0, "filter_chain_match"), {}, "filter_chains: one of them must take"),
        ("virtualOutbound", ("filter_chains", 0, "filters", 0), GUARD, f"{FIRST}filters: only a tcp_proxy"),
        ("virtualOutbound", ("filter_chains", 0, "filters", 0), struct("lua", "envoy.extensions.filters.http.lua.v3.Lua", {}), f"{FIRST}filters[0].typed_config: "),
        ("0.0.0.0_80", ("filter_chains", 0, "filter_chain_match", "application_protocols"), ["h2"], f"{FIRST}filter_chain_match.application_protocols: h2"),
        ("0.0.0.0_80", ("default_filter_chain", "filters", 0), GUARD, "filter_chains: application_protocols are not honoured together"),
        ("0.0.0.0_80", ("filter_chains", 0, "filters", 0), tcp(DNS), "filter_chains: application_protocols are honoured before an"),
        ("0.0.0.0_80", ("filter_chains", 0, "filter_chain_match", "server_names"), ["a.b"], "filter_chains: application_protocols are honoured in one"),
        ("0.0.0.0_80", ("filter_chains", 0, "filters", 0, "typed_config", "http_filters", 3, "typed_config", "abort"), {"http_status": 500}, f"{MANAGER}http_filters[3].typed_config.abort: is not"),
        ("0.0.0.0_80", ("filter_chains", 0, "filters", 0, "typed_config", "http_filters", 0, "typed_config", "type_url"), "x", f"{MANAGER}http_filters[0].typed_config: "),
        ("0.0.0.0_80", ("filter_chains", 0, "filters", 0, "typed_config", "path_with_escaped_slashes_action"), "REJECT_REQUEST", f"{MANAGER}path_with_escaped_slashes_action: REJECT_REQUEST"),
        ("0.0.0.0_80", ("filter_chains", 0, "filters", 0, "typed_config", "proxy_status_config"), {"set_recommended_response_code": True}, f"{MANAGER}proxy_status_config.set_recommended_response_code: is not"),
        ("0.0.0.0_80", ("filter_chains", 0, "filters", 0, "typed_config", "set_current_client_cert_details"), {"cert": True}, f"{MANAGER}set_current_client_cert_details.cert: is not"),
        ("virtualInbound", ("filter_chains", 1, "transport_socket", "typed_config", "common_tls_context", "combined_validation_context", "default_validation_context", "match_subject_alt_names"), [{"exact": "spiffe://cluster.local/ns/a/sa/b"}], "filter_chains[1].transport_socket: clients are those"),
        ("virtualInbound", ("filter_chains", 1, "transport_socket", "typed_config", "common_tls_context", "tls_params", "cipher_suites"), ["AES128-SHA"], "filter_chains[1].transport_socket.typed_config.common_tls_context.tls_params.cipher_suites: only"),
        ("virtualInbound", ("filter_chains", 4, "transport_socket"), agents(client=False), "filter_chains[4].filter_chain_match.transport_protocol:"),
        ("0.0.0.0_80", ("filter_chains", 0, "filters", 0, "typed_config", "forward_client_cert_details"), "APPEND_FORWARD", f"{MANAGER}forward_client_cert_details: APPEND_FORWARD is honoured in inbound"),
        ("0.0.0.0_80", ("filter_chains", 0, "filters", 0, "typed_config", "forward_client_cert_details"), "FORWARD_ONLY", f"{MANAGER}forward_client_cert_details: FORWARD_ONLY is not"),
        ("virtualInbound", ("filter_chains", 2, "filter_chain_match", "application_protocols"), ["h2"], "filter_chains[2].filter_chain_match.application_protocols:"),
    ],
)  # fmt: skip
def test_what_would_change_where_traffic_goes_or_who_may_pass_is_not(
    name: str, at: tuple[Any, ...], value: Any, said: str
) -> None:
    body: Any = copy.deepcopy(LISTENERS[name])
    inside = body
    for step in at[:-1]:
        inside = inside[step]
    inside[at[-1]] = value
    problems = TRANSLATOR.judge(LISTENER, name, body).problems
    assert any(each.startswith(said) for each in problems), problems


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        (WEB, {"filters": [tcp("x")]}, "filters[0].typed_config: "),
        (WEB, {"upstream_bind_config": TO_APP["upstream_bind_config"]}, "upstream_bind_config: only"),
        (PASSTHROUGH, {"upstream_bind_config": {"source_address": {"address": "10.0.0.1"}}}, "upstream_bind_config: only"),
        (WEB, speaking(explicit_http_config={"http2_protocol_options": {"max_concurrent_streams": 0}}), "typed_extension_protocol_options."),
        (WEB, {"transport_socket_matches": [{"name": "x", "match": {}, "transport_socket": {"name": "tls", "typed_config": {
            **agents(client=True, host="a.b")["typed_config"], "common_tls_context": {**agents(client=True)["typed_config"]["common_tls_context"], "alpn_protocols": []}}}}]},
         "transport_socket_matches[0].transport_socket.typed_config.common_tls_context: secrets of sds-grpc"),
    ],
)  # fmt: skip
def test_clusters_that_would_differ_are_not_either(name: str, more: dict[str, Any], said: str) -> None:
    problems = TRANSLATOR.judge(CLUSTER, name, {**CLUSTERS[name], **more}).problems
    assert any(each.startswith(said) for each in problems), problems


def test_the_agents_secrets_need_a_certificate_of_the_workloads_own() -> None:
    bare = Translator("shop", 10.0)
    assert any("alpn_protocols" in each for each in bare.judge(CLUSTER, WEB, CLUSTERS[WEB]).problems)
    problems = bare.judge(LISTENER, "virtualInbound", LISTENERS["virtualInbound"]).problems
    assert any("must be the workload's own" in each for each in problems)
