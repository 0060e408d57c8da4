"""A control plane that is asked as the workload, by what a SPIFFE agent gave."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import grpc
import pytest
import trio

from interceptor.config.sidecar import Sidecar
from interceptor.config.xds import Xds
from interceptor.discovery.xds.client import Client
from interceptor.discovery.xds.status import node
from interceptor.discovery.xds.translate import Translator
from interceptor.model.identity import SpiffeId
from interceptor.proxy.transport import Credentials
from tests.support.control_plane import CLUSTER, ControlPlane, static_cluster
from tests.support.identities import DB, Root
from tests.support.until import until
from tests.support.workload_api import answer, bundle_of, credentials, svid_of


@pytest.fixture(scope="module")
def root() -> Root:
    return Root()


@pytest.fixture(scope="module")
def other() -> Root:
    return Root("other.org")


@pytest.fixture
def identity() -> Credentials:
    return credentials()


@pytest.fixture
def plane(root: Root) -> Iterator[ControlPlane]:
    own = root.issue(SpiffeId("cluster.local", "istio-system", "istiod"), dns_names=("localhost",))
    pair, bundle = [(own.key, own.certificate)], root.pair.certificate
    made = ControlPlane(credentials=grpc.ssl_server_credentials(pair, bundle, require_client_auth=True))
    made.put(CLUSTER, static_cluster("a.example.com", "10.0.0.1"))
    yield made
    made.stop()


class Counted:
    """What would be in the metrics."""

    def connected(self, value: bool) -> None:
        pass

    def updated(self, kind: str, result: str) -> None:
        pass


@asynccontextmanager
async def following(plane: ControlPlane, identity: Credentials) -> AsyncIterator[Client]:
    asked = Xds.model_validate({"servers": [{"address": f"localhost:{plane.port}", "tls": {}}]})
    sidecar = Sidecar.model_validate({"metadata": {"name": "db", "namespace": "shop"}})

    async def supply(_: object) -> tuple[str, ...]:
        return ()

    who, translator = node(sidecar, asked), Translator("shop", 10.0)
    made = Client(asked, who, translator, supply, Counted(), own=identity.workload)
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        yield made
        nursery.cancel_scope.cancel()


async def test_a_control_plane_is_asked_as_the_workload_by_the_certificate_of_the_moment(
    plane: ControlPlane, root: Root, identity: Credentials
) -> None:
    async with following(plane, identity) as followed:
        await until(lambda: "has given no certificate yet" in followed.status.reason)
        assert plane.callers == []
        identity.take(answer(svid_of(DB, root.issue(DB), root)))
        await until(lambda: followed.pending is None)
        assert plane.callers == [[str(DB).encode()]]
        identity.take(answer(svid_of(DB, root.issue(DB, dns_names=("db.shop",)), root)))
        assert len(plane.callers) == 1, "the stream there is goes on"
        plane.drop()
        await until(lambda: len(plane.callers) == 2)
        assert plane.callers[1] == [str(DB).encode(), b"db.shop"]
        await until(lambda: followed.status.connected is not None)
        identity.take(None)
        plane.drop()
        await until(lambda: "took the identity of this workload back" in followed.status.reason)
        assert len(plane.callers) == 2


async def test_a_control_plane_of_another_authority_is_not_believed(
    plane: ControlPlane, root: Root, other: Root, identity: Credentials
) -> None:
    fresh = Root()
    federated = {"spiffe://other.org": bundle_of(root)}  # a foreign domain's authority is none for names
    identity.take(answer(svid_of(DB, fresh.issue(DB), fresh), federated=federated))
    async with following(plane, identity) as followed:
        await until(lambda: "UNAVAILABLE" in followed.status.reason)
        assert plane.callers == []
        identity.take(answer(svid_of(DB, root.issue(DB), fresh, root)))  # its root joined the bundle
        await until(lambda: followed.pending is None)
