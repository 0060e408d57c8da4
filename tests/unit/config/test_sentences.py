from __future__ import annotations

import pytest
from hypothesis import given, strategies as st
from pydantic_core import ErrorDetails

from interceptor.config.sentences import described, did_you_mean, dotted, sentence
from interceptor.config.sidecar import Sidecar
from tests.support.documents import SIDECAR, problems


def test_a_location_is_written_as_operators_write_it() -> None:
    assert dotted(("spec", "ports", 0, "number")) == "spec.ports[0].number"
    assert dotted(()) == ""


def test_a_close_word_is_proposed_and_else_the_known_ones() -> None:
    assert did_you_mean("polcy", ["port", "policy"]) == "; did you mean 'policy'?"
    assert did_you_mean("allow_any", ["ALLOW_ANY", "REGISTRY_ONLY"]) == "; did you mean 'ALLOW_ANY'?"
    assert did_you_mean("xyz", ["port", "policy"]) == "; known are: policy, port"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "nothing (give a value, or leave the field out)"),
        (True, "true"),
        (1.5, "1.5"),
        ("x" * 41, f"the text '{'x' * 37}...'"),
        ({}, "a mapping"),
        ([], "a list"),
    ],
)
def test_a_value_is_described(value: object, words: str) -> None:
    assert described(value) == words


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("[]", "spec: must be a mapping with fields of its own, not a list"),
        (
            "",
            "spec: must be a mapping with fields of its own, not nothing (give a value, or leave the field out)",
        ),
        ("{egres: {}}", "spec.egres: there is no such field; did you mean 'egress'?"),
        ("{egress: {xyz: 1}}", "spec.egress.xyz: there is no such field; known are: policy, port"),
        (
            "{ingress: {ports: [{prt: 1, port: 2}]}}",
            "spec.ingress.ports[0].prt: there is no such field; did you mean",
        ),
        (
            "{egress: {policy: ALLOW}}",
            "spec.egress.policy: 'ALLOW' is not a value of this field; did you mean",
        ),
        (
            "{egress: {policy: 1}}",
            "spec.egress.policy: 1 is not a value of this field; use ALLOW_ANY or REGISTRY_ONLY",
        ),
        ("{egress: {port: '1'}}", "spec.egress.port: must be a whole number, not the text '1'"),
        ("{egress: {port: true}}", "spec.egress.port: must be a whole number, not true"),
        ("{egress: {port: 1.5}}", "spec.egress.port: must be a whole number, not 1.5"),
        ("{egress: {port: 65536}}", "spec.egress.port: 65536 is out of bounds; it must be at most 65535"),
        ("{ingress: {ports: {}}}", "spec.ingress.ports: must be a list, not a mapping"),
        ("{ingress: {ports: 80}}", "spec.ingress.ports: must be a list, not 80"),
        ("{meshId: 5}", "spec.meshId: must be text, not 5; put it in quotes"),
        ("{meshId: []}", "spec.meshId: must be text, not a list"),
        ("{timeouts: {idle: 10}}", "spec.timeouts.idle: must be text with a unit; write it like 10s"),
    ],
)
def test_a_wrong_type_is_said_in_words(spec: str, found: str) -> None:
    [problem] = problems(f"{SIDECAR}spec: {spec}\n")
    assert problem.startswith(f"4: {found}")


def test_a_wrong_name_of_a_label_is_said_at_the_label() -> None:
    error: ErrorDetails = {
        "type": "string_type",
        "loc": ("metadata", "labels", "a", "[key]"),
        "msg": "",
        "input": 1,
    }
    assert sentence(Sidecar, error) == (["metadata", "labels", "a"], "must be text, not 1; put it in quotes")


def test_an_unforeseen_error_keeps_its_own_words() -> None:
    error: ErrorDetails = {"type": "new", "loc": (), "msg": "Value is new", "input": 1}
    assert sentence(Sidecar, error) == ([], "Value is new")


FIELDS = [
    "metadata",
    "spec",
    "name",
    "labels",
    "ingress",
    "egress",
    "port",
    "ports",
    "timeouts",
    "idle",
    "x",
    "admin",
]
values = st.recursive(
    st.sampled_from(["null", "1", "1.5", "text", "true", "''", "-1", "127.0.0.1:1"]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=3).map(
            lambda fields: "{" + ", ".join(f"{key}: {value}" for key, value in fields.items()) + "}"
        )
    ),
    max_leaves=12,
)


@given(values, values)
def test_no_word_of_the_validator_reaches_an_operator(metadata: str, spec: str) -> None:
    found = problems(f"apiVersion: interceptor/v1\nkind: Sidecar\nmetadata: {metadata}\nspec: {spec}\n")
    assert not [text for text in found if "Input should" in text or "Value error" in text or "valid" in text]
