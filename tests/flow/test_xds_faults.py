"""Control planes that fail, lie or loop: what the client makes of each, over real gRPC and real sockets."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trio
from envoy.service.discovery.v3 import discovery_pb2

from interceptor.discovery.xds import client as module
from interceptor.model import chance
from interceptor.model.identity import SpiffeId
from interceptor.tls.authority import Pair
from tests.flow.test_xds import Followed, following
from tests.support.control_plane import CLUSTER, LISTENER, ControlPlane, packed, static_cluster
from tests.support.identities import Root
from tests.support.until import until

NAME = "a.example.com"
PLANE = SpiffeId("cluster.local", "istio-system", "istiod")
Script = Callable[["queue.Queue[bytes]"], Iterator[bytes]]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chance, "FIRST_DELAY", 0.02)


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    made = ControlPlane()
    made.put(CLUSTER, static_cluster(NAME, "10.0.0.1"))
    yield made
    made.stop()


class Raw:
    """A server of gRPC that says what a script says, byte for byte, on each stream anew."""

    def __init__(self, script: Script) -> None:
        self.streams = 0
        self.port = 0
        self._script = script
        self._server = grpc.server(ThreadPoolExecutor(8))
        handler = grpc.stream_stream_rpc_method_handler(self._serve)
        methods = {"DeltaAggregatedResources": handler, "StreamAggregatedResources": handler}
        service = "envoy.service.discovery.v3.AggregatedDiscoveryService"
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, methods)])
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def _serve(self, requests: Iterator[bytes], _context: object) -> Iterator[bytes]:
        self.streams += 1
        came: queue.Queue[bytes] = queue.Queue()

        def read() -> None:
            try:
                for each in requests:
                    came.put(each)
            except grpc.RpcError:
                came.put(b"")  # the client is gone

        threading.Thread(target=read, daemon=True).start()
        yield from self._script(came)

    def stop(self) -> None:
        self._server.stop(0).wait()


@contextmanager
def raw(script: Script) -> Iterator[Raw]:
    made = Raw(script)
    try:
        yield made
    finally:
        made.stop()


def addresses(*servers: Any) -> list[dict[str, object]]:
    return [{"address": f"127.0.0.1:{each.port}"} for each in servers]


def response(nonce: str, *hosts: str, version: str = "1", lb_policy: str = "") -> bytes:
    cluster = static_cluster(NAME, *hosts)
    if lb_policy:
        cluster.lb_policy = lb_policy
    made = discovery_pb2.DiscoveryResponse(
        type_url=CLUSTER, nonce=nonce, version_info=version, resources=[packed(cluster)]
    )
    return bytes(made.SerializeToString())


def no_listeners() -> bytes:
    """Without this nothing is complete, and so nothing in force."""
    made = discovery_pb2.DiscoveryResponse(type_url=LISTENER, nonce="listeners", version_info="1")
    return bytes(made.SerializeToString())


def in_force(followed: Followed, *hosts: str) -> Callable[[], bool]:
    return lambda: followed.hosts() == {NAME: list(hosts)}


async def test_what_is_no_response_ends_the_stream_and_the_next_server_is_asked(plane: ControlPlane) -> None:
    def garbage(_: queue.Queue[bytes]) -> Iterator[bytes]:
        yield b"\xff\xfe\xfd\x00 no message"

    with raw(garbage) as liar:
        async with following(servers=addresses(liar, plane)) as followed:
            await until(in_force(followed, "10.0.0.1"))
            assert followed.client.status.connected == f"127.0.0.1:{plane.port}"
            assert liar.streams == 1


async def test_a_connection_that_breaks_inside_a_message_changes_nothing(plane: ControlPlane) -> None:
    """HTTP/2 that ends in the middle of a frame, over and over; what was in force stays."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        broken: list[int] = []

        def serve() -> None:
            while True:
                try:
                    made, _ = listening.accept()
                except OSError:
                    return
                with made:
                    made.recv(1 << 16)
                    # SETTINGS, then a DATA frame that announces 16 KiB and has three bytes.
                    made.sendall(b"\0\0\0\4\0\0\0\0\0" + b"\0\x40\0\0\0\0\0\0\1" + b"abc")
                    broken.append(1)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            port = listening.getsockname()[1]
            both = [{"address": f"127.0.0.1:{plane.port}"}, {"address": f"127.0.0.1:{port}"}]
            async with following(servers=both) as followed:
                await until(in_force(followed, "10.0.0.1"))
                await trio.to_thread.run_sync(plane.stop)
                await until(lambda: len(broken) >= 2)
                assert followed.hosts() == {NAME: ["10.0.0.1"]}
                assert followed.client.status.connected is None
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


async def test_a_server_that_says_the_same_bad_thing_again_and_again_is_slowed_down(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "PATIENT", 3)
    monkeypatch.setattr(module, "PAUSE", 0.05)
    answers: list[str] = []

    def loop(came: queue.Queue[bytes]) -> Iterator[bytes]:
        yield no_listeners()
        yield response("good", "10.0.0.1")
        for turn in range(8):
            while (data := came.get(timeout=20)) and (asked := parsed(data)).response_nonce != (
                f"bad{turn - 1}" if turn else "good"
            ):
                pass
            answers.append(asked.error_detail.message)
            yield response(f"bad{turn}", "10.0.0.2", lb_policy="LOAD_BALANCING_POLICY_CONFIG")
        came.get(timeout=20)
        yield response("better", "10.0.0.3", version="9")
        while came.get(timeout=20):
            pass

    with raw(loop) as server:
        async with following(servers=addresses(server), protocol="stateOfTheWorld") as followed:
            await until(in_force(followed, "10.0.0.1"))
            await until(in_force(followed, "10.0.0.3"))
            assert followed.client.dump()["rejected"] == {}
    assert answers[0] == ""
    assert all(answer.startswith(f"{NAME}: lb_policy: ") for answer in answers[1:])
    assert sum("is rejected" in record.message for record in caplog.records) == 3, "the log is no loop's"
    assert followed.counted["Cluster", "rejected"] == 8


def parsed(data: bytes) -> Any:
    return discovery_pb2.DiscoveryRequest.FromString(data)


async def test_versions_that_race_end_with_the_last_and_each_is_answered_by_its_nonce() -> None:
    nonces: list[str] = []

    def race(came: queue.Queue[bytes]) -> Iterator[bytes]:
        yield no_listeners()
        for turn in range(30):
            yield response(f"n{turn}", f"10.0.0.{turn + 1}", version=str(30 - turn))  # older and older
        yield response("n29", "10.0.0.30", version="1")  # and once more
        while data := came.get(timeout=20):
            if (nonce := parsed(data).response_nonce) and parsed(data).type_url == CLUSTER:
                nonces.append(nonce)

    with raw(race) as server:
        async with following(servers=addresses(server), protocol="stateOfTheWorld") as followed:
            await until(lambda: nonces == [*(f"n{turn}" for turn in range(30)), "n29"])
            await until(in_force(followed, "10.0.0.30"))
            assert followed.client.status.versions[CLUSTER] == "1"


async def test_types_that_nobody_asked_for_are_left_unanswered(plane: ControlPlane) -> None:
    async with following(plane) as followed:
        await until(in_force(followed, "10.0.0.1"))
        strange = discovery_pb2.DeltaDiscoveryResponse(type_url="type.googleapis.com/x.Y", nonce="strange")
        plane.say(strange)
        await until(lambda: followed.counted["unknown", "ignored"] == 1)
        plane.put(CLUSTER, static_cluster(NAME, "10.0.0.2"))
        await until(in_force(followed, "10.0.0.2"))


async def test_servers_are_tried_in_order_and_round(plane: ControlPlane) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = free.getsockname()[1]
    servers = [{"address": f"127.0.0.1:{nobody}"}, {"address": f"127.0.0.1:{plane.port}"}]
    async with following(servers=servers) as followed:
        await until(in_force(followed, "10.0.0.1"))
        plane.put(CLUSTER, static_cluster(NAME, "10.0.0.2"), push=False)
        plane.drop()  # the one that answered last is asked again first
        await until(in_force(followed, "10.0.0.2"))
        port = plane.port
        await trio.to_thread.run_sync(plane.stop)
        await until(lambda: str(nobody) in followed.client.status.reason)
        again = ControlPlane(port)
        try:
            again.put(CLUSTER, static_cluster(NAME, "10.0.0.3"))
            await until(in_force(followed, "10.0.0.3"))
        finally:
            again.stop()


class Secure:
    """The control plane over mutual TLS."""

    def __init__(self, root: Root, port: int = 0) -> None:
        pair = root.issue(PLANE, dns_names=("localhost",))
        credentials = grpc.ssl_server_credentials(
            [(pair.key, pair.certificate)], root.pair.certificate, require_client_auth=True
        )
        self.plane = ControlPlane(port, credentials=credentials)


def written(directory: Path, pair: Pair, root: Root) -> dict[str, str]:
    found = {"trustBundle": root.pair.certificate, "certificate": pair.certificate, "privateKey": pair.key}
    for name, data in found.items():
        (directory / name).write_bytes(data)
    return {name: str(directory / name) for name in found}


async def test_rotated_certificates_are_used_towards_the_control_plane_from_the_next_stream_on(
    tmp_path: Path,
) -> None:
    root = Root()
    tls = written(tmp_path, root.issue(), root)
    first = Secure(root)
    first.plane.put(CLUSTER, static_cluster(NAME, "10.0.0.1"))
    servers = [{"address": f"localhost:{first.plane.port}", "tls": tls}]
    async with following(servers=servers) as followed:
        await until(in_force(followed, "10.0.0.1"))
        await trio.to_thread.run_sync(first.plane.stop)
        other = Root()
        second = Secure(other, first.plane.port)
        try:
            second.plane.put(CLUSTER, static_cluster(NAME, "10.0.0.2"))
            await until(lambda: "UNAVAILABLE" in followed.client.status.reason)
            assert followed.hosts() == {NAME: ["10.0.0.1"]}, "it is not believed"
            written(tmp_path, other.issue(), other)
            await until(in_force(followed, "10.0.0.2"))
        finally:
            await trio.to_thread.run_sync(second.plane.stop)


async def test_certificates_that_cannot_be_read_are_said(tmp_path: Path, plane: ControlPlane) -> None:
    tls = {"trustBundle": str(tmp_path / "none")}
    servers = [{"address": f"localhost:{plane.port}", "tls": tls}]
    async with following(servers=servers) as followed:
        await until(lambda: "none cannot be read" in followed.client.status.reason)
