"""The typed ruleset: which rules are for which family, and what comments say."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from interceptor.config.redirect import RedirectSettings
from interceptor.redirect.ipv6 import Ipv6
from interceptor.redirect.plan import plan
from interceptor.redirect.rules import FAMILIES, Match, Return, Rule, Ruleset, Table, Tag, read_comment


@pytest.mark.parametrize(
    ("match", "families"),
    [
        (Match(), [4, 6]),
        (Match(source=ip_network("10.0.0.0/8")), [4]),
        (Match(destination=ip_network("fd00::/8")), [6]),
    ],
)
def test_an_address_ties_a_rule_to_its_family(match: Match, families: list[int]) -> None:
    rule = Rule("id", match, Return(), "always", "")
    assert [family for family in FAMILIES if rule.applies_to(family)] == families


def test_a_comment_is_read_back() -> None:
    ruleset = Ruleset("abc", ())
    rule = Rule("egress-exclude-cidr-fd00::/8", Match(), Return(), "always", "")
    assert read_comment(ruleset.comment(rule)) == Tag("abc", "egress-exclude-cidr-fd00::/8")


@pytest.mark.parametrize("comment", ["", "kube-proxy", "interceptor:v1:abc", "x interceptor:v1:abc:id"])
def test_a_foreign_comment_is_not_ours(comment: str) -> None:
    assert read_comment(comment) is None


def test_tables_with_something_of_ours() -> None:
    ruleset = plan(RedirectSettings(), Ipv6.BLOCK)
    assert list(ruleset.tables()) == [(4, Table.NAT), (6, Table.FILTER)]
