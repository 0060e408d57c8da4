"""What the JWT filter takes and what it refuses, with the attacks of RFC 8725 and of the libraries' histories."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, strategies as st

from interceptor.config.jwks import parse_jwks
from interceptor.middleware.tokens import _REASONS, JwtFilter, Verifier
from interceptor.model.http import ResponseHead, get
from interceptor.policy.jwts import LONGEST, TokenError
from tests.support.exchanges import an_exchange
from tests.support.jwts import ISSUER, claims, jwk, jwks, rsa_key, token

ASYMMETRIC = frozenset(("RS256", "PS256", "ES256", "EdDSA"))
KEYS = parse_jwks(
    jwks(jwk("RSA", kid="r"), jwk("EC", kid="e"), jwk("OKP", kid="o"), jwk("oct", kid="s")), ASYMMETRIC
)
NOW = int(time.time())


def verifier(*audiences: str, symmetric: bool = False) -> Verifier:
    keys = parse_jwks(jwks(jwk("oct", kid="s")), {"HS256"}) if symmetric else KEYS
    return Verifier(ISSUER, audiences, 60, lambda: keys, lambda: NOW)


def a_filter(**options: object) -> JwtFilter:
    claims_told = [(b"x-user", "sub"), (b"x-admin", "admin"), (b"x-age", "age")]
    return JwtFilter(
        "door", verifier(), [(b"authorization", b"Bearer ")], claims_told, bool(options.get("forward"))
    )


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forged(header: dict[str, object], signature: bytes | None = None, key: bytes = b"") -> str:
    """A token that somebody without the key makes."""
    signed = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims()).encode())}"
    made = hmac.digest(key, signed.encode(), hashlib.sha256) if signature is None else signature
    return f"{signed}.{b64(made)}"


def word(of: str, *audiences: str) -> str:
    with pytest.raises(TokenError) as raised:
        verifier(*audiences).verify(of)
    assert not of or of[-20:] not in str(raised.value)
    return _REASONS[raised.value.fault][0]


@pytest.mark.parametrize(
    ("algorithm", "kid"),
    [("RS256", "r"), ("RS256", None), ("PS256", "r"), ("ES256", "e"), ("EdDSA", "o"), ("EdDSA", None)],
)
def test_a_good_token_is_taken(algorithm: str, kid: str | None) -> None:
    assert verifier().verify(token(algorithm, kid))["sub"] == "ann"


def test_a_key_without_an_id_fits_every_token() -> None:
    keys = parse_jwks(jwks(jwk("EC"), jwk("RSA")), ASYMMETRIC)
    assert Verifier(ISSUER, (), 0, lambda: keys, lambda: NOW).verify(token(kid="any"))["iss"] == ISSUER


def test_a_secret_is_taken_only_where_it_is_asked_for() -> None:
    assert verifier(symmetric=True).verify(token("HS256", "s"))["sub"] == "ann"
    assert word(token("HS256", "s")) == "Jwks_doesnt_have_key_to_match_kid_or_alg"


@pytest.mark.parametrize(
    "algorithm",
    ["none", "None", "NONE", "nOnE", "", "HS256", "HS512", "RS384", "ES384", "x", None, 1, ["RS256"]],
)
def test_no_algorithm_but_the_keys_own(algorithm: object) -> None:
    pem = rsa_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for signature in (b"", None):  # unsigned; and the public key taken for a secret
        made = forged({"alg": algorithm, "kid": "r"}, signature, pem)
        assert word(made) in {"Jwks_doesnt_have_key_to_match_kid_or_alg", "Jwt_is_not_in_the_right_form"}


@pytest.mark.parametrize(
    ("made", "found"),
    [
        (token(kid="unknown"), "Jwks_doesnt_have_key_to_match_kid_or_alg"),
        (token(kid="e"), "Jwks_doesnt_have_key_to_match_kid_or_alg"),
        (forged({"alg": "RS256", "kid": "r"}, bytes(256)), "Jwt_verification_fails"),
        (forged({"alg": "ES256", "kid": "e"}, bytes(64)), "Jwt_verification_fails"),
        (forged({"alg": "ES256"}, b""), "Jwt_verification_fails"),
        (token(exp=NOW - 61), "Jwt_is_expired"),
        (token(exp=None), "Jwt_lacks_a_claim"),
        (token(exp="soon"), "Jwt_is_not_in_the_right_form"),
        (token(nbf=NOW + 3600), "Jwt_not_yet_valid"),
        (token(iss="https://other.example"), "Jwt_issuer_is_not_configured"),
        (token(iss=None), "Jwt_lacks_a_claim"),
        (token(header={"crit": ["exp"]}), "Jwt_is_not_in_the_right_form"),
        (token(header={"crit": ["b64"], "b64": False}), "Jwt_header_crit"),
        (token()[:-4] + "AAAA", "Jwt_verification_fails"),
        ("a.b.c", "Jwt_is_not_in_the_right_form"),
        ("", "Jwt_is_not_in_the_right_form"),
        ("....", "Jwt_is_not_in_the_right_form"),
        (f"{b64(b'[' * 9000)}.e30.AA", "Jwt_is_not_in_the_right_form"),
        (f"{b64(b'[]')}.e30.AA", "Jwt_is_not_in_the_right_form"),
        (token(header={"kid": "x" * LONGEST}), "Jwt_is_too_long"),
        (token(header={"jku": "http://evil", "jwk": jwk("RSA"), "kid": "../../dev/null"}),
         "Jwks_doesnt_have_key_to_match_kid_or_alg"),
    ],
)  # fmt: skip
def test_a_bad_token_is_refused(made: str, found: str) -> None:
    assert word(made) == found


def test_clocks_may_differ_a_little() -> None:
    assert verifier().verify(token(exp=NOW - 30, nbf=NOW + 30))


def test_an_audience_is_one_of_those_asked_for() -> None:
    assert verifier("a", "b").verify(token(aud="b"))
    assert verifier("a").verify(token(aud=["x", "a"]))
    assert verifier().verify(token(aud="whoever"))
    assert word(token(aud="c"), "a", "b") == "Audiences_in_Jwt_are_not_allowed"
    assert word(token(aud=["a", 1]), "a") == "Audiences_in_Jwt_are_not_allowed"
    assert word(token(), "a") == "Jwt_lacks_a_claim"


def test_the_filter_tells_the_app_who_it_is_and_keeps_the_token() -> None:
    bearer = f"bearer {token(admin=True, age=7)}".encode()
    exchange = an_exchange([(b"Authorization", bearer), (b"X-User", b"root"), (b"authorization", b"Basic x")])
    assert a_filter().request(exchange) is None
    assert exchange.principal == f"{ISSUER}/ann"
    assert exchange.request.headers == [
        (b"authorization", b"Basic x"), (b"x-user", b"ann"), (b"x-admin", b"true"), (b"x-age", b"7")
    ]  # fmt: skip
    a_filter().response(exchange, ResponseHead(200, b"", []))


def test_the_token_goes_on_where_that_is_asked_for() -> None:
    exchange = an_exchange([(b"authorization", f"Bearer {token()}".encode())])
    assert a_filter(forward=True).request(exchange) is None
    assert get(exchange.request.headers, b"authorization") is not None


@pytest.mark.parametrize("value", [" lead", "two\nlines", ["list"], {"a": 1}, 1.5, None])
def test_a_claim_that_fits_no_header_is_not_told(value: object) -> None:
    exchange = an_exchange(
        [(b"authorization", f"Bearer {token(age=value, admin=False)}".encode()), (b"x-age", b"9")]
    )
    assert a_filter().request(exchange) is None
    assert get(exchange.request.headers, b"x-age") is None
    assert get(exchange.request.headers, b"x-admin") == b"false"


def test_a_token_of_nobody_names_nobody() -> None:
    exchange = an_exchange([(b"authorization", f"Bearer {token(sub=None)}".encode())])
    assert a_filter().request(exchange) is None
    assert exchange.principal is None


def test_without_a_token_the_client_is_asked_for_one() -> None:
    exchange = an_exchange([(b"authorization", b"Basic x"), (b"x-user", b"root")])
    reply = a_filter().request(exchange)
    assert reply is not None
    assert (reply.status, reply.details) == (401, "jwt_authn_access_denied{door,Jwt_is_missing}")
    assert reply.headers == [(b"www-authenticate", b"Bearer")]
    assert get(exchange.request.headers, b"x-user") is None


def test_two_tokens_are_one_too_many() -> None:
    bearer = (b"authorization", f"Bearer {token()}".encode())
    reply = a_filter().request(an_exchange([bearer, bearer]))
    assert reply is not None
    assert reply.details == "jwt_authn_access_denied{door,Jwt_is_not_alone}"


def test_a_bad_token_is_told_to_be_one() -> None:
    reply = a_filter().request(an_exchange([(b"authorization", b"Bearer \xff")]))
    assert reply is not None
    assert reply.headers == [(b"www-authenticate", b'Bearer error="invalid_token"')]


def test_another_audience_is_forbidden() -> None:
    door = JwtFilter("door", verifier("a"), [(b"authorization", b"Bearer ")], [], forward=False)
    reply = door.request(an_exchange([(b"authorization", f"Bearer {token(aud='b')}".encode())]))
    assert reply is not None
    assert reply.status == 403


@given(
    st.one_of(st.text(max_size=80), st.from_regex(r"[\w-]{1,20}\.[\w-]{1,20}\.[\w-]{0,20}", fullmatch=True))
)
def test_nothing_but_a_token_is_one(text: str) -> None:
    with pytest.raises(TokenError):
        verifier().verify(text)


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_no_changed_byte_goes_unnoticed(at: int, byte: int) -> None:
    good = _GOOD.encode()
    at %= len(good) - 1  # the last digit's low bits carry nothing
    changed = good[:at] + bytes((byte,)) + good[at + 1 :]
    if changed != good:
        with pytest.raises(TokenError):
            verifier().verify(changed.decode("ascii", "replace"))


_GOOD = token("RS256", "r")
