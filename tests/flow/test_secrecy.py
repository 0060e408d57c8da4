"""Keys stay where they are: nothing that the whole proxy says holds any of one, whatever is wrong with it."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from interceptor.tls.authority import Pair
from tests.flow.test_spiffe_process import free_ports, get
from tests.support.identities import DB, WEB, Root
from tests.support.processes import interceptor, run, wait_until

pytestmark = pytest.mark.slow
TOKEN = "a-token-that-only-pushers-know"


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


def material(*pairs: Pair) -> list[str]:
    """What must not be seen: every line of a key that holds any of it, and its number in every notation."""
    found = [TOKEN]
    for pair in pairs:
        key = load_pem_private_key(pair.key, None)
        assert isinstance(key, EllipticCurvePrivateKey)
        number = key.private_numbers().private_value
        found += [line for line in pair.key.decode().splitlines() if not line.startswith("-----")]
        found += [str(number), f"{number:x}", f"{number:X}"]
    return found


def for_proxy(path: Path, content: bytes, mode: int = 0o600) -> None:
    """A file that the proxy's user may read, whoever runs the tests."""
    path.write_bytes(content)
    if os.geteuid() == 0:
        os.chown(path, 1337, 1337)
    path.chmod(mode)


def put(port: int, body: str, token: str = TOKEN) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/yaml"}
    connection.request("PUT", "/config", body, headers)
    answer = connection.getresponse()
    said = f"{answer.status} {answer.read().decode()}"
    connection.close()
    return said


def inline(document: dict[str, object], key: str) -> str:
    """The same Sidecar with the key itself where its path belongs."""
    made = json.loads(json.dumps(document))
    made["spec"]["tls"]["privateKey"] = key
    return json.dumps(made)


def test_no_key_is_ever_told(place: Path) -> None:
    root = Root()
    pair, other = root.issue(DB), root.issue(WEB)
    certificate, key, bundle, token = (place / name for name in ("tls.crt", "tls.key", "ca.crt", "token"))
    certificate.write_bytes(pair.certificate)
    for_proxy(key, pair.key)
    bundle.write_bytes(root.pair.certificate)
    for_proxy(token, TOKEN.encode())
    ingress, egress, admin, telemetry = free_ports(4)
    tls = {"certificate": str(certificate), "privateKey": str(key), "trustBundle": str(bundle)}
    document: dict[str, object] = {
        "apiVersion": "interceptor/v1",
        "kind": "Sidecar",
        "metadata": {"name": "db", "namespace": "shop"},
        "spec": {
            "serviceAccount": "db",
            "ingress": {"port": ingress},
            "egress": {"port": egress},
            "admin": {"address": f"127.0.0.1:{admin}"},
            "telemetry": {"address": f"127.0.0.1:{telemetry}"},
            "tls": tls,
            "discovery": {"push": {"enabled": True, "tokenFile": str(token)}},
        },
    }
    config, log, said = place / "sidecar.json", place / "log", []
    config.write_text(json.dumps(document))
    argv = interceptor("proxy", "--config", str(config), "--log-level", "debug")
    with log.open("wb") as out, subprocess.Popen(argv, stdout=out, stderr=out) as process:
        try:
            wait_until(lambda: get(telemetry, "/healthz/ready")[0] == 200, "ready")
            faults = {
                "every user of this machine can read": (pair.key, 0o644),
                "does not belong": (other.key, 0o600),
                "holds no": (pair.key[:100], 0o600),
            }
            for words, (content, mode) in faults.items():
                before = log.read_text().count("\n")
                for_proxy(key, content, mode)
                wait_until(lambda n=before: log.read_text().count("\n") > n, f"{words}, in the log")  # type: ignore[misc]  # mypy reads it without its default
            said.append(put(admin, inline(document, pair.key.decode())))
            said.append(put(admin, pair.key.decode()))
            said.append(put(admin, "{}", token="wrong"))
            paths = ("/config_dump", "/connections", "/clusters", "/listeners", "/certs", "/stats", "/ready")
            said += [get(admin, path)[1] for path in (*paths, "/explain?to-port=80", "/explain?readiness")]
            said.append(get(telemetry, "/metrics")[1])
        finally:
            process.terminate()
            process.wait(20)
    told = log.read_text()
    (place / "inline.json").write_text(inline(document, other.key.decode()))
    for command in (("check",), ("proxy", "--config"), ("explain", "--to-port=80", "--config")):
        for file in (place / "inline.json", key):
            done = run(interceptor(*command, str(file)))
            assert done.returncode == 2
            said += [done.stdout, done.stderr]
    everything = "\n".join((told, *said))
    assert "give the path, not what the file holds" in everything
    assert all(words in told for words in faults), told
    assert [each for each in material(pair, other) if each in everything] == []
