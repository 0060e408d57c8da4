"""What each word of a policy looks at: one rule, facts that match and facts that do not."""

from __future__ import annotations

import pytest

from interceptor.model.identity import SpiffeId
from interceptor.policy.facts import ConnectionFacts, RequestFacts
from tests.support.policies import authorizer, connection, request


def allows(rule: str, over: ConnectionFacts, asked: RequestFacts | None = None) -> bool:
    return authorizer(f"{{rules: [{{{rule}}}]}}").decide(over, asked or request()).allowed


def source(field: str) -> str:
    return f"from: [{{source: {{{field}}}}}]"


def operation(field: str) -> str:
    return f"to: [{{operation: {{{field}}}}}]"


def when(key: str, values: str) -> str:
    return f"when: [{{key: '{key}', values: {values}}}]"


@pytest.mark.parametrize(
    ("principal", "trust_domain", "same"),
    [
        ("mesh.example/ns/shop/sa/reader", "mesh.example", True),
        ("mesh.example/ns/shop/sa/reader", "old.example", True),  # an alias means the same
        ("old.example/ns/shop/sa/reader", "mesh.example", True),
        ("cluster.local/ns/shop/sa/reader", "mesh.example", True),  # Istio's word for the own one
        ("cluster.local/ns/shop/sa/reader", "foreign.example", False),
        ("foreign.example/ns/shop/sa/reader", "mesh.example", False),
        ("foreign.example/ns/shop/sa/reader", "foreign.example", True),
        ("*/ns/shop/sa/reader", "foreign.example", True),
        ("cluster.local/ns/shop/*", "old.example", True),
        ("cluster.local*", "mesh.example", False),
        ("*", "foreign.example", True),
        ("mesh.example/ns/shop/sa/other", "mesh.example", False),
    ],
)
def test_principals_know_the_aliases_of_our_trust_domain(
    principal: str, trust_domain: str, same: bool
) -> None:
    over = connection(identity=SpiffeId(trust_domain, "shop", "reader"))
    assert allows(source(f"principals: ['{principal}']"), over) is same
    assert allows(when("source.principal", f"['{principal}']"), over) is same
    assert allows(source(f"notPrincipals: ['{principal}']"), over) is not same


def test_nobody_has_no_principal_namespace_or_account() -> None:
    nobody = connection(identity=None)
    for field in ("principals: ['*']", "namespaces: ['*']", "serviceAccounts: [reader]"):
        assert not allows(source(field), nobody)
    assert allows(source("notPrincipals: ['*']"), nobody)
    assert not allows(source("notPrincipals: ['*']"), connection())


@pytest.mark.parametrize(
    ("field", "matches"),
    [
        ("namespaces: [shop]", True),
        ("namespaces: [sh]", False),
        ("serviceAccounts: [reader]", True),  # of the policy's namespace
        ("serviceAccounts: [shop/reader]", True),
        ("serviceAccounts: [other/reader]", False),
        ("ipBlocks: [10.0.0.0/24]", True),
        ("ipBlocks: [10.0.1.0/24]", False),
        ("remoteIpBlocks: [10.0.0.1]", True),
        ("notIpBlocks: [10.0.0.1]", False),
    ],
)
def test_sources_of_a_connection(field: str, matches: bool) -> None:
    assert allows(source(field), connection()) is matches


def test_ip_blocks_are_the_peers_and_never_what_a_header_says() -> None:
    asked = request(remote="10.7.7.7")
    assert allows(source("remoteIpBlocks: [10.7.7.7]"), connection(), asked)
    assert not allows(source("remoteIpBlocks: [10.0.0.1]"), connection(), asked)
    assert allows(source("ipBlocks: [10.0.0.1]"), connection(), asked)
    assert not allows(source("ipBlocks: [10.7.7.7]"), connection(), asked)


@pytest.mark.parametrize(
    ("field", "matches"),
    [
        ("hosts: [web.shop]", True),
        ("hosts: [WEB.shop]", True),
        ("hosts: ['*.shop']", True),
        ("hosts: ['web.shop:8080']", True),
        ("hosts: ['web.shop:9']", False),
        ("ports: ['8080']", True),
        ("ports: ['80']", False),
        ("methods: [GET]", True),
        ("methods: [get]", False),
        ("paths: [/a/b]", True),
        ("paths: [/a]", False),
        ("paths: ['/a/{*}']", True),
        ("notPaths: ['/a/{*}']", False),
    ],
)
def test_operations_of_a_request(field: str, matches: bool) -> None:
    asked = request("GET", "/a/b?c", "Web.Shop:8080")
    assert allows(operation(field), connection(), asked) is matches


CLAIMS: dict[str, object] = {
    "iss": "issuer",
    "sub": "alice",
    "aud": ["one", "two"],
    "azp": "client",
    "groups": ["dev", 7],
    "scope": "read write",
    "nested": {"role": "admin", "scope": "a b"},
    "number": 7,
}


@pytest.mark.parametrize(
    ("key", "values", "matches"),
    [
        ("source.ip", "[10.0.0.0/8]", True),
        ("remote.ip", "[11.0.0.0/8]", False),
        ("source.namespace", "[shop]", True),
        ("source.serviceAccount", "[shop/reader]", True),
        ("destination.ip", "[10.0.0.9]", True),
        ("destination.ip", "[10.0.0.1]", False),
        ("destination.port", "['8080']", True),
        ("connection.sni", "['*.shop']", True),
        ("request.headers[X-Team]", "[red]", True),
        ("request.headers[x-team]", "['*']", True),
        ("request.headers[x-other]", "['*']", False),
        ("request.auth.principal", "[issuer/alice]", True),
        ("request.auth.audiences", "[two]", True),
        ("request.auth.presenter", "[client]", True),
        ("request.auth.claims[groups]", "[dev]", True),
        ("request.auth.claims[groups]", "['7']", False),
        ("request.auth.claims[scope]", "[write]", True),
        ("request.auth.claims[nested][role]", "[admin]", True),
        ("request.auth.claims[nested][scope]", "['a b']", True),
        ("request.auth.claims[nested]", "['*']", False),
        ("request.auth.claims[iss][x]", "['*']", False),
        ("request.auth.claims[number]", "['7']", False),
        ("request.auth.claims[absent]", "['*']", False),
    ],
)
def test_conditions(key: str, values: str, matches: bool) -> None:
    asked = request(headers=[(b"x-team", b"red")], claims=CLAIMS)
    over = connection(sni="web.shop")
    assert allows(when(key, values), over, asked) is matches
    assert allows(f"when: [{{key: '{key}', notValues: {values}}}]", over, asked) is not matches


def test_a_condition_with_both_lists_needs_both() -> None:
    rule = "when: [{key: 'request.headers[x]', values: ['a*'], notValues: [ab]}]"
    for text, matches in ((b"aa", True), (b"ab", False), (b"b", False)):
        assert allows(rule, connection(), request(headers=[(b"x", text)])) is matches


def test_what_is_not_ascii_is_compared_byte_by_byte() -> None:
    """A path and a header have bytes; the document has text, and means its UTF-8."""
    octets = "/café".encode().decode("latin-1")
    assert allows(operation("paths: ['/café']"), connection(), request(path=octets))
    assert allows(operation("paths: ['/caf*']"), connection(), request(path=octets))
    assert allows(operation("paths: ['/{*}']"), connection(), request(path=octets))
    rule = "when: [{key: 'request.headers[x]', values: ['*é']}]"
    assert allows(rule, connection(), request(headers=[(b"x", "café".encode())]))
    assert not allows(rule, connection(), request(headers=[(b"x", "café".encode("latin-1"))]))
