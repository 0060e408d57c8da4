"""Istio's rules of authorization, its golden cases, and a slow second opinion on thousands of made-up policies."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st

from interceptor.model.identity import SpiffeId
from interceptor.policy.authorization import Verdict, for_destinations, for_workload
from tests.support import naive_authorization
from tests.support.documents import configuration
from tests.support.policies import (
    TRUST_DOMAINS,
    WORKLOAD,
    authorizer,
    connection,
    named,
    policies,
    policy_text,
    request,
)

NONE = "rbac_access_denied_matched_policy[none]"


def details(rule: int = 0, name: str = "p0", namespace: str = "shop") -> str:
    return f"rbac_access_denied_matched_policy[ns[{namespace}]-policy[{name}]-rule[{rule}]]"


def on_tcp(*specs: str) -> bool:
    return authorizer(*specs).decide(connection()).allowed


def on_http(*specs: str) -> bool:
    return authorizer(*specs).decide(connection(), request()).allowed


# --- order and defaults ---


def test_without_a_policy_about_it_there_is_no_authorizer() -> None:
    assert for_workload((), WORKLOAD, TRUST_DOMAINS) is None
    other = configuration(policy_text("{}", named("p", "other"))).authorization_policies
    assert for_workload(other, WORKLOAD, TRUST_DOMAINS) is None


def test_deny_wins_over_allow_and_is_named() -> None:
    made = authorizer("{action: ALLOW, rules: [{}]}", "{action: DENY, rules: [{}]}")
    assert made.decide(connection()) == Verdict(
        allowed=False, policy="AuthorizationPolicy shop/p1", details=details(name="p1")
    )


def test_an_allow_that_matches_is_named() -> None:
    assert authorizer("{rules: [{}]}").decide(connection()) == Verdict(
        allowed=True, policy="AuthorizationPolicy shop/p0"
    )


def test_where_allow_policies_exist_one_of_them_must_match() -> None:
    made = authorizer("{rules: [{from: [{source: {namespaces: [other]}}]}]}")
    assert made.decide(connection()) == Verdict(
        allowed=False, policy="AuthorizationPolicy none", details=NONE
    )


def test_without_allow_policies_what_is_not_denied_is_allowed_and_no_policy_decided() -> None:
    made = authorizer("{action: DENY, rules: [{to: [{operation: {ports: ['9']}}]}]}")
    assert made.decide(connection()) == Verdict(allowed=True, policy="-")


def test_the_rule_that_refuses_is_numbered() -> None:
    made = authorizer(
        "{action: DENY, rules: [{to: [{operation: {ports: ['9']}}]}, {to: [{operation: {ports: ['8080']}}]}]}"
    )
    assert made.decide(connection()).details == details(rule=1)


def test_an_audit_says_and_decides_nothing() -> None:
    made = authorizer("{action: AUDIT, rules: [{}, {}]}", "{action: AUDIT, rules: []}")
    assert made.decide(connection()) == Verdict(
        allowed=True, policy="-", audited=("AuthorizationPolicy shop/p0",)
    )


# --- rules absent, empty, and of nothing ---


@pytest.mark.parametrize("rules", ["", "rules: []"])
def test_no_rules_match_nothing(rules: str) -> None:
    assert not on_http(f"{{action: ALLOW, {rules}}}")
    assert on_http(f"{{action: DENY, {rules}}}")
    assert not on_tcp(f"{{action: ALLOW, {rules}}}")
    assert on_tcp(f"{{action: DENY, {rules}}}")


def test_a_rule_of_nothing_matches_everything() -> None:
    assert on_http("{action: ALLOW, rules: [{}]}")
    assert not on_http("{action: DENY, rules: [{}]}")
    assert on_tcp("{action: ALLOW, rules: [{}]}")
    assert not on_tcp("{action: DENY, rules: [{}]}")


# --- Istio's golden cases for TCP ---


HTTP_ONLY = [
    "to: [{operation: {methods: [GET]}}]",
    "to: [{operation: {paths: ['/*']}}]",
    "to: [{operation: {hosts: ['*']}}]",
    "to: [{operation: {notMethods: [POST]}}]",
    "from: [{source: {requestPrincipals: ['*']}}]",
    "from: [{source: {notRequestPrincipals: [x]}}]",
    "when: [{key: 'request.headers[x]', notValues: [a]}]",
    "when: [{key: 'request.auth.claims[x]', notValues: [a]}]",
    "when: [{key: request.auth.audiences, notValues: [a]}]",
    "when: [{key: request.auth.presenter, notValues: [a]}]",
]


@pytest.mark.parametrize("rule", HTTP_ONLY)
def test_on_tcp_an_allow_rule_that_asks_for_http_never_matches(rule: str) -> None:
    """tcp/allow-only-http."""
    assert not on_tcp(f"{{action: ALLOW, rules: [{{{rule}}}]}}")


@pytest.mark.parametrize("rule", HTTP_ONLY)
def test_on_tcp_a_deny_rule_loses_what_asks_for_http_and_is_wider(rule: str) -> None:
    """tcp/deny-both-http-tcp, rule 1."""
    assert not on_tcp(f"{{action: DENY, rules: [{{{rule}}}]}}")


def test_on_tcp_the_rest_of_a_deny_rule_still_counts() -> None:
    """tcp/deny-both-http-tcp, rule 0."""
    spec = "{action: DENY, rules: [{to: [{operation: {methods: [GET], ports: ['%s']}}]}]}"
    assert not on_tcp(spec % 8080)
    assert on_tcp(spec % 9)


def test_on_tcp_an_allow_rule_of_both_kinds_is_dropped_whole() -> None:
    """tcp/allow-both-http-tcp: one alternative of TCP does not save it."""
    both = "{rules: [{to: [{operation: {ports: ['8080']}}, {operation: {methods: [GET]}}]}]}"
    assert not on_tcp(both)
    assert on_tcp(both, "{rules: [{to: [{operation: {ports: ['8080']}}]}]}")
    assert on_http(both)


def test_on_tcp_an_audit_rule_is_wider_too() -> None:
    made = authorizer("{action: AUDIT, rules: [{to: [{operation: {methods: [GET]}}]}]}")
    assert made.decide(connection()).audited
    assert not made.decide(connection(), request("POST")).audited


@pytest.mark.parametrize(
    ("spec", "refused"),
    [
        ("{action: DENY, rules: [{}]}", True),
        ("{action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}", False),
        ("{action: DENY, rules: [{from: [{source: {remoteIpBlocks: [10.0.0.1]}}]}]}", False),
        ("{action: DENY, rules: [{from: [{source: {ipBlocks: [10.0.0.1]}}]}]}", True),
        ("{rules: []}", True),
        ("{rules: [{to: [{operation: {methods: [GET], ports: ['8080']}}]}]}", False),
        ("{rules: [{to: [{operation: {methods: [GET], ports: ['9']}}]}]}", True),
        ("{rules: [{from: [{source: {remoteIpBlocks: [10.9.9.9]}}]}]}", False),
        ("{action: AUDIT, rules: [{}]}", False),
    ],
)
def test_a_connection_is_refused_whole_where_nothing_could_be_asked_over_it(spec: str, refused: bool) -> None:
    verdict = authorizer(spec).refuses_all(connection())
    assert (verdict is not None) is refused


# --- selection, dry run, destinations ---


def test_the_meshs_policies_are_asked_before_the_namespaces() -> None:
    documents = configuration(
        policy_text(
            "{action: DENY, rules: [{}]}", named("young", more=", creationTimestamp: 2026-01-02T00:00:00Z")
        ),
        policy_text("{action: DENY, rules: [{}]}", named("mesh", "istio-system")),
        policy_text(
            "{action: DENY, rules: [{}]}", named("old", more=", creationTimestamp: 2026-01-01T00:00:00Z")
        ),
    ).authorization_policies
    made = for_workload(documents, WORKLOAD, TRUST_DOMAINS)
    assert made is not None
    assert [policy.name for policy, _ in made.policies] == ["mesh", "old", "young"]
    assert made.decide(connection()).details == details(name="mesh", namespace="istio-system")


@pytest.mark.parametrize(
    ("action", "rules", "shadow", "counted"),
    [
        ("DENY", "[{}]", "denied by AuthorizationPolicy shop/p", "deny"),
        ("DENY", "[]", "allowed by -", "deny"),
        ("ALLOW", "[]", "denied by AuthorizationPolicy none", "allow"),
        ("ALLOW", "[{}]", "allowed by AuthorizationPolicy shop/p", "allow"),
    ],
)
def test_a_dry_run_decides_nothing_and_says_what_it_would(
    action: str, rules: str, shadow: str, counted: str
) -> None:
    metadata = named("p", more=", annotations: {istio.io/dry-run: 'true'}")
    documents = configuration(policy_text(f"{{action: {action}, rules: {rules}}}", metadata))
    made = for_workload(documents.authorization_policies, WORKLOAD, TRUST_DOMAINS)
    assert made is not None
    verdict = made.decide(connection())
    assert verdict == Verdict(allowed=True, policy="-", shadow=shadow)
    result, _, policy = shadow.partition(" by ")
    assert verdict.shadows == ((policy, counted, result),)


def test_a_dry_run_audit_says_nothing() -> None:
    metadata = named("p", more=", annotations: {istio.io/dry-run: 'true'}")
    documents = configuration(policy_text("{action: AUDIT, rules: [{}]}", metadata)).authorization_policies
    made = for_workload(documents, WORKLOAD, TRUST_DOMAINS)
    assert made is not None
    assert made.decide(connection()).audited == ()


def test_policies_with_targets_are_about_what_the_app_opens() -> None:
    target = "targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: %s}]"
    documents = policies(
        f"{{{target % 'bank'}, action: DENY, rules: [{{}}]}}", f"{{{target % 'bank'}}}", "{}"
    ).authorization_policies
    made = for_destinations(documents, TRUST_DOMAINS)
    assert list(made) == ["shop/bank"]
    assert [policy.name for policy, _ in made["shop/bank"].policies] == ["p0", "p1"]
    ingress = for_workload(documents, WORKLOAD, TRUST_DOMAINS)
    assert ingress is not None
    assert [policy.name for policy, _ in ingress.policies] == ["p2"]


# --- thousands of policies, against the naive one ---

TEXTS = {
    "principals": ["mesh.x/ns/a/sa/a", "mesh.x/ns/a/sa/b", "mesh.x/ns/b/*", "*/sa/a", "*"],
    "requestPrincipals": ["i/a", "i/*", "*/b", "*"],
    "namespaces": ["a", "b", "a*", "*b", "*"],
    "serviceAccounts": ["a/a", "b/b", "a"],
    "ipBlocks": ["10.0.0.0/8", "10.1.0.0/16", "10.1.0.1", "fd00::/8", "0.0.0.0/0"],
    "remoteIpBlocks": ["10.0.0.0/8", "10.1.0.0/16", "fd00::1"],
    "hosts": ["A.example", "a.*", "*.example", "*"],
    "ports": ["80", "81"],
    "methods": ["GET", "P*", "*T"],
    "paths": ["/a", "/a/*", "*/b", "/a/{*}", "/{*}/{**}", "*"],
}
FACTS = {
    "principals": ["", "mesh.x/ns/a/sa/a", "mesh.x/ns/b/sa/b"],
    "requestPrincipals": ["", "i/a", "j/b"],
    "hosts": ["a.example", "b.example", "a.b"],
    "ipBlocks": ["10.1.0.1", "10.2.0.1", "fd00::1", "11.0.0.1"],
    "remoteIpBlocks": ["10.1.0.1", "11.0.0.1", "fd00::1"],
    "ports": ["80", "81"],
    "methods": ["GET", "POST", "PUT"],
    "paths": ["/a", "/a/b", "/a/b/c", "/"],
}


def entries(words: tuple[str, ...]) -> st.SearchStrategy[dict[str, list[str]]]:
    names = [word for word in words if word != "serviceAccounts"]
    fields = {
        name: st.lists(st.sampled_from(TEXTS[word]), min_size=1, max_size=2)
        for word in names
        for name in (word, f"not{word[0].upper()}{word[1:]}")
    }
    some = st.sets(st.sampled_from(sorted(fields)), min_size=1, max_size=2)
    mixed = some.flatmap(lambda chosen: st.fixed_dictionaries({name: fields[name] for name in chosen}))
    if "serviceAccounts" not in words:
        return mixed
    accounts = st.lists(st.sampled_from(TEXTS["serviceAccounts"]), min_size=1, max_size=2)
    return mixed | st.sampled_from(["serviceAccounts", "notServiceAccounts"]).flatmap(
        lambda name: st.fixed_dictionaries({name: accounts})
    )


conditions = st.sampled_from(sorted(naive_authorization.CONDITIONS)).flatmap(
    lambda key: st.fixed_dictionaries(
        {"key": st.just(key)},
        optional={
            "notValues": st.lists(
                st.sampled_from(TEXTS[naive_authorization.CONDITIONS[key]]), min_size=1, max_size=2
            )
        },
    ).flatmap(
        lambda given: (
            st.just(given)
            if "notValues" in given
            else st.lists(
                st.sampled_from(TEXTS[naive_authorization.CONDITIONS[key]]), min_size=1, max_size=2
            ).map(lambda values: {**given, "values": values})
        )
    )
)
rules = st.fixed_dictionaries(
    {},
    optional={
        "from": st.lists(
            entries(naive_authorization.SOURCE).map(lambda each: {"source": each}), min_size=1, max_size=2
        ),
        "to": st.lists(
            entries(naive_authorization.OPERATION).map(lambda each: {"operation": each}),
            min_size=1,
            max_size=2,
        ),
        "when": st.lists(conditions, min_size=1, max_size=2),
    },
)
specs = st.fixed_dictionaries(
    {"action": st.sampled_from(["ALLOW", "DENY", "AUDIT"]), "rules": st.lists(rules, max_size=3)}
)
facts = st.fixed_dictionaries({word: st.sampled_from(texts) for word, texts in FACTS.items()})


@given(st.lists(specs, min_size=1, max_size=6), facts, st.booleans())
def test_a_decision_is_what_the_naive_reading_says(
    drawn: list[dict[str, object]], asked: dict[str, str], http: bool
) -> None:
    made = policies(*map(json.dumps, drawn)).authorization_policies
    identity = None
    if asked["principals"]:
        trust_domain, _, namespace, _, account = asked["principals"].split("/")
        identity = SpiffeId(trust_domain, namespace, account)
    facts_of = {
        **asked,
        "remoteIpBlocks": asked["remoteIpBlocks" if http else "ipBlocks"],
        "namespaces": identity.namespace if identity else "",
        "serviceAccounts": f"{identity.namespace}/{identity.service_account}" if identity else "",
    }
    subject = connection(asked["ipBlocks"], int(asked["ports"]), identity)
    iss, _, sub = asked["requestPrincipals"].partition("/")
    asked_for = request(
        asked["methods"],
        asked["paths"],
        asked["hosts"],
        claims={"iss": iss, "sub": sub} if sub else None,
        remote=asked["remoteIpBlocks"],
    )
    compiled = for_workload(made, WORKLOAD, TRUST_DOMAINS)
    assert compiled is not None
    verdict = compiled.decide(subject, asked_for if http else None)
    assert verdict.allowed is naive_authorization.allowed(made, facts_of, http=http)
    if verdict.allowed and http:
        assert compiled.refuses_all(subject) is None
