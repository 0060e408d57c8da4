"""The gateway whole in a namespace: rules by ``sidecar-setup``, the proxy as a process of its own, what it tells."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.netns import Namespace, Topology
from tests.support.processes import interceptor, run, sidecar_setup, started, wait_until

SIDECAR = """\
apiVersion: interceptor/v1
kind: Sidecar
metadata: {name: shop, namespace: demo, labels: {role: demo}}
spec:
  workers: %(workers)s
  limits: {connections: %(limit)s}
  accessLog: {path: %(log)s}
  timeouts: {connect: 2s, drainDelay: 100ms, drain: %(drain)s}
  egress: {policy: %(policy)s}
  ingress: {ports: [{port: 8001}]}
  dns: %(dns)s
  discovery: %(discovery)s
  healthChecks: %(checks)s
"""


@dataclass
class Gateway:
    """A running proxy with rules, and what it tells."""

    bed: Topology
    process: subprocess.Popen[str]
    log: Path

    def get(self, port: int, path: str, method: str = "GET") -> tuple[int, str]:
        """An answer of the proxy's own endpoints, asked from inside the namespace; status 0 while nobody answers."""

        def ask() -> tuple[int, str]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                connection.request(method, path)
                answer = connection.getresponse()
                return answer.status, answer.read().decode()
            except OSError:
                return 0, ""
            finally:
                connection.close()

        return self.bed.app.call(ask)

    def metric(self, line: str) -> float:
        """The value of the one series whose line begins so."""
        found = [text for text in self.get(15020, "/metrics")[1].splitlines() if text.startswith(line)]
        return sum(float(text.rpartition(" ")[2]) for text in found)

    def flows(self, count: int) -> list[dict[str, object]]:
        """The access log, once it has so many lines."""
        wait_until(lambda: self.log.read_text().count("\n") >= count, f"{count} lines in the access log")
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@contextmanager
def gateway(
    bed: Topology,
    tmp_path: Path,
    policy: str = "ALLOW_ANY",
    more: str = "",
    *,
    drain: str = "5s",
    workers: int = 1,
    limit: int = 8192,
    dns: str = "null",
    discovery: str = "{}",
    checks: str = "[]",
    flags: tuple[str, ...] = (),
) -> Iterator[Gateway]:
    log = tmp_path / "access.log"
    log.touch()
    log.chmod(0o666)
    config = tmp_path / "sidecar.yaml"
    given = {"log": log, "policy": policy, "drain": drain, "workers": workers, "limit": limit, "dns": dns}
    given |= {"discovery": discovery, "checks": checks}
    config.write_text(SIDECAR % given + more)
    applied = run(sidecar_setup("apply", "--netns", bed.app.name, *flags))
    assert applied.returncode == 0, applied.stderr
    with started(interceptor("proxy", "--config", str(config), "--netns", bed.app.name)) as process:
        made = Gateway(bed, process, log)
        wait_until(lambda: made.get(15020, "/healthz/ready")[0] == 200 or process.poll() is not None, "ready")
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        yield made


def server(where: Namespace, host: str, port: int) -> socket.socket:
    """A listening socket in a namespace."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = where.call(lambda: socket.create_server((host, port), family=family))
    made.settimeout(30)
    return made


def connect(where: Namespace, host: str, port: int) -> socket.socket:
    """A connected socket from a namespace (root's: captured like any uid but the proxy's)."""
    return where.call(lambda: socket.create_connection((host, port), timeout=30))
