"""Configuration that changes while the gateway works: by files and by pushes, with one worker and with several."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.control_plane import CLUSTER, LISTENER, ControlPlane, static_cluster
from tests.support.gateways import Gateway, connect, gateway, server
from tests.support.netns import Topology
from tests.support.processes import wait_until

pytestmark = [pytest.mark.netns, pytest.mark.slow]

PORT = 7001
SWAPS = 100
BY_FILE, BY_CONTROL_PLANE = 5, 5  # of them; the others are pushed
CLIENTS = 4
TOKEN = "0123456789abcdef0123"

DENY = """\
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: not-by-v4, namespace: demo}
spec: {action: DENY, rules: [{from: [{source: {ipBlocks: [%s]}}]}]}
"""
ENTRY = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: e, namespace: demo}
spec: {hosts: [e.example], addresses: [192.0.2.%d], ports: [{number: 80, name: http}]}
"""
FILED = (
    ENTRY.replace("name: e,", "name: filed,").replace("e.example", "filed.example").replace(".2.%d", ".3.%d")
)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Unlike pytest's own, a directory that the proxy's user may enter."""
    with tempfile.TemporaryDirectory(prefix="icp-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


def push(proxy: Gateway, body: str, **headers: str) -> tuple[int, dict[str, object]]:
    def ask() -> tuple[int, dict[str, object]]:
        connection = http.client.HTTPConnection("127.0.0.1", 15000, timeout=60)
        sent = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/yaml", **headers}
        with contextlib.closing(connection):
            connection.request("PUT", "/config", body, sent)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    return proxy.bed.app.call(ask)


def write(file: Path, text: str) -> None:
    """As editors do, and everybody should: whole or not at all."""
    made = file.with_suffix(".new")
    made.write_text(text)
    made.replace(file)


@contextlib.contextmanager
def pushable(bed: Topology, tmp_path: Path, workers: int, more: str = "") -> Iterator[Gateway]:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    given = f"{{push: {{enabled: true, tokenFile: {token}}}, {more}}}"
    with gateway(bed, tmp_path, workers=workers, discovery=given) as proxy:
        yield proxy


class App(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")  # at once: no delayed ACK

    def log_message(self, *_: object) -> None:
        pass


class Client(threading.Thread):
    """Requests one after another, every fiftieth by a new connection, until told to stop."""

    def __init__(self, bed: Topology) -> None:
        super().__init__()
        self.bed = bed
        self.stop = threading.Event()
        self.times: list[float] = []
        self.failed: list[str] = []

    def run(self) -> None:
        while not self.stop.is_set():
            with contextlib.closing(http.client.HTTPConnection(self.bed.app.v4, PORT)) as connection:
                connection.sock = connect(self.bed.peer, self.bed.app.v4, PORT)
                for _ in range(50):
                    self._request(connection)

    def _request(self, connection: http.client.HTTPConnection) -> None:
        began = time.monotonic()
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            if (answer.status, answer.read()) != (200, b"hello"):
                self.failed.append(str(answer.status))
        except OSError as error:
            self.failed.append(str(error))
            self.stop.set()
        self.times.append(time.monotonic() - began)


@pytest.mark.parametrize("workers", [1, 2])
def test_no_request_fails_while_the_configuration_is_swapped_again_and_again(
    bed: Topology, tmp_path: Path, workers: int
) -> None:
    plane = bed.peer.call(lambda: ControlPlane(host=bed.peer.v4))
    plane.put(CLUSTER)
    plane.put(LISTENER)
    follow = f"xds: {{servers: [{{address: '{bed.peer.v4}:{plane.port}'}}]}}"
    with contextlib.ExitStack() as stack:
        stack.callback(plane.stop)
        proxy = stack.enter_context(pushable(bed, tmp_path, workers, follow))
        app = bed.app.call(lambda: http.server.ThreadingHTTPServer((bed.app.v4, PORT), App))
        stack.callback(app.server_close)
        serving = threading.Thread(target=app.serve_forever)
        serving.start()
        stack.callback(serving.join)
        stack.callback(app.shutdown)
        clients = [Client(bed) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        versions: set[object] = set()
        for number in range(SWAPS - BY_FILE - BY_CONTROL_PLANE):
            status, told = push(proxy, ENTRY % number)
            assert status == 200, told
            versions.add(told["version"])
        file = tmp_path / "sidecar.yaml"
        sidecar = file.read_text()
        for number in range(BY_FILE):
            write(file, f"{sidecar}---\n{FILED % number}")
            versions.add(another(proxy, workers, versions))
        for number in range(BY_CONTROL_PLANE):
            plane.put(CLUSTER, static_cluster("outbound|80||xds.example", f"192.0.2.{200 + number}"))
            versions.add(another(proxy, workers, versions))
        for client in clients:
            client.stop.set()
            client.join()
        assert len(versions) == SWAPS
        assert [failure for client in clients for failure in client.failed] == []
        times = sorted(each for client in clients for each in client.times)
        assert len(times) > 2 * SWAPS, "there was load all the time"
        assert times[len(times) * 99 // 100] < 1, "no swap holds requests up"
        served = wait_until(lambda: of_one_version(proxy, workers), "every process serves by one version")
        assert served in versions


def another(proxy: Gateway, workers: int, before: set[object]) -> str:
    """The version that comes into force next."""

    def new() -> str | None:
        found = of_one_version(proxy, workers)
        return None if found in before else found

    found = wait_until(new, "another version is in force")
    assert found is not None
    return found


def of_one_version(proxy: Gateway, workers: int) -> str | None:
    dumped = json.loads(proxy.get(15000, "/config_dump")[1])
    versions = {each["version"] for each in dumped["workers"]}
    assert len(dumped["workers"]) == workers
    return dumped["version"] if versions == {dumped["version"]} else None


@pytest.mark.parametrize("workers", [1, 2])
def test_a_changed_file_closes_the_connection_of_the_peer_that_lost_permission(
    bed: Topology, tmp_path: Path, workers: int
) -> None:
    with gateway(bed, tmp_path, workers=workers) as proxy, contextlib.ExitStack() as stack:
        pairs = []
        for host in (bed.app.v4, bed.app.v6):
            listening = stack.enter_context(server(bed.app, host, PORT))
            peer = stack.enter_context(connect(bed.peer, host, PORT))
            peer.sendall(b"ping")
            app, _ = listening.accept()
            stack.enter_context(app)
            app.settimeout(30)
            assert app.recv(4) == b"ping"
            pairs.append((peer, app))
        file = tmp_path / "sidecar.yaml"
        write(file, file.read_text() + DENY % bed.peer.v4)
        (denied, its_app), (allowed, other_app) = pairs
        with pytest.raises(ConnectionResetError):
            denied.recv(1)
        with pytest.raises(ConnectionResetError):
            its_app.recv(1)
        allowed.sendall(b"still")
        assert other_app.recv(5) == b"still"
        [flow] = proxy.flows(1)
        assert flow["response_flags"] == "DENY"
        assert flow["policy"] == "AuthorizationPolicy demo/not-by-v4"


def test_a_rejected_file_is_told_everywhere_and_changes_nothing(bed: Topology, tmp_path: Path) -> None:
    with gateway(bed, tmp_path) as proxy:
        file = tmp_path / "sidecar.yaml"
        good = file.read_text()
        version = json.loads(proxy.get(15000, "/config_dump")[1])["version"]
        write(file, good.replace("ingress: {", "ingress: {prots: 1, "))
        wait_until(lambda: proxy.metric("interceptor_config_rejected_total") == 1, "it was rejected")
        status, told = proxy.get(15020, "/healthz/ready")
        assert status == 200
        assert f"{file}:10: spec.ingress.prots: there is no such field" in told
        dumped = json.loads(proxy.get(15000, "/config_dump")[1])
        assert dumped["version"] == version
        assert dumped["rejected"]["source"] == "the files"
        mount(tmp_path, good + "---\n" + ENTRY % 7)
        (tmp_path / "link").symlink_to("..data/sidecar.yaml")
        (tmp_path / "link").replace(file)
        wait_until(lambda: proxy.get(15020, "/healthz/ready")[1] == "ready\n", "the mended file is in force")
        assert addresses(proxy) == ["192.0.2.7"]
        mount(tmp_path, good + "---\n" + ENTRY % 8)  # as Kubernetes brings a new version: one link is swapped
        wait_until(lambda: addresses(proxy) == ["192.0.2.8"], "the new version is in force")
        accepted = "interceptor_config_last_accepted_timestamp_seconds"
        before = proxy.metric(accepted)
        proxy.process.send_signal(signal.SIGHUP)
        wait_until(lambda: proxy.metric(accepted) > before, "the files were read again")
        assert json.loads(proxy.get(15000, "/config_dump")[1])["version"] != version


def mount(directory: Path, text: str) -> None:
    """As a mounted ConfigMap: the file in a directory of its own, and a link to that."""
    data = Path(tempfile.mkdtemp(prefix="..", dir=directory))
    data.chmod(0o755)
    (data / "sidecar.yaml").write_text(text)
    (directory / "fresh").symlink_to(data.name)
    (directory / "fresh").replace(directory / "..data")


def addresses(proxy: Gateway) -> list[str]:
    """Of the one service entry."""
    [entry] = json.loads(proxy.get(15000, "/config_dump")[1])["serviceEntries"]
    return list(entry["spec"]["addresses"])
