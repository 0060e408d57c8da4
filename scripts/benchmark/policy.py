"""How long policies take to decide; in detail: ``.venv/bin/python -m scripts.benchmark.policy``.

A thousand policies about one workload, each of its own principal, path and method, all for one port: what an index is
for. Besides, a thousand that say only what must not be, alike or each for itself.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from interceptor.config.configuration import Configuration
from interceptor.config.documents import load
from interceptor.config.plain import plain
from interceptor.config.problems import Source
from interceptor.model.address import SocketAddress
from interceptor.model.http import RequestHead
from interceptor.model.identity import SpiffeId
from interceptor.policy.authorization import Authorizer
from interceptor.policy.facts import ConnectionFacts, RequestFacts
from interceptor.policy.policies import compiled

if TYPE_CHECKING:
    from collections.abc import Iterator

POLICIES = 1000
ROUNDS = 5000
PEER = SpiffeId("cluster.local", "shop", "reader500")
INDEXED = """
  rules:
  - from: [{{source: {{principals: [cluster.local/ns/shop/sa/reader{number}]}}}}]
    to: [{{operation: {{methods: [GET], ports: ["8080"], paths: ["/api/v{number}/*"]}}}}]
"""
NEGATED = """
  rules:
  - from: [{{source: {{notPrincipals: ["cluster.local/*"]}}}}]
"""
OTHERS = """
  rules:
  - from: [{{source: {{notPrincipals: ["cluster.local/ns/shop/sa/reader500", "cluster.local/ns/shop/sa/other{number}"]}}}}]
"""


def configuration(rules: str) -> Configuration:
    """POLICIES policies, every second one a DENY."""
    texts = ["apiVersion: interceptor/v1\nkind: Sidecar\nmetadata: {name: app}\n"]
    for number in range(POLICIES):
        action = "DENY" if number % 2 else "ALLOW"
        head = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
        spec = f"spec:\n  action: {action}{rules.format(number=number)}"
        texts.append(f"{head}metadata: {{name: policy{number}}}\n{spec}")
    return plain(load([Source("policies", "---\n".join(texts))]).configuration())


def microseconds(began: float) -> float:
    """Since then."""
    return (time.perf_counter() - began) * 1e6


def asked(path: bytes | None) -> tuple[ConnectionFacts, RequestFacts | None]:
    """What a decision is asked about; without a path a connection of no protocol that is known."""
    over = ConnectionFacts(SocketAddress("10.0.0.1", 1), SocketAddress("10.0.0.2", 8080), PEER)
    return over, (
        path and RequestFacts(RequestHead(b"GET", path, b"web.shop:8080", b"http", b"1.1", []))
    ) or None


def each(authorizer: Authorizer | None, path: bytes | None) -> float:
    """Microseconds of a decision, with its facts; without policies of the facts alone."""
    began = time.perf_counter()
    for _ in range(ROUNDS):
        facts = asked(path)
        if authorizer is not None:
            authorizer.decide(*facts)
    return microseconds(began) / ROUNDS


def measure() -> Iterator[tuple[str, float]]:
    """The slowest of all kinds of policies and requests."""
    slowest = 0.0
    for rules in (INDEXED, NEGATED, OTHERS):
        authorizer = compiled(configuration(rules)).ingress
        assert authorizer is not None
        slowest = max(slowest, *(each(authorizer, path) for path in (b"/api/v500/x", b"/nothing")))
    yield "policy", slowest


def main() -> None:
    """Print what a decision costs, and what of it the policies add."""
    for name, rules in (("indexed", INDEXED), ("negated, alike", NEGATED), ("negated, each", OTHERS)):
        began = time.perf_counter()
        made = configuration(rules)
        loaded = microseconds(began) / 1e6
        began = time.perf_counter()
        authorizer = compiled(made).ingress
        print(
            f"{POLICIES} policies, {name}: read in {loaded:.2f} s, compiled in {microseconds(began) / 1e6:.2f} s"
        )
        assert authorizer is not None
        for what, path in (("a request", b"/api/v500/x"), ("a request", b"/nothing"), ("a connection", None)):
            alone, whole = each(None, path), each(authorizer, path)
            policy = authorizer.decide(*asked(path)).policy
            print(
                f"  {what} {(path or b'').decode():<12} {whole:5.1f} us, of which the policies add {whole - alone:4.1f}: {policy}"
            )


if __name__ == "__main__":
    main()
