"""``interceptor explain`` from files, and what it says where it cannot."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from interceptor.cli import explain, gateway
from tests.support.documents import SIDECAR
from tests.support.policies import policy_text

DENY = policy_text("{action: DENY, rules: [{from: [{source: {ipBlocks: [10.0.0.0/8]}}]}]}", "{name: deny}")


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(f"{SIDECAR}---\n{DENY}")
    return str(path)


def test_an_answer_for_people(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert gateway.main(["explain", "--config", file, "--from", "10.0.0.1", "--to-port", "8080"]) == 0
    output = capsys.readouterr().out
    assert output.startswith("ingress: 10.0.0.1 to port 8080 of the app\n")
    assert "verdict: denied by AuthorizationPolicy default/deny" in output


def test_an_answer_for_programs(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    question = [
        "--to-port",
        "80",
        "--method",
        "GET",
        "--header",
        "a: b",
        "--header",
        "c: d",
        "--jwt-claim",
        "x=y",
    ]
    assert gateway.main(["explain", "--config", file, "--output", "json", *question]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["verdict"], "text" in found) == ("allowed", False)


def test_what_is_no_question_is_refused_whole(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert gateway.main(["explain", "--config", file, "--from", "x"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "interceptor: say where the connection goes: to-port for one to the app, to for one of the app's own",
        "interceptor: from: 'x' is not an IP address; write it like 10.0.0.1 or fd00::1",
    ]


def test_without_a_proxy_it_says_how_to_ask_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert gateway.main(["explain", "--admin", f"127.0.0.1:{port}", "--to-port", "80"]) == 1
    assert "is the proxy running here? Ask in its network namespace" in capsys.readouterr().err
    assert gateway.main(["explain", "--admin", "nonsense", "--to-port", "80"]) == 2
    assert "--admin: 'nonsense' is not an address with a port" in capsys.readouterr().err


def test_readiness_for_strict_is_said_by_port_and_peer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = [{"port": 80, "connections": 3, "peers": {"10.0.0.9": 2, "fd00::9": 1}}]
    monkeypatch.setattr(explain, "fetch", lambda _admin, _path: ports)
    assert gateway.main(["explain", "--strict-readiness"]) == 3
    assert capsys.readouterr().out.splitlines() == [
        "port 80: 3 connections without mutual TLS",
        "  10.0.0.9: 2",
        "  fd00::9: 1",
    ]
    assert gateway.main(["explain", "--strict-readiness", "--output", "json"]) == 3
    assert json.loads(capsys.readouterr().out) == ports
    ports.clear()
    assert gateway.main(["explain", "--strict-readiness"]) == 0
    assert capsys.readouterr().out == "no peer connected without mutual TLS since the proxy started\n"
