"""A control plane on another machine decides what the app may reach, with one worker and with two."""

from __future__ import annotations

import json
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from interceptor.model.identity import SpiffeId
from tests.support.control_plane import (
    CLUSTER,
    ENDPOINT,
    LISTENER,
    SECRET,
    ControlPlane,
    bundle_secret,
    eds_cluster,
    endpoints,
    inbound_listener,
    listener,
    original_cluster,
    pair_secret,
)
from tests.support.gateways import Gateway, connect, gateway, server
from tests.support.identities import Root, write
from tests.support.netns import Topology
from tests.support.processes import wait_until

pytestmark = [pytest.mark.netns, pytest.mark.slow]

PORT, OTHER = 7001, 7002


@pytest.fixture
def plane(bed: Topology) -> Iterator[ControlPlane]:
    made = bed.peer.call(lambda: ControlPlane(host=bed.peer.v4))
    yield made
    made.stop()


@contextmanager
def greeting(bed: Topology, port: int, *, app: bool = False) -> Iterator[None]:
    """A server at the peer, or the app, that says one byte to whoever connects."""
    where = bed.app if app else bed.peer
    listening = server(where, where.v4, port)

    def serve() -> None:
        while True:
            try:
                made, _ = listening.accept()
            except OSError:
                return
            with made:
                made.sendall(b"x")

    thread = threading.Thread(target=serve)
    thread.start()
    yield
    listening.shutdown(socket.SHUT_RDWR)
    thread.join()
    listening.close()


def reaches(proxy: Gateway, port: int) -> bool:
    """Whether the app hears the server of a port."""
    try:
        with connect(proxy.bed.app, proxy.bed.peer.v4, port) as sock:
            return sock.recv(1) == b"x"
    except OSError:  # a refusal may come while the connection is still being made
        return False


def dump(proxy: Gateway) -> dict[str, object]:
    found = json.loads(proxy.get(15000, "/config_dump")[1])
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_what_the_control_plane_says_is_what_may_be_reached(
    bed: Topology, plane: ControlPlane, workers: int
) -> None:
    host = bed.peer.v4
    plane.put(
        CLUSTER,
        eds_cluster("a.example.com"),
        original_cluster("out"),
        eds_cluster("b", lbPolicy="LOAD_BALANCING_POLICY_CONFIG"),
    )
    plane.put(ENDPOINT, endpoints("a.example.com", host, port=PORT))
    plane.put(LISTENER)
    discovery = f'{{xds: {{servers: [{{address: "{host}:{plane.port}"}}]}}}}'
    with (
        tempfile.TemporaryDirectory(prefix="icp-") as made,
        greeting(bed, PORT),
        greeting(bed, OTHER),
    ):
        Path(made).chmod(0o755)
        with gateway(bed, Path(made), "REGISTRY_ONLY", workers=workers, discovery=discovery) as proxy:
            assert reaches(proxy, PORT)
            assert not reaches(proxy, OTHER)
            assert "Cluster b: lb_policy" in proxy.get(15020, "/healthz/ready")[1]
            plane.put(LISTENER, listener("l", host, OTHER, "out"))
            wait_until(lambda: reaches(proxy, OTHER), "reached by the listener")
            plane.stop()
            wait_until(lambda: "not connected" in proxy.get(15020, "/healthz/ready")[1], "the loss is said")
            assert proxy.get(15020, "/healthz/ready")[0] == 200
            assert reaches(proxy, PORT)
            assert "interceptor_xds_connected 0.0" in proxy.get(15020, "/metrics")[1]
            xds = dump(proxy)["xds"]
            assert isinstance(xds, dict)
            assert list(xds["rejected"]) == ["Cluster b"]


OWN = SpiffeId("cluster.local", "demo", "default")


def presented(bed: Topology, context: ssl.SSLContext) -> bytes | None:
    """The certificate that the app's port presents to a peer of the mesh, which hears the app then; None: neither."""

    def call() -> bytes | None:
        try:
            with (
                socket.create_connection((bed.app.v4, 8001), 10) as raw,
                context.wrap_socket(raw, server_hostname="app") as sock,
            ):
                return sock.getpeercert(binary_form=True) if sock.recv(1) == b"x" else None
        except OSError:
            return None

    return bed.peer.call(call)


def heard_in_the_clear(bed: Topology) -> bool:
    def call() -> bool:
        try:
            with socket.create_connection((bed.app.v4, 8001), 10) as sock:
                sock.sendall(b"hello, in the clear\r\n")
                return sock.recv(1) == b"x"
        except OSError:
            return False

    return bed.peer.call(call)


def test_secrets_of_the_control_plane_are_the_workloads_identity(bed: Topology, plane: ControlPlane) -> None:
    """One listener says that peers speak mutual TLS, by certificates that are rotated in both workers."""
    root = Root()
    first, second = root.issue(OWN), root.issue(OWN)
    bundle = bundle_secret("ROOTCA", root.pair.certificate)
    plane.put(SECRET, pair_secret("default", first.certificate, first.key), bundle)
    plane.put(CLUSTER, original_cluster("app"))
    plane.put(LISTENER, inbound_listener("in", 8001, "default", "ROOTCA"))
    xds = f'{{xds: {{servers: [{{address: "{bed.peer.v4}:{plane.port}"}}]}}}}'
    with tempfile.TemporaryDirectory(prefix="icp-") as made, greeting(bed, 8001, app=True):
        Path(made).chmod(0o755)
        files = write(Path(made), root.issue(), root)
        assert files.certificate is not None
        context = ssl.create_default_context(cadata=root.pair.certificate.decode())
        context.load_cert_chain(files.certificate, files.private_key)
        context.check_hostname = False
        discovery = f"{xds}\n  tls: {{sds: {{}}}}"
        with gateway(bed, Path(made), workers=2, discovery=discovery) as proxy:
            assert presented(bed, context) == ssl.PEM_cert_to_DER_cert(first.certificate.decode())
            assert not heard_in_the_clear(bed)
            plane.put(SECRET, pair_secret("default", second.certificate, second.key), bundle)
            wanted = ssl.PEM_cert_to_DER_cert(second.certificate.decode())
            wait_until(lambda: {presented(bed, context) for _ in range(8)} == {wanted}, "rotated everywhere")
            plane.put(SECRET, pair_secret("default", second.certificate, first.key), bundle)
            wait_until(
                lambda: "does not belong" in proxy.get(15020, "/healthz/ready")[1], "the rejection is said"
            )
            assert presented(bed, context) == wanted
            shown = "".join(proxy.get(15000, path)[1] for path in ("/config_dump", "/certs"))
            assert str(OWN) in shown
            keys = (each.key.decode().splitlines()[1] for each in (first, second))
            assert not any(key in shown for key in keys)
