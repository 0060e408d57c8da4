from __future__ import annotations

from interceptor.policy.rules import Rule, compiled, for_any, for_tcp
from tests.support.policies import TRUST_DOMAINS, connection, policies, request


def rule(text: str, action: str = "ALLOW") -> Rule:
    [document] = policies(f"{{action: {action}, rules: [{{{text}}}]}}").authorization_policies
    _, [made] = compiled(document, TRUST_DOMAINS)
    return made


MIXED = "to: [{operation: {ports: ['8080'], methods: [GET]}}, {operation: {paths: [/a]}}]"


def test_checks_keep_their_place_in_the_document() -> None:
    made = rule(
        f"from: [{{source: {{notNamespaces: [a]}}}}], {MIXED}, when: [{{key: source.ip, values: [10.0.0.1]}}]"
    )
    fields = [check.field for group in made.groups for alternative in group for check in alternative]
    assert fields == [
        "from[0].source.notNamespaces",
        "to[0].operation.ports",
        "to[0].operation.methods",
        "to[1].operation.paths",
        "when[0].values",
    ]
    assert str(made.policy) == "AuthorizationPolicy shop/p0"


def test_every_group_must_match_and_one_alternative_of_it() -> None:
    made = rule(f"from: [{{source: {{namespaces: [shop]}}}}], {MIXED}")
    assert made.matches(connection(), request("GET"))
    assert made.matches(connection(port=1), request("POST", "/a"))
    assert not made.matches(connection(), request("POST"))
    assert not made.matches(connection(identity=None), request("GET"))


def test_a_rule_without_http_is_the_same_on_tcp() -> None:
    made = rule("to: [{operation: {ports: ['1']}}]")
    assert for_tcp(made) is made


def test_on_tcp_an_allow_rule_goes_and_others_lose_checks() -> None:
    assert for_tcp(rule(MIXED)) is None
    narrowed = for_tcp(rule(MIXED, "DENY"))
    assert narrowed is not None
    [[first, second]] = narrowed.groups
    assert ([check.field for check in first], second) == (["to[0].operation.ports"], ())
    assert narrowed.matches(connection(port=1), None)


def test_over_any_request_it_is_the_other_way_round() -> None:
    assert for_any(rule(MIXED, "DENY")) is None
    optimistic = for_any(rule(MIXED))
    assert optimistic is not None
    assert optimistic.matches(connection(port=1), None)
    by_proxy = rule("from: [{source: {remoteIpBlocks: [10.0.0.1]}}]", "DENY")
    assert (for_any(by_proxy), for_tcp(by_proxy)) == (None, by_proxy)


def test_what_a_connection_carries_is_known_with_its_request_or_without_one() -> None:
    of_requests = rule("when: [{key: connection.protocol, values: [http]}]", "DENY")
    of_others = rule("when: [{key: connection.protocol, values: [tcp]}]")
    assert of_requests.matches(connection(), request("GET"))
    assert not of_requests.matches(connection(), None)
    assert not of_others.matches(connection(), request("GET"))
    assert for_tcp(of_others) is of_others
    assert of_others.matches(connection(), None)
    assert for_any(of_requests) is None, "a request may or may not come"
    loose = for_any(of_others)
    assert loose is not None
    assert loose.matches(connection(), None)
