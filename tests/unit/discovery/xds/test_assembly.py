from __future__ import annotations

import json
from typing import Any

from interceptor.config.documents import load
from interceptor.config.problems import Source
from interceptor.discovery.xds import cors, rate_limits, rbac
from interceptor.discovery.xds.filters import HTTP_MANAGER, ROUTER, TCP_PROXY
from interceptor.discovery.xds.messages import CLUSTER, LISTENER, ROUTE, Body
from interceptor.discovery.xds.translate import Translation, Translator

TRANSLATOR = Translator("shop", 10.0)


def address(host: str, port: int) -> dict[str, Any]:
    return {"address": {"socket_address": {"address": host, "port_value": port}}}


def static(*hosts: str, port: int = 80, **more: Any) -> Body:
    given = [{"endpoint": address(host, port)} for host in hosts]
    return {"load_assignment": {"endpoints": [{"lb_endpoints": given}]}, **more}


CLUSTERS: dict[str, Body] = {
    "a": static("10.0.0.1"),
    "b": static("10.0.0.2"),
    "mixed": {"load_assignment": {"endpoints": [{"lb_endpoints": [{"endpoint": address("10.0.0.3", 1)}, {"endpoint": address("10.0.0.3", 2)}]}]}},
    "out": {"type": "ORIGINAL_DST"},
}  # fmt: skip


def manager(*before: dict[str, Any], **more: Any) -> dict[str, Any]:
    router = {"name": "router", "typed_config": {"@type": ROUTER}}
    config = {"@type": HTTP_MANAGER, "stat_prefix": "x", "http_filters": [*before, router], **more}
    return {"filters": [{"name": "http", "typed_config": config}]}


def listener(host: str, port: int, *chains: dict[str, Any]) -> Body:
    return {**address(host, port), "bind_to_port": False, "filter_chains": list(chains)}


def host(
    name: str, *routes: dict[str, Any], domains: tuple[str, ...] = ("*",), **more: Any
) -> dict[str, Any]:
    return {"name": name, "domains": list(domains), "routes": list(routes), **more}


def to(cluster: str, prefix: str = "/", **more: Any) -> dict[str, Any]:
    return {"match": {"prefix": prefix}, "route": {"cluster": cluster, "timeout": "0s", **more}}


NAMED = manager(rds={"route_config_name": "r", "config_source": {"ads": {}}})


def made_of(body: Body, *hosts: dict[str, Any]) -> Translation:
    found = TRANSLATOR.judge(LISTENER, "l", body)
    assert found.problems == ()
    routes: Body = {"virtual_hosts": list(hosts)}
    assert TRANSLATOR.judge(ROUTE, "r", routes).problems == ()
    made = TRANSLATOR.documents(CLUSTERS, {}, {"l": body}, {"r": routes})
    texts = [Source(key, text) for key, text in made.documents.items()]
    assert load(texts, sidecar_required=False).problems == ()
    return made


def specs(made: Translation, kind: str) -> list[dict[str, Any]]:
    return [json.loads(text)["spec"] for key, text in made.documents.items() if key.startswith(f"{kind}/")]


def test_domains_become_hosts_of_the_listeners_service() -> None:
    body = listener("10.9.0.1", 80, NAMED)
    assert TRANSLATOR.judge(LISTENER, "l", body).needs == ((ROUTE, "r"),)
    made = made_of(
        body,
        host(
            "v",
            to("a", "/v1"),
            to("out"),
            domains=("a.example.com", "a.example.com:80", "a.example.com:81", "Short:80"),
        ),
        host("rest", to("b")),
    )
    taken = specs(made, "ServiceEntry")[0]
    [own, name, short] = taken["hosts"]
    assert (taken["addresses"], taken["ports"][0]["protocol"], name, short) == (
        ["10.9.0.1"],
        "HTTP",
        "a.example.com",
        "short",
    )
    routes = {tuple(spec["hosts"]): spec["http"] for spec in specs(made, "VirtualService")}
    first, second = routes["a.example.com", "short."]
    assert first["route"] == [{"destination": {"host": "_cluster.a", "port": {"number": 80}}}]
    assert second["directResponse"] == {"status": 503}
    assert routes[own,][0]["route"] == [{"destination": {"host": "_cluster.b", "port": {"number": 80}}}]
    assert made.left_out == {
        "listener l, domain a.example.com:81": "filter_chains[0].filters: requests come to the port 80 only",
        "listener l, virtual host v": "filter_chains[0].filters: routes[1]: the cluster 'out': it goes to the address that "
        "was dialled, which is honoured only as all that a virtual host '*' does; its requests are answered with 503",
    }


def test_without_a_rest_other_hosts_are_answered_with_404_and_the_original_destination_is_no_route() -> None:
    [virtual] = specs(made_of(listener("10.9.0.1", 80, NAMED)), "VirtualService")
    assert virtual["http"][0]["directResponse"] == {"status": 404}
    assert specs(made_of(listener("10.9.0.1", 80, NAMED), host("all", to("out"))), "VirtualService") == []


def test_a_route_configuration_that_is_not_there_is_said() -> None:
    made = TRANSLATOR.documents(CLUSTERS, {}, {"l": listener("10.9.0.1", 80, NAMED)}, {})
    assert made.left_out == {"listener l": "filter_chains[0].filters: there is no route configuration 'r'"}


def test_two_listeners_of_a_port_that_disagree_about_a_host_are_said() -> None:
    listeners = {
        each: listener(f"10.9.0.{each}", 80, manager(route_config={"virtual_hosts": [host("v", to(cluster), domains=("a.b",))]}))
        for each, cluster in (("1", "a"), ("2", "b"))
    }  # fmt: skip
    assert TRANSLATOR.judge(LISTENER, "1", listeners["1"]).needs == ((CLUSTER, "a"),)
    made = TRANSLATOR.documents(CLUSTERS, {}, listeners, {})
    assert "another listener of the port 80 says something else" in made.left_out["listener 2, host a.b"]


def test_pages_of_other_origins_are_answered_only_where_the_listener_has_the_filter() -> None:
    policy = {"x": {"@type": cors.POLICY, "allow_origin_string_match": [{"exact": "https://a.b"}]}}
    pages = host("v", to("a", retry_policy={"retry_on": "5xx"}), typed_per_filter_config=policy)
    rds = {"rds": {"route_config_name": "r", "config_source": {"ads": {}}}}
    with_filter = manager({"name": "cors", "typed_config": {"@type": cors.FILTER}}, **rds)
    [virtual] = specs(made_of(listener("10.9.0.1", 80, with_filter), pages), "VirtualService")
    assert virtual["http"][0]["corsPolicy"]["allowOrigins"] == [{"exact": "https://a.b"}]
    [without] = specs(made_of(listener("10.9.0.1", 80, NAMED), pages), "VirtualService")
    assert "corsPolicy" not in without["http"][0]


def test_mirrored_clusters_are_there_and_have_their_rules() -> None:
    copies = [{"cluster": "b", "disable_shadow_host_suffix_append": True}]
    made = made_of(listener("10.9.0.1", 80, NAMED), host("v", to("a", request_mirror_policies=copies)))
    [virtual] = specs(made, "VirtualService")
    there = {"host": "_cluster.b", "port": {"number": 80}}
    copy = {"destination": there, "percentage": {"value": 100.0}, "keepHost": True}
    assert virtual["http"][0]["mirrors"] == [copy]
    assert "_cluster.b" in {spec["host"] for spec in specs(made, "DestinationRule")}


def guard(kind: str, **more: Any) -> dict[str, Any]:
    policy = {"permissions": [{"any": True}], "principals": [{"any": True}]}
    return {"name": "rbac", "typed_config": {"@type": kind, "rules": {"policies": {"p": policy}}, **more}}


def test_filters_of_what_goes_out_are_policies_about_the_listeners_service() -> None:
    proxy = {"name": "tcp", "typed_config": {"@type": TCP_PROXY, "stat_prefix": "x", "cluster": "a"}}
    dry = {"shadow_rules": {"action": "DENY", "policies": {}}}
    made = made_of(listener("10.9.0.1", 80, {"filters": [guard(rbac.NETWORK, **dry), proxy]}))
    [entry, *_] = (
        json.loads(text) for key, text in made.documents.items() if key.startswith("ServiceEntry/")
    )
    policies = [
        json.loads(text) for key, text in made.documents.items() if key.startswith("AuthorizationPolicy/")
    ]
    about = [{"group": "networking.istio.io", "kind": "ServiceEntry", "name": entry["metadata"]["name"]}]
    assert [each["spec"]["targetRefs"] for each in policies] == [about, about]
    assert policies[0]["spec"]["rules"] == [{}]
    assert policies[1]["metadata"]["annotations"]["istio.io/dry-run"] == "true"


def test_several_filters_that_allow_are_not_honoured() -> None:
    proxy = {"name": "tcp", "typed_config": {"@type": TCP_PROXY, "stat_prefix": "x", "cluster": "a"}}
    twice = listener("10.9.0.1", 80, {"filters": [guard(rbac.NETWORK), guard(rbac.NETWORK), proxy]})
    [said] = TRANSLATOR.judge(LISTENER, "l", twice).problems
    assert said.startswith("filter_chains[0].filters: several RBAC filters that ALLOW")


def limited(kind: str, **more: Any) -> dict[str, Any]:
    bucket = {"max_tokens": 20, "tokens_per_fill": 10, "fill_interval": "0.5s"}
    return {
        "name": "limit",
        "typed_config": {"@type": kind, "stat_prefix": "x", "token_bucket": bucket, **more},
    }


def test_limits_are_documents_where_the_sidecar_has_a_place_for_them() -> None:
    everybody = {"default_value": {"numerator": 100}}
    of_requests = limited(rate_limits.HTTP, filter_enabled=everybody, filter_enforced=everybody)
    chain = manager(of_requests, route_config={})
    chain["filters"].insert(0, limited(rate_limits.NETWORK))
    body = listener("0.0.0.0", 80, chain)
    [said] = TRANSLATOR.judge(LISTENER, "l", body).problems
    assert "use: rateLimitDocuments" in said
    placed = Translator("shop", 10.0, limits=True)
    assert placed.judge(LISTENER, "l", body).problems == ()
    made = placed.documents(CLUSTERS, {}, {"l": body}, {})
    texts = [Source(key, text) for key, text in made.documents.items()]
    assert load(texts, sidecar_required=False).problems == ()
    place = {"direction": "egress", "ports": [80], "addresses": ["0.0.0.0/0"]}
    bucket = {"number": 10, "interval": "0.500000s", "burst": 20}
    first, second = specs(made, "RateLimit")
    assert first == {**place, "scope": "connection", **bucket}
    assert second == {**place, "scope": "request", **bucket}


def proxied(cluster: str, **more: Any) -> dict[str, Any]:
    config = {"@type": TCP_PROXY, "stat_prefix": "x", "cluster": cluster, **more}
    return {"filters": [{"name": "tcp", "typed_config": config}]}


def pools(made: Translation) -> dict[str, Any]:
    found = specs(made, "DestinationRule")
    return {spec["host"]: spec["trafficPolicy"]["connectionPool"]["tcp"] for spec in found}


def test_how_long_connections_last_is_the_rule_of_where_they_lead() -> None:
    times = {"idle_timeout": "30s", "max_downstream_connection_duration": "3600s"}
    wanted = {"idleTimeout": "30.000000s", "maxConnectionDuration": "3600.000000s"}
    made = made_of(listener("10.9.0.1", 80, proxied("a", **times)))
    assert pools(made)["_cluster.a"].items() >= wanted.items()
    assert made.left_out == {}
    through = made_of(listener("10.9.0.1", 80, proxied("out", **times)))
    assert list(pools(through).values()) == [wanted]
    [entry] = specs(through, "ServiceEntry")[:1]
    assert entry["hosts"] == list(pools(through))
    never = made_of(listener("10.9.0.1", 80, proxied("a", idle_timeout="0s")))
    assert pools(never)["_cluster.a"]["idleTimeout"] == "0.000000s"


def test_two_chains_that_disagree_about_how_long_are_said() -> None:
    given = {
        "1": listener("10.9.0.1", 80, proxied("a", idle_timeout="30s")),
        "2": listener("10.9.0.2", 80, proxied("a")),
    }
    made = TRANSLATOR.documents(CLUSTERS, {}, given, {})
    assert pools(made)["_cluster.a"]["idleTimeout"] == "30.000000s"
    assert "says something else of how long" in made.left_out["listener 2, 'a'"]


def test_a_connection_that_may_not_last_is_refused() -> None:
    body = listener("10.9.0.1", 80, proxied("a", max_downstream_connection_duration="0s"))
    [said] = TRANSLATOR.judge(LISTENER, "l", body).problems
    assert "max_downstream_connection_duration: must be more than 0s" in said


def test_a_cluster_of_several_ports_is_one_service_to_routes_and_one_of_each_port_to_who_dials_it() -> None:
    made = made_of(listener("10.9.0.1", 80, NAMED), host("v", to("mixed")))
    [virtual] = specs(made, "VirtualService")
    there = {"host": "_cluster.mixed", "port": {"number": 1}}
    assert virtual["http"][0]["route"] == [{"destination": there}]
    one, two, together = (each for each in specs(made, "ServiceEntry") if "mixed" in each["hosts"][-1])
    assert (together["hosts"], together["ports"][0]["number"]) == (["_cluster.mixed"], 1)
    [name] = {each["name"] for each in together["ports"]}
    ends = [{"address": "10.0.0.3", "ports": {name: port}} for port in (1, 2)]
    assert together["endpoints"] == ends
    assert [each["ports"][0]["number"] for each in (one, two)] == [1, 2]
    assert "_cluster.mixed" not in one["hosts"]
    assert [spec["host"] for spec in specs(made, "DestinationRule")] == ["_cluster.mixed"]
    assert made.left_out == {}


def test_the_port_of_several_is_one_that_no_app_dials_where_they_have_none_together() -> None:
    given = [{"endpoint": address(f"10.0.0.{port}", 8000 + port)} for port in (1, 2)]
    apart = {"load_assignment": {"endpoints": [{"lb_endpoints": given}]}}
    body = {"virtual_hosts": [host("v", to("apart"))]}
    made = TRANSLATOR.documents({"apart": apart}, {}, {"l": listener("10.9.0.1", 80, NAMED)}, {"r": body})
    loaded = load([Source(key, text) for key, text in made.documents.items()], sidecar_required=False)
    assert loaded.problems == ()
    found = next(spec for spec in specs(made, "ServiceEntry") if spec["hosts"] == ["_cluster.apart"])
    assert found["ports"][0]["number"] == 1
    assert [list(each["ports"].values()) for each in found["endpoints"]] == [[8001], [8002]]
