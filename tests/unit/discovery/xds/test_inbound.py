from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from interceptor.config.documents import load
from interceptor.config.problems import Source
from interceptor.discovery.xds import rate_limits, rbac
from interceptor.discovery.xds.filters import HTTP_MANAGER, ROUTER, TCP_PROXY
from interceptor.discovery.xds.messages import CLUSTER, LISTENER, ROUTE, SECRET, Body
from interceptor.discovery.xds.translate import Translation, Translator
from interceptor.discovery.xds.transport_sockets import DOWNSTREAM, RAW

TRANSLATOR = Translator("shop", 10.0, ("default", "ROOTCA"), limits=True, labels={"app": "web"})
APP: dict[str, Body] = {
    "app": {
        "load_assignment": {
            "endpoints": [
                {
                    "lb_endpoints": [
                        {
                            "endpoint": {
                                "address": {"socket_address": {"address": "127.0.0.1", "port_value": 80}}
                            }
                        }
                    ]
                }
            ]
        }
    },
    "through": {"type": "ORIGINAL_DST"},
}
ADS: dict[str, Any] = {"sds_config": {"ads": {}}}
COMMON = {
    "tls_certificate_sds_secret_configs": [{"name": "default", **ADS}],
    "validation_context_sds_secret_config": {"name": "ROOTCA", **ADS},
}


def mutual(**more: Any) -> dict[str, Any]:
    config = {
        "@type": DOWNSTREAM,
        "common_tls_context": COMMON,
        "require_client_certificate": True,
        **more,
    }
    return {"transport_socket": {"name": "tls", "typed_config": config}}


def allow(principal: str, action: str = "ALLOW", kind: str = rbac.NETWORK) -> dict[str, Any]:
    by = {"authenticated": {"principal_name": {"exact": f"spiffe://cluster.local/ns/shop/sa/{principal}"}}}
    policies = {"p": {"permissions": [{"any": True}], "principals": [by]}}
    return {
        "name": "rbac",
        "typed_config": {"@type": kind, "rules": {"action": action, "policies": policies}},
    }


def chain(*before: dict[str, Any], cluster: str = "app", match: Any = None, **more: Any) -> dict[str, Any]:
    proxy = {"name": "tcp", "typed_config": {"@type": TCP_PROXY, "stat_prefix": "x", "cluster": cluster}}
    return {"filters": [*before, proxy], "filter_chain_match": match or {}, **more}


def http_chain(routes: Body, *filters: dict[str, Any]) -> dict[str, Any]:
    router = {"name": "router", "typed_config": {"@type": ROUTER}}
    config = {"@type": HTTP_MANAGER, "stat_prefix": "x", "http_filters": [*filters, router], **routes}
    return {"filters": [{"name": "http", "typed_config": config}]}


def listener(port: int, *chains: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": port}},
        "traffic_direction": "INBOUND",
        "bind_to_port": False,
        "filter_chains": list(chains),
        **more,
    }


def made_of(*listeners: dict[str, Any], translator: Translator = TRANSLATOR) -> Translation:
    for body in listeners:
        assert translator.judge(LISTENER, "l", body).problems == ()
    given = {f"l{index}": body for index, body in enumerate(listeners)}
    made = translator.documents(APP, {}, given, {})
    texts = [Source(key, text) for key, text in made.documents.items()]
    assert load(texts, sidecar_required=False).problems == ()
    return made


def specs(made: Translation, kind: str) -> list[dict[str, Any]]:
    return [json.loads(text)["spec"] for key, text in made.documents.items() if key.startswith(f"{kind}/")]


def modes(made: Translation) -> Mapping[str, str]:
    [spec] = specs(made, "PeerAuthentication")
    found = {port: each["mode"] for port, each in spec["portLevelMtls"].items()}
    return found | ({"": spec["mtls"]["mode"]} if "mtls" in spec else {})


def test_transport_sockets_say_who_may_speak_in_the_clear() -> None:
    raw: dict[str, Any] = {"transport_socket": {"name": "raw", "typed_config": {"@type": RAW}}}
    made = made_of(
        listener(80, chain(**mutual())),
        listener(81, chain(match={"transport_protocol": "tls", "application_protocols": ["istio"]}, **mutual()), chain(match={"transport_protocol": "raw_buffer"})),
        listener(82, chain(**raw), listener_filters=[{"name": "envoy.filters.listener.tls_inspector"}]),
    )  # fmt: skip
    assert modes(made) == {"80": "STRICT", "81": "PERMISSIVE", "82": "DISABLE"}
    assert made.left_out == {}


def test_one_listener_of_every_port_tells_them_apart_by_their_number() -> None:
    body = listener(
        15006,
        chain(allow("a"), match={"destination_port": 80}, **mutual()),
        chain(allow("b", "DENY"), cluster="through", match={"transport_protocol": "raw_buffer"}),
        use_original_dst=True,
        bind_to_port=True,
    )
    found = TRANSLATOR.judge(LISTENER, "l", body)
    assert set(found.needs) == {
        (CLUSTER, "app"),
        (CLUSTER, "through"),
        (SECRET, "default"),
        (SECRET, "ROOTCA"),
    }
    made = made_of(body)
    assert modes(made) == {"80": "STRICT", "": "DISABLE"}
    a, b, free = specs(made, "AuthorizationPolicy")
    assert a["selector"] == {"matchLabels": {"app": "web"}}
    assert (a["action"], a["rules"][0]["from"]) == (
        "ALLOW",
        [{"source": {"principals": ["cluster.local/ns/shop/sa/a"]}}],
    )
    assert a["rules"][0]["when"] == [{"key": "destination.port", "values": ["80"]}]
    assert b["action"] == "DENY"
    assert b["rules"][0]["when"] == [{"key": "destination.port", "notValues": ["80"]}]
    assert free == {
        "selector": {"matchLabels": {"app": "web"}},
        "action": "ALLOW",
        "rules": [{"when": [{"key": "destination.port", "notValues": ["80"]}]}],
    }


def test_a_port_of_its_own_is_free_where_another_one_is_not() -> None:
    made = made_of(listener(80, chain(allow("a"))), listener(81, chain()))
    _, free = specs(made, "AuthorizationPolicy")
    assert free["rules"] == [{"when": [{"key": "destination.port", "values": ["81"]}]}]
    everything = made_of(listener(15006, chain(allow("a")), use_original_dst=True))
    [only] = specs(everything, "AuthorizationPolicy")
    assert "when" not in only["rules"][0]


def test_listeners_that_disagree_about_a_port_close_it() -> None:
    made = made_of(
        listener(80, chain(allow("a"))), listener(80, chain(allow("b"))), listener(81, chain(allow("a")))
    )
    first, *_ = specs(made, "AuthorizationPolicy")
    assert (first["action"], first["rules"]) == (
        "DENY",
        [{"when": [{"key": "destination.port", "values": ["80"]}]}],
    )


def routes(*hosts: dict[str, Any]) -> dict[str, Any]:
    return {"route_config": {"virtual_hosts": list(hosts)}}


PLAIN = {
    "name": "all",
    "domains": ["*"],
    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "app", "timeout": "0s"}}],
}


def test_filters_of_requests_are_policies_too() -> None:
    made = made_of(listener(80, http_chain(routes(PLAIN), allow("a", kind=rbac.HTTP))))
    assert made.left_out == {}
    [policy] = specs(made, "AuthorizationPolicy")
    assert policy["rules"][0]["from"] == [{"source": {"principals": ["cluster.local/ns/shop/sa/a"]}}]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (http_chain({"rds": {"route_config_name": "r", "config_source": {"ads": {}}}}), "there is no route configuration 'r'"),
        (http_chain(routes({**PLAIN, "domains": ["a.example.com"]})), "its routes do more than to pass every request on to the app"),
        (chain(cluster="gone"), None),
        (chain(cluster="far"), "the cluster 'far' is not the app"),
    ],
)  # fmt: skip
def test_what_does_not_lead_to_the_app_is_said_and_guarded_all_the_same(
    given: dict[str, Any], why: str | None
) -> None:
    far = json.loads(json.dumps(APP["app"]).replace("127.0.0.1", "10.0.0.1"))
    body = listener(80, {**given, **mutual()})
    made = TRANSLATOR.documents({**APP, "far": far}, {}, {"l": body}, {})
    assert modes(made) == {"80": "STRICT"}
    assert (why is None) == (made.left_out == {})
    assert why is None or why in made.left_out["listener l"]


def test_routes_and_clusters_are_needed() -> None:
    named = http_chain({"rds": {"route_config_name": "r", "config_source": {"ads": {}}}})
    assert TRANSLATOR.judge(LISTENER, "l", listener(80, named)).needs == ((ROUTE, "r"),)


def test_a_sidecar_without_labels_has_policies_and_no_modes() -> None:
    bare = Translator("shop", 10.0, ("default", "ROOTCA"))
    made = made_of(listener(80, chain(allow("a"), **mutual())), translator=bare)
    assert "metadata.labels" in made.left_out["listener l0"]
    assert specs(made, "PeerAuthentication") == []
    [policy] = specs(made, "AuthorizationPolicy")
    assert "selector" not in policy


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (listener(80, chain(), bind_to_port=True), "bind_to_port: must be false, or use_original_dst"),
        (listener(80), "filter_chains: there are none"),
        (listener(80, chain(), chain()), "filter_chains[1].filter_chain_match: is that of a chain before it"),
        (listener(80, chain(), listener_filters=[{"name": "x"}]), "listener_filters[0]: 'x'"),
        (listener(80, chain(), default_filter_chain={}), "default_filter_chain:"),
        (listener(80, chain(match={"server_names": ["a.b"]})), "filter_chains[0].filter_chain_match.server_names:"),
        (listener(80, chain(match={"transport_protocol": "tls"})), "filter_chains[0].filter_chain_match.transport_protocol: 'tls'"),
        (listener(80, chain(match={"application_protocols": ["h2"]}, **mutual())), "filter_chains[0].filter_chain_match.application_protocols:"),
        (listener(80, chain(match={"application_protocols": ["istio"]})), "filter_chains[0].filter_chain_match.application_protocols:"),
        (listener(80, chain(**mutual(require_client_certificate=False))), "filter_chains[0].transport_socket.typed_config.require_client_certificate:"),
        (listener(80, chain(**mutual(common_tls_context={**COMMON, "validation_context_sds_secret_config": {"name": "x", **ADS}}))), "filter_chains[0].transport_socket: its certificate and authorities"),
        (listener(80, chain(**mutual(ocsp_staple_policy="x"))), "filter_chains[0].transport_socket.typed_config.ocsp_staple_policy:"),
        (listener(80, chain(allow("a"), allow("b"))), "filter_chains[0].filters: several RBAC filters that ALLOW"),
        (listener(80, chain({"name": "x", "typed_config": {"@type": "y"}})), "filter_chains[0].filters[0].typed_config: 'y'"),
        (listener(80, chain(allow("a"), match={"transport_protocol": "raw_buffer"}), chain(**mutual())), "filter_chains[1].filters: chains of one port that differ"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_said_with_its_path(body: dict[str, Any], said: str) -> None:
    problems = TRANSLATOR.judge(LISTENER, "l", body).problems
    assert any(problem.startswith(said) for problem in problems), problems


def test_limits_are_of_their_port_alone() -> None:
    bucket = {"max_tokens": 2, "fill_interval": "1s"}
    limit = {"name": "l", "typed_config": {"@type": rate_limits.NETWORK, "token_bucket": bucket}}
    body = listener(
        15006,
        chain(limit, match={"destination_port": 80}),
        chain(limit, cluster="through"),
        use_original_dst=True,
    )
    first, second = specs(made_of(body), "RateLimit")
    assert (first["direction"], first["ports"], first["number"], first["burst"]) == ("ingress", [80], 1, 2)
    assert second["exceptPorts"] == [80]
    bare = Translator("shop", 10.0)
    [said] = bare.judge(LISTENER, "l", body).problems
    assert "use: rateLimitDocuments" in said


def test_requests_of_a_port_may_have_other_policies_than_its_opaque_connections() -> None:
    clear = {"transport_protocol": "raw_buffer"}
    web = http_chain(routes(PLAIN), allow("a", kind=rbac.HTTP), allow("c", "DENY", kind=rbac.HTTP))
    web["filter_chain_match"] = {**clear, "application_protocols": ["http/1.1", "h2c"]}
    made = made_of(listener(80, web, chain(allow("b"), match=clear)), listener(81, chain()))
    http, deny, tcp, free = specs(made, "AuthorizationPolicy")
    port = {"key": "destination.port", "values": ["80"]}
    assert [each["rules"][0]["when"] for each in (http, deny, tcp)] == [
        [port, {"key": "connection.protocol", "values": [kind]}] for kind in ("http", "http", "tcp")
    ]
    assert (deny["action"], tcp["action"]) == ("DENY", "ALLOW")
    assert free["rules"] == [{"when": [{"key": "destination.port", "values": ["81"]}]}]


def test_what_is_said_of_requests_alone_leaves_the_others_free() -> None:
    clear = {"transport_protocol": "raw_buffer"}
    web = http_chain(routes(PLAIN), allow("a", kind=rbac.HTTP))
    web["filter_chain_match"] = {**clear, "application_protocols": ["http/1.1", "h2c"]}
    _, free = specs(made_of(listener(80, web, chain(match=clear))), "AuthorizationPolicy")
    when = [{"key": "destination.port", "values": ["80"]}, {"key": "connection.protocol", "values": ["tcp"]}]
    assert free["rules"] == [{"when": when}]


def test_limits_of_requests_stand_beside_opaque_connections_without_any() -> None:
    clear = {"transport_protocol": "raw_buffer"}
    everybody = {"default_value": {"numerator": 100}}
    bucket = {"max_tokens": 2, "fill_interval": "1s"}
    config = {"@type": rate_limits.HTTP, "stat_prefix": "x", "token_bucket": bucket}
    limit = {
        "name": "l",
        "typed_config": {**config, "filter_enabled": everybody, "filter_enforced": everybody},
    }
    web = http_chain(routes(PLAIN), limit)
    web["filter_chain_match"] = {**clear, "application_protocols": ["http/1.1", "h2c"]}
    [found] = specs(made_of(listener(80, web, chain(match=clear))), "RateLimit")
    assert (found["scope"], found["ports"]) == ("request", [80])


def test_how_long_connections_last_is_the_sidecars_here() -> None:
    proxy = chain()
    proxy["filters"][0]["typed_config"]["idle_timeout"] = "60s"
    [said] = TRANSLATOR.judge(LISTENER, "l", listener(80, proxy)).problems
    assert said.startswith("filter_chains[0].filters: idle_timeout of a tcp_proxy is not honoured here")
