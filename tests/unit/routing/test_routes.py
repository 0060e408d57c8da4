from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, strategies as st

from interceptor.model.http import Headers, RequestHead, ResponseHead
from interceptor.routing.routes import (
    Question,
    RouteTable,
    change_answer,
    change_headers,
    changed,
    changes_answers,
    cluster_name,
    host_of,
    port_of,
    redirection,
    rewritten,
)
from tests.support.documents import virtual_service

ROUTE = "route: [{destination: {host: a.b}}]"


def question(
    target: bytes = b"/",
    *,
    method: bytes = b"GET",
    authority: bytes = b"a.b",
    headers: Headers | None = None,
    port: int = 80,
) -> Question:
    return Question(RequestHead(method, target, authority, b"http", b"1.1", headers or []), port)


def table(*specs: str, labels: dict[str, str] | None = None) -> RouteTable:
    documents = [virtual_service(spec, f"{{name: v{index}}}") for index, spec in enumerate(specs)]
    return RouteTable(documents, labels)


def taken(routes: RouteTable, asked: Question) -> str | None:
    found = routes.take(asked)
    return None if found is None else found.route.name


@pytest.mark.parametrize(
    ("match", "asked", "holds"),
    [
        ("uri: {exact: /v1}", question(b"/v1?x=1"), True),
        ("uri: {exact: /v1}", question(b"/v1/"), False),
        ("uri: {exact: /V1}\nignoreUriCase: true", question(b"/v1"), True),
        ("uri: {prefix: /v1}", question(b"/v1/a"), True),
        ("uri: {prefix: /V1}\nignoreUriCase: true", question(b"/v1/a"), True),
        ("uri: {prefix: /v1}", question(b"http://a.b/v1"), True),
        ("uri: {regex: '/v[0-9]+'}", question(b"/v12"), True),
        ("uri: {regex: '/v[0-9]+'}", question(b"/v12/"), False),
        ("method: {exact: GET}", question(method=b"get"), False),
        ("scheme: {exact: http}", question(), True),
        ("authority: {prefix: a.}", question(), True),
        ("port: 80", question(), True),
        ("port: 81", question(), False),
        ("headers: {x-user: {exact: a}}", question(headers=[(b"X-User", b"a")]), True),
        ("headers: {x-user: {exact: 'a,b'}}", question(headers=[(b"x-user", b"a"), (b"X-User", b"b")]), True),
        ("headers: {x-user: {}}", question(headers=[(b"x-user", b"")]), True),
        ("headers: {x-user: {}}", question(), False),
        ("withoutHeaders: {x-user: {}}", question(), True),
        ("withoutHeaders: {x-user: {exact: a}}", question(headers=[(b"x-user", b"b")]), True),
        ("withoutHeaders: {x-user: {exact: a}}", question(headers=[(b"x-user", b"a")]), False),
        ("queryParams: {q: {exact: 'a b'}}", question(b"/?p=1&q=a+b"), True),
        ("queryParams: {q: {exact: 'a b'}}", question(b"/?q=a%20b"), True),
        ("queryParams: {q: {}}", question(b"/?p"), False),
        ("gateways: [outer]", question(), False),
        ("gateways: [outer, mesh]", question(), True),
        ("sourceLabels: {app: web}", question(), True),
        ("sourceLabels: {app: other}", question(), False),
        ("uri: {prefix: /}\nmethod: {exact: PUT}", question(), False),
    ],
)
def test_matches(match: str, asked: Question, *, holds: bool) -> None:
    indented = "\n".join(f"    {line}" for line in match.splitlines())
    routes = table(
        f"hosts: [a.b]\nhttp:\n- match:\n  -\n{indented}\n  {ROUTE}", labels={"app": "web", "x": "y"}
    )
    assert taken(routes, asked) == ("http[0]" if holds else None)


def test_the_first_route_wins_and_one_match_is_enough() -> None:
    routes = table(
        f"""
        hosts: [a.b]
        http:
        - {{name: one, match: [{{uri: {{exact: /x}}}}, {{uri: {{exact: /y}}}}], {ROUTE}}}
        - {{name: rest, {ROUTE}}}
        """
    )
    assert [taken(routes, question(path)) for path in (b"/x", b"/y", b"/z")] == ["one", "one", "rest"]
    steps = list(routes.explain(question(b"/z")))
    assert [(step.route.name, step.failed) for step in steps] == [
        ("one", ("the path is '/x'", "the path is '/y'")),
        ("rest", None),
    ]
    assert list(table(f"hosts: [a.b]\nhttp: [{{match: [{{port: 1}}], {ROUTE}}}]").explain(question()))[
        -1
    ].failed


def test_hosts_the_exact_one_then_the_longest_suffix() -> None:
    def for_host(host: str, name: str) -> str:
        return f"hosts: ['{host}']\nhttp: [{{name: {name}, {ROUTE}}}]"

    routes = table(
        for_host("*.example.com", "wild"),
        for_host("*.api.example.com", "longer"),
        for_host("v1.api.example.com", "exact"),
    )
    for authority, name in (
        (b"V1.api.example.com:8080", "exact"),
        (b"v2.api.example.com", "longer"),
        (b"www.example.com.", "wild"),
        (b"example.com", None),
        (b"", None),
    ):
        assert taken(routes, question(authority=authority)) == name
    assert taken(table(for_host("*", "any")), question(authority=b"x")) == "any"
    assert taken(table(), question()) is None


def test_of_two_documents_for_a_host_the_oldest_wins() -> None:
    young = virtual_service(f"hosts: [a.b]\nhttp: [{{name: young, {ROUTE}}}]")
    old = virtual_service(
        f"hosts: [a.b]\nhttp: [{{name: old, {ROUTE}}}]",
        '{name: old, creationTimestamp: "2020-01-01T00:00:00Z"}',
    )
    routes = RouteTable([young, old])
    assert taken(routes, question()) == "old"
    assert routes.shadowed == [("default/routes", "a.b")]


def test_documents_for_other_gateways_are_not_for_us() -> None:
    assert taken(table(f"gateways: [outer]\nhosts: [a.b]\nhttp: [{{{ROUTE}}}]"), question()) is None


def test_weights() -> None:
    routes = table(
        """
        hosts: [a.b]
        http:
        - route:
          - {destination: {host: a.b, subset: v1}, weight: 3}
          - {destination: {host: a.b, subset: v2}, weight: 1}
          - {destination: {host: a.b, subset: v3}}
        """
    )
    found = routes.take(question())
    assert found is not None
    chance = random.Random(1)
    chosen = Counter(found.route.destination(chance).destination.subset for _ in range(4000))
    assert set(chosen) == {"v1", "v2"}
    assert 2.5 < chosen["v1"] / chosen["v2"] < 3.5
    only = table(f"hosts: [a.b]\nhttp: [{{{ROUTE}}}]").take(question())
    assert only is not None
    assert cluster_name(only.route.destination(chance).destination, 80) == "outbound|80||a.b"


@pytest.mark.parametrize(
    ("match", "rewrite", "target", "expected"),
    [
        ("{uri: {prefix: /v1/}}", "{uri: /}", b"/v1/x?q=/v1/", b"/x?q=/v1/"),
        ("{uri: {prefix: /v1}}", "{uri: /v2}", b"/v1", b"/v2"),
        ("{uri: {exact: /old}}", "{uri: /new}", b"/old?a", b"/new?a"),
        ("{method: {exact: GET}}", "{uri: /new}", b"/old", b"/new"),
        (
            "{uri: {prefix: /}}",
            r"{uriRegexRewrite: {match: '/u/(\d+)/', rewrite: '/users/\1/'}}",
            b"/u/7/x",
            b"/users/7/x",
        ),
        ("{uri: {prefix: /}}", "{authority: c.d}", b"/x", b"/x"),
    ],
)
def test_rewrites(match: str, rewrite: str, target: bytes, expected: bytes) -> None:
    routes = table(f"hosts: [a.b]\nhttp: [{{match: [{match}], rewrite: {rewrite}, {ROUTE}}}]")
    asked = question(target)
    found = routes.take(asked)
    assert found is not None
    assert rewritten(found, asked) == expected


def test_a_route_without_match_rewrites_the_first_slash() -> None:
    asked = question(b"/x")
    for rewrite, expected in (("rewrite: {uri: /base/}, ", b"/base/x"), ("", b"/x")):
        found = table(f"hosts: [a.b]\nhttp: [{{{rewrite}{ROUTE}}}]").take(asked)
        assert found is not None
        assert rewritten(found, asked) == expected


@pytest.mark.parametrize(
    ("redirect", "asked", "location"),
    [
        ("{uri: /new}", question(b"/old?q=1"), b"http://a.b/new?q=1"),
        ("{uri: '/new?x'}", question(b"/old?q=1"), b"http://a.b/new?x"),
        ("{scheme: https}", question(b"/", authority=b"a.b:8080"), b"https://a.b/"),
        ("{authority: c.d}", question(b"/x"), b"http://c.d/x"),
        ("{port: 81}", question(b"/", authority=b"[::1]:80"), b"http://[::1]:81/"),
        ("{derivePort: FROM_REQUEST_PORT}", question(b"/", port=8080), b"http://a.b:8080/"),
        ("{derivePort: FROM_PROTOCOL_DEFAULT}", question(b"/", authority=b"a.b:8080"), b"http://a.b/"),
    ],
)
def test_redirects(redirect: str, asked: Question, location: bytes) -> None:
    found = table(f"hosts: ['*']\nhttp: [{{redirect: {redirect}}}]").take(asked)
    assert found is not None
    assert redirection(found, asked) == (301, location)


def test_header_operations() -> None:
    found = table(
        f"hosts: [a.b]\nhttp: [{{headers: {{request: {{remove: [A], set: {{B: '2'}}, add: {{C: '3'}}}}}}, {ROUTE}}}]"
    ).take(question())
    assert found is not None
    headers = [(b"a", b"1"), (b"B", b"1"), (b"b", b"0"), (b"c", b"1")]
    change_headers(headers, found.route.spec.headers.request)
    assert headers == [(b"c", b"1"), (b"b", b"2"), (b"c", b"3")]


def test_a_head_is_changed_for_the_upstream_alone() -> None:
    spec = f"rewrite: {{uri: /new, authority: c.d}}, headers: {{request: {{set: {{x: '1'}}}}}}, {ROUTE}"
    asked = question(b"/old?q", headers=[(b"host", b"a.b")])
    found = table(f"hosts: [a.b]\nhttp: [{{{spec}}}]").take(asked)
    assert found is not None
    head = changed(asked.head, found, asked, found.route.spec.route[0])
    assert (head.target, head.authority) == (b"/newold?q", b"c.d")
    assert head.headers == [(b"x-envoy-original-path", b"/old?q"), (b"host", b"c.d"), (b"x", b"1")]
    assert asked.head.headers == [(b"host", b"a.b")]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("", [(b"a", b"1")]),
        ("headers: {response: {set: {b: '2'}}}, ", [(b"a", b"1"), (b"b", b"2")]),
        (
            "corsPolicy: {allowOrigins: [{exact: 'http://o'}]}, ",
            [(b"a", b"1"), (b"access-control-allow-origin", b"http://o"), (b"vary", b"origin")],
        ),
    ],
)
def test_an_answer_is_changed_as_the_route_says(spec: str, expected: Headers) -> None:
    asked = question(headers=[(b"origin", b"http://o")])
    found = table(f"hosts: [a.b]\nhttp: [{{{spec}{ROUTE}}}]").take(asked)
    assert found is not None
    answer, chosen = ResponseHead(200, b"OK", [(b"a", b"1")]), found.route.spec.route[0]
    assert changes_answers(found, chosen) is bool(spec)
    change_answer(answer, asked.head, found, chosen)
    assert answer.headers == expected


@given(st.from_regex(rb"[a-z.\-]{0,20}", fullmatch=True), st.one_of(st.none(), st.integers(0, 65535)))
def test_an_authority_is_its_host_and_port(host: bytes, port: int | None) -> None:
    authority = host if port is None else b"%b:%d" % (host, port)
    assert (host_of(authority), port_of(authority)) == (host.removesuffix(b"."), port)
    assert (host_of(b"[Fd00::1]:%d" % (port or 0)), port_of(b"[::1]")) == (b"fd00::1", None)


def test_an_expression_takes_linear_time() -> None:
    routes = table(f"hosts: [a.b]\nhttp: [{{match: [{{uri: {{regex: '(/a*)*b'}}}}], {ROUTE}}}]")
    # A matcher that backtracks would need longer for this than the universe is old.
    assert taken(routes, question(b"/" + b"a" * 5000)) is None
