from __future__ import annotations

import contextlib

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from hypothesis import given, strategies as st

from interceptor.discovery.xds import observed
from interceptor.discovery.xds.codec import decode, encode
from interceptor.discovery.xds.messages import CLUSTER, ENDPOINT, LISTENER, Request, Resource, Response

UNKNOWN_FIELD = b"\xfa\xff\x07\x01x"  # number 16383, one byte
NODE = {"id": "shop/web", "metadata": {"LABELS": {"app": "web"}}}


def packed(message: object) -> any_pb2.Any:
    made = any_pb2.Any()
    made.Pack(message)
    return made


def world(*resources: any_pb2.Any, type_url: str = CLUSTER) -> tuple[Resource, ...]:
    made = discovery_pb2.DiscoveryResponse(
        type_url=type_url, version_info="7", nonce="n", resources=resources
    )
    decoded = decode(made.SerializeToString(), delta=False)
    assert (decoded.type_url, decoded.version, decoded.nonce) == (type_url, "7", "n")
    return decoded.resources


def test_a_request_of_the_state_of_the_world() -> None:
    request = Request(CLUSTER, "n", "bad", first=True, version="7", names=("a",))
    made = discovery_pb2.DiscoveryRequest.FromString(encode(request, NODE, delta=False))
    assert (made.type_url, made.response_nonce, made.version_info) == (CLUSTER, "n", "7")
    assert list(made.resource_names) == ["a"]
    assert (made.error_detail.code, made.error_detail.message) == (3, "bad")
    assert made.node.id == "shop/web"
    assert made.node.metadata["LABELS"]["app"] == "web"


def test_a_request_of_delta() -> None:
    request = Request(CLUSTER, "n", subscribe=("a",), unsubscribe=("b",), known={"c": "1"})
    made = discovery_pb2.DeltaDiscoveryRequest.FromString(encode(request, NODE, delta=True))
    assert not made.HasField("node")
    assert not made.HasField("error_detail")
    assert list(made.resource_names_subscribe) == ["a"]
    assert list(made.resource_names_unsubscribe) == ["b"]
    assert dict(made.initial_resource_versions) == {"c": "1"}


def test_a_response_of_the_state_of_the_world() -> None:
    cluster = cluster_pb2.Cluster(name="a", type="EDS")
    wrapper = discovery_pb2.Resource(name="b", ttl=Duration(seconds=5), version="2", resource=packed(cluster))
    heartbeat = discovery_pb2.Resource(name="c", ttl=Duration(seconds=5))
    assert world(packed(cluster), packed(wrapper), packed(heartbeat)) == (
        Resource("a", {"name": "a", "type": "EDS"}),
        Resource("b", {"name": "a", "type": "EDS"}, "2", 5.0),
        Resource("c", ttl=5.0),
    )


def test_a_response_of_delta() -> None:
    made = discovery_pb2.DeltaDiscoveryResponse(type_url=CLUSTER, nonce="n", removed_resources=["z"])
    made.resources.add(name="a", version="1", resource=packed(cluster_pb2.Cluster(name="a")))
    assert decode(made.SerializeToString(), delta=True) == Response(
        CLUSTER, "n", "", (Resource("a", {"name": "a"}, "1"),), ("z",)
    )


def test_what_stands_inside_is_read_too() -> None:
    made = listener_pb2.Listener(name="l")
    proxy = tcp_proxy_pb2.TcpProxy(stat_prefix="x", cluster="a")
    made.filter_chains.add().filters.add(name="tcp").typed_config.Pack(proxy)
    [resource] = world(packed(made), type_url=LISTENER)
    assert resource.problem is None
    assert "tcp_proxy.v3.TcpProxy" in str(resource.body)


def inside(type_url: str, value: bytes) -> Resource:
    made = listener_pb2.Listener(name="l")
    config = made.filter_chains.add().filters.add(name="x").typed_config
    config.type_url, config.value = type_url, value
    [resource] = world(packed(made), type_url=LISTENER)
    return resource


@pytest.mark.parametrize("name", observed.ISTIO)
def test_of_what_only_observes_the_name_is_read_and_nothing_inside(name: str) -> None:
    resource = inside(f"type.googleapis.com/{name}", UNKNOWN_FIELD)
    assert resource.problem is None
    assert name in str(resource.body)


@pytest.mark.parametrize(
    ("resource", "problem"),
    [
        (any_pb2.Any(type_url=CLUSTER, value=b"\xff\xff"), "is no message of its type"),
        (any_pb2.Any(type_url=ENDPOINT), f"is of the type '{ENDPOINT}', in a response of '{CLUSTER}'"),
        (
            any_pb2.Any(
                type_url="type.googleapis.com/envoy.service.discovery.v3.Resource", value=b"\xff\xff"
            ),
            "is no message of its type",
        ),
    ],
)
def test_what_is_no_resource_of_its_type_is_a_problem(resource: any_pb2.Any, problem: str) -> None:
    assert world(resource) == (Resource("", problem=problem),)


def test_a_field_that_is_not_known_is_a_problem_with_its_path() -> None:
    named = cluster_pb2.Cluster(name="a").SerializeToString()
    [resource] = world(any_pb2.Any(type_url=CLUSTER, value=named + UNKNOWN_FIELD))
    assert resource.name == "a"
    assert resource.problem == "[16383] is a field that this version does not know"
    proxy = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
    resource = inside(proxy, UNKNOWN_FIELD)
    assert resource.name == "l"
    assert resource.problem == (
        "filter_chains.filters.typed_config.[16383] is a field that this version does not know"
    )


def test_a_message_inside_that_is_not_known_is_a_problem() -> None:
    resource = inside("type.googleapis.com/no.such.Message", b"")
    assert resource.name == "l"
    assert resource.problem is not None
    assert "no.such.Message" in resource.problem


def test_bytes_that_are_no_response_are_refused() -> None:
    for delta in (True, False):
        with pytest.raises(ValueError, match="no response of xDS"):
            decode(b"\xff\xff", delta=delta)


@given(st.binary(max_size=200), st.booleans())
def test_whatever_comes_is_a_response_or_a_value_error(data: bytes, delta: bool) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(decode(data, delta=delta), Response)


@given(st.binary(max_size=200))
def test_whatever_a_resource_is_made_of_it_is_read_or_a_problem(data: bytes) -> None:
    [resource] = world(any_pb2.Any(type_url=LISTENER, value=data), type_url=LISTENER)
    assert (resource.problem is None) == (resource.body is not None)
