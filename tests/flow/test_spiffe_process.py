"""The whole proxy with two workers and a SPIFFE agent: what it tells, and that every worker has what the agent gave."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from tests.support.identities import DB, Root
from tests.support.processes import interceptor, started, wait_until
from tests.support.workload_api import Agent, answer, svid_of

pytestmark = pytest.mark.slow


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that the proxy's user can read, whoever runs the tests."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


def free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [each.getsockname()[1] for each in held]


def get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    except OSError:
        return 0, ""
    finally:
        connection.close()


def test_every_worker_has_what_the_agent_gives_also_one_that_is_started_later(place: Path) -> None:
    root, agent = Root(), Agent(place)
    agent.start()
    agent.path.chmod(0o777)
    ingress, egress, admin, telemetry = free_ports(4)
    document = {
        "apiVersion": "interceptor/v1",
        "kind": "Sidecar",
        "metadata": {"name": "db", "namespace": "shop"},
        "spec": {
            "serviceAccount": "db",
            "workers": 2,
            "ingress": {"port": ingress},
            "egress": {"port": egress},
            "admin": {"address": f"127.0.0.1:{admin}"},
            "telemetry": {"address": f"127.0.0.1:{telemetry}"},
            "tls": {"workloadApi": {}},
        },
    }
    config = place / "sidecar.json"
    config.write_text(json.dumps(document))
    argv = interceptor("proxy", "--config", str(config))
    with started(argv, SPIFFE_ENDPOINT_SOCKET=agent.address) as process:
        told = wait_until(
            lambda: text if "PERMISSION_DENIED" in (text := get(telemetry, "/healthz/ready")[1]) else "",
            "not ready, and why",
        )
        assert "it has no identity for this process; register one for the proxy's user" in told
        agent.say(answer(svid_of(DB, root.issue(DB), root)))
        wait_until(lambda: get(telemetry, "/healthz/ready")[0] == 200, "ready")
        assert json.loads(get(admin, "/certs")[1])[0]["identity"] == str(DB)
        metrics = get(telemetry, "/metrics")[1]
        assert "interceptor_workload_api_connected 1.0" in metrics
        assert 'interceptor_workload_api_updates_total{result="accepted"} 1.0' in metrics
        expiry = f'interceptor_certificate_expiry_seconds{{file="{agent.address}"}}'
        wait_until(lambda: expiry in get(telemetry, "/metrics")[1], "its expiry, at the next look")
        assert get(admin, "/config_dump")[1].count("PRIVATE") == 0

        first, _ = (each["pid"] for each in json.loads(get(admin, "/config_dump")[1])["workers"])
        os.kill(first, signal.SIGKILL)

        def replaced() -> bool:
            workers = json.loads(get(admin, "/config_dump")[1])["workers"]
            return len(workers) == 2 and all(each["ready"] and each["pid"] != first for each in workers)

        wait_until(replaced, "another worker")
        agent.say(grpc.StatusCode.PERMISSION_DENIED)
        wait_until(lambda: get(telemetry, "/healthz/ready")[0] == 503, "not ready any more")
        agent.stop()
        process.terminate()
        assert process.wait(20) == 0
        assert process.stderr is not None
        log = process.stderr.read()
    assert log.count("new certificates are in use: spiffe://cluster.local/ns/shop/sa/db") == 4, (
        log
    )  # 3 workers and the first
    assert log.count("took the identity back") == 3
    assert log.count(" ERROR ") == 1 + 3, log  # the worker that was killed, and those
