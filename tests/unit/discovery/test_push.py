from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st

from interceptor.discovery.push import Pushed, apply, merged
from interceptor.discovery.pushed import etag, shown

ENTRY = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "ServiceEntry",
    "metadata": {"name": "api"},
    "spec": {"hosts": ["a.example"]},
}
KEY = "ServiceEntry/default/api"

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


def put(
    body: object, content_type: str = "application/json", current: dict[str, str] | None = None
) -> Pushed:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return apply(current or {}, content_type, data)


def problems(body: object, content_type: str = "application/json") -> list[str]:
    return [str(each) for each in put(body, content_type).problems]


def test_yaml_is_documents_as_in_a_file_with_their_lines() -> None:
    body = b"kind: A\nmetadata: {name: x}\n---\nkind: B\nmetadata: {name: y, namespace: n}\n"
    made = put(body, "application/yaml")
    assert list(made.documents) == ["A/default/x", "B/n/y"]
    assert [(each.name, each.line) for each in made.sources] == [("push", 0), ("push", 2)]
    assert json.loads(made.documents["B/n/y"]) == {"kind": "B", "metadata": {"name": "y", "namespace": "n"}}


@pytest.mark.parametrize("body", [b"", b"# nothing\n", b"---\n---\n"])
def test_an_empty_body_takes_every_pushed_document_out(body: bytes) -> None:
    made = put(body, "application/yaml", {KEY: "{}"})
    assert (made.documents, made.sources, made.problems) == ({}, [], [])


def test_what_cannot_be_read_is_still_judged() -> None:
    assert len(put(b"a: [", "application/yaml").sources) == 1


def test_json_is_one_document_or_what_get_answers() -> None:
    assert list(put(ENTRY).documents) == [KEY]
    made = put({"documents": {KEY: ENTRY}})
    assert json.loads(made.documents[KEY]) == ENTRY
    assert [each.name for each in made.sources] == [f"push/{KEY}"]
    assert json.loads(shown(made.documents)) == {"documents": {KEY: ENTRY}}
    assert put(shown(made.documents).encode()).documents == made.documents


def test_a_patch_changes_what_it_names_and_null_takes_it_out() -> None:
    current = put({"documents": {KEY: ENTRY}}).documents
    patch = "application/merge-patch+json"
    made = put({"documents": {KEY: {"spec": {"hosts": ["b.example"]}}}}, patch, current)
    assert json.loads(made.documents[KEY])["spec"] == {"hosts": ["b.example"]}
    assert json.loads(made.documents[KEY])["metadata"] == {"name": "api"}
    assert put({"documents": {KEY: None, "A/b/c": None}}, patch, current).documents == {}
    assert etag(made.documents) != etag(current) == etag(dict(current))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"\xff", "push:1: this is not UTF-8 text; send UTF-8"),
        (b"\n\n{", "push:3: this is not JSON: Expecting property name enclosed in double quotes"),
        (b"[" * 100_000, "push:1: values are nested too deep; write the documents flatter"),
        (
            {"documents": []},
            'push:1: must be {"documents": {"Kind/namespace/name": {...}}}, as GET /config answers',
        ),
        (
            {"documents": {"ServiceEntry/default/other": ENTRY}},
            f"push/ServiceEntry/default/other: the document is {KEY} by its kind and metadata; send it by that key",
        ),
        (
            {"documents": {"A": [[]]}},
            "push/A: the document is ?/default/? by its kind and metadata; send it by that key",
        ),
    ],
)
def test_what_is_no_push_is_refused_with_its_place(body: object, said: str) -> None:
    assert problems(body) == [said]


def test_a_patch_must_have_the_form() -> None:
    assert problems(ENTRY, "application/merge-patch+json") == [
        'push:1: must be {"documents": {"Kind/namespace/name": {...}}}, as GET /config answers'
    ]


def test_a_deep_patch_is_refused() -> None:
    deep: object = 1
    for _ in range(40):
        deep = {"a": deep}
    assert problems({"documents": {KEY: deep}}) == [
        f"push/{KEY}: values are nested more than 32 deep; write the document flatter"
    ]


@given(JSON_VALUES, JSON_VALUES)
def test_a_merge_patch_is_rfc_7396(target: object, patch: object) -> None:
    def by_the_book(target: object, patch: object) -> object:
        if not isinstance(patch, dict):
            return patch
        if not isinstance(target, dict):
            target = {}
        for name, value in patch.items():
            if value is None:
                target.pop(name, None)
            else:
                target[name] = by_the_book(target.get(name), value)
        return target

    copy = json.loads(json.dumps(target))
    assert merged(target, patch) == by_the_book(copy, patch)


@pytest.mark.parametrize("content_type", ["application/json", "application/merge-patch+json"])
def test_a_number_without_end_is_refused(content_type: str) -> None:
    body = b'{"documents": {"A/b/c": ' + b"9" * 5000 + b"}}"
    assert problems(body, content_type) == [
        "push:1: a number has thousands of digits; write one that fits 64 bits"
    ]
