from __future__ import annotations

import pytest

from interceptor.discovery.xds import routes


def config(
    *given: dict[str, object], domains: tuple[str, ...] = ("a.example.com",), **more: object
) -> dict[str, object]:
    return {"virtual_hosts": [{"name": "v", "domains": list(domains), "routes": list(given), **more}]}


def to(cluster: str = "c", **more: object) -> dict[str, object]:
    return {"match": {"prefix": "/"}, "route": {"cluster": cluster, **more}}


def only(*given: dict[str, object], **more: object) -> dict[str, object]:
    read = routes.read(config(*given, **more))  # type: ignore[arg-type]  # domains are their own
    assert read.said == []
    [host] = read.hosts
    return host.routes[0]


def test_a_route_without_more_has_envoys_defaults() -> None:
    assert only(to()) == {
        "match": [{"uri": {"prefix": "/"}}],
        "route": [{"destination": {"cluster": "c"}}],
        "timeout": "15.000000s",
        "retries": {"attempts": 0},
    }


def test_weights_of_nothing_are_left_out() -> None:
    weighted = {"clusters": [{"name": "a", "weight": 0}, {"name": "b", "weight": 100}]}
    made = only({"match": {"prefix": "/"}, "route": {"weighted_clusters": weighted}})
    assert made["route"] == [{"destination": {"cluster": "b"}, "weight": 100}]


def test_retries() -> None:
    policy = {
        "retry_on": "5xx, retriable-status-codes",
        "num_retries": 3,
        "per_try_timeout": "0.5s",
        "retriable_status_codes": [409],
        "retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"},
    }
    expected = {
        "attempts": 3,
        "retryOn": "5xx,retriable-status-codes,409",
        "perTryTimeout": "0.500000s",
        "backoff": "0.100000s",
        "retryIgnorePreviousHosts": False,
    }
    assert only(to(retry_policy=policy))["retries"] == expected
    assert only(to(), retry_policy=policy)["retries"] == expected, "of the virtual host"


def test_limits_that_say_nothing_are_taken() -> None:
    assert only(
        to(max_stream_duration={"max_stream_duration": "0s", "grpc_timeout_header_max": "0s"})
    ) == only(to())


def test_a_retry_after_nothing_is_none_and_a_pause_is_optional() -> None:
    assert only(to(retry_policy={"retry_on": "", "num_retries": 2}))["retries"] == {"attempts": 0}
    policy = {
        "retry_on": "5xx",
        "retriable_status_codes": [409],
        "retry_host_predicate": [{"name": "envoy.retry_host_predicates.previous_hosts"}],
    }
    assert only(to(retry_policy=policy))["retries"] == {"attempts": 1, "retryOn": "5xx"}


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({"header": {"header_name": "x-user"}}, {"httpHeaderName": "x-user"}),
        ({"query_parameter": {"name": "q"}}, {"httpQueryParameterName": "q"}),
        ({"connection_properties": {"source_ip": True}}, {"useSourceIp": True}),
        ({"cookie": {"name": "c", "ttl": "60s", "path": "/a"}}, {"httpCookie": {"name": "c", "ttl": "60.000000s", "path": "/a"}}),
    ],
)  # fmt: skip
def test_what_requests_are_hashed_on(policy: dict[str, object], expected: dict[str, object]) -> None:
    read = routes.read(config(to(hash_policy=[policy])))
    assert (read.said, read.clusters) == ([], {"c": expected})


def test_rewrites_and_names() -> None:
    given = to(regex_rewrite={"pattern": {"regex": "^/a"}, "substitution": "/b"}, host_rewrite_literal="h")
    made = only({**given, "name": "r", "request_headers_to_remove": ["x"]})
    assert made["rewrite"] == {"uriRegexRewrite": {"match": "^/a", "rewrite": "/b"}, "authority": "h"}
    assert made["name"] == "r"
    assert made["route"] == [{"destination": {"cluster": "c"}, "headers": {"request": {"remove": ["x"]}}}]


def test_answers_of_the_proxys_own() -> None:
    redirect = {
        "path_redirect": "/n",
        "https_redirect": True,
        "response_code": "SEE_OTHER",
        "port_redirect": 8443,
    }
    assert only({"match": {"path": "/"}, "redirect": redirect})["redirect"] == {
        "redirectCode": 303, "uri": "/n", "port": 8443, "scheme": "https",
    }  # fmt: skip
    direct = {"status": 418, "body": {"inline_string": "tea"}}
    assert only({"match": {"path": "/"}, "direct_response": direct})["directResponse"] == {
        "status": 418, "body": {"string": "tea"},
    }  # fmt: skip


def test_what_only_passes_everything_on_is_told() -> None:
    assert routes.read(config(to("out", timeout="0s"))).hosts[0].plain == "out"
    assert routes.read(config(to("out"))).hosts[0].plain is None, "it has a timeout"


def test_a_cluster_that_cannot_be_routed_to_is_answered_for() -> None:
    route = only(to("a"))
    made, problems = routes.placed(route, 80, {"a": "its endpoints have several ports"})
    assert made == {"match": [{"uri": {"prefix": "/"}, "port": 80}], "directResponse": {"status": 503}}
    assert problems == [
        "the cluster 'a': its endpoints have several ports; its requests are answered with 503"
    ]
    there, problems = routes.placed(route, 80, {})
    assert (there["route"], problems) == ([{"destination": {"host": "_cluster.a"}}], [])


def test_copies_of_requests_go_to_their_cluster() -> None:
    share = {"default_value": {"numerator": 250_000, "denominator": "MILLION"}}
    policies = [
        {"cluster": "b", "runtime_fraction": share, "disable_shadow_host_suffix_append": True},
        {"cluster": "d"},
    ]
    given = config(to(request_mirror_policies=policies))
    read = routes.read(given)
    assert (read.said, read.needs()) == ([], ["c", "b", "d"])
    [route] = read.hosts[0].routes
    made, problems = routes.placed(route, 80, {"b": {"host": "b.org"}, "d": "of two ports"})
    assert made["mirrors"] == [
        {"destination": {"host": "b.org"}, "percentage": {"value": 25.0}, "keepHost": True}
    ]
    assert made["route"] == [{"destination": {"host": "_cluster.c"}}]
    assert problems == ["the cluster 'd': of two ports; nothing is mirrored there"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A.b:80", ("a.b", 80)),
        ("a.b", ("a.b", None)),
        ("[fd00::1]:80", ("fd00::1", 80)),
        ("fd00::1", ("fd00::1", None)),
    ],
)
def test_domains(text: str, expected: tuple[str, int | None]) -> None:
    assert routes.split(text) == expected


HOST = "virtual_hosts[0]."
ROUTE = f"{HOST}routes[0]."


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"vhds": {}}, "vhds:"),
        ({"validate_clusters": True}, "validate_clusters:"),
        (config(domains=()), f"{HOST}domains: there are none"),
        (config(to(), domains=("a.*",)), f"{HOST}domains[0]: domains that end in a wildcard"),
        (config(to(), domains=("a b",)), f"{HOST}domains[0]: 'a b' is not a host name"),
        (config(to(), domains=("a.b", "A.b")), f"{HOST}domains[1]: 'A.b' is given twice"),
        (config(to(), cors={}), f"{HOST}cors:"),
        (config({"match": {"prefix": "/"}}), f"{ROUTE.removesuffix('.')}: needs one of route"),
        (config(to("")), f"{ROUTE}route.cluster: needs the name"),
        (config(to(request_mirror_policies=[{}])), f"{ROUTE}route.request_mirror_policies[0].cluster: is required"),
        (config(to(request_mirror_policies=[{"cluster_header": "x"}])), f"{ROUTE}route.request_mirror_policies[0].cluster_header:"),
        (config(to(), typed_per_filter_config={"x": {"@type": "lua"}}), f"{HOST}typed_per_filter_config[x]: 'lua'"),
        (config(to(cluster_header="x")), f"{ROUTE}route.cluster_header:"),
        (config(to(priority="HIGH")), f"{ROUTE}route.priority:"),
        (config(to(max_grpc_timeout="1s")), f"{ROUTE}route.max_grpc_timeout:"),
        (config(to(max_stream_duration={"max_stream_duration": "1s"})), f"{ROUTE}route.max_stream_duration.max_stream_duration:"),
        (config(to(hash_policy=[{"filter_state": {}}])), f"{ROUTE}route.hash_policy[0].filter_state:"),
        (config(to(hash_policy=[{"terminal": True}])), f"{ROUTE}route.hash_policy[0].: needs"),
        (config(to(hash_policy=[{"header": {"header_name": "x"}}] * 2)), f"{ROUTE}route.hash_policy: several"),
        (config(to(hash_policy=[{"cookie": {"name": "a b", "ttl": "0s"}}])), f"{ROUTE}route.hash_policy[0].cookie.name: 'a b'"),
        (config(to(hash_policy=[{"cookie": {"name": "a", "ttl": "0s", "attributes": [{"name": "a;b"}]}}])), f"{ROUTE}route.hash_policy[0].cookie.attributes[0]: 'a;b='"),
        (config(to(retry_policy={"retry_on": "5xx", "retry_priority": {"name": "x"}})), f"{ROUTE}route.retry_policy.retry_priority:"),
        (config(to(hash_policy=[{"cookie": {"name": "a"}}])), f"{ROUTE}route.hash_policy[0].cookie.ttl: is required"),
        (config(to(hash_policy=[{"cookie": {"name": "a", "ttl": "0s", "path": "x"}}])), f"{ROUTE}route.hash_policy[0].cookie.path: 'x'"),
        (config(to("a", hash_policy=[{"header": {"header_name": "x"}}]), to("a")), "virtual_hosts[0].routes[1].route.hash_policy: is not that"),
        (config(to(cluster_not_found_response_code="NOT_FOUND")), f"{ROUTE}route.cluster_not_found_response_code:"),
        (config(to(retry_policy={"retry_on": "5xx", "retriable_status_codes": [99]})), f"{ROUTE}route.retry_policy.retriable_status_codes: '99'"),
        (config(to(retry_policy={"retry_on": "5xx", "num_retries": 101})), f"{ROUTE}route.retry_policy.num_retries:"),
        (config(to(retry_policy={"retry_on": "5xx", "retry_back_off": {"base_interval": "1s", "max_interval": "2s"}})), f"{ROUTE}route.retry_policy.retry_back_off.max_interval:"),
        (config({"match": {"prefix": "/"}, "redirect": {"scheme_redirect": "ftp"}}), f"{ROUTE}redirect.scheme_redirect:"),
        (config({"match": {"prefix": "/"}}), f"{ROUTE.removesuffix('.')}: needs one of route, redirect"),
        (config({"match": {"path_separated_prefix": "/a"}, "route": {"cluster": "c", "prefix_rewrite": "/"}}), f"{ROUTE}route: a rewrite is not honoured"),
        (config({"match": {"prefix": "/"}, "redirect": {}, "response_headers_to_add": [{"header": {"key": "x", "value": "y"}}]}), f"{ROUTE}response_headers_to_add: is not honoured"),
        (config(to(prefix_rewrite="/", regex_rewrite={"pattern": {"regex": "a"}})), f"{ROUTE}route.regex_rewrite: cannot"),
        (config({"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": [{"name": "a", "weight": 1_000_001}]}}}), f"{ROUTE}route.weighted_clusters.clusters[0].weight:"),
        (config({"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": [{"name": "a"}]}}}), f"{ROUTE}route.weighted_clusters: no cluster"),
        (config(to(retry_policy={"retry_on": "envoy-ratelimited"})), f"{ROUTE}route.retry_policy.retry_on: 'envoy-ratelimited'"),
        (config(to(retry_policy={"retry_host_predicate": [{"name": "x"}]})), f"{ROUTE}route.retry_policy.retry_host_predicate[0]:"),
        (config({"match": {"prefix": "/"}, "redirect": {"strip_query": True}}), f"{ROUTE}redirect.strip_query:"),
        (config({"match": {"prefix": "/"}, "direct_response": {"status": 100}}), f"{ROUTE}direct_response.status:"),
    ],
)  # fmt: skip
def test_what_is_not_honoured_is_said_with_its_path(given: dict[str, object], problem: str) -> None:
    said = routes.read(given).said
    assert any(each.startswith(problem) for each in said), said
