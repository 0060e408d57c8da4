from __future__ import annotations

import json
from typing import Any

import pytest

from interceptor.config.documents import load
from interceptor.config.problems import Source
from interceptor.discovery.xds import rbac

ANY = {"any": True}


def name(value: str, kind: str = "exact") -> dict[str, Any]:
    return {"authenticated": {"principal_name": {kind: value}}}


def method(value: str) -> dict[str, Any]:
    return {"header": {"name": ":method", "string_match": {"exact": value}}}


def filter_of(
    permission: dict[str, Any] = ANY, principal: dict[str, Any] = ANY, **more: Any
) -> dict[str, Any]:
    policy = {"permissions": [permission], "principals": [principal]}
    return {"rules": {"policies": {"p": policy}, **more}}


def said_of(given: dict[str, Any], *, http: bool = True) -> tuple[list[rbac.Policy], list[str]]:
    said: list[str] = []
    return rbac.read(given, "x.", said, http=http), said


def rules_of(permission: dict[str, Any] = ANY, principal: dict[str, Any] = ANY) -> list[dict[str, Any]]:
    [policy], said = said_of(filter_of(permission, principal))
    assert said == []
    document = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "x"},
        "spec": {"rules": policy.rules},
    }
    assert load([Source("x", json.dumps(document))], sidecar_required=False).problems == ()
    return policy.rules


def all_of(*rules: dict[str, Any]) -> dict[str, Any]:
    return {"and_rules": {"rules": list(rules)}}


def present(header: str) -> dict[str, Any]:
    return {"header": {"name": header, "present_match": True}}


def any_of(*rules: dict[str, Any]) -> dict[str, Any]:
    return {"or_rules": {"rules": list(rules)}}


@pytest.mark.parametrize(
    ("permission", "operations"),
    [
        (method("GET"), [{"methods": ["GET"]}]),
        (any_of(method("GET"), method("HEAD")), [{"methods": ["GET", "HEAD"]}]),
        ({"url_path": {"path": {"prefix": "/v1/"}}}, [{"paths": ["/v1/*"]}]),
        ({"url_path": {"path": {"suffix": ".css"}}}, [{"paths": ["*.css"]}]),
        ({"header": {"name": ":authority", "string_match": {"exact": "a.b", "ignore_case": True}}}, [{"hosts": ["a.b"]}]),
        ({"destination_port": 80}, [{"ports": ["80"]}]),
        (all_of(method("GET"), {"destination_port": 80}), [{"methods": ["GET"], "ports": ["80"]}]),
        ({"not_rule": any_of({"destination_port": 80}, {"destination_port": 81})}, [{"notPorts": ["80", "81"]}]),
        ({"not_rule": all_of(method("GET"), {"destination_port": 80})}, [{"notMethods": ["GET"]}, {"notPorts": ["80"]}]),
        ({"not_rule": {"not_rule": method("GET")}}, [{"methods": ["GET"]}]),
        (
            all_of({"not_rule": method("GET")}, {"not_rule": method("PUT")}),
            [{"notMethods": ["GET", "PUT"]}],
        ),
        (
            any_of(all_of(method("GET"), {"destination_port": 80}), {"destination_port": 81}),
            [{"methods": ["GET"], "ports": ["80"]}, {"ports": ["81"]}],
        ),
    ],
)  # fmt: skip
def test_permissions_are_operations(permission: dict[str, Any], operations: list[dict[str, Any]]) -> None:
    assert rules_of(permission) == [{"to": [{"operation": each} for each in operations]}]


@pytest.mark.parametrize(
    ("principal", "sources"),
    [
        (name("spiffe://td/ns/a/sa/b"), [{"principals": ["td/ns/a/sa/b"]}]),
        (name("spiffe://td/ns/a/", "prefix"), [{"principals": ["td/ns/a/*"]}]),
        (name("/sa/b", "suffix"), [{"principals": ["*/sa/b"]}]),
        ({"authenticated": {}}, [{"principals": ["*"]}]),
        ({"authenticated": {"principal_name": {"safe_regex": {"regex": ".+"}}}}, [{"principals": ["*"]}]),
        ({"authenticated": {"principal_name": {"safe_regex": {"regex": ".*/ns/shop/.*"}}}}, [{"namespaces": ["shop"]}]),
        (
            {"filter_state": {"key": "io.istio.peer_principal", "string_match": {"exact": "spiffe://td/ns/a/sa/b"}}},
            [{"principals": ["td/ns/a/sa/b"]}],
        ),
        ({"direct_remote_ip": {"address_prefix": "10.0.0.0", "prefix_len": 8}}, [{"ipBlocks": ["10.0.0.0/8"]}]),
        ({"not_id": {"remote_ip": {"address_prefix": "fd00::", "prefix_len": 8}}}, [{"notRemoteIpBlocks": ["fd00::/8"]}]),
        (
            {"and_ids": {"ids": [name("spiffe://td/ns/a/sa/b"), {"not_id": {"direct_remote_ip": {"address_prefix": "10.0.0.1", "prefix_len": 32}}}]}},
            [{"principals": ["td/ns/a/sa/b"], "notIpBlocks": ["10.0.0.1/32"]}],
        ),
    ],
)  # fmt: skip
def test_principals_are_sources(principal: dict[str, Any], sources: list[dict[str, Any]]) -> None:
    assert rules_of(principal=principal) == [{"from": [{"source": each} for each in sources]}]


def test_anything_by_anybody_is_an_empty_rule() -> None:
    assert rules_of() == [{}]


def test_conditions_hold_for_their_own_alternative_alone() -> None:
    header = {"header": {"name": "x-user", "string_match": {"prefix": "j"}}}
    sni = {"not_rule": {"requested_server_name": {"exact": "a.b"}}}
    there = {"destination_ip": {"address_prefix": "10.0.0.0", "prefix_len": 24}}
    assert rules_of(any_of(header, all_of(sni, there)), {"authenticated": {}}) == [
        {
            "from": [{"source": {"principals": ["*"]}}],
            "when": [{"key": "request.headers[x-user]", "values": ["j*"]}],
        },
        {
            "from": [{"source": {"principals": ["*"]}}],
            "when": [
                {"key": "connection.sni", "notValues": ["a.b"]},
                {"key": "destination.ip", "values": ["10.0.0.0/24"]},
            ],
        },
    ]


def test_a_header_of_a_principal_is_a_condition() -> None:
    assert rules_of(principal=present("x")) == [{"when": [{"key": "request.headers[x]", "values": ["*"]}]}]


@pytest.mark.parametrize(("theirs", "ours"), [("DENY", "DENY"), ("LOG", "AUDIT"), ("ALLOW", "ALLOW")])
def test_actions(theirs: str, ours: str) -> None:
    assert said_of(filter_of(action=theirs)) == ([rbac.Policy(ours, [{}], dry_run=False)], [])


def test_shadow_rules_are_a_dry_run_and_no_policies_match_nothing() -> None:
    given = {"shadow_rules": filter_of()["rules"], "rules": {}}
    assert said_of(given) == (
        [rbac.Policy("ALLOW", [], dry_run=False), rbac.Policy("ALLOW", [{}], dry_run=True)],
        [],
    )
    assert said_of({}) == ([], [])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"matcher": {}}, "x.matcher: is not honoured by this version"),
        (filter_of(action="X"), "x.rules.action: X is not honoured"),
        (
            filter_of(audit_logging_options={}),
            "x.rules.audit_logging_options: is not honoured by this version",
        ),
        (
            {"rules": {"policies": {"p": {"condition": {}}}}},
            "x.rules.policies[p].condition: is not honoured by this version",
        ),
    ],
)
def test_fields_that_are_not_honoured_are_said(given: dict[str, Any], said: str) -> None:
    assert said in said_of(given)[1]


@pytest.mark.parametrize(
    ("permission", "principal", "why"),
    [
        ({"metadata": {}}, ANY, "the permission metadata is not honoured"),
        ({"destination_port_range": {}}, ANY, "the permission destination_port_range"),
        ({"destination_port": 0}, ANY, "0 is not a port"),
        ({"url_path": {"path": {"exact": "v1"}}}, ANY, "the path 'v1' would never match"),
        ({"url_path": {"path": {"contains": "x"}}}, ANY, "only exact, prefix and suffix"),
        ({"url_path": {"path": {"safe_regex": {"regex": "/a.*"}}}}, ANY, "the expression '/a.*'"),
        ({"url_path": {"path": {"exact": "/a*"}}}, ANY, "the text '/a*' means something else"),
        ({"header": {"name": ":authority", "string_match": {"exact": "a"}}}, ANY, "ignore_case is honoured only as true"),
        ({"header": {"name": "x", "string_match": {"exact": "a", "ignore_case": True}}}, ANY, "ignore_case is honoured only as false"),
        ({"header": {"name": ":path", "string_match": {"exact": "a"}}}, ANY, "the header ':path'"),
        ({"header": {"name": "x", "invert_match": True, "present_match": True}}, ANY, "header.invert_match"),
        ({"header": {"name": "x", "present_match": False}}, ANY, "header needs string_match"),
        ({"not_rule": ANY}, ANY, "not of any is nothing"),
        (all_of(method("GET"), method("PUT")), ANY, "methods has to be two things at once"),
        (any_of(), ANY, "there are no permissions"),
        ({}, ANY, "each permission and principal has one condition"),
        (all_of(*(any_of(present(f"a{at}"), present(f"b{at}")) for at in range(7))), ANY, "it comes to more than 64 alternatives"),
        (any_of(*(all_of(method("A"), {"destination_port": 1 + at}) for at in range(65))), ANY, "it comes to more than 64 alternatives"),
        (
            any_of(*(present(f"a{at}") for at in range(9))),
            {"or_ids": {"ids": [present(f"b{at}") for at in range(8)]}},
            "it comes to more than 64 rules",
        ),
        (ANY, name("cn=x"), "the principal 'cn=x' is no SPIFFE id"),
        (ANY, {"source_ip": {}}, "the principal source_ip"),
        (ANY, {"filter_state": {"key": "other"}}, "the principal filter_state"),
        (ANY, {"direct_remote_ip": {"address_prefix": "x"}}, "'x/0'"),
    ],
)  # fmt: skip
def test_trees_that_cannot_be_said_are_refused(
    permission: dict[str, Any], principal: dict[str, Any], why: str
) -> None:
    [said] = said_of(filter_of(permission, principal))[1]
    assert said.startswith("x.rules.policies[p]: ")
    assert why in said


def test_a_filter_of_connections_has_nothing_of_requests() -> None:
    for permission in (method("GET"), {"url_path": {"path": {"exact": "/"}}}):
        [said] = said_of(filter_of(permission), http=False)[1]
        assert "this filter sees connections" in said
    assert rules_of(present("x")) == [{"when": [{"key": "request.headers[x]", "values": ["*"]}]}]
