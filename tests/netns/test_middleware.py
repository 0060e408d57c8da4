"""Middleware in the whole gateway: nginx behind it, curl before it, a user's own module, metrics and log."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.gateways import gateway
from tests.support.netns import Topology
from tests.support.processes import interceptor, listens, run, wait_until

pytestmark = pytest.mark.netns

OWN = """\
from interceptor.middleware import Body, Exchange, Next, Response, put

class Own:
    def __init__(self, mark: str) -> None:
        self.mark = mark.encode()

    async def __call__(self, exchange: Exchange, call_next: Next) -> Response:
        if exchange.request.target == b"/broken":
            raise KeyError("a fault of the user's")
        response = await call_next()
        put(response.head.headers, b"x-mark", self.mark)
        response.body = Body(self.upper(response.body))
        return response

    async def upper(self, body: Body):
        async for chunk in body:
            yield chunk.upper()
"""

MIDDLEWARE = """\
  middleware:
    - {name: opens, use: rateLimit, scope: connection, direction: ingress, config: {perKey: {by: [peer], rate: 6/h}}}
    - {name: log, use: accessLog, config: {extraFields: {agent: "%%REQ(user-agent)%%"}}}
    - {name: door, use: apiKey, direction: ingress, config: {keysFile: %(keys)s, header: x-api-key}}
    - {name: calls, use: rateLimit, direction: ingress, config: {perKey: {by: [principal], rate: 4/h}}}
    - {name: own, use: "own_module:Own", direction: ingress, config: {mark: seen}}
"""

NGINX = """\
daemon off; error_log stderr; pid %(at)s/pid; worker_processes 1; user root;
events {}
http {
  access_log off;
  client_body_temp_path %(at)s/body; proxy_temp_path %(at)s/proxy; fastcgi_temp_path %(at)s/f;
  uwsgi_temp_path %(at)s/u; scgi_temp_path %(at)s/s;
  server { listen 8001; location / { return 200 "hello $http_x_api_key\\n"; } }
}
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that the proxy's user may enter."""
    with tempfile.TemporaryDirectory(prefix="icp-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


@contextmanager
def nginx(bed: Topology, place: Path) -> Iterator[None]:
    (place / "nginx.conf").write_text(NGINX % {"at": place})
    process = bed.app.popen("nginx", "-e", "stderr", "-c", str(place / "nginx.conf"))
    try:
        wait_until(listens(bed.app, "127.0.0.1", 8001), "nginx")
        yield
    finally:
        process.terminate()
        process.wait(30)


def curl(bed: Topology, path: str, *more: str) -> tuple[int, str, str]:
    """The status (0: no answer), the body, and the header x-mark."""
    done = bed.peer.run(
        "curl", "-s", "-o", "-", "-w", "\\n%{http_code} %header{x-mark}", *more,
        f"http://{bed.app.address(4)}:8001{path}", check=False,
    )  # fmt: skip
    body, _, last = done.stdout.rpartition("\n")
    status, _, mark = last.partition(" ")
    return int(status), body, mark


def test_nginx_and_curl_with_everything_between(
    bed: Topology, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "own_module.py").write_text(OWN)
    (place / "keys").write_text("shop:k-1\n")
    (place / "keys").chmod(0o644)
    monkeypatch.setenv("PYTHONPATH", f"{place}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with nginx(bed, place), gateway(bed, place, more=MIDDLEWARE % {"keys": place / "keys"}) as made:
        key = ("-H", "X-API-Key: k-1")
        assert curl(bed, "/")[0] == 401
        assert curl(bed, "/", *key) == (200, "HELLO \n", "seen")
        assert curl(bed, "/", *key, "-d", "x" * 100_000)[0] == 200
        assert curl(bed, "/broken", *key)[0] == 500
        assert curl(bed, "/", *key)[0] == 200
        assert curl(bed, "/", *key)[:2] == (429, "interceptor: rate limit 'calls' is exceeded\n")
        assert curl(bed, "/", *key)[0] == 0  # the seventh connection in the hour
        lines = [line for line in made.flows(7) if line["method"]]
        assert [line["response_code"] for line in lines] == [401, 200, 200, 500, 200, 429]
        assert [line["response_flags"] for line in lines] == ["UAEX", "-", "-", "LR", "-", "RL"]
        assert all(str(line["fields"]["agent"]).startswith("curl/") for line in lines)  # type: ignore[index] # JSON
        assert "k-1" not in made.log.read_text()
        assert made.metric('interceptor_middleware_errors_total{name="own"}') == 1
        assert made.metric('interceptor_middleware_duration_seconds_count{name="own"}') == 4
        assert (
            made.metric('interceptor_connections_denied_total{direction="ingress",reason="rate_limit"}') == 1
        )
        assert "k-1" not in made.get(15000, "/config_dump")[1]
        made.process.terminate()
        _, errors = made.process.communicate(timeout=30)
        assert "middleware 'own' failed" in errors
        assert "k-1" not in errors


def test_what_cannot_be_used_stops_the_start_and_says_so(place: Path) -> None:
    config = place / "sidecar.yaml"
    head = "apiVersion: interceptor/v1\nkind: Sidecar\nmetadata: {name: a}\nspec:\n  middleware:\n"
    config.write_text(f"{head}  - {{name: own, use: 'no_such_module:Own'}}\n")
    for command in (("check", str(config)), ("proxy", "--config", str(config))):
        done = run(interceptor(*command))
        assert done.returncode == 2
        said = done.stdout + done.stderr
        assert f"{config}:6: spec.middleware[0].use: there is no module 'no_such_module'" in said
    config.write_text(f"{head}  - {{name: door, use: basic, config: {{usersFile: /nowhere}}}}\n")
    assert run(interceptor("check", str(config))).returncode == 0  # the file may be elsewhere
    done = run(interceptor("proxy", "--config", str(config)))
    assert done.returncode == 2
    assert "spec.middleware[0] (door): '/nowhere' cannot be read (No such file or directory)" in done.stderr
    assert "Traceback" not in done.stderr
