"""The xDS client against a control plane that is not ours, over real gRPC."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from envoy.service.discovery.v3 import discovery_pb2

from interceptor.config.sidecar import Sidecar
from interceptor.config.xds import Xds
from interceptor.discovery.xds import client as module
from interceptor.discovery.xds.client import Client
from interceptor.discovery.xds.status import node
from interceptor.discovery.xds.translate import Translator
from interceptor.tls import secrets
from tests.support.control_plane import (
    CLUSTER,
    ENDPOINT,
    LISTENER,
    SECRET,
    ControlPlane,
    bundle_secret,
    eds_cluster,
    endpoints,
    listener,
    original_cluster,
    packed,
    pair_secret,
    secured,
    static_cluster,
)
from tests.support.identities import Root
from tests.support.until import until

SIDECAR = Sidecar.model_validate({"metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web"}}})


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    made = ControlPlane()
    yield made
    made.stop()


class Followed:
    """A client, and what it put into force."""

    def __init__(self, own: tuple[str, str] | None = None, **settings: object) -> None:
        self.documents: list[Mapping[str, str]] = []
        self.refuse: tuple[str, ...] = ()
        self.counted: Counter[tuple[str, str]] = Counter()
        self.delivered: list[Mapping[str, bytes]] = []
        asked = Xds.model_validate(settings)
        self.client = Client(
            asked,
            node(SIDECAR, asked),
            Translator("shop", 10.0, own, check=lambda _, files: secrets.check(files, None)),
            self._supply,
            self,
            self.delivered.append,
        )

    def connected(self, value: bool) -> None:
        self.counted["connected", ""] = int(value)

    def updated(self, kind: str, result: str) -> None:
        self.counted[kind, result] += 1

    async def _supply(self, documents: Mapping[str, str]) -> Sequence[str]:
        if not self.refuse:
            self.documents.append(documents)
        return self.refuse

    def hosts(self) -> dict[str, list[str]]:
        """The hosts in force, and their endpoints or addresses."""
        specs = [json.loads(text)["spec"] for text in (self.documents[-1] if self.documents else {}).values()]
        return {
            spec["hosts"][0]: spec.get("addresses") or [each["address"] for each in spec.get("endpoints", [])]
            for spec in specs
        }


@asynccontextmanager
async def following(
    *planes: ControlPlane,
    protocol: str = "delta",
    own: tuple[str, str] | None = None,
    **settings: object,
) -> AsyncIterator[Followed]:
    given: object = [{"address": f"127.0.0.1:{each.port}"} for each in planes]
    servers = settings.pop("servers", given)
    followed = Followed(own, servers=servers, protocol=protocol, **settings)
    async with trio.open_nursery() as nursery:
        await nursery.start(followed.client.run)
        yield followed
        nursery.cancel_scope.cancel()


def is_nack(request: object) -> bool:
    return bool(request.error_detail.message)  # type: ignore[attr-defined]  # the messages have no types


@pytest.mark.parametrize("protocol", ["delta", "stateOfTheWorld"])
async def test_what_the_control_plane_has_comes_into_force_and_changes(
    plane: ControlPlane, protocol: str
) -> None:
    plane.put(CLUSTER, eds_cluster("a.example.com"), original_cluster("out"))
    plane.put(ENDPOINT, endpoints("a.example.com", "10.0.0.1"))
    plane.put(LISTENER, listener("l", "10.9.0.1", 443, "out"))
    async with following(plane, protocol=protocol) as followed:
        await until(lambda: followed.hosts() == {"a.example.com": ["10.0.0.1"], "out": ["10.9.0.1"]})
        assert followed.client.pending is None
        first = plane.wait_for(lambda request: request.node.id)
        assert (first.node.id, first.node.cluster) == ("shop/web", "web")
        assert first.node.metadata["LABELS"]["app"] == "web"
        plane.put(ENDPOINT, endpoints("a.example.com", "10.0.0.1", "10.0.0.2"))
        await until(lambda: followed.hosts()["a.example.com"] == ["10.0.0.1", "10.0.0.2"])
        await until(lambda: followed.counted["ClusterLoadAssignment", "accepted"] == 2)
        assert followed.client.dump()["connected"] == f"127.0.0.1:{plane.port}"


@pytest.mark.parametrize("protocol", ["delta", "stateOfTheWorld"])
async def test_what_cannot_be_honoured_is_rejected_by_name_and_the_rest_is_used(
    plane: ControlPlane, protocol: str
) -> None:
    plane.put(
        CLUSTER,
        static_cluster("a.example.com", "10.0.0.1"),
        eds_cluster("b", lbPolicy="LOAD_BALANCING_POLICY_CONFIG"),
    )
    async with following(plane, protocol=protocol) as followed:
        await until(lambda: followed.hosts() == {"a.example.com": ["10.0.0.1"]})
        nack = await trio.to_thread.run_sync(plane.wait_for, is_nack)
        assert nack.error_detail.message.startswith("b: lb_policy: LOAD_BALANCING_POLICY_CONFIG")
        await until(lambda: bool(followed.client.status.rejected))
        assert followed.client.dump()["rejected"] == {
            "Cluster b": "lb_policy: LOAD_BALANCING_POLICY_CONFIG is not honoured by a cluster of the type EDS"
        }
        assert followed.counted["Cluster", "rejected"] == 1


async def test_a_listener_before_its_cluster_waits(plane: ControlPlane) -> None:
    plane.put(LISTENER, listener("l", "10.9.0.1", 443, "out"))
    async with following(plane) as followed:
        await until(lambda: "Cluster out" in followed.client.dump()["waiting"])  # type: ignore[operator]  # a dump is of plain objects
        assert followed.hosts() == {}
        plane.put(CLUSTER, original_cluster("out"))
        await until(lambda: followed.hosts() == {"out": ["10.9.0.1"]})


async def test_the_last_configuration_survives_the_control_plane(plane: ControlPlane) -> None:
    plane.put(CLUSTER, static_cluster("a.example.com", "10.0.0.1"))
    async with following(plane) as followed:
        await until(lambda: followed.hosts() == {"a.example.com": ["10.0.0.1"]})
        await trio.to_thread.run_sync(plane.stop)
        await until(lambda: followed.client.status.connected is None)
        assert followed.hosts() == {"a.example.com": ["10.0.0.1"]}
        assert followed.client.pending is None
        again = ControlPlane(plane.port)  # with an older version
        try:
            again.put(CLUSTER, static_cluster("a.example.com", "10.0.0.3"))
            await until(lambda: followed.hosts() == {"a.example.com": ["10.0.0.3"]})
            known = again.wait_for(lambda request: request.type_url == CLUSTER)
            assert dict(known.initial_resource_versions) == {"a.example.com": "1"}
        finally:
            again.stop()


async def test_a_dropped_stream_is_opened_again(plane: ControlPlane) -> None:
    plane.put(CLUSTER, static_cluster("a.example.com", "10.0.0.1"))
    async with following(plane, protocol="stateOfTheWorld") as followed:
        await until(lambda: bool(followed.hosts()))
        plane.put(CLUSTER, static_cluster("a.example.com", "10.0.0.2"), push=False)
        plane.drop()
        await until(lambda: followed.hosts() == {"a.example.com": ["10.0.0.2"]})


@pytest.mark.parametrize("protocol", ["delta", "stateOfTheWorld"])
async def test_garbage_in_a_resource_is_rejected_and_changes_nothing(
    plane: ControlPlane, protocol: str
) -> None:
    plane.put(CLUSTER, static_cluster("a.example.com", "10.0.0.1"))
    async with following(plane, protocol=protocol) as followed:
        await until(lambda: bool(followed.hosts()))
        bad = packed(static_cluster("a.example.com"))
        bad.value = b"\xff\xff\xff"
        if protocol == "delta":
            said = discovery_pb2.DeltaDiscoveryResponse(type_url=CLUSTER, nonce="bad")
            said.resources.add(name="a.example.com", resource=bad)
        else:
            said = discovery_pb2.DiscoveryResponse(type_url=CLUSTER, nonce="bad", resources=[bad])
        plane.say(said)
        nack = await trio.to_thread.run_sync(plane.wait_for, is_nack)
        assert "is no message of its type" in nack.error_detail.message
        assert nack.response_nonce == "bad"
        assert followed.hosts() == {"a.example.com": ["10.0.0.1"]}


async def test_a_silent_server_is_left_for_the_next(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENCE", 0.2)
    plane.silent = True
    other = ControlPlane()
    try:
        other.put(CLUSTER, static_cluster("a.example.com", "10.0.0.1"))
        async with following(plane, other) as followed:
            await until(lambda: followed.hosts() == {"a.example.com": ["10.0.0.1"]})
            assert followed.client.status.connected == f"127.0.0.1:{other.port}"
    finally:
        other.stop()


async def test_a_restart_begins_with_the_cache(plane: ControlPlane, tmp_path: Path) -> None:
    cache = str(tmp_path / "xds.json")
    plane.put(CLUSTER, static_cluster("a.example.com", "10.0.0.1"))
    async with following(plane, cacheFile=cache) as followed:
        await until(lambda: Path(cache).exists())
        assert followed.client.dump()["fromCache"] is False
    assert (await trio.Path(cache).stat()).st_mode & 0o777 == 0o600
    await trio.to_thread.run_sync(plane.stop)
    async with following(plane, cacheFile=cache) as followed:
        assert followed.hosts() == {"a.example.com": ["10.0.0.1"]}
        assert followed.client.pending is None
        assert followed.client.dump()["fromCache"] is True
        assert f"what the cache {cache} has stays in force" in str(followed.client.remark)


@pytest.mark.parametrize("text", ["", "[]", '{"documents": {"a": 1}}', "\x00"])
async def test_a_cache_that_is_no_cache_is_left_out(plane: ControlPlane, tmp_path: Path, text: str) -> None:
    cache = tmp_path / "xds.json"
    cache.write_text(text)
    plane.put(CLUSTER, static_cluster("a.example.com", "10.0.0.1"))
    async with following(plane, cacheFile=str(cache)) as followed:
        await until(lambda: followed.hosts() == {"a.example.com": ["10.0.0.1"]})


async def test_refused_documents_are_said(plane: ControlPlane) -> None:
    plane.put(CLUSTER, static_cluster("a.example.com", "10.0.0.1"))
    async with following(plane) as followed:
        await until(lambda: bool(followed.hosts()))
        followed.refuse = ("no",)
        plane.put(CLUSTER, static_cluster("a.example.com", "10.0.0.2"))
        await until(lambda: followed.client.dump()["refused"] == ["no"])
        assert followed.hosts() == {"a.example.com": ["10.0.0.1"]}


def secret_files(root: Root) -> tuple[dict[str, bytes], tuple[object, object]]:
    """A new pair and its bundle: as files in memory, and as a control plane says them."""
    pair = root.issue()
    made = {
        "sds://default/tls.crt": pair.certificate,
        "sds://default/tls.key": pair.key,
        "sds://ROOTCA/ca.crt": root.pair.certificate,
    }
    said = pair_secret("default", pair.certificate, pair.key), bundle_secret("ROOTCA", root.pair.certificate)
    return made, said


@pytest.mark.parametrize("protocol", ["delta", "stateOfTheWorld"])
async def test_the_workloads_own_secrets_come_and_are_rotated(plane: ControlPlane, protocol: str) -> None:
    root = Root()
    made, said = secret_files(root)
    plane.put(SECRET, *said)
    async with following(plane, protocol=protocol, own=("default", "ROOTCA")) as followed:
        await until(lambda: bool(followed.delivered) and followed.delivered[-1] == made)
        told = len(followed.documents)
        rotated, said = secret_files(root)
        plane.put(SECRET, *said)
        await until(lambda: followed.delivered[-1] == rotated)
        assert len(followed.documents) == told, "the documents are the same"


async def test_a_secret_that_cannot_be_used_is_rejected_by_name_and_the_old_one_stays(
    plane: ControlPlane, caplog: pytest.LogCaptureFixture
) -> None:
    root = Root()
    made, (pair, bundle) = secret_files(root)
    plane.put(SECRET, pair, bundle)
    async with following(plane, own=("default", "ROOTCA")) as followed:
        await until(lambda: bool(followed.delivered) and followed.delivered[-1] == made)
        other = root.issue()
        for bad, why in (
            (pair_secret("default", other.certificate, root.issue().key), "does not belong to"),
            (pair_secret("default", other.certificate[:-40], other.key), "cut off inside a PEM block"),
        ):
            plane.put(SECRET, bad, bundle)
            nack = await trio.to_thread.run_sync(plane.wait_for, is_nack)
            assert nack.error_detail.message.startswith("default: sds://default/tls.crt: ")
            assert why in nack.error_detail.message
        assert followed.delivered[-1] == made
        keys = [each.decode().splitlines()[1] for each in (made["sds://default/tls.key"], other.key)]
        shown = f"{caplog.text} {followed.client.dump()} {followed.client.remark}"
        assert not [key for key in keys if key in shown]


async def test_a_cluster_waits_for_its_secrets_and_the_cache_has_no_keys(
    plane: ControlPlane, tmp_path: Path
) -> None:
    cache = tmp_path / "xds.json"
    made, said = secret_files(Root())
    tls = secured(static_cluster("a.example.com", "10.0.0.1"), "default", "ROOTCA", "a.b", "a.b")
    plane.put(CLUSTER, tls)
    plane.put(LISTENER, listener("l", "10.9.0.1", 443, "a.example.com"))
    async with following(plane, cacheFile=str(cache)) as followed:
        await until(lambda: "Secret default" in followed.client.dump()["waiting"])  # type: ignore[operator]  # a dump is of plain objects
        assert followed.documents == []
        plane.put(SECRET, *said)
        await until(lambda: bool(followed.documents))
        [rule] = [text for key, text in followed.documents[-1].items() if key.startswith("DestinationRule")]
        assert json.loads(rule)["spec"]["trafficPolicy"]["tls"]["mode"] == "MUTUAL"
        assert followed.delivered[0] == made, "before the documents that name them"
        await until(cache.exists)
        assert "sds://default/tls.key" in cache.read_text()
        assert "PRIVATE KEY" not in cache.read_text()
