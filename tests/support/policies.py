"""Policies, facts and identities for tests, each in one line."""

from __future__ import annotations

from collections.abc import Mapping

from interceptor.config.configuration import Configuration
from interceptor.model.address import SocketAddress
from interceptor.model.http import Headers, RequestHead
from interceptor.model.identity import SpiffeId
from interceptor.policy.authorization import Authorizer, for_workload
from interceptor.policy.facts import ConnectionFacts, RequestFacts
from interceptor.policy.selection import Workload
from tests.support.documents import configuration

WORKLOAD = Workload("shop", {"app": "web", "tier": "front"}, "istio-system")
TRUST_DOMAINS = ("mesh.example", "old.example")
PEER = SpiffeId("mesh.example", "shop", "reader")


def security_text(kind: str, spec: str, metadata: str = "{name: p, namespace: shop}") -> str:
    """A security document with metadata and spec in flow style."""
    return f"apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {metadata}\nspec: {spec}\n"


def policy_text(spec: str, metadata: str = "{name: p, namespace: shop}") -> str:
    """An AuthorizationPolicy."""
    return security_text("AuthorizationPolicy", spec, metadata)


def named(name: str, namespace: str = "shop", more: str = "") -> str:
    """Metadata in flow style."""
    return f"{{name: {name}, namespace: {namespace}{more}}}"


def policies(*specs: str) -> Configuration:
    """Policies p0, p1, ... with these specs."""
    return configuration(*(policy_text(spec, named(f"p{index}")) for index, spec in enumerate(specs)))


def authorizer(*specs: str) -> Authorizer:
    """The authorizer of WORKLOAD's under policies p0, p1, ... with these specs."""
    made = for_workload(policies(*specs).authorization_policies, WORKLOAD, TRUST_DOMAINS)
    assert made is not None
    return made


def connection(
    peer: str = "10.0.0.1",
    port: int = 8080,
    identity: SpiffeId | None = PEER,
    to: str = "10.0.0.9",
    sni: str = "",
) -> ConnectionFacts:
    """A connection from a peer of the mesh."""
    return ConnectionFacts(SocketAddress(peer, 40000), SocketAddress(to, port), identity, sni)


def request(
    method: str = "GET",
    path: str = "/",
    host: str = "web.shop",
    headers: Headers | None = None,
    claims: Mapping[str, object] | None = None,
    remote: str = "",
) -> RequestFacts:
    """A request."""
    return RequestFacts(head(method, path, host, headers), claims=claims, remote=remote)


def head(
    method: str = "GET", path: str = "/", host: str = "web.shop", headers: Headers | None = None
) -> RequestHead:
    """The head of a request."""
    return RequestHead(
        method.encode(), path.encode("latin-1"), host.encode(), b"http", b"1.1", list(headers or [])
    )
