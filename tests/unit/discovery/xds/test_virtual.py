from __future__ import annotations

from typing import Any

import pytest

from interceptor.discovery.xds import virtual
from interceptor.discovery.xds.filters import TCP_PROXY
from interceptor.discovery.xds.messages import CLUSTER

ENDPOINT = {"endpoint": {"address": {"socket_address": {"address": "10.0.0.1", "port_value": 80}}}}
CLUSTERS: dict[str, Any] = {
    "through": {"type": "ORIGINAL_DST"},
    "nowhere": {},
    "there": {"load_assignment": {"endpoints": [{"lb_endpoints": [ENDPOINT]}]}},
    "names": {"type": "STRICT_DNS"},
}


def chain(cluster: str, **match: Any) -> dict[str, Any]:
    proxy = {"name": "tcp", "typed_config": {"@type": TCP_PROXY, "stat_prefix": "x", "cluster": cluster}}
    return {"filters": [proxy], "filter_chain_match": match}


def listener(*chains: dict[str, Any], **more: Any) -> dict[str, Any]:
    address = {"socket_address": {"address": "0.0.0.0", "port_value": 15001}}
    return {"address": address, "use_original_dst": True, "filter_chains": list(chains), **more}


@pytest.mark.parametrize(
    ("own", "rest", "registry_only", "why"),
    [
        ("nowhere", "through", False, None),
        ("nowhere", "nowhere", True, None),
        ("nowhere", "through", True, "set the Sidecar's spec.egress.policy: ALLOW_ANY"),
        ("nowhere", "nowhere", False, "set the Sidecar's spec.egress.policy: REGISTRY_ONLY"),
        ("through", "through", False, "to the gateway again"),
        ("nowhere", "there", False, "the cluster 'there' is honoured only"),
        ("nowhere", "names", False, "the cluster 'names' is honoured only"),
    ],
)
def test_it_says_what_the_sidecar_does_or_why_not(
    own: str, rest: str, registry_only: bool, why: str | None
) -> None:
    body = listener(chain(own, destination_port=15001), chain(rest))
    assert virtual.is_virtual(body)
    assert list(virtual.judge(body)) == []
    assert list(virtual.needs(body)) == [(CLUSTER, own), (CLUSTER, rest)]
    said = virtual.unlike(body, CLUSTERS, registry_only=registry_only)
    assert said is None if why is None else why in str(said)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (listener(chain("a"), chain("b")), "filter_chains: one of them"),
        (listener(chain("a", destination_port=80), chain("b")), "filter_chains[0].filter_chain_match.destination_port:"),
        (listener(chain("a", server_names=["a.b"]), chain("b")), "filter_chains[0].filter_chain_match.server_names:"),
        (listener(chain("a"), bind_to_port=True), "bind_to_port:"),
        (listener(chain("a"), address={}), "address.socket_address.address:"),
    ],
)  # fmt: skip
def test_what_is_not_honoured_is_said_with_its_path(body: dict[str, Any], said: str) -> None:
    assert any(each.startswith(said) for each in virtual.judge(body)), list(virtual.judge(body))
    assert not virtual.is_virtual({})


def test_how_long_connections_last_is_the_sidecars() -> None:
    rest = chain("b")
    rest["filters"][0]["typed_config"]["max_downstream_connection_duration"] = "60s"
    [said] = virtual.judge(listener(chain("a", destination_port=15001), rest))
    assert said.startswith("filter_chains[1].filters: max_downstream_connection_duration of a tcp_proxy")
