from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import yaml
from hypothesis import given, strategies as st

from interceptor.config import tree
from interceptor.config.problems import Source
from interceptor.config.tree import parse


@pytest.fixture(autouse=True, scope="module", params=["CSafeLoader", "SafeLoader"])
def loader(request: pytest.FixtureRequest) -> Iterator[None]:
    """PyYAML comes with libyaml or without; what we read, and where we see problems, must not depend on it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree, "_LOADER", getattr(yaml, request.param))
        yield


def plain(text: str) -> list[object]:
    read = parse(Source("f", text))
    assert read.problems == []
    assert [problem for _, problems in read.documents for problem in problems] == []
    return [node.plain() for node, _ in read.documents]


def problems(text: str) -> list[str]:
    read = parse(Source("f", text))
    return [str(each) for each in (*read.problems, *(one for _, found in read.documents for one in found))]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**17), 10**17)
    | st.text(st.characters(codec="utf-8", exclude_categories=["C"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(json_values)
def test_json_is_read_as_json(value: object) -> None:
    assert plain(json.dumps([value], ensure_ascii=False)) == [[value]]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8080", 8080),
        ("-1", -1),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("true", True),
        ("False", False),
        ("~", None),
        ("'8080'", "8080"),
        ("!!str 8080", "8080"),
        ("! 8080", "8080"),
        ("on", "on"),
        ("yes", "yes"),
        ("12:30", "12:30"),
        ("010", "010"),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
        ("1" * 5000, "1" * 5000),
        (".inf", ".inf"),
    ],
)
def test_scalars_are_those_of_json(text: str, value: object) -> None:
    read = plain(f"a: {text}")
    assert read == [{"a": value}]
    assert isinstance(read[0], dict)
    assert type(read[0]["a"]) is type(value)


def test_field_names_are_text() -> None:
    assert plain("1: a\ntrue: b") == [{"1": "a", "true": "b"}]


def test_empty_documents_are_passed_over() -> None:
    assert plain("---\n# nothing\n---\na: 1\n---\n") == [{"a": 1}]
    assert plain("") == []


def test_aliases_are_expanded() -> None:
    assert plain("a: &x [1, 2]\nb: *x") == [{"a": [1, 2], "b": [1, 2]}]


TEXT = """\
a:
  b: 1
  c:
    - d
    - e:
        f: 2
"""


@pytest.mark.parametrize(
    ("location", "line"),
    [
        ((), 1),
        (("a",), 1),
        (("a", "b"), 2),
        (("a", "c"), 3),
        (("a", "c", 0), 4),
        (("a", "c", 1), 5),
        (("a", "c", 1, "e", "f"), 6),
        (("a", "c", 9), 3),
        (("a", "missing"), 1),
        (("a", "b", "below a scalar"), 2),
    ],
)
def test_every_field_knows_its_line(location: tuple[str | int, ...], line: int) -> None:
    [(node, _)] = parse(Source("f", TEXT)).documents
    assert node.line_of(location) == line


def test_a_twice_given_field_names_both_lines() -> None:
    assert problems("a: 1\nb: 2\na: 3") == ["f:3: 'a' is given twice, first on line 1; keep one of them"]


def test_a_document_that_cannot_be_read_does_not_hide_the_next() -> None:
    read = parse(Source("f", "ok: 1\n---\nbad: [\n---\nalso: 2\n---\na: b: c\n"))
    assert [(node.line, node.plain()) for node, _ in read.documents] == [(1, {"ok": 1}), (5, {"also": 2})]
    assert [problem.line for problem in read.problems] == [4, 7]
    assert all("this is not YAML: " in problem.message for problem in read.problems)


def test_an_unreadable_separator_line_ends_the_reading() -> None:
    assert [problem.line for problem in parse(Source("f", "--- ]")).problems] == [1]


def test_a_tab_is_called_a_tab() -> None:
    assert problems("a:\n\tb: 1") == [
        "f:2: this is not YAML: a tab stands where only spaces may; replace it by spaces"
    ]


def test_an_error_at_the_end_of_the_text_has_a_line() -> None:
    assert problems("a: 'x")[0].startswith("f:1: this is not YAML: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object:os.system x", "f:1: the YAML tag 'tag:yaml.org,2002:python/object:os.system'"),
        ("a: !!int '3'", "f:1: the YAML tag 'tag:yaml.org,2002:int' is not allowed"),
        ("a: !!set {x}", "f:1: the YAML tag 'tag:yaml.org,2002:set' is not allowed"),
        ("a: !mine [x]", "f:1: the YAML tag '!mine' is not allowed"),
        ("x: &x {a: 1}\ny:\n  <<: *x", "f:3: merge keys ('<<') are not supported"),
        ("a: *x", "f:1: the alias '*x' names no anchor before it; write the value out"),
        ("a: &x [*x]", "f:1: the alias '*x' stands inside the value it names; write the value out"),
        ("? [a]\n: 1", "f:1: a field's name must be plain text"),
        ("a\x00b: 1", "f:1: the character U+0000 is not allowed in YAML"),
        ("a: 1\nb: \ud800", "f:2: the character U+D800 is not allowed in YAML"),
        ("[" * 33 + "]" * 33, "f:1: values are nested more than 32 deep"),
        ("[" * 100_000, "f:1: values are nested more than 32 deep"),
    ],
)
def test_what_is_not_read_is_refused_with_its_line(text: str, message: str) -> None:
    assert problems(text)[0].startswith(message)


def test_the_deepest_allowed_document_is_read() -> None:
    assert problems("[" * 32 + "]" * 32) == []


def test_a_billion_laughs_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    [problem] = problems("\n".join(lines))
    assert problem.startswith("f:6: the document holds more than 250000 values, aliases expanded")


def test_the_bound_on_values_is_for_each_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "MAX_VALUES", 4)
    assert problems("[1, 2, 3]\n---\n[1, 2, 3]") == []
    assert len(problems("[1, 2, 3, 4]\n---\n{a: 1, b: 2}")) == 2


def test_reading_stops_after_too_many_unreadable_documents() -> None:
    found = problems("---\n[\n" * (tree.MAX_UNREADABLE + 1))
    assert len(found) == tree.MAX_UNREADABLE + 1
    assert found[-1].endswith("and what follows was not looked at; mend those first")
    assert len(problems("---\n[\n" * tree.MAX_UNREADABLE)) == tree.MAX_UNREADABLE


def test_a_file_over_the_limit_is_refused() -> None:
    assert problems("#" * (tree.MAX_CHARACTERS + 1)) == [
        "f: the file is larger than 1024 KiB; split it into several files"
    ]


@given(st.text(st.sampled_from("ab:-[]{}&*!<>|'\"%@` \t\n\r#?,0\x85\u2028"), max_size=40))
def test_no_text_ends_the_reader(text: str) -> None:
    parse(Source("f", text))
