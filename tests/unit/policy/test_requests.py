"""A request is put into one form, its token is looked at, then policies decide."""

from __future__ import annotations

import json

import pytest

from interceptor.model.connection import Direction, ResponseFlag
from interceptor.model.http import RequestHead
from interceptor.model.identity import SpiffeId
from interceptor.policy.policies import compiled
from interceptor.policy.requests import Answer
from tests.support.documents import configuration
from tests.support.policies import head, named, policy_text, security_text
from tests.support.sample_flows import OK, flow
from tests.support.tokens import NOW, jwks, token

SIDECAR = """
apiVersion: interceptor/v1
kind: Sidecar
metadata: {name: web, namespace: shop}
spec: {pathNormalization: {normalization: MERGE_SLASHES}, gatewayTopology: {numTrustedProxies: 1}}
"""
PEER = SpiffeId("cluster.local", "shop", "reader")
JWT = security_text("RequestAuthentication", json.dumps({"jwtRules": [{"issuer": "issuer", "jwks": jwks()}]}))
TARGET = "targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: bank}]"


def asked(request: RequestHead, *texts: str, egress: bool = False) -> Answer:
    direction = Direction.EGRESS if egress else Direction.INGRESS
    policies = compiled(configuration(SIDECAR, *texts))
    entry = "shop/bank" if egress else None
    return policies.request(flow(OK, direction=direction, peer_identity=PEER), entry, request, NOW)


def test_without_a_policy_about_it_a_request_passes() -> None:
    assert asked(head(), JWT) == asked(head())
    assert asked(head()).reply is None


def test_a_refusal_is_istios() -> None:
    found = asked(
        head(path="/admin"), policy_text("{action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}")
    )
    assert found.verdict.policy == "AuthorizationPolicy shop/p"
    assert found.reply is not None
    assert (found.reply.status, found.reply.flag) == (403, ResponseFlag.DENY)
    assert found.reply.body == b"RBAC: access denied"
    assert found.reply.details == "rbac_access_denied_matched_policy[ns[shop]-policy[p]-rule[0]]"


def test_what_is_allowed_names_its_policy() -> None:
    found = asked(head(), policy_text("{rules: [{from: [{source: {namespaces: [shop]}}]}]}"))
    assert (found.verdict.policy, found.reply) == ("AuthorizationPolicy shop/p", None)


@pytest.mark.parametrize("path", ["/x/../admin", "//admin", "/%61dmin", "/./admin?x", "/x\\..\\admin"])
def test_no_spelling_of_a_path_gets_around_a_policy(path: str) -> None:
    request = head(path=path)
    found = asked(request, policy_text("{action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}"))
    assert found.reply is not None
    assert request.target.partition(b"?")[0] == b"/admin"


@pytest.mark.parametrize(("policy", "host"), [("{rules: [{}]}", "web.shop"), (None, "other")])
def test_the_host_of_a_target_is_the_one_that_the_app_is_told(policy: str | None, host: str) -> None:
    """The policy compared it; without one nothing is changed."""
    request = head(path="http://web.shop/x", headers=[(b"X", b"y"), (b"host", b"other")])
    asked(request, *([] if policy is None else [policy_text(policy)]))
    assert [value for name, value in request.headers if name.lower() == b"host"] == [host.encode()]


def test_a_host_that_the_target_repeats_stays_as_it_is() -> None:
    for path in ("http://web.shop/x", "/x", "*"):
        request = head(path=path, headers=[(b"hOsT", b"web.shop")])
        asked(request, policy_text("{rules: [{}]}"))
        assert request.headers == [(b"hOsT", b"web.shop")]


def test_a_path_without_one_form_is_a_bad_request() -> None:
    found = asked(head(path="/a%00"), policy_text("{rules: [{}]}"))
    assert found.reply is not None
    assert (found.reply.status, found.reply.flag) == (400, ResponseFlag.DOWNSTREAM_PROTOCOL)
    assert found.reply.body == b"interceptor: the path holds an encoded NUL\n"


def test_a_token_makes_the_principal_that_policies_ask_for() -> None:
    rule = policy_text("{rules: [{from: [{source: {requestPrincipals: [issuer/alice]}}]}]}")
    authorized = head(headers=[(b"authorization", f"Bearer {token()}".encode())])
    assert asked(authorized, JWT, rule).reply is None
    assert authorized.headers == []
    nobody = asked(head(), JWT, rule)
    assert nobody.reply is not None
    assert nobody.reply.status == 403


def test_what_a_token_said_is_known_later_also_where_no_policy_asked() -> None:
    request = head(headers=[(b"authorization", f"Bearer {token({'exp': NOW + 9})}".encode())])
    facts = asked(request, JWT).facts
    assert facts is not None
    assert facts.principal == "issuer/alice"
    assert request.headers == []


def test_a_token_that_does_not_hold_is_refused_before_any_policy() -> None:
    request = head(headers=[(b"authorization", f"Bearer {token({'exp': 1})}".encode())])
    found = asked(request, JWT, policy_text("{rules: [{}]}"))
    assert found.reply is not None
    assert (found.reply.status, found.reply.body) == (401, b"Jwt is expired")
    assert found.reply.details == "jwt_authn_access_denied{Jwt_is_expired}"
    assert (found.verdict.allowed, found.verdict.policy) == (False, "RequestAuthentication shop/p")
    assert found.reply.headers == [(b"www-authenticate", b'Bearer error="invalid_token"')]


def test_trusted_proxies_say_where_a_request_comes_from() -> None:
    rule = policy_text("{rules: [{from: [{source: {remoteIpBlocks: [1.2.3.4]}}]}]}")
    for forwarded, allowed in (
        (b"1.2.3.4, 9.9.9.9", True),
        (b"9.9.9.9, 1.2.3.4", False),
        (b"1.2.3.4", False),
    ):
        found = asked(head(headers=[(b"x-forwarded-for", forwarded)]), rule)
        assert (found.reply is None) is allowed


def test_on_egress_the_destinations_policies_are_asked_and_no_tokens() -> None:
    rule = policy_text(f"{{{TARGET}, rules: [{{to: [{{operation: {{methods: [GET]}}}}]}}]}}", named("bank"))
    bad = [(b"authorization", b"Bearer x")]
    assert asked(head(headers=bad), JWT, rule, egress=True).reply is None
    refused = asked(head("POST"), JWT, rule, egress=True).reply
    assert refused is not None
    assert refused.status == 403
