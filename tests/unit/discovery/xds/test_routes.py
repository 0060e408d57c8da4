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
    }
    assert only(to(retry_policy=policy))["retries"] == expected
    assert only(to(), retry_policy=policy)["retries"] == expected, "of the virtual host"


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


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({"header": {"header_name": "x"}}, {"httpHeaderName": "x"}),
        ({"query_parameter": {"name": "q"}}, {"httpQueryParameterName": "q"}),
        ({"connection_properties": {"source_ip": True}}, {"useSourceIp": True}),
    ],
)
def test_what_requests_are_hashed_on(policy: dict[str, object], expected: dict[str, object]) -> None:
    assert routes.read(config(to(hash_policy=[policy]))).clusters == {"c": expected}


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
        {"cluster": "d", "disable_shadow_host_suffix_append": True},
    ]
    given = config(to(request_mirror_policies=policies))
    read = routes.read(given)
    assert (read.said, read.needs()) == ([], ["c", "b", "d"])
    [route] = read.hosts[0].routes
    made, problems = routes.placed(route, 80, {"b": {"host": "b.org"}, "d": "of two ports"})
    assert made["mirrors"] == [{"destination": {"host": "b.org"}, "percentage": {"value": 25.0}}]
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
        (config(to(request_mirror_policies=[{"cluster": "x"}])), f"{ROUTE}route.request_mirror_policies[0].disable_shadow_host"),
        (config(to(request_mirror_policies=[{}])), f"{ROUTE}route.request_mirror_policies[0].cluster: is required"),
        (config(to(request_mirror_policies=[{"cluster_header": "x"}])), f"{ROUTE}route.request_mirror_policies[0].cluster_header:"),
        (config(to(), typed_per_filter_config={"x": {"@type": "lua"}}), f"{HOST}typed_per_filter_config[x]: 'lua'"),
        (config(to(cluster_header="x")), f"{ROUTE}route.cluster_header:"),
        (config(to(priority="HIGH")), f"{ROUTE}route.priority:"),
        (config(to(max_grpc_timeout="1s")), f"{ROUTE}route.max_grpc_timeout:"),
        (config(to(max_stream_duration={"max_stream_duration": "1s"})), f"{ROUTE}route.max_stream_duration.max_stream_duration:"),
        (config(to(hash_policy=[{"cookie": {}}])), f"{ROUTE}route.hash_policy[0].cookie:"),
        (config(to(retry_policy={"retry_on": "envoy-ratelimited"})), f"{ROUTE}route.retry_policy.retry_on: 'envoy-ratelimited'"),
        (config(to(retry_policy={"retry_host_predicate": [{"name": "x"}]})), f"{ROUTE}route.retry_policy.retry_host_predicate[0]:"),
        (config({"match": {"prefix": "/"}, "redirect": {"strip_query": True}}), f"{ROUTE}redirect.strip_query:"),
        (config({"match": {"prefix": "/"}, "direct_response": {"status": 100}}), f"{ROUTE}direct_response.status:"),
    ],
)  # fmt: skip
def test_what_is_not_honoured_is_said_with_its_path(given: dict[str, object], problem: str) -> None:
    said = routes.read(given).said
    assert any(each.startswith(problem) for each in said), said
