"""HTTP through the whole gateway: real clients, real servers, nothing declared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.gateways import connect, gateway, server
from tests.support.netns import Namespace, Topology
from tests.support.processes import listens, wait_until

pytestmark = [pytest.mark.netns, pytest.mark.slow]

NGINX = """\
daemon off; master_process off; pid {directory}/nginx.pid; error_log stderr;
events {{}}
http {{
  access_log off; client_body_temp_path {directory}/b; proxy_temp_path {directory}/p; fastcgi_temp_path {directory}/f;
  uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s; client_max_body_size 0;
  server {{
    listen {host}:{port};
    location / {{ return 200 "$server_protocol $http_host $request_uri\\n"; }}
    location /files/ {{ alias {directory}/files/; dav_methods PUT; create_full_put_path on; }}
    location /none {{ return 204; }}
  }}
}}
"""
BODY = bytes(range(256)) * 40_000  # 10 MB


@contextmanager
def nginx(where: Namespace, directory: Path, port: int = 8080) -> Iterator[None]:
    """nginx on a namespace's own address, with a file of 10 MB."""
    home = directory / "nginx"
    (home / "files").mkdir(parents=True)
    (home / "files" / "large").write_bytes(BODY)
    (home / "nginx.conf").write_text(NGINX.format(directory=home, host=where.v4, port=port))
    process = where.popen("nginx", "-e", "stderr", "-p", str(home), "-c", "nginx.conf")
    try:
        wait_until(listens(where, where.v4, port), "nginx listens")
        yield
    finally:
        process.terminate()
        process.wait(10)


def curl(where: Namespace, *options: str) -> str:
    return where.run("curl", "--silent", "--show-error", "--fail", "--max-time", "20", *options).stdout


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_curl_and_nginx(bed: Topology, tmp_path: Path, direction: str) -> None:
    client, called = (bed.peer, bed.app) if direction == "ingress" else (bed.app, bed.peer)
    base = f"http://{called.v4}:8080"
    large = tmp_path / "fetched"
    with nginx(called, tmp_path), gateway(bed, tmp_path, "ALLOW_ANY") as proxy:
        assert curl(client, f"{base}/a?b") == f"HTTP/1.1 {called.v4}:8080 /a?b\n"
        assert curl(client, "--http1.0", f"{base}/") == f"HTTP/1.0 {called.v4}:8080 /\n"
        assert curl(client, "--head", f"{base}/").startswith("HTTP/1.1 200 OK")
        assert curl(client, f"{base}/none") == ""
        assert curl(client, f"{base}/1", f"{base}/2").count("HTTP/1.1") == 2  # one connection
        curl(client, "--output", str(large), f"{base}/files/large")
        assert large.read_bytes() == BODY
        curl(
            client,
            "--header",
            "Expect: 100-continue",
            "--header",
            "Transfer-Encoding: chunked",
            "--upload-file",
            str(large),
            f"{base}/files/up",
        )
        assert (tmp_path / "nginx/files/up").read_bytes() == BODY
        lines = proxy.flows(8)
        assert {line["direction"] for line in lines} == {direction}
        assert {line["relay"] for line in lines} == {"http"}
        assert [line["response_code"] for line in lines] == [200, 200, 200, 204, 200, 200, 200, 201]
        assert lines[0]["path"] == "/a?b"
        assert lines[0]["protocol"] == "HTTP/1.1"
        assert lines[1]["protocol"] == "HTTP/1.0"
        assert lines[6]["bytes_sent"] == lines[7]["bytes_received"] == len(BODY)
        assert all(line["request_id"] for line in lines)
        reporter = "destination" if direction == "ingress" else "source"
        assert proxy.metric("istio_requests_total{") == proxy.metric("istio_response_bytes_count{") == 8
        assert f'reporter="{reporter}"' in proxy.get(15020, "/metrics")[1]
        assert proxy.metric("istio_tcp_connections_opened_total{") == 0
        found = f'interceptor_detections_total{{direction="{direction}",port="8080",result="http1"}}'
        assert proxy.metric(found) == proxy.metric("interceptor_detections_total{") == 7


def test_nobody_there_is_503_for_http(bed: Topology, tmp_path: Path) -> None:
    with gateway(bed, tmp_path, "ALLOW_ANY") as proxy:
        answer = bed.peer.run(
            "curl", "--silent", "--include", "--max-time", "20", f"http://{bed.app.v4}:8081/"
        ).stdout
        assert answer.startswith("HTTP/1.1 503 Service Unavailable")
        assert "interceptor: " in answer
        (line,) = proxy.flows(1)
        assert (line["response_code"], line["response_flags"]) == (503, "UF")


def test_redis_and_a_server_that_speaks_first_need_no_declaration(bed: Topology, tmp_path: Path) -> None:
    redis = bed.app.popen(
        "redis-server",
        "--bind",
        bed.app.v4,
        "--port",
        "6379",
        "--save",
        "",
        "--protected-mode",
        "no",
        "--logfile",
        str(tmp_path / "redis.log"),
    )
    try:
        wait_until(listens(bed.app, bed.app.v4, 6379), "redis listens")
        with gateway(bed, tmp_path, "ALLOW_ANY") as proxy:
            assert bed.peer.run("redis-cli", "-h", bed.app.v4, "ping").stdout == "PONG\n"
            with server(bed.app, bed.app.v4, 2222) as listener, connect(bed.peer, bed.app.v4, 2222) as client:
                accepted, _ = listener.accept()
                with accepted:
                    accepted.sendall(b"SSH-2.0-test\r\n")
                    client.settimeout(3)
                    assert client.recv(100) == b"SSH-2.0-test\r\n"
            assert {line["relay"] for line in proxy.flows(2)} <= {"copy", "splice"}
            for port in (6379, 2222):
                found = f'interceptor_detections_total{{direction="ingress",port="{port}",result="opaque"}}'
                assert proxy.metric(found) == 1
    finally:
        redis.terminate()
        redis.wait(10)


def test_wrk_gets_every_answer(bed: Topology, tmp_path: Path) -> None:
    with nginx(bed.app, tmp_path), gateway(bed, tmp_path, "ALLOW_ANY"):
        said = bed.peer.run("wrk", "-t1", "-c20", "-d2s", f"http://{bed.app.v4}:8080/").stdout
        assert "requests in" in said
        assert "Non-2xx" not in said
        assert "Socket errors" not in said
