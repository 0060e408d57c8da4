from __future__ import annotations

import pytest

from interceptor.discovery.xds import matches


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"prefix": "/a"}, [{"uri": {"prefix": "/a"}}]),
        ({"path": "/a", "case_sensitive": False}, [{"uri": {"exact": "/a"}, "ignoreUriCase": True}]),
        ({"safe_regex": {"regex": "/a+"}}, [{"uri": {"regex": "/a+"}}]),
        ({"path_separated_prefix": "/a"}, [{"uri": {"exact": "/a"}}, {"uri": {"prefix": "/a/"}}]),
        ({"prefix": "/", "grpc": {}}, [{"uri": {"prefix": "/"}, "headers": {"content-type": {"prefix": "application/grpc"}}}]),
        (
            {"prefix": "/", "query_parameters": [{"name": "v", "string_match": {"exact": "2"}}, {"name": "w", "present_match": True}]},
            [{"uri": {"prefix": "/"}, "queryParams": {"v": {"exact": "2"}, "w": {}}}],
        ),
    ],
)  # fmt: skip
def test_paths_and_parameters(given: dict[str, object], expected: list[dict[str, object]]) -> None:
    said: list[str] = []
    assert matches.read(given, "", said) == expected
    assert said == []


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"name": "A", "string_match": {"exact": "x"}}, {"headers": {"a": {"exact": "x"}}}),
        ({"name": "a", "exact_match": "x"}, {"headers": {"a": {"exact": "x"}}}),
        ({"name": "a", "string_match": {"suffix": "x.y"}}, {"headers": {"a": {"regex": r".*x\.y"}}}),
        ({"name": "a", "string_match": {"contains": "x"}}, {"headers": {"a": {"regex": ".*x.*"}}}),
        ({"name": "a", "string_match": {"prefix": "x", "ignore_case": True}}, {"headers": {"a": {"regex": "(?i)x.*"}}}),
        ({"name": "a", "present_match": True}, {"headers": {"a": {}}}),
        ({"name": "a", "present_match": False}, {"withoutHeaders": {"a": {}}}),
        ({"name": "a", "present_match": True, "invert_match": True}, {"withoutHeaders": {"a": {}}}),
        ({"name": "a", "string_match": {"exact": "x"}, "invert_match": True}, {"headers": {"a": {}}, "withoutHeaders": {"a": {"exact": "x"}}}),
        (
            {"name": "a", "string_match": {"exact": "x"}, "invert_match": True, "treat_missing_header_as_empty": True},
            {"withoutHeaders": {"a": {"exact": "x"}}},
        ),
        ({"name": ":method", "string_match": {"exact": "GET"}}, {"method": {"exact": "GET"}}),
        ({"name": ":authority", "string_match": {"prefix": "a."}}, {"authority": {"prefix": "a."}}),
    ],
)  # fmt: skip
def test_headers(header: dict[str, object], expected: dict[str, object]) -> None:
    said: list[str] = []
    assert matches.read({"prefix": "/", "headers": [header]}, "", said) == [
        {"uri": {"prefix": "/"}, **expected}
    ]
    assert said == []


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({}, "match.: needs one of prefix"),
        ({"prefix": "a"}, "match.prefix: 'a' does not begin"),
        ({"safe_regex": {"regex": "("}}, "match.safe_regex.regex: '(' is not an expression"),
        ({"prefix": "/", "runtime_fraction": {}}, "match.runtime_fraction: is not honoured"),
        ({"prefix": "/", "headers": [{"name": ":path", "exact_match": "/"}]}, "match.headers[0].name: ':path'"),
        ({"prefix": "/", "headers": [{"name": "a", "range_match": {}}]}, "match.headers[0].range_match:"),
        ({"prefix": "/", "headers": [{"name": "a", "string_match": {}}]}, "match.headers[0].string_match: needs one of"),
        ({"prefix": "/", "headers": [{"name": "a"}, {"name": "A"}]}, "match.headers[1].name: 'a' is given twice"),
        ({"prefix": "/", "query_parameters": [{"name": "v", "present_match": False}]}, "match.query_parameters[0].present_match:"),
        ({"prefix": "/", "query_parameters": [{}]}, "match.query_parameters[0].name: '' is empty"),
    ],
)  # fmt: skip
def test_what_has_no_counterpart_is_said(given: dict[str, object], problem: str) -> None:
    said: list[str] = []
    matches.read(given, "match.", said)
    assert any(each.startswith(problem) for each in said), said
