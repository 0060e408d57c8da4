from __future__ import annotations

import pytest

from interceptor.state.explain import answer
from interceptor.state.snapshot import take
from tests.support.documents import configuration
from tests.support.routed import document, shop

SUBSETS = document(
    "DestinationRule",
    "host: shop.example\nsubsets: [{name: v1, labels: {version: v1}}, {name: v3, labels: {version: v3}}]",
)


def explained(text: str, *others: str, **asked: str) -> tuple[dict[str, object], str]:
    """What routing says, for programs and for people."""
    virtual = document("VirtualService", f"hosts: [shop.example]\nhttp:\n{text}") if text else ""
    documents = [shop(80, ("10.1.0.1", "v1"), ("10.1.0.2", "v2")), *others, *([virtual] if virtual else [])]
    given = {"to": ["shop.example:80"], "path": ["/v1"], **{name: [value] for name, value in asked.items()}}
    found = answer(take(configuration(*documents)), given)
    mapping = found.as_mapping()["requestRoute"]
    assert isinstance(mapping, dict)
    return mapping, "\n".join(found.lines())


def test_the_route_its_subset_its_endpoints_and_why() -> None:
    text = """
- name: other
  match: [{uri: {prefix: /v2}}, {method: {exact: PUT}}]
  route: [{destination: {host: shop.example}}]
- name: mine
  rewrite: {uri: /x}
  fault: {delay: {percentage: {value: 5}, fixedDelay: 1s}, abort: {percentage: {value: 1}, httpStatus: 500}}
  match: [{uri: {prefix: /v1}}]
  route:
  - {destination: {host: shop.example, subset: v1}, weight: 3}
  - {destination: {host: shop.example, subset: v3}, weight: 1}
"""
    mapping, said = explained(text, SUBSETS)
    assert (mapping["document"], mapping["route"]) == ("VirtualService default/shop", "mine")
    assert mapping["clusters"] == [
        {
            "name": "outbound|80|v1|shop.example", "share": 75.0, "document": "ServiceEntry default/shop",
            "rule": "DestinationRule default/shop", "balancing": "LEAST_REQUEST", "endpoints": ["10.1.0.1:80"],
        },
        {
            "name": "outbound|80|v3|shop.example", "share": 25.0, "document": "ServiceEntry default/shop",
            "rule": "DestinationRule default/shop", "balancing": "LEAST_REQUEST", "endpoints": [],
        },
    ]  # fmt: skip
    for line in (
        "route other: not taken, since it is not so that the path begins with '/v2'; nor that the method is 'PUT'",
        "route mine: taken",
        "75% go to outbound|80|v1|shop.example",
        "25% go to outbound|80|v3|shop.example",
        "ServiceEntry default/shop has no endpoint for it: 503",
        "5% are held back by its fault",
        "1% are answered with an error by its fault",
        "the path is rewritten to /x",
        "it goes on to where its route says",
    ):
        assert line in said


@pytest.mark.parametrize(
    ("route", "line"),
    [
        ("redirect: {uri: /x}", "it is redirected: 301, http://shop.example/x"),
        ("directResponse: {status: 204}", "it is answered: 204"),
        ("match: [{port: 81}]\n  directResponse: {status: 204}", "no route takes it: 404"),
        ("route: [{destination: {host: gone.example}}]", "which the registry does not have: 503"),
    ],
)
def test_what_becomes_of_it_otherwise(route: str, line: str) -> None:
    assert line in explained(f"- {route}")[1]


def test_a_host_that_is_not_believed() -> None:
    said = explained("- directResponse: {status: 204}", host="bank.example")[1]
    assert "the Host bank.example is not believed: the address is that of shop.example" in said


def test_a_rule_alone() -> None:
    rule = document(
        "DestinationRule", "host: shop.example\ntrafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}"
    )
    mapping, said = explained("", rule)
    assert mapping["document"] == "DestinationRule default/shop"
    assert "each in turn, by DestinationRule default/shop, of 10.1.0.1:80, 10.1.0.2:80" in said


def test_where_no_document_is_about_it_nothing_is_said() -> None:
    other = document("VirtualService", "hosts: [other.example]\nhttp: [{directResponse: {status: 204}}]")
    given = {"to": ["10.1.0.1:80"], "path": ["/"]}
    found = answer(take(configuration(shop(80, ("10.1.0.1", "v1")), other)), given)
    assert found.request_route is None
    assert found.as_mapping()["requestRoute"] is None
