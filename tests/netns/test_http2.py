"""HTTP/2 and gRPC through the gateway, unmodified programs on both sides: curl, h2load, nginx, grpcio."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gateways import connect, gateway
from tests.support.grpc_programs import TOLD
from tests.support.netns import Namespace, Topology
from tests.support.processes import ROOT, run, started, wait_until

pytestmark = pytest.mark.netns

NGINX = """\
daemon off; master_process off; pid nginx.pid; error_log stderr crit; user root;
events {{ worker_connections 1000; }}
http {{
  access_log off; keepalive_requests 1000000; client_max_body_size 0;
  client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
  server {{ listen {host}:{port} http2; root files; location /small {{ return 200 "small"; }} }}
}}
"""


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="icp-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


def answers(where: Namespace, host: str, port: int) -> bool:
    """Whether something listens, as its own namespace sees it."""
    with contextlib.suppress(OSError):
        connect(where, host, port).close()
        return True
    return False


@contextlib.contextmanager
def nginx(where: Namespace, host: str, tmp_path: Path) -> Iterator[Path]:
    """An nginx that speaks HTTP/2 without TLS at port 8080; the directory of its files."""
    files = tmp_path / "files"
    files.mkdir()
    (tmp_path / "nginx.conf").write_text(NGINX.format(host=host, port=8080))
    with started(where.command("nginx", "-e", "stderr", "-p", str(tmp_path), "-c", "nginx.conf")):
        wait_until(lambda: answers(where, host, 8080), "nginx listens")
        yield files


def python(where: Namespace, *argv: str) -> list[str]:
    return where.command(
        "env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "tests.support.grpc_programs", *argv
    )


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_curl_and_nginx(bed: Topology, tmp_path: Path, direction: str) -> None:
    called, caller = (bed.app, bed.peer) if direction == "ingress" else (bed.peer, bed.app)
    with gateway(bed, tmp_path) as proxy, nginx(called, called.v4, tmp_path) as files:
        (files / "big").write_bytes(os.urandom(30_000_000))
        (files / "index.html").write_text("index")
        got = caller.run(
            "curl",
            "-sS",
            "--http2-prior-knowledge",
            "-w",
            "%{http_version} %{http_code}",
            f"http://{called.v4}:8080/",
        )
        assert got.stdout == "index2 200"
        fetched = tmp_path / "fetched"
        caller.run(
            "curl", "-sS", "--http2-prior-knowledge", "-o", str(fetched), f"http://{called.v4}:8080/big"
        )
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (files / "big", fetched)]
        assert digests[0] == digests[1]
        first, second = proxy.flows(2)
        assert (first["method"], first["path"], first["protocol"]) == ("GET", "/", "HTTP/2")
        assert (first["response_code"], first["bytes_sent"], first["direction"]) == (200, 5, direction)
        assert second["bytes_sent"] == 30_000_000
        assert first["request_id"]


def test_h2load(bed: Topology, tmp_path: Path) -> None:
    """Many connections with many streams each."""
    with gateway(bed, tmp_path) as proxy, nginx(bed.app, bed.app.v4, tmp_path):
        url = f"http://{bed.app.v4}:8080/small"
        said = bed.peer.run("h2load", "-n", "5000", "-c", "20", "-m", "20", url, timeout=60).stdout
        assert "5000 succeeded, 0 failed" in said, said
        lines = proxy.flows(5000)
        assert {line["response_code"] for line in lines} == {200}
        assert proxy.metric("istio_requests_total{") == 5000


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_grpc(bed: Topology, tmp_path: Path, direction: str) -> None:
    called, caller = (bed.app, bed.peer) if direction == "ingress" else (bed.peer, bed.app)
    with gateway(bed, tmp_path) as proxy, started(python(called, "server", called.v4, "8080")) as server:
        wait_until(
            lambda: server.poll() is not None or answers(called, called.v4, 8080), "the gRPC server listens"
        )
        done = run(python(caller, "client", called.v4, "8080"))
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == TOLD
        lines = proxy.flows(200)
        failed = next(line for line in lines if line["path"] == "/test.Service/fail")
        assert failed["response_code"] == 200
        scraped = proxy.get(15020, "/metrics")[1].splitlines()
        series = [line for line in scraped if line.startswith("istio_requests_total{")]
        statuses = {
            match[1] for line in series if (match := re.search(r'grpc_response_status="(\d+)"', line))
        }
        assert {"0", "5", "12"} <= statuses
        assert all('request_protocol="grpc"' in line for line in series)
        counted = {
            name: sum(float(line.rsplit(" ", 1)[1]) for line in scraped if line.startswith(name + "{"))
            for name in ("istio_request_messages_total", "istio_response_messages_total")
        }
        assert counted["istio_response_messages_total"] == 1205
        assert counted["istio_request_messages_total"] >= 1205  # and perhaps those that nobody answered
        server.kill()
        server.wait()
        again = run(python(caller, "client", called.v4, "8080"))
        assert "UNAVAILABLE" in again.stderr
        wait_until(lambda: "UF" in proxy.log.read_text(), "the refused upstream in the log")
