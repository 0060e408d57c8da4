"""Tokens: where they stand, which hold, and each way in which one does not."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
import pytest

from interceptor.model.http import Headers
from interceptor.policy.jwts import LONGEST, TokenError
from interceptor.policy.tokens import REMEMBERED, SENTENCES, SKEW, Tokens, for_workload
from tests.support.documents import configuration
from tests.support.policies import WORKLOAD, head, named, security_text
from tests.support.tokens import NOW, jwk, jwks, token


def tokens(*rules: dict[str, Any]) -> Tokens:
    written = [{"issuer": "issuer", "jwks": jwks(), **rule} for rule in rules or ({},)]
    text = security_text("RequestAuthentication", json.dumps({"jwtRules": written}))
    made = for_workload(configuration(text).request_authentications, WORKLOAD)
    assert made is not None
    return made


def bearer(text: str) -> Headers:
    return [(b"Authorization", b"Bearer " + text.encode())]


def claims(made: Tokens, text: str, now: float = NOW) -> dict[str, object] | None:
    return made.claims(head(headers=bearer(text)), now)


def refusal(made: Tokens, text: str, now: float = NOW) -> str:
    with pytest.raises(TokenError) as caught:
        claims(made, text, now)
    return SENTENCES[caught.value.fault]


FORM = "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"


def test_a_token_that_holds_says_who_it_is() -> None:
    found = claims(tokens(), token({"groups": ["dev"]}))
    assert found is not None
    assert (found["iss"], found["sub"], found["groups"]) == ("issuer", "alice", ["dev"])


def test_a_request_without_one_passes_and_is_nobodys() -> None:
    assert tokens().claims(head(), NOW) is None
    assert tokens().claims(head(headers=[(b"authorization", b"Basic xyz")]), NOW) is None
    assert tokens().claims(head(path="/?a=b"), NOW) is None


@pytest.mark.parametrize(
    ("kind", "algorithm"), [("EC", "ES256"), ("RSA", "RS256"), ("RSA", "PS512"), ("OKP", "EdDSA")]
)
def test_every_kind_of_public_key_verifies(kind: str, algorithm: str) -> None:
    made = tokens({"jwks": jwks(jwk(kind))})
    assert claims(made, token(kind=kind, algorithm=algorithm)) is not None


def test_a_key_that_names_its_algorithm_verifies_no_other() -> None:
    made = tokens({"jwks": jwks(jwk("RSA", alg="RS256"))})
    assert claims(made, token(kind="RSA", algorithm="RS256")) is not None
    assert refusal(made, token(kind="RSA", algorithm="RS512")) == "Jwt verification fails"


def test_the_key_is_found_by_its_name_and_without_one_by_trying() -> None:
    made = tokens({"jwks": jwks(jwk("RSA", kid="a"), jwk(kid="b"), jwk(kid="c"))})
    assert claims(made, token(kid="c")) is not None
    assert claims(made, token()) is not None
    assert refusal(made, token(kid="d")) == "Jwt verification fails"


def unsigned(algorithm: str) -> str:
    parts = ({"alg": algorithm, "typ": "JWT"}, {"iss": "issuer", "sub": "alice"})
    coded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join((*coded, ""))


def with_public_key_as_secret() -> str:
    """The classic confusion: HMAC with the bytes that everybody knows."""
    return jwt.encode({"iss": "issuer"}, jwk()["x"], "HS256")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", FORM),
        ("a.b.c", FORM),
        ("a.b", FORM),
        (f"{base64.urlsafe_b64encode(b'[' * 5000).decode()}.a.b", FORM),
        ("x" * (LONGEST + 1), "Jwt is too long"),
        (unsigned("none"), "Jwt verification fails"),
        (unsigned("ES256"), "Jwt verification fails"),
        (with_public_key_as_secret(), "Jwt verification fails"),
        (token()[:-8] + "AAAAAAAA", "Jwt verification fails"),
        (token(kind="RSA", algorithm="RS256"), "Jwt verification fails"),
        (token({"iss": "other"}), "Jwt issuer is not configured"),
        (token({"iss": ["issuer"]}), "Jwt issuer is not configured"),
        (token({"exp": NOW - SKEW}), "Jwt is expired"),
        (token({"nbf": NOW + SKEW + 1}), "Jwt not yet valid"),
        (token({"exp": "soon"}), FORM),
    ],
)
def test_a_token_that_does_not_hold_is_refused_in_envoys_words(text: str, sentence: str) -> None:
    assert refusal(tokens(), text) == sentence


def test_clocks_may_differ_a_little() -> None:
    assert claims(tokens(), token({"exp": NOW - SKEW + 1, "nbf": NOW + SKEW})) is not None


def test_a_token_found_good_is_remembered_until_it_ends() -> None:
    made = tokens()
    text = token({"exp": NOW + 10})
    first = claims(made, text)
    assert claims(made, text, NOW + 10) is first
    assert refusal(made, text, NOW + 10 + SKEW) == "Jwt is expired"


def test_only_so_many_are_remembered() -> None:
    made = tokens({"jwks": jwks(jwk("OKP"))})
    texts = [token({"sub": str(number)}, kind="OKP", algorithm="EdDSA") for number in range(REMEMBERED + 1)]
    first = claims(made, texts[0])
    for text in texts[1:]:
        claims(made, text)
    assert claims(made, texts[0]) is not first
    assert len(made._good) == REMEMBERED


@pytest.mark.parametrize(
    ("audience", "holds"),
    [("a", True), (["x", "b"], True), ("c", False), (["c"], False), (None, False), (7, False)],
)
def test_audiences_must_be_ours_where_they_are_asked_for(audience: object, holds: bool) -> None:
    text = token({} if audience is None else {"aud": audience})
    made = tokens({"audiences": ["a", "b"]})
    if holds:
        assert claims(made, text) is not None
    else:
        assert refusal(made, text) == "Audiences in Jwt are not allowed"
    assert claims(tokens(), text) is not None


def test_a_token_stands_where_the_document_says_and_nowhere_else() -> None:
    made = tokens({"fromHeaders": [{"name": "X-Token", "prefix": "Token "}], "fromParams": ["t"]})
    assert made.claims(head(headers=[(b"x-token", b"token " + token().encode())]), NOW) is not None
    assert made.claims(head(path=f"/?a=b&t={token()}"), NOW) is not None
    assert made.claims(head(headers=bearer("nonsense"), path="/?access_token=nonsense"), NOW) is None


def test_a_token_is_not_forwarded_unless_it_is_asked_for() -> None:
    for forward in (False, True):
        made = tokens({"forwardOriginalToken": forward})
        by_header = head(headers=[(b"a", b"b"), *bearer(token())])
        by_query = head(path=f"/x?a=b&access_token={token()}&c")
        alone = head(path=f"/x?access_token={token()}")
        for asked in (by_header, by_query, alone):
            assert made.claims(asked, NOW) is not None
        assert (len(by_header.headers) == 2) is forward
        assert (by_query.target == b"/x?a=b&c") is not forward
        assert (alone.target == b"/x") is not forward


def test_of_several_tokens_each_must_hold() -> None:
    made = tokens()
    two = [*bearer(token({"sub": "first"})), *bearer(token({"sub": "second"}))]
    found = made.claims(head(headers=two), NOW)
    assert found is not None
    assert found["sub"] == "first"
    with pytest.raises(TokenError, match="signature is wrong"):
        made.claims(head(headers=[*bearer(token()), *bearer(unsigned("ES256"))]), NOW)


def test_issuers_of_all_documents_are_trusted_and_kept_apart() -> None:
    made = tokens({}, {"issuer": "other", "jwks": jwks(jwk("RSA"))})
    assert claims(made, token()) is not None
    assert claims(made, token({"iss": "other"}, kind="RSA", algorithm="RS256")) is not None
    assert refusal(made, token({"iss": "other"})) == "Jwt verification fails"


def test_keys_that_nobody_read_verify_nothing() -> None:
    text = security_text(
        "RequestAuthentication", "{jwtRules: [{issuer: issuer, jwksUri: 'file:///nowhere'}]}"
    )
    made = for_workload(configuration(text).request_authentications, WORKLOAD)
    assert made is not None
    assert refusal(made, token()) == "Jwt verification fails"


def test_documents_about_others_are_not_asked() -> None:
    text = security_text(
        "RequestAuthentication", "{jwtRules: [{issuer: i, jwksUri: 'file:///x'}]}", named("p", "other")
    )
    assert for_workload(configuration(text).request_authentications, WORKLOAD) is None
