from __future__ import annotations

from interceptor.model.address import SocketAddress
from interceptor.policy.facts import ConnectionFacts, RequestFacts
from interceptor.policy.index import Index
from interceptor.policy.rules import Rule, compiled
from tests.support.policies import PEER, TRUST_DOMAINS, connection, policies, request


def rules(*texts: str) -> list[Rule]:
    documents = policies(*(f"{{rules: [{{{text}}}]}}" for text in texts)).authorization_policies
    return [rule for document in documents for rule in compiled(document, TRUST_DOMAINS)[1]]


class Counting(Index):
    """An index that counts the rules it looks at."""

    looked_at = 0

    def count(self, over: ConnectionFacts, asked: RequestFacts | None) -> list[str]:
        counting = self

        class Looked:
            def __init__(self, rule: Rule) -> None:
                self.rule = rule
                self.policy = rule.policy

            def matches(self, *facts: object) -> bool:
                counting.looked_at += 1
                return self.rule.matches(over, asked)

        self.rules = [Looked(rule) for rule in self.rules]  # type: ignore[misc]  # looks like one
        return [rule.policy.name for rule in self.matching(over, asked)]


def test_matching_rules_come_in_their_order_each_once() -> None:
    made = Index(
        rules(
            "to: [{operation: {paths: [/a, '/a*', '*a']}}]",
            "",
            "from: [{source: {namespaces: [shop]}}, {source: {namespaces: [other]}}]",
            "from: [{source: {ipBlocks: [10.0.0.0/8, 'fd00::/8']}}]",
            "to: [{operation: {paths: [/b]}}]",
        )
    )
    found = [rule.policy.name for rule in made.matching(connection(), request(path="/a"))]
    assert found == ["p0", "p1", "p2", "p3"]
    first = made.first(connection(), request(path="/a"))
    assert first is not None
    assert first.policy.name == "p0"
    assert Index([]).first(connection(), None) is None


def test_a_rule_is_looked_at_only_where_it_can_match() -> None:
    made = Counting(
        rules(*(f"to: [{{operation: {{paths: [/{number}, '/x{number}/*']}}}}]" for number in range(200)))
    )
    assert made.count(connection(), request(path="/7")) == ["p7"]
    assert made.looked_at == 1


def test_rules_are_found_by_what_tells_them_apart() -> None:
    same = f"from: [{{source: {{principals: ['{PEER.principal}']}}}}]"
    made = Counting(
        rules(
            *(
                f"{same}, to: [{{operation: {{ports: ['8080'], paths: [/{number}]}}}}]"
                for number in range(200)
            )
        )
    )
    assert made.count(connection(), request(path="/7")) == ["p7"]
    assert made.looked_at == 1


def test_what_must_not_be_is_found_as_well() -> None:
    texts = (
        "from: [{source: {notPrincipals: ['*']}}]",
        f"from: [{{source: {{notPrincipals: ['{PEER.principal}']}}}}]",
        "from: [{source: {notPrincipals: ['cluster.local/*']}}]",
        "from: [{source: {notServiceAccounts: [reader, x]}}]",
        "from: [{source: {notIpBlocks: [10.0.0.0/8, 'fd00::/8']}}]",
        "to: [{operation: {notPaths: ['/a/{*}', /a/b]}}]",
        "to: [{operation: {notPaths: ['/a/{*}']}}]",  # a template is looked at
        "from: [{source: {notPrincipals: ['*']}}, {source: {notIpBlocks: [11.0.0.0/8]}}]",  # one of two will do
        "from: [{source: {notIpBlocks: [11.0.0.0/8]}}]",
    )
    made = Counting(rules(*texts))
    assert made.count(connection(), request(path="/a/b")) == ["p7", "p8"]
    assert made.looked_at == 3
    plaintext = Index(rules(*texts))
    over = ConnectionFacts(SocketAddress("11.0.0.1", 1), SocketAddress("10.0.0.2", 80))
    found = [rule.policy.name for rule in plaintext.matching(over, request(path="/a/b"))]
    assert found == ["p0", "p1", "p2", "p3", "p4", "p7"]


def test_what_cannot_be_found_is_always_looked_at() -> None:
    texts = (
        "to: [{operation: {notPorts: ['1']}}]",
        "to: [{operation: {paths: ['*']}}]",
        "to: [{operation: {paths: [/x]}}, {operation: {notMethods: [GET]}}]",
    )
    made = Counting(rules(*texts))
    assert made.count(connection(), request()) == ["p0", "p1"]
    assert made.looked_at == 3
