"""A control plane on another machine decides what the app may reach, with one worker and with two."""

from __future__ import annotations

import json
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.control_plane import (
    CLUSTER,
    ENDPOINT,
    LISTENER,
    ControlPlane,
    eds_cluster,
    endpoints,
    listener,
    original_cluster,
)
from tests.support.gateways import Gateway, connect, gateway, server
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
def greeting(bed: Topology, port: int) -> Iterator[None]:
    """A server at the peer that says one byte to whoever connects."""
    listening = server(bed.peer, bed.peer.v4, port)

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
