from __future__ import annotations

import json

import pytest
from pydantic import TypeAdapter, ValidationError

from interceptor.config.base import Duration, FilePath, Metadata, Name, Timestamp
from tests.support.documents import SIDECAR, problems, service_entry, sidecar

durations: TypeAdapter[float] = TypeAdapter(Duration)
names: TypeAdapter[str] = TypeAdapter(Name)
timestamps: TypeAdapter[str] = TypeAdapter(Timestamp)
files: TypeAdapter[str] = TypeAdapter(FilePath)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10s", 10),
        ("1m30s", 90),
        ("1h", 3600),
        ("500ms", 0.5),
        ("1.5s", 1.5),
        ("2m", 120),
        ("1h1m1s1ms", 3661.001),
    ],
)
def test_durations_are_gos(text: str, seconds: float) -> None:
    assert durations.validate_python(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "10", "s", "-1s", "1s1m", "1 s", "0s", "1d", "9999h", "\u0661s", 10, None]
)
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValidationError):
        durations.validate_python(text)


@pytest.mark.parametrize("text", ["a", "a.b-c", "0", "x" * 253])
def test_names_are_those_of_kubernetes(text: str) -> None:
    assert names.validate_python(text) == text


@pytest.mark.parametrize("text", ["", "A", "-a", "a.", "a b", "a\n", "x" * 254])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        names.validate_python(text)


def test_timestamps_are_written_as_the_api_server_does() -> None:
    assert timestamps.validate_python("2026-01-31T12:00:00Z") == "2026-01-31T12:00:00Z"
    with pytest.raises(ValidationError, match="is not a time; write it like"):
        timestamps.validate_python("2026-01-31")


def test_the_bookkeeping_of_the_api_server_is_accepted_and_dropped() -> None:
    kept = {"name": "a", "creationTimestamp": None}
    dropped = {"uid": "1", "resourceVersion": "2", "generation": 3, "managedFields": [{}], "finalizers": []}
    assert Metadata.model_validate({**kept, **dropped}).model_dump() == Metadata(name="a").model_dump()


def test_a_document_is_known_by_namespace_and_name() -> None:
    assert sidecar().full_name == "default/app"
    assert list(sidecar().notes()) == []
    entry = service_entry("{hosts: [a.b], ports: [{number: 1, name: x}]}", "{name: n, namespace: s}")
    assert entry.full_name == "s/n"


def test_labels_are_text() -> None:
    text = "apiVersion: interceptor/v1\nkind: Sidecar\nmetadata:\n  name: a\n  labels:\n    version: 1\n"
    assert problems(text) == ["6: metadata.labels.version: must be text, not 1; put it in quotes"]


def test_a_path_is_no_file_and_what_a_file_holds_is_not_repeated() -> None:
    assert files.validate_python("/run/tls.key") == "/run/tls.key"
    for contents in ("-----BEGIN PRIVATE KEY-----SECRET", "SECRET\nSECRET", "a\0b"):
        spec = {"tls": {"certificate": "/c", "privateKey": contents, "trustBundle": "/b"}}
        [problem] = problems(f"{SIDECAR}spec: {json.dumps(spec)}\n")
        assert problem.endswith("is not the path of a file; give the path, not what the file holds")
        assert "SECRET" not in problem
