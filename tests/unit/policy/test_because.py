from __future__ import annotations

import pytest

from interceptor.policy.because import reasons
from tests.support.policies import authorizer, connection, request


def because(rule: str, *, action: str = "ALLOW", http: bool = True) -> list[str]:
    made = authorizer(f"{{action: {action}, rules: [{rule}]}}")
    asked = request("GET", "/a") if http else None
    [reason] = reasons(made.policies, connection(), asked)
    [told] = reason.rules
    assert reason.matches is told.matches
    decides = made.decide(connection(), asked).policy == "AuthorizationPolicy shop/p0"
    assert told.matches is decides
    return list(told.because)


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        ("{}", ["it asks for nothing, so it matches everything"]),
        ("{to: [{operation: {methods: [GET]}}]}", ["it matches"]),
        (
            "{from: [{source: {namespaces: [a, b]}}], to: [{operation: {methods: [PUT]}}, {operation: {notPaths: [/a]}}]}",
            [
                "from[0].source.namespaces [a, b] does not match 'shop'",
                "to[0].operation.methods [PUT] does not match 'GET'; and to[1].operation.notPaths [/a] matches '/a'",
            ],
        ),
        (
            "{from: [{source: {ipBlocks: [10.9.0.0/16]}}]}",
            ["from[0].source.ipBlocks [10.9.0.0/16] does not match 10.0.0.1"],
        ),
        (
            "{to: [{operation: {hosts: [x]}}]}",
            ["to[0].operation.hosts [x] does not match 'web.shop'"],
        ),
        (
            "{when: [{key: 'request.headers[x]', values: [a]}]}",
            ["when[0].values [a] does not match what is absent"],
        ),
        (
            "{from: [{source: {requestPrincipals: ['*']}}]}",
            ["from[0].source.requestPrincipals [*] does not match what is absent"],
        ),
    ],
)
def test_a_rule_tells_the_first_thing_that_fails_in_each_of_its_parts(rule: str, found: list[str]) -> None:
    assert because(rule) == found


MIXED = "{to: [{operation: {methods: [GET], ports: ['%s']}}]}"


def test_on_tcp_a_rule_tells_what_it_lost() -> None:
    [dropped] = because(MIXED % 8080, http=False)
    assert dropped == (
        "on TCP there is no to[0].operation.methods: a rule of an ALLOW policy that asks for it never matches"
    )
    wider = "on TCP there is no to[0].operation.methods: without it the rule is wider"
    assert because(MIXED % 8080, action="DENY", http=False) == [wider, "it matches"]
    assert because(MIXED % 9, action="DENY", http=False) == [
        wider,
        "to[0].operation.ports [9] does not match '8080'",
    ]


def test_a_policy_without_rules_matches_nothing() -> None:
    [reason] = reasons(authorizer("{}").policies, connection(), None)
    assert reason.as_mapping() == {
        "policy": "AuthorizationPolicy shop/p0",
        "action": "ALLOW",
        "dryRun": False,
        "matches": False,
        "rules": [],
    }
