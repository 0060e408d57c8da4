from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from interceptor.discovery import file
from interceptor.discovery.file import check, load
from interceptor.errors import ConfigError
from tests.support.documents import SIDECAR, service_entry_text
from tests.support.policies import security_text
from tests.support.tokens import jwks

ENTRY = service_entry_text("{hosts: [a.b], ports: [{number: 443, name: x}]}")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sidecar.yaml").write_text(SIDECAR)
    (tmp_path / "entry.yaml").write_text(ENTRY)
    return tmp_path


def problems(*paths: str, stdin: bytes = b"") -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(paths, io.BytesIO(stdin))
    return list(caught.value.problems)


def test_several_files_are_one_configuration(here: Path) -> None:
    made = load(["sidecar.yaml", "entry.yaml"])
    assert [str(document) for document in made.documents] == [
        "sidecar.yaml:1: Sidecar default/app: accepted",
        "entry.yaml:1: ServiceEntry default/entry: accepted",
    ]


def test_a_dash_is_standard_input(here: Path) -> None:
    assert load(["-", "entry.yaml"], io.BytesIO(SIDECAR.encode())).sidecar.full_name == "default/app"
    assert problems("-", stdin=b"- a\n")[1].startswith("standard input:1: a document must be a mapping")


def test_standard_input_of_the_process_is_read_where_none_is_given(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(SIDECAR.encode())))
    assert load(["-"]).sidecar.full_name == "default/app"


def test_a_byte_order_mark_is_no_part_of_the_text(here: Path) -> None:
    (here / "sidecar.yaml").write_bytes(b"\xef\xbb\xbf" + SIDECAR.encode())
    assert load(["sidecar.yaml"]).sidecar.full_name == "default/app"


def test_a_sidecar_is_needed_to_load_and_not_to_check(here: Path) -> None:
    assert problems("entry.yaml") == [
        "entry.yaml: there is no Sidecar document; add one with apiVersion interceptor/v1 and metadata.name"
    ]
    assert check(["entry.yaml"]).accepted


def test_a_file_that_cannot_be_read_does_not_hide_other_problems(here: Path) -> None:
    (here / "entry.yaml").write_text(ENTRY + "x: 1\n")
    assert problems("missing.yaml", "entry.yaml") == [
        "missing.yaml: cannot be read: No such file or directory; give the path of a file that this user may read",
        "entry.yaml:5: x: there is no such field; known are: metadata, spec",
    ]


def test_what_is_no_text_file_is_refused(here: Path) -> None:
    (here / "latin.yaml").write_bytes(b"a: 1\nb: \xe9\n")
    assert problems("latin.yaml") == ["latin.yaml:2: this is not UTF-8 text; save the file as UTF-8"]
    (here / "empty").mkdir()
    assert problems("empty") == [
        "empty: the directory holds no file that ends in .yaml, .yml, .json; put one into it"
    ]
    assert problems("a\0b") == ["'a\\x00b': this is not the path of a file; give one"]


def test_a_file_that_never_ends_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = "/dev/zero: the file is larger than 1024 KiB; split it into several files"
    assert problems(os.devnull.replace("null", "zero")) == [message]


def test_the_limit_counts_characters_and_not_bytes(here: Path) -> None:
    padding = "# " + "\U0001f600" * 1_000_000 + "\n"
    assert len(padding.encode()) < file._MAX_BYTES
    (here / "sidecar.yaml").write_text(padding + SIDECAR)
    assert load(["sidecar.yaml"]).documents[0].line == 2


def test_a_file_given_twice_is_read_once(here: Path) -> None:
    assert problems("sidecar.yaml", "sidecar.yaml") == ["sidecar.yaml: the file is given twice; give it once"]
    assert problems("-", "-", stdin=SIDECAR.encode()) == [
        "standard input: the file is given twice; give it once"
    ]


def test_a_report_prints_problems_then_documents_then_notes(here: Path) -> None:
    (here / "policy.yaml").write_text(security_text("AuthorizationPolicy", "{action: DENY}", "{name: none}"))
    (here / "bad.yaml").write_text(SIDECAR + "spec: []")
    report = check(["policy.yaml", "bad.yaml"])
    assert not report.accepted
    lines = report.lines()
    assert lines[:3] == [
        "bad.yaml:4: spec: must be a mapping with fields of its own, not a list",
        "policy.yaml:1: AuthorizationPolicy default/none: accepted",
        "bad.yaml:1: Sidecar default/app: rejected (1 problem)",
    ]
    assert lines[3].startswith(
        "policy.yaml:1: spec.rules: there are none, so it never matches: it denies nothing"
    )
    assert len(lines) == 4


def test_a_document_that_decides_nothing_is_said_to(here: Path) -> None:
    for name in ("a", "b"):
        text = security_text("PeerAuthentication", "{mtls: {mode: STRICT}}", f"{{name: {name}}}")
        (here / f"{name}.yaml").write_text(text)
    report = check(["sidecar.yaml", "a.yaml", "b.yaml"])
    assert report.accepted
    assert [each.notes for each in report.documents[:2]] == [(), ()]
    assert report.lines()[-1].startswith("b.yaml:1: it is ignored: default/a has the same scope")
    assert check(["a.yaml", "b.yaml"]).accepted  # without a workload nobody knows


def authentication(path: Path) -> str:
    return security_text("RequestAuthentication", f"{{jwtRules: [{{issuer: i, jwksUri: 'file://{path}'}}]}}")


def test_keys_in_a_file_of_their_own_are_read_with_the_document(here: Path) -> None:
    (here / "keys.json").write_text(jwks())
    (here / "jwt.yaml").write_text(authentication(here / "keys.json"))
    [made] = load(["sidecar.yaml", "jwt.yaml"]).request_authentications
    assert made.spec.jwtRules[0].jwks == jwks()


@pytest.mark.parametrize(
    ("content", "found"),
    [(None, "cannot be read: No such file"), (b"{}", "is not a JSON Web Key Set"), (b"\xff", "can't decode")],
)
def test_keys_that_cannot_be_had_are_the_documents_problem(
    here: Path, content: bytes | None, found: str
) -> None:
    if content is not None:
        (here / "keys.json").write_bytes(content)
    (here / "jwt.yaml").write_text(authentication(here / "keys.json"))
    [problem] = problems("sidecar.yaml", "jwt.yaml")
    assert problem.startswith("jwt.yaml:1: spec.jwtRules[0].jwksUri: ")
    assert found in problem
