from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from interceptor.config import documents as documents_module
from interceptor.config.configuration import PLACES, Configuration
from interceptor.discovery.judge import judged, start
from interceptor.discovery.verdict import (
    Ask,
    Judged,
    Seen,
    by_place,
    composed,
)  # fmt: skip
from interceptor.errors import ConfigError
from interceptor.state.snapshot import take
from tests.support.documents import SIDECAR, service_entry_text

PUSHED = "application/yaml"


def entry(name: str, address: str = "192.0.2.1") -> str:
    return service_entry_text(
        f"{{hosts: [{name}.example], addresses: [{address}], ports: [{{number: 80, name: http}}]}}",
        f"{{name: {name}}}",
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "f.yaml"
    made.write_text("---\n".join((SIDECAR, entry("a"), entry("b"))))
    return made


def ask(file: Path, push: str | None = None, pushed: dict[str, str] | None = None, **more: object) -> Ask:
    body = None if push is None else (PUSHED, push.encode())
    return Ask((str(file),), None, (), pushed or {}, body, **more)  # type: ignore[arg-type]  # each test gives what it needs


def names(documents: list[Judged]) -> list[str]:
    return [each.status.name for each in documents]


def test_a_start_composes_what_the_files_say(file: Path) -> None:
    made = start((str(file),))
    configuration = composed(by_place(made.documents), made.verdict.order)
    assert [str(each) for each in configuration.documents] == [
        f"{file}:1: Sidecar default/app: accepted",
        f"{file}:5: ServiceEntry default/a: accepted",
        f"{file}:10: ServiceEntry default/b: accepted",
    ]
    assert [each["name"] for each in take(configuration).registry.dump()] == ["outbound|80||a.example"]


def test_every_problem_is_told_with_its_place_and_nothing_else(file: Path) -> None:
    file.write_text(file.read_text().replace("hosts", "host") + "---\n}\n")
    with pytest.raises(ConfigError) as refused:
        start((str(file), str(file.with_name("gone.yaml"))))
    assert [problem.removeprefix(str(file.parent)) for problem in refused.value.problems] == [
        "/gone.yaml: cannot be read: No such file or directory; give the path of a file that this user may read",
        *(f"/f.yaml:{line}: spec.{said}" for line in (8, 13) for said in SAID),
        (
            "/f.yaml:15: this is not YAML: did not find expected node content while parsing a block node; check "
            "indentation, quotes and brackets here and above"
        ),
    ]


SAID = ("hosts: is required; add it", "host: there is no such field; did you mean 'hosts'?")


def test_what_was_seen_before_is_not_read_again(file: Path) -> None:
    _, first = judged(ask(file))
    seen = {each.digest: Seen("ServiceEntry", "default", each.status.name, each.line) for each in first[1:]}
    file.write_text(file.read_text().replace("b.example", "c.example"))
    verdict, documents = judged(ask(file, seen=seen))
    assert names(documents) == ["app", "b"]
    assert len(verdict.order) == 3
    merged = {**by_place(first), **by_place(documents)}
    assert [each.spec.hosts for each in composed(merged, verdict.order).service_entries] == [
        ("a.example",),
        ("b.example".replace("b", "c"),),
    ]


def test_a_second_document_of_the_name_of_one_seen_before_is_refused(file: Path) -> None:
    _, first = judged(ask(file))
    seen = {each.digest: Seen("ServiceEntry", "default", each.status.name, each.line) for each in first[1:]}
    file.write_text(file.read_text() + "---\n" + entry("a", "192.0.2.7"))
    verdict, _ = judged(ask(file, seen=seen))
    assert verdict.problems == (
        f"{file}:15: ServiceEntry default/a is given twice, first at {file}:5; keep one",
    )


def test_a_pushed_document_takes_the_place_of_the_files(file: Path) -> None:
    verdict, documents = judged(ask(file, entry("a", "192.0.2.9") + "---\n" + entry("n")))
    assert [(place.file, place.before) for place in verdict.order] == [
        (str(file), 0),
        (str(file), 8),
        ("push/ServiceEntry/default/a", 0),
        ("push/ServiceEntry/default/n", 0),
    ]
    configuration = composed(by_place(documents), verdict.order)
    assert [(each.metadata.name, *each.spec.addresses) for each in configuration.service_entries] == [
        ("b", "192.0.2.1"),
        ("a", "192.0.2.9"),
        ("n", "192.0.2.1"),
    ]
    assert verdict.pushed is not None
    assert sorted(verdict.pushed) == ["ServiceEntry/default/a", "ServiceEntry/default/n"]
    again, documents = judged(ask(file, pushed=verdict.pushed))
    assert again.pushed is None
    assert take(composed(by_place(documents), again.order)).version == take(configuration).version
    assert again.order == verdict.order


def test_a_pushed_document_is_judged_once_however_it_comes_again(file: Path) -> None:
    sent = [entry("x"), entry("y"), entry("z")]
    first, documents = judged(ask(file, "---\n".join(sent)))
    assert first.pushed is not None
    seen = {
        each.digest: Seen("ServiceEntry", "default", each.status.name, each.line)
        for each in documents
        if each.status.kind == "ServiceEntry"
    }
    known = {"pushed": first.pushed, "written": first.written, "seen": seen}
    again, documents = judged(ask(file, "---\n".join([*sent[:2], entry("z", "192.0.2.7")]), **known))  # type: ignore[arg-type]  # each test gives what it needs
    assert names(documents) == ["app", "z"]
    patch = json.dumps({"documents": {"ServiceEntry/default/y": {"spec": {"addresses": ["192.0.2.9"]}}}})
    body = ("application/merge-patch+json", patch.encode())
    patched, documents = judged(dataclasses.replace(ask(file, **known), push=body))  # type: ignore[arg-type]  # each test gives what it needs
    assert names(documents) == ["app", "y"]
    assert len(first.written) == len(again.written) == 3
    assert sorted(patched.written.values()) == ["ServiceEntry/default/x", "ServiceEntry/default/z"]
    # The other words of what was seen: read, and found to say the same.
    _, documents = judged(ask(file, "# x\n" + sent[0], **{**known, "written": {}}))  # type: ignore[arg-type]  # each test gives what it needs
    assert names(documents) == ["app"]


def test_what_a_file_says_may_be_pushed_in_the_same_words(file: Path) -> None:
    _, first = judged(ask(file))
    seen = {each.digest: Seen("ServiceEntry", "default", each.status.name, each.line) for each in first[1:]}
    words = file.read_text().split("---\n")[1]
    verdict, documents = judged(ask(file, words, seen=seen))
    assert names(documents) == ["app", "a"]
    assert [each.file for each in verdict.order] == [str(file), str(file), "push/ServiceEntry/default/a"]


def test_what_was_judged_before_still_needs_the_workloads_certificate(file: Path) -> None:
    rule = (
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: r}\n"
        "spec: {host: a.example, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}\n"
    )
    tls = "spec: {tls: {certificate: a, privateKey: b, trustBundle: c}}\n"
    file.write_text(f"{SIDECAR}{tls}---\n{rule}")
    verdict, documents = judged(ask(file))
    assert verdict.problems == ()
    [found] = [each for each in documents if each.status.kind == "DestinationRule"]
    assert found.document.uses_identity  # type: ignore[attr-defined]  # the kind of document that was asked for
    seen = {found.digest: Seen("DestinationRule", "default", "r", found.line, uses_identity=True)}
    file.write_text(f"{SIDECAR}---\n{rule}")
    verdict, _ = judged(ask(file, seen=seen))
    assert [each.partition(": ")[2][:40] for each in verdict.problems] == [
        "spec.trafficPolicy: the mode ISTIO_MUTUAL"[:40]
    ]


def test_a_pushed_sidecar_takes_the_place_of_the_files_whatever_its_name(file: Path) -> None:
    other = SIDECAR.replace("app", "other")
    verdict, documents = judged(ask(file, other))
    assert composed(by_place(documents), verdict.order).sidecar.metadata.name == "other"


def test_two_documents_of_one_name_in_a_push_are_refused(file: Path) -> None:
    verdict, _ = judged(ask(file, entry("a") + "---\n" + entry("a", "192.0.2.2")))
    assert verdict.problems == ("push:6: ServiceEntry default/a is given twice, first at push:1; keep one",)


def test_every_kind_that_is_honoured_has_a_place() -> None:
    honoured = set(documents_module._KINDS)
    assert honoured == {"Sidecar", *PLACES}
    assert set(PLACES.values()) <= {field.name for field in dataclasses.fields(Configuration)}


def test_what_a_control_plane_supplies_stands_beside_the_files(file: Path) -> None:
    verdict, documents = judged(ask(file, supplied={"ServiceEntry/default/x": entry("x")}))
    assert verdict.problems == ()
    assert names(documents) == ["app", "a", "b", "x"]
    assert verdict.order[-1].file == "xds/ServiceEntry/default/x"


def test_what_a_control_plane_supplies_takes_nothing_of_a_file_away(file: Path) -> None:
    verdict, _ = judged(ask(file, supplied={"ServiceEntry/default/a": entry("a")}))
    assert "given twice" in verdict.problems[0]
