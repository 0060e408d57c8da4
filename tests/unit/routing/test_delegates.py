from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from interceptor.model.http import RequestHead
from interceptor.routing import delegates
from interceptor.routing.routes import Question, RouteTable
from interceptor.routing.sources import Source
from tests.support.documents import virtual_service

if TYPE_CHECKING:
    from interceptor.config.virtual_service import VirtualService

THERE = "route: [{destination: {host: c.d}}]"
NAME = "{name: inner, namespace: team}"


def root(http: str) -> VirtualService:
    return virtual_service(f"hosts: [a.b]\nhttp: [{http}]", "{name: root, namespace: team}")


def inner(http: str) -> VirtualService:
    return virtual_service(f"http: [{http}]", NAME)


def table(outer: str, *within: str) -> RouteTable:
    return RouteTable([root(outer), inner(", ".join(within))])


def taken(
    routes: RouteTable, path: str = "/", headers: list[tuple[bytes, bytes]] | None = None
) -> str | None:
    head = RequestHead(b"GET", path.encode(), b"a.b", b"http", b"1.1", headers or [])
    found = routes.take(Question(head, 80))
    return None if found is None else f"{found.route.document} {found.route.name}"


def test_the_routes_of_the_delegate_stand_in_its_place() -> None:
    routes = table(
        "{match: [{uri: {prefix: /team}}], delegate: {name: inner}}, {name: rest, " + THERE + "}",
        "{name: v2, match: [{uri: {prefix: /team/v2}}], " + THERE + "}",
        "{match: [{headers: {x-a: {exact: '1'}}}], " + THERE + "}",
    )
    assert taken(routes, "/team/v2/x") == "team/inner v2"
    assert taken(routes, "/team/v1") == "team/root rest"
    assert taken(routes, "/team/v1", [(b"x-a", b"1")]) == "team/inner http[0]-http[1]"
    assert taken(routes, "/other", [(b"x-a", b"1")]) == "team/root rest", "both matches must hold"


def test_one_that_is_not_there_takes_nothing() -> None:
    routes = table("{delegate: {name: gone}}, {delegate: {name: inner, namespace: other}}", "{" + THERE + "}")
    assert taken(routes) is None
    known = delegates.named([inner("{" + THERE + "}")])
    said = list(delegates.without_effect(root("{delegate: {name: gone}}, {delegate: {name: inner}}"), known))
    assert said == [
        "there is no VirtualService team/gone without hosts: spec.http[0] delegates to nobody, and takes no request"
    ]


def test_names_and_matches_of_both_are_joined() -> None:
    routes = table(
        "{name: out, match: [{uri: {prefix: /a}}, {uri: {exact: /b}}], delegate: {name: inner}}",
        "{name: in, match: [{method: {exact: GET}}], " + THERE + "}",
    )
    assert (taken(routes, "/a/x"), taken(routes, "/b")) == ("team/inner out-in", "team/inner out-in")
    assert taken(routes, "/c") is None
    assert taken(table("{delegate: {name: inner}}", "{" + THERE + "}")) == "team/inner http[0]-http[0]"


@pytest.mark.parametrize(
    ("outer", "within", "fits"),
    [
        ("uri: {prefix: /a}", "uri: {prefix: /a/b}", True),
        ("uri: {prefix: /a/b}", "uri: {prefix: /a}", False),
        ("uri: {prefix: /a}", "uri: {exact: /a/b}", True),
        ("uri: {prefix: /a}", "uri: {exact: /b}", False),
        ("uri: {exact: /a}", "uri: {exact: /a}", True),
        ("uri: {exact: /a}", "uri: {prefix: /a}", False),
        ("uri: {regex: a}", "uri: {regex: a}", False),
        ("uri: {prefix: /a}", "uri: {regex: /a.}", False),
        ("uri: {prefix: /a}, ignoreUriCase: true", "uri: {prefix: /a}", False),
        ("uri: {prefix: /a}, ignoreUriCase: true", "method: {exact: GET}", True),
        ("headers: {x: {exact: a}}", "headers: {y: {exact: b}}", True),
        ("headers: {x: {exact: a}}", "headers: {x: {exact: b}}", False),
        ("headers: {x: {}}", "headers: {x: {exact: b}}", True),
        ("headers: {x: {prefix: a}}", "headers: {x: {}}", False),
        ("queryParams: {x: {exact: a}}", "queryParams: {x: {exact: b}}", False),
        ("port: 80", "port: 81", False),
        ("port: 80", "port: 80", True),
        ("sourceLabels: {app: a}", "sourceLabels: {app: b}", False),
        ("sourceLabels: {app: a}", "sourceLabels: {team: b}", True),
        ("sourceNamespace: a", "sourceNamespace: b", False),
        ("gateways: [mesh]", "gateways: [mesh, other]", False),
        ("gateways: [mesh, other]", "gateways: [mesh]", True),
    ],
)
def test_a_delegate_may_only_narrow_what_the_root_takes(outer: str, within: str, fits: bool) -> None:
    document = root(f"{{match: [{{{outer}}}], delegate: {{name: inner}}}}")
    known = delegates.named([inner(f"{{match: [{{{within}}}], {THERE}}}")])
    found = list(delegates.routes(document, known))
    assert bool(found) is fits
    said = list(delegates.without_effect(document, known))
    assert bool(said) is not fits
    if said:
        assert said[0].startswith(
            "spec.http[0] of VirtualService team/inner asks for what spec.http[0] here rules out"
        )


def test_what_a_delegate_does_not_say_is_as_the_root_says_it() -> None:
    outer = root(
        """{delegate: {name: inner}, timeout: 3s, rewrite: {uri: /x}, headers: {request: {set: {a: b}}},
            mirror: {host: e.f}, mirrors: [{destination: {host: g.h}}]}"""
    )
    bare = "{" + THERE + "}"
    full = (
        "{"
        + THERE
        + ", timeout: 1s, headers: {response: {add: {c: d}}}, mirror: {host: i.j}, mirrors: [{destination: {host: k.l}}]}"
    )
    answer = "{directResponse: {status: 204}}"
    known = delegates.named([inner(f"{bare}, {full}, {answer}")])
    one, other, direct = (said.spec for said in delegates.routes(outer, known))
    assert (one.timeout, other.timeout) == (3.0, 1.0)
    assert (one.rewrite, other.rewrite) == (outer.spec.http[0].rewrite,) * 2
    assert (one.headers.request.set, other.headers.request.set) == ({"a": "b"}, {})
    assert [each.host for each, *_ in one.copies] == ["e.f", "g.h"]
    assert [each.host for each, *_ in other.copies] == ["i.j", "k.l"]
    assert direct.copies == ()


def test_documents_that_say_nothing_of_others_are_as_they_are() -> None:
    document = root("{" + THERE + "}")
    [said] = delegates.routes(document, {})
    assert said.spec is document.spec.http[0]
    assert delegates.asked(document, {}) == ()
    assert list(delegates.without_effect(document, {})) == []


def test_a_delegate_that_changes_changes_the_routes_of_the_other() -> None:
    document = root("{delegate: {name: inner}}")
    first = RouteTable([document, inner("{name: one, " + THERE + "}")])
    assert taken(first) == "team/inner one"
    second = RouteTable()
    for _ in second.fill([document, inner("{name: two, " + THERE + "}")], Source({}), first):
        pass
    assert taken(second) == "team/inner two"
