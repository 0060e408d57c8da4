from __future__ import annotations

import pytest

from interceptor.config.documents import load
from interceptor.config.problems import Source

PLACE = "{name: limits, use: rateLimitDocuments}"


def problems(spec: str, middleware: str = PLACE) -> list[str]:
    text = f"""\
apiVersion: interceptor/v1
kind: Sidecar
metadata: {{name: web}}
spec: {{middleware: [{middleware}]}}
---
apiVersion: interceptor/v1
kind: RateLimit
metadata: {{name: few}}
spec: {spec}
"""
    return [str(each) for each in load([Source("f", text)]).problems]


def test_a_limit_has_a_place_and_a_bucket() -> None:
    assert problems("{direction: ingress, ports: [80], number: 10, interval: 1m, burst: 20}") == []
    assert (
        problems("{direction: egress, addresses: [10.0.0.0/8], scope: connection, number: 1, burst: 1}") == []
    )


@pytest.mark.parametrize(
    ("spec", "middleware", "said"),
    [
        ("{direction: ingress, number: 1, burst: 1}", "", "is enforced nowhere; add an item 'use: rateLimitDocuments'"),
        ("{direction: ingress, ports: [1], exceptPorts: [2], number: 1, burst: 1}", PLACE, "spec.exceptPorts: has no meaning"),
        ("{direction: in, number: 1, burst: 1}", PLACE, "spec.direction"),
        ("{direction: ingress, number: 0, burst: 1}", PLACE, "spec.number"),
        ("{direction: ingress, number: 1}", PLACE, "spec.burst"),
        ("{direction: ingress, number: 1, burst: 1, addresses: [x]}", PLACE, "spec.addresses[0]"),
    ],
)  # fmt: skip
def test_what_limits_nothing_is_refused(spec: str, middleware: str, said: str) -> None:
    assert any(said in each for each in problems(spec, middleware)), problems(spec, middleware)
