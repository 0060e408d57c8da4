from __future__ import annotations

from interceptor.config.sidecar import Sidecar
from interceptor.config.xds import Xds
from interceptor.discovery.xds.messages import CLUSTER, SECRET
from interceptor.discovery.xds.status import Status, node

XDS = Xds.model_validate({"servers": [{"address": "a:1"}], "locality": {"region": "eu"}})


def test_who_we_are_is_the_workload() -> None:
    metadata = {"name": "web", "namespace": "shop", "labels": {"app": "web"}}
    made = node(Sidecar.model_validate({"metadata": metadata}), XDS)
    assert (made["id"], made["cluster"]) == ("shop/web", "web")
    assert made["locality"] == {"region": "eu", "zone": "", "subZone": ""}
    assert made["metadata"] == {
        "NAME": "web",
        "NAMESPACE": "shop",
        "LABELS": {"app": "web"},
        "SERVICE_ACCOUNT": "default",
    }
    named = Sidecar.model_validate({"metadata": metadata, "spec": {"serviceName": "s", "meshId": "m"}})
    told = node(named, XDS.model_copy(update={"nodeId": "n"}))
    assert (told["id"], told["cluster"]) == ("n", "s")
    assert told["metadata"]["MESH_ID"] == "m"  # type: ignore[index]  # a mapping


def test_what_an_operator_is_told() -> None:
    status = Status(
        "a:1", "", {CLUSTER: "7"}, {(SECRET, "x"): "no"}, {"listener l": "why"}, ((CLUSTER, "c"),)
    )
    assert status.dump() == {
        "connected": "a:1",
        "reason": None,
        "versions": {"Cluster": "7"},
        "rejected": {"Secret x": "no"},
        "leftOut": {"listener l": "why"},
        "waiting": ["Cluster c"],
    }
    assert Status().dump()["reason"] == "no server has been reached yet"
