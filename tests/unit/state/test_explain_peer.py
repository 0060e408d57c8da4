"""Who a question's peer is, as the path would know it."""

from __future__ import annotations

import json

import pytest

from interceptor.state.explain import Explanation, answer
from interceptor.state.snapshot import take
from tests.support.documents import configuration
from tests.support.policies import named, policy_text, security_text
from tests.support.tokens import jwks

SIDECAR = """
apiVersion: interceptor/v1
kind: Sidecar
metadata: {name: web, namespace: shop}
spec: {trustDomain: new.example, trustDomainAliases: [old.example]%s}
"""
FILES = ", tls: {certificate: /c, privateKey: /k, trustBundle: /b}"
AGENT = ", tls: {workloadApi: {socket: unix:///s}}"
READERS = policy_text("{rules: [{from: [{source: {principals: [new.example/ns/a/sa/b]}}]}]}")


def tokens(**more: object) -> str:
    rules = [{"issuer": "i", "jwks": jwks(), **more}]
    return security_text("RequestAuthentication", json.dumps({"jwtRules": rules}), named("tokens"))


def asked(*texts: str, tls: str = FILES, **given: str) -> Explanation:
    made = take(configuration(SIDECAR % tls, *texts))
    return answer(
        made, {"to-port": ["80"], **{key.replace("_", "-"): [value] for key, value in given.items()}}
    )


@pytest.mark.parametrize(
    ("domain", "tls", "allowed", "said"),
    [
        ("new.example", FILES, True, ""),
        ("old.example", FILES, True, ""),  # an alias is written as the primary
        ("new.example", "", True, "spec.tls is absent"),
        ("evil.example", FILES, False, ""),
        ("evil.example", "", False, "spec.tls is absent"),
        ("other.example", AGENT, False, "it is taken to be federated"),
    ],
)
def test_a_peer_is_who_its_certificate_says(domain: str, tls: str, allowed: bool, said: str) -> None:
    found = asked(READERS, tls=tls, identity=f"spiffe://{domain}/ns/a/sa/b")
    assert found.verdict.allowed is allowed
    assert said in "".join(found.notes)
    assert bool(found.notes) is bool(said)


def test_a_stranger_gets_no_further_than_the_handshake() -> None:
    found = asked(READERS, identity="spiffe://evil.example/ns/a/sa/b")
    assert (found.outcome, found.verdict.policy, found.policies) == ("the TLS handshake is refused", "-", ())
    assert "'evil.example' is neither spec.trustDomain nor" in found.verdict.details


ONLY_S = policy_text("{rules: [{from: [{source: {requestPrincipals: [i/s]}}]}]}")


def test_without_a_document_that_reads_tokens_their_claims_count_for_nothing() -> None:
    found = asked(ONLY_S, jwt_claim="sub=s")
    assert not found.verdict.allowed
    assert found.notes == ("the claims count for nothing: no RequestAuthentication is about this workload",)
    egress = answer(
        take(configuration(SIDECAR % "", tokens())), {"to": ["1.2.3.4:80"], "jwt-claim": ["sub=s"]}
    )
    assert egress.notes == ("the claims count for nothing: no token of what the app sends is looked at",)


def test_the_one_issuer_need_not_be_said() -> None:
    found = asked(ONLY_S, tokens(), jwt_claim="sub=s")
    assert found.verdict.allowed
    assert found.notes == ("the token is taken to be of the one issuer that is trusted, i",)


@pytest.mark.parametrize(
    ("documents", "claim", "sentence"),
    [
        ((tokens(),), "iss=j", "Jwt issuer is not configured"),
        ((tokens(audiences=["shop"]),), "aud=bank", "Audiences in Jwt are not allowed"),
        (
            (tokens(), tokens().replace("tokens", "more").replace('"i"', '"k"')),
            "sub=s",
            "Jwt issuer is not configured",
        ),
    ],
)
def test_a_token_that_does_not_hold_is_refused(documents: tuple[str, ...], claim: str, sentence: str) -> None:
    found = asked(ONLY_S, *documents, jwt_claim=claim)
    assert (found.verdict.details, found.outcome) == (sentence, "401 Unauthorized")
    assert found.verdict.policy.startswith("RequestAuthentication shop/tokens")
    assert found.policies == ()
