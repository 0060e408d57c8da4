"""The whole gateway with ``spec.ingress.mode: TPROXY``: rules, proxy and an app that sees its clients' addresses."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.netns import Topology, topology
from tests.support.processes import interceptor, listens, run, started, wait_until

pytestmark = pytest.mark.netns

SIDECAR = """\
apiVersion: interceptor/v1
kind: Sidecar
metadata: {name: shop, namespace: demo}
spec:
  timeouts: {drainDelay: 100ms, drain: 1s}
  ingress: {mode: TPROXY, ports: [{port: 7600}]}
"""
# Tells each client the address it sees, and ends when told to.
APP = """
import contextlib, os, socket, sys, threading
host, port = sys.argv[1], int(sys.argv[2])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
server = socket.create_server((host, port), family=family, dualstack_ipv6=host == "::")

def serve(client, address):
    with client, contextlib.suppress(ConnectionError):  # who only looked whether we listen
        client.sendall(address[0].removeprefix("::ffff:").encode())
        if client.recv(16) == b"end":
            client.close()
            os._exit(0)

while True:
    threading.Thread(target=serve, args=server.accept()).start()
"""
CAP_NET_ADMIN = 1 << 12


@pytest.fixture
def bed() -> Iterator[Topology]:
    with topology() as made:
        yield made


def behind(bed: Topology, config: Path, *command: str) -> list[str]:
    return interceptor("run", "--netns", bed.app.name, "--user=65534", f"--config={config}", "--", *command)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "sidecar.yaml"
    path.write_text(SIDECAR)
    return path


def call(bed: Topology, host: str, port: int, say: bytes) -> str:
    """What the app tells a peer that connects."""
    with bed.peer.call(lambda: socket.create_connection((host, port), timeout=10)) as client:
        seen = client.recv(64).decode()
        client.sendall(say)
        return seen


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("on_loopback", [False, True], ids=["everywhere", "loopback"])
def test_the_app_sees_its_clients_address_unless_it_is_on_loopback(
    bed: Topology, config: Path, family: int, on_loopback: bool
) -> None:
    if on_loopback:  # reached there because the port is declared
        listen, inside = ("127.0.0.1", "127.0.0.1") if family == 4 else ("::1", "::1")
    else:
        listen, inside = "::", "127.0.0.1" if family == 4 else "::1"
    host = bed.app.address(family)
    wanted = inside if on_loopback else bed.peer.address(family)
    with started(behind(bed, config, "/usr/bin/python3", "-c", APP, listen, "7600")) as app:
        wait_until(listens(bed.app, inside, 7600), "the app listens")
        assert call(bed, host, 7600, b"go on") == wanted
        assert call(bed, host, 7600, b"end") == wanted
        out, err = app.communicate(timeout=60)
    assert app.returncode == 0, err
    flows = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    shown = f"{host}:7600" if family == 4 else f"[{host}]:7600"
    ours = [flow for flow in flows if flow["original_dst"] == shown]
    assert [(flow["direction"], flow["response_flags"]) for flow in ours] == [("ingress", "-")] * 2
    assert all(flow["peer"].strip("[").startswith(bed.peer.address(family)) for flow in ours)


def test_the_proxy_takes_no_port_that_its_client_has(bed: Topology, config: Path) -> None:
    """A client that lives on the ports the proxy would take next: to the kernel both would be one connection."""
    host = bed.app.address(4)
    with started(behind(bed, config, "/usr/bin/python3", "-c", APP, "::", "7600")) as app:
        wait_until(listens(bed.app, "127.0.0.1", 7600), "the app listens")
        living = [
            bed.peer.call(lambda port=port: socket.create_connection((host, 7600), 10, ("10.9.0.1", port)))  # type: ignore[misc]  # binds the loop's value
            for port in range(1044, 1048)
        ]
        assert [call(bed, host, 7600, b"go on") for _ in range(30)] == ["10.9.0.1"] * 30
        for client in living:
            with client:
                assert client.recv(64) == b"10.9.0.1"
        assert call(bed, host, 7600, b"end") == "10.9.0.1"
        app.communicate(timeout=60)


def test_of_all_capabilities_the_proxy_keeps_one(bed: Topology, config: Path) -> None:
    script = "for p in $(pgrep -f '[c]ontrol-fd'); do cat /proc/$p/status; done"
    result = run(behind(bed, config, "sh", "-c", script))
    assert result.returncode == 0, result.stderr
    proxies = [part for part in result.stdout.split("Name:\t") if "Uid:\t1337" in part]
    assert proxies
    for status in proxies:
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if line.startswith("Cap"))
        assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == CAP_NET_ADMIN
        assert int(fields["CapInh"], 16) == int(fields["CapAmb"], 16) == 0


def test_without_the_capability_the_proxy_says_so(bed: Topology, config: Path) -> None:
    without = ("setpriv", "--bounding-set=-net_admin,-net_raw")
    refused = bed.app.run(*without, *interceptor("proxy", f"--config={config}"), check=False)
    assert refused.returncode == 1
    assert "TPROXY needs CAP_NET_ADMIN" in refused.stderr
