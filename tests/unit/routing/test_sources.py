from __future__ import annotations

import pytest

from interceptor.routing.sources import Source
from tests.support.documents import virtual_service

US = Source({"app": "web", "team": "shop"}, "shop")


@pytest.mark.parametrize(
    ("match", "ours"),
    [
        ("{}", True),
        ("{sourceLabels: {app: web}}", True),
        ("{sourceLabels: {app: web, x: y}}", False),
        ("{sourceNamespace: shop}", True),
        ("{sourceNamespace: bank}", False),
        ("{gateways: [mesh, other]}", True),
        ("{gateways: [other]}", False),
    ],
)
def test_a_match_is_for_us_or_not(match: str, ours: bool) -> None:
    there = "route: [{destination: {host: a.b}}]"
    text = f"hosts: [a.b]\nhttp: [{{match: [{match}], {there}}}]\ntcp: [{{match: [{match}], {there}}}]"
    spec = virtual_service(text).spec
    assert US.own(spec.http[0].match) == ([spec.http[0].match[0]] if ours else [])
    assert US.takes(spec.tcp[0].match[0]) is ours
