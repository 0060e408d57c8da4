from __future__ import annotations

from pathlib import Path

import pytest

import interceptor
from interceptor.config import destination_rule, service_entry, virtual_service
from interceptor.config.base import Strict
from interceptor.config.documents import default_configuration, load
from interceptor.config.problems import Source
from interceptor.config.sidecar import SidecarSpec
from interceptor.errors import ConfigError
from tests.support.documents import SIDECAR, problems, service_entry_text

API_VERSIONS = (
    "interceptor/v1, networking.istio.io/v1, networking.istio.io/v1alpha3, networking.istio.io/v1beta1, "
    "security.istio.io/v1, security.istio.io/v1beta1"
)
EXAMPLES = Path(__file__).parents[3] / "examples"
ENTRY = service_entry_text("{hosts: [a.b], ports: [{number: 443, name: https}]}")


def test_documents_become_one_configuration() -> None:
    loaded = load([Source("one", SIDECAR), Source("two", ENTRY)])
    assert loaded.problems == ()
    made = loaded.configuration()
    assert made.sidecar.full_name == "default/app"
    assert [entry.full_name for entry in made.service_entries] == ["default/entry"]
    assert [str(document) for document in made.documents] == [
        "one:1: Sidecar default/app: accepted",
        "two:1: ServiceEntry default/entry: accepted",
    ]


def test_a_configuration_with_problems_is_refused_whole_with_all_of_them() -> None:
    loaded = load([Source("one", SIDECAR + "spec: {x: 1, y: 2}"), Source("two", ENTRY + "extra: 1")])
    assert [document.accepted for document in loaded.documents] == [False, False]
    assert [str(document) for document in loaded.documents] == [
        "one:1: Sidecar default/app: rejected (2 problems)",
        "two:1: ServiceEntry default/entry: rejected (1 problem)",
    ]
    with pytest.raises(ConfigError) as caught:
        loaded.configuration()
    assert [problem.partition(": there")[0] for problem in caught.value.problems] == [
        "one:4: spec.x",
        "one:4: spec.y",
        "two:5: extra",
    ]


def test_a_status_is_dumped_as_plain_data() -> None:
    [document] = load([Source("f", SIDECAR + "spec: []")]).documents
    assert document.as_mapping() == {
        "kind": "Sidecar",
        "namespace": "default",
        "name": "app",
        "file": "f",
        "line": 1,
        "status": "rejected",
        "problems": ["f:4: spec: must be a mapping with fields of its own, not a list"],
        "notes": [],
    }


def test_problems_come_in_the_order_of_files_and_lines() -> None:
    sources = [Source("b", "- a\n---\n[\n"), Source("a", SIDECAR + "x: 1\nz: [\n")]
    found = load(sources, sidecar_required=False).problems
    assert [(problem.file, problem.line) for problem in found] == [("b", 1), ("b", 4), ("a", 6)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("- a", ["1: a document must be a mapping with apiVersion, kind and metadata, not a list"]),
        ("word", ["1: a document must be a mapping with apiVersion, kind and metadata, not the text 'word'"]),
        ("# nothing", ["1: the file holds no document; write one, or leave it out"]),
        ("{}", ["1: apiVersion: is required; add it", "1: kind: is required; add it"]),
        (
            "apiVersion: 1\nkind: []",
            ["1: apiVersion: must be text, not 1", "2: kind: must be text, not a list"],
        ),
        (
            "apiVersion: ''\nkind: Sidecar\nmetadata: {name: a}",
            ["1: apiVersion: must be text, not the text ''"],
        ),
        ("apiVersion: interceptor/v1\nkind: Sidecar", ["1: metadata: is required; add it"]),
        (
            "apiVersion: interceptor/v1\nkind: Sidecar\nmetadata: {}",
            ["3: metadata.name: is required; add it"],
        ),
        (
            "apiVersion: interceptor/v2\nkind: Sidecar\nmetadata: {name: a}\nspec: {x: 1}",
            [
                "1: apiVersion: unknown apiVersion 'interceptor/v2'; did you mean 'interceptor/v1'?",
                f"4: spec.x: there is no such field; known are: {', '.join(sorted(SidecarSpec.model_fields))}",
            ],
        ),
        (
            "apiVersion: interceptor/v1\nkind: SideCar\nmetadata: {name: a}",
            ["2: kind: unknown kind 'SideCar'; did you mean 'Sidecar'?"],
        ),
        (
            "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: a}\nspec: {x: 1}",
            [
                "1: apiVersion: a Sidecar is not of apiVersion 'networking.istio.io/v1' here; write interceptor/v1"
            ],
        ),
        (
            "apiVersion: v1\nkind: List\nitems: []",
            [
                f"1: apiVersion: unknown apiVersion 'v1'; known are: {API_VERSIONS}",
                "2: kind: a List is not read; write its items as documents, with a line '---' between them",
            ],
        ),
        (SIDECAR + "status: {a: b}\n", []),
    ],
)
def test_what_is_no_document_of_ours_is_refused(text: str, found: list[str]) -> None:
    assert problems(text) == found


def test_a_proxy_needs_a_sidecar() -> None:
    assert [str(problem) for problem in load([Source("f", ENTRY)]).problems] == [
        "f: there is no Sidecar document; add one with apiVersion interceptor/v1 and metadata.name"
    ]
    assert [problem.file for problem in load([]).problems] == ["configuration"]
    assert problems(ENTRY) == []


def test_a_sidecar_that_cannot_be_read_is_not_called_missing() -> None:
    assert len(problems(SIDECAR + "spec: [", sidecar_required=True)) == 1


def test_a_sidecar_with_problems_is_not_called_missing() -> None:
    assert problems(SIDECAR + "x: 1", sidecar_required=True) == [
        "4: x: there is no such field; known are: metadata, spec"
    ]


def test_a_proxy_has_one_sidecar() -> None:
    other = SIDECAR.replace("app", "other")
    loaded = load([Source("one", SIDECAR), Source("two", "# two\n" + other)])
    assert [str(problem) for problem in loaded.problems] == [
        "two:2: Sidecar default/other is the second one, after default/app at one:1; a proxy has one"
    ]
    assert [document.accepted for document in loaded.documents] == [True, False]


def test_a_document_given_twice_names_both_places() -> None:
    loaded = load([Source("one", SIDECAR), Source("two", f"{ENTRY}---\n{ENTRY}")])
    assert [str(problem) for problem in loaded.problems] == [
        "two:6: ServiceEntry default/entry is given twice, first at two:1; keep one"
    ]
    assert [type(document).__name__ for document in loaded.accepted] == ["Sidecar", "ServiceEntry"]


def test_the_same_name_in_another_namespace_is_another_document() -> None:
    other = service_entry_text(
        "{hosts: [a.b], ports: [{number: 1, name: x}]}", "{name: entry, namespace: other}"
    )
    assert load([Source("f", f"{SIDECAR}---\n{ENTRY}---\n{other}")]).problems == ()


def test_nameless_documents_are_not_called_duplicates() -> None:
    nameless = "apiVersion: interceptor/v1\nkind: Sidecar\nmetadata: {}\n"
    assert problems(f"{nameless}---\n{nameless}") == [
        "3: metadata.name: is required; add it",
        "7: metadata.name: is required; add it",
    ]


def test_notes_belong_to_accepted_documents() -> None:
    head = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\n"
    good = f"{head}spec: {{hosts: [a.b], gateways: [outer], http: [{{directResponse: {{status: 200}}}}]}}\n"
    bad = good.replace("200", "20")
    assert [len(load([Source("f", text)]).documents[0].notes) for text in (good, bad)] == [1, 0]


@pytest.mark.parametrize(
    ("name", "made"),
    [("nginx", "nginx"), ("My App_2", "my-app-2"), ("/", "app"), ("", "app"), ("x" * 99, "x" * 63)],
)
def test_the_default_configuration_has_a_name_and_nothing_else(name: str, made: str) -> None:
    default = default_configuration(name)
    [written] = [load([Source("f", SIDECAR.replace("app", made))]).configuration()]
    assert default.sidecar == written.sidecar
    assert (default.service_entries, default.documents) == ((), ())


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_is_a_whole_and_valid_configuration(path: Path) -> None:
    assert load([Source(path.name, path.read_text())]).problems == ()


def test_the_examples_show_both_egress_policies() -> None:
    texts = {path.name: path.read_text() for path in EXAMPLES.glob("*.yaml")}
    policies = {
        name: load([Source(name, text)]).configuration().sidecar.spec.egress.policy
        for name, text in texts.items()
    }
    shown = {
        "dns.yaml": "REGISTRY_ONLY",
        "sidecar.yaml": "ALLOW_ANY",
        "registry-only.yaml": "REGISTRY_ONLY",
        "policy.yaml": "REGISTRY_ONLY",
        "middleware.yaml": "ALLOW_ANY",
        "routing.yaml": "ALLOW_ANY",
    }
    assert policies == shown


def test_every_field_of_istios_that_is_refused_is_documented() -> None:
    text = (Path(interceptor.__file__).parent.parent / "docs" / "routing.md").read_text()
    _, _, section = text.partition("## What is not there yet")
    refused = [
        name
        for module in (virtual_service, destination_rule, service_entry)
        for model in vars(module).values()
        if isinstance(model, type) and issubclass(model, Strict)
        for name in (
            *model.unsupported,
            *model.refused,
            *(each for values in model.unsupported_values.values() for each in values),
        )
    ]
    assert len(refused) > 20
    assert [name for name in refused if name not in section] == []
