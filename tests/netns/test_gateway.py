"""The gateway whole: rules by ``sidecar-setup``, the proxy as a process of its own, real connections, what is told of them."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.gateways import Gateway, connect, gateway, server
from tests.support.netns import Namespace, Topology
from tests.support.processes import ROOT, interceptor, run, sidecar_setup, started, wait_until

pytestmark = pytest.mark.netns

ENTRY = """\
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: catalogue, namespace: demo}
spec:
  hosts: [catalogue.example]
  addresses: [10.9.0.1, "fd09::1"]
  ports: [{number: 7001, name: tcp, protocol: TCP}]
"""
STATIC = """\
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: static}
spec:
  hosts: [static.example]
  addresses: [10.9.0.9]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 10.9.0.1}]
"""
ROUTE = """\
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: canary}
spec:
  hosts: [static.example]
  http: [{match: [{uri: {regex: /a.*}}], route: [{destination: {host: static.example}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed}
spec: {action: DENY, rules: [{to: [{operation: {ports: ["9"]}}]}]}
"""


def reached(where: Namespace, host: str, port: int) -> bool:
    """Whether a connection is neither refused nor closed before a byte was sent."""
    try:
        with connect(where, host, port) as sock:
            sock.settimeout(30)
            sock.sendall(b"x")
            return sock.recv(1) == b"y"
    except OSError:
        return False


@contextmanager
def answering(listener: socket.socket) -> Iterator[Callable[[], tuple[str, int]]]:
    """Answer one connection in the background: ``y`` for ``x``; the callable tells who it was."""
    peers: list[tuple[str, int]] = []

    def work() -> None:
        try:
            sock, peer = listener.accept()
        except OSError:
            return
        with sock:
            peers.append(peer[:2])
            if sock.recv(1) == b"x":
                sock.sendall(b"y")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield lambda: peers[0]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("family", [4, 6])
def test_registry_only_lets_what_is_named_through_and_nothing_else(
    bed: Topology, tmp_path: Path, family: int
) -> None:
    host = bed.peer.address(family)
    with gateway(bed, tmp_path, "REGISTRY_ONLY", ENTRY) as proxy:
        with server(bed.peer, host, 7001) as named, answering(named):
            assert reached(bed.app, host, 7001)
        with server(bed.peer, host, 7002) as other, answering(other):
            assert not reached(bed.app, host, 7002)
            url = f"http://[{host}]:7002/v1" if family == 6 else f"http://{host}:7002/v1"
            assert bed.app.run("curl", "-sS", "-w", "%{http_code}", url).stdout.endswith(" port 7002\n502")
        allowed, denied, answered = proxy.flows(3)
        assert (allowed["policy"], allowed["response_flags"]) == ("ServiceEntry demo/catalogue", "-")
        assert (answered["response_code"], answered["upstream_cluster"]) == (502, "BlackHoleCluster")
        assert (denied["policy"], denied["response_flags"]) == ("egress.policy=REGISTRY_ONLY", "DENY")
        assert "add a ServiceEntry" in str(denied["connection_termination_details"])
        assert proxy.metric('interceptor_connections_denied_total{direction="egress",reason="registry"}') == 2


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("listens_on", ["own", "loopback"])
def test_ingress_reaches_an_app_wherever_it_listens(
    bed: Topology, tmp_path: Path, family: int, listens_on: str
) -> None:
    own = bed.app.address(family)
    loopback = "127.0.0.1" if family == 4 else "::1"
    with (
        gateway(bed, tmp_path) as proxy,
        server(bed.app, own if listens_on == "own" else loopback, 8001) as app,
    ):
        with answering(app) as peer:
            assert reached(bed.peer, own, 8001)
            assert peer()[0] == (own if listens_on == "own" else loopback)
        (line,) = proxy.flows(1)
        assert str(line["peer"]).startswith(f"{bed.peer.v4}:" if family == 4 else f"[{bed.peer.v6}]:")
        assert line["direction"] == "ingress"


def test_an_undeclared_port_never_falls_back_to_loopback(bed: Topology, tmp_path: Path) -> None:
    with gateway(bed, tmp_path) as proxy, server(bed.app, "127.0.0.1", 8002) as app, answering(app):
        assert not reached(bed.peer, bed.app.v4, 8002)
        (line,) = proxy.flows(1)
        assert line["response_flags"] == "UF"
        assert "not declared in spec.ingress.ports" in str(line["connection_termination_details"])


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("port", [15001, 15006])
def test_a_connection_straight_to_a_listener_is_closed_and_counted(
    bed: Topology, tmp_path: Path, family: int, port: int
) -> None:
    with gateway(bed, tmp_path) as proxy:
        assert not reached(bed.peer, bed.app.address(family), port)
        (line,) = proxy.flows(1)
        assert line["response_flags"] == "NR"
        assert proxy.metric("interceptor_connections_denied_total{") == 1
        assert proxy.process.poll() is None


def test_a_killed_proxy_leaves_no_way_past_it_and_remove_cleans(bed: Topology, tmp_path: Path) -> None:
    with gateway(bed, tmp_path) as proxy, server(bed.peer, bed.peer.v4, 7001) as outside:
        proxy.process.send_signal(signal.SIGKILL)
        proxy.process.wait(30)
        with answering(outside):
            assert not reached(bed.app, bed.peer.v4, 7001)
        assert not reached(bed.peer, bed.app.v4, 8001)
        removed = run(sidecar_setup("remove", "--netns", bed.app.name))
        assert removed.returncode == 0, removed.stderr
        assert "INTERCEPTOR" not in bed.app.save(4) + bed.app.save(6)


def test_sigterm_drains_what_runs_and_exits_0(bed: Topology, tmp_path: Path) -> None:
    with gateway(bed, tmp_path, drain="20s") as proxy, server(bed.peer, bed.peer.v4, 7001) as outside:
        with connect(bed.app, bed.peer.v4, 7001) as app:
            upstream, _ = outside.accept()
            with upstream:
                proxy.process.send_signal(signal.SIGTERM)
                wait_until(lambda: proxy.get(15020, "/healthz/ready")[0] == 503, "readiness off")
                wait_until(lambda: not listening(bed.app, 15001), "accepting stopped")
                upstream.sendall(b"after the drain began")
                assert app.recv(100) == b"after the drain began"
            assert app.recv(1) == b""
        assert proxy.process.wait(30) == 0


def test_the_drain_deadline_resets_what_is_left(bed: Topology, tmp_path: Path) -> None:
    with gateway(bed, tmp_path, drain="200ms") as proxy, server(bed.peer, bed.peer.v4, 7001) as outside:
        with connect(bed.app, bed.peer.v4, 7001) as app:
            upstream, _ = outside.accept()
            with upstream:
                proxy.process.send_signal(signal.SIGTERM)
                with pytest.raises(ConnectionResetError):
                    app.recv(1)
        assert proxy.process.wait(30) == 0
        (line,) = proxy.flows(1)
        assert line["response_flags"] == "LR"


def test_a_second_signal_forces(bed: Topology, tmp_path: Path) -> None:
    with gateway(bed, tmp_path, drain="1h") as proxy, server(bed.peer, bed.peer.v4, 7001) as outside:
        with connect(bed.app, bed.peer.v4, 7001):
            upstream, _ = outside.accept()
            with upstream:
                proxy.process.send_signal(signal.SIGTERM)
                wait_until(lambda: proxy.get(15020, "/healthz/ready")[0] == 503, "readiness off")
                proxy.process.send_signal(signal.SIGTERM)
                assert proxy.process.wait(30) == 0


def test_the_admin_endpoint_tells_and_ends(bed: Topology, tmp_path: Path) -> None:
    with (
        gateway(bed, tmp_path, "REGISTRY_ONLY", ENTRY) as proxy,
        server(bed.peer, bed.peer.v4, 7001) as outside,
    ):
        with connect(bed.app, bed.peer.v4, 7001):
            upstream, _ = outside.accept()
            with upstream:
                status, text = proxy.get(15000, "/connections")
                assert status == 200
                assert f"{bed.peer.v4}:7001" in text
        dump = json.loads(proxy.get(15000, "/config_dump")[1])
        assert dump["sidecar"]["spec"]["egress"]["policy"] == "REGISTRY_ONLY"
        assert "outbound|7001||catalogue.example" in proxy.get(15000, "/clusters")[1]
        assert '"15006"' in proxy.get(15000, "/listeners")[1] or ":15006" in proxy.get(15000, "/listeners")[1]
        assert proxy.get(15000, "/quitquitquit")[0] == 405
        assert not reached(bed.peer, bed.app.v4, 15000)
        assert proxy.get(15000, "/quitquitquit", "POST")[0] == 200
        assert proxy.process.wait(30) == 0


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that everybody may read, as ``tmp_path`` is not."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def test_the_proxy_runs_from_where_only_root_may_read(bed: Topology, tmp_path: Path, public: Path) -> None:
    """A checkout below /root, or in a home: nothing is imported or read there by its path once root is given up."""
    private = tmp_path / "root"
    private.mkdir(mode=0o700)
    (private / "venv").mkdir()
    (private / "package").mkdir()
    shutil.copytree(ROOT / "interceptor", private / "package" / "interceptor")
    documents = "{apiVersion: interceptor/v1, kind: Sidecar, metadata: {name: shop}}\n" + STATIC
    (public / "sidecar.yaml").write_text(documents + ENTRY.replace("demo", "default"))
    script = (
        f"mount --bind {sys.prefix} {private}/venv && cd {private}/package && "
        f"exec {private}/venv/bin/python -m interceptor proxy --netns {bed.app.name} --config {public}/sidecar.yaml"
    )
    applied = run(sidecar_setup("apply", "--netns", bed.app.name))
    assert applied.returncode == 0, applied.stderr
    with started(["unshare", "--mount", "sh", "-c", script], PYTHONPATH=f"{private}/package") as process:
        proxy = Gateway(bed, process, tmp_path)
        wait_until(
            lambda: proxy.get(15020, "/healthz/ready")[0] == 200 or process.poll() is not None, "ready"
        )
        with server(bed.peer, bed.peer.v4, 7001) as outside, answering(outside):
            assert reached(bed.app, bed.peer.v4, 7001)
        curl = ("curl", "-s", "--http2-prior-knowledge", f"http://{bed.peer.v4}:7002/")
        with server(bed.peer, bed.peer.v4, 7002) as other, bed.app.popen(*curl):
            upstream, _ = other.accept()
            with upstream:
                assert upstream.recv(64)
        (public / "sidecar.yaml").write_text(documents + ROUTE)
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "canary" in proxy.get(15000, "/config_dump")[1], "the new configuration")
        assert proxy.get(15020, "/metrics")[0] == proxy.get(15000, "/config_dump")[0] == 200
        assert proxy.get(15000, "/quitquitquit", "POST")[0] == 200
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_log_format_is_that_of_the_access_log_too(bed: Topology, tmp_path: Path, form: str) -> None:
    command = interceptor("proxy", "--netns", bed.app.name, "--log-format", form)
    with started(command) as process:
        proxy = Gateway(bed, process, tmp_path)
        wait_until(
            lambda: proxy.get(15020, "/healthz/ready")[0] == 200 or process.poll() is not None, "ready"
        )
        assert not reached(bed.peer, bed.app.v4, 15006)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    (line,) = out.splitlines()
    assert line.startswith("{") is (form == "json")
    assert err.startswith("{") is (form == "json")


def test_every_port_in_use_is_told_at_once(bed: Topology, tmp_path: Path) -> None:
    with server(bed.app, "0.0.0.0", 15001), server(bed.app, "127.0.0.1", 15000):
        result = run(interceptor("proxy", "--netns", bed.app.name))
    assert result.returncode == 1
    assert "port 15001 is in use" in result.stderr
    assert "port 15000 is in use" in result.stderr
    assert "Traceback" not in result.stderr


def listening(where: Namespace, port: int) -> bool:
    return f":{port} " in where.run("ss", "-Hltn").stdout
