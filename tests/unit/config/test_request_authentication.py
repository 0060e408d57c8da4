from __future__ import annotations

import pytest

from tests.support.documents import configuration, problems
from tests.support.policies import security_text
from tests.support.tokens import jwks

KEYS = f"'{jwks()}'"


def text(rules: str) -> str:
    return security_text("RequestAuthentication", f"{{jwtRules: [{rules}]}}")


def test_issuers_with_keys_and_places_are_read() -> None:
    rule = (
        f"{{issuer: i, audiences: [a], jwks: {KEYS}, fromHeaders: [{{name: x-token, prefix: 'Token '}}],"
        " fromParams: [t], forwardOriginalToken: true}, {issuer: j, jwksUri: 'file:///etc/keys.json'}"
    )
    [made] = configuration(text(rule)).request_authentications
    first, second = made.spec.jwtRules
    assert (first.fromHeaders[0].name, first.fromHeaders[0].prefix) == ("x-token", "Token ")
    assert (first.audiences, first.fromParams, first.forwardOriginalToken) == (("a",), ("t",), True)
    assert (second.jwksUri, second.forwardOriginalToken) == ("file:///etc/keys.json", False)
    assert made.selected_labels == {}


def test_labels_select() -> None:
    written = security_text("RequestAuthentication", "{selector: {matchLabels: {app: web}}}")
    [made] = configuration(written).request_authentications
    assert made.selected_labels == {"app": "web"}


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        ("{issuer: i}", "spec.jwtRules[0]: must give the keys: either jwks, or jwksUri"),
        (f"{{issuer: i, jwks: {KEYS}, jwksUri: 'file:///x'}}", "spec.jwtRules[0]: must give the keys"),
        *(
            (
                f"{{issuer: i, jwksUri: '{uri}'}}",
                f"spec.jwtRules[0].jwksUri: '{uri}' is not where keys can be",
            )
            for uri in (
                "ftp://x/keys",
                "https://",
                "https://a@x/keys",
                "https://x/a b",
                "file://x",
                "http://x:y/",
            )
        ),
        (
            "{issuer: i, jwksUri: 'http://x', timeout: 5}",
            "spec.jwtRules[0].timeout: must be text with a unit",
        ),
        ("{issuer: '', jwksUri: 'file:///x'}", "spec.jwtRules[0].issuer: must not be empty"),
        (f"{{jwks: {KEYS}}}", "spec.jwtRules[0].issuer: is required; add it"),
        ("{issuer: i, jwks: '{'}", "spec.jwtRules[0].jwks: is not a JSON Web Key Set"),
        ("{issuer: i, jwks: '[]'}", "spec.jwtRules[0].jwks: is not a JSON Web Key Set"),
        ("""{issuer: i, jwks: '{"keys": [1]}'}""", "spec.jwtRules[0].jwks: is not a JSON Web Key Set"),
        ("""{issuer: i, jwks: '{"keys": []}'}""", "spec.jwtRules[0].jwks: holds no key"),
        (
            """{issuer: i, jwks: '{"keys": [{"kty": "oct", "k": "x"}]}'}""",
            "spec.jwtRules[0].jwks: holds a key of the kind 'oct'",
        ),
        (
            """{issuer: i, jwks: '{"keys": [{"kty": "RSA", "d": "x"}]}'}""",
            "spec.jwtRules[0].jwks: holds a private key",
        ),
        (
            """{issuer: i, jwks: '{"keys": [{"kty": "EC", "crv": "P-256", "x": "a", "y": "b"}]}'}""",
            "spec.jwtRules[0].jwks: holds a key that cannot be used: ",
        ),
        (
            """{issuer: i, jwks: '{"keys": [{"kty": "EC", "crv": "P-1"}]}'}""",
            "spec.jwtRules[0].jwks: holds a key that cannot be used: ",
        ),
        (
            f"{{issuer: i, jwks: {KEYS}, fromHeaders: [{{name: 'a b'}}]}}",
            "spec.jwtRules[0].fromHeaders[0].name: 'a b' is not the name",
        ),
        (f"{{issuer: i, jwks: {KEYS}, audiences: []}}", "spec.jwtRules[0].audiences: must name at least one"),
        (
            f"{{issuer: i, jwks: {KEYS}, outputPayloadToHeader: x}}",
            "spec.jwtRules[0].outputPayloadToHeader: is not supported by this version",
        ),
        (
            f"{{issuer: i, jwks: {KEYS}, issuers: x}}",
            "spec.jwtRules[0].issuers: there is no such field; did you mean 'issuer'?",
        ),
    ],
)
def test_what_is_wrong_is_said_at_its_field(rule: str, found: str) -> None:
    [problem] = problems(text(rule))
    assert problem.startswith(f"4: {found}")


def test_targets_are_refused_by_name() -> None:
    [problem] = problems(security_text("RequestAuthentication", "{targetRefs: []}"))
    assert problem == "4: spec.targetRefs: is not supported by this version; remove it"
