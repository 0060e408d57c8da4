from __future__ import annotations

import json
from pathlib import Path

import pytest

from interceptor.cli import difference, gateway
from tests.support.documents import SIDECAR, service_entry_text

ENTRY = service_entry_text("{hosts: [a.example], addresses: [192.0.2.1], ports: [{number: 80, name: http}]}")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    made = tmp_path / "old.yaml"
    made.write_text(SIDECAR)
    return made


@pytest.fixture
def new(tmp_path: Path) -> Path:
    made = tmp_path / "new"
    made.mkdir()
    (made / "sidecar.yaml").write_text(SIDECAR)
    (made / "entry.yaml").write_text(ENTRY)
    return made


def recorded(tmp_path: Path, *lines: str) -> str:
    made = tmp_path / "access.log"
    made.write_text("\n".join(lines))
    return str(made)


def test_it_exits_with_3_where_something_goes_elsewhere(
    old: Path, new: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = recorded(tmp_path, '{"to": "192.0.2.1:80"}', "", '{"to": "192.0.2.2:80"}')
    assert gateway.main(["diff", str(old), str(new), "--recorded", log, "--output", "json"]) == 3
    [change] = json.loads(capsys.readouterr().out)
    assert (change["before"]["cluster"], change["after"]["cluster"]) == (
        "PassthroughCluster",
        "outbound|80||a.example",
    )
    assert gateway.main(["diff", str(old), str(old), "--recorded", log]) == 0
    assert capsys.readouterr().out == "nothing recorded would be decided otherwise\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("no JSON", "this is no line of the access log in JSON, and no description; see --help"),
        ("[" * 50_000, "this is no line of the access log in JSON, and no description; see --help"),
        (
            '{"to": "' + "x" * difference.MAX_LINE,
            "this is no line of the access log in JSON, and no description; see --help",
        ),
        ('{"port": 1}', "there is no field 'port'"),
        ('{"direction": "ingress", "original_dst": "10.0.0.1:1", "peer": "x"}', "'x'"),
    ],
)
def test_what_is_no_record_is_said_with_its_line(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    log = recorded(tmp_path, "", line)
    assert gateway.main(["diff", str(old), str(old), "--recorded", log]) == 2
    told = capsys.readouterr().err
    assert f"{log}:2: " in told
    assert said in told


def test_what_the_log_cannot_tell_is_said_beside_the_answer(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = {
        "direction": "egress",
        "original_dst": "192.0.2.1:80",
        "peer": "10.0.0.1:1",
        "method": "GET",
        "path": "/",
    }
    log = recorded(tmp_path, json.dumps({**line, "authority": "a.example", "route_name": "mine"}))
    assert gateway.main(["diff", str(old), str(old), "--recorded", log]) == 0
    told = capsys.readouterr()
    assert told.out == "nothing recorded would be decided otherwise\n"
    assert told.err.startswith("1 of what was recorded cannot be told")
