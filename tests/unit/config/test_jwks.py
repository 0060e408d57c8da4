from __future__ import annotations

import base64

import pytest

from interceptor.config.jwks import MOST_KEYS, parse_jwks
from tests.support.jwts import jwk, jwks, rsa_key

ALL = frozenset(
    ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA", "HS256", "HS512")
)


def algorithms(*keys: dict[str, object], allowed: frozenset[str] = ALL) -> list[str]:
    return [key.algorithm for key in parse_jwks(jwks(*keys), allowed)]


def test_a_keys_own_type_says_what_it_may_be_used_for() -> None:
    assert algorithms(jwk("RSA")) == ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]
    assert algorithms(jwk("EC")) == ["ES256"]
    assert algorithms(jwk("OKP")) == ["EdDSA"]
    assert algorithms(jwk("oct")) == ["HS256", "HS512"]


def test_only_what_is_allowed_and_what_the_key_is_for() -> None:
    assert algorithms(jwk("RSA"), allowed=frozenset(("RS256", "HS256"))) == ["RS256"]
    assert algorithms(jwk("RSA", alg="PS512")) == ["PS512"]
    assert algorithms(jwk("EC"), jwk("RSA", use="enc"), jwk("RSA", key_ops=["encrypt"])) == ["ES256"]
    assert algorithms(jwk("EC"), {"kty": "EC", "crv": "P-0"}, {"kty": "new"}) == ["ES256"]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "no JWKS"),
        (b"{}", "no JWKS"),
        (b'{"keys": []}', "no JWKS"),
        (b'{"keys": [1]}', r"keys\[0\] is not an object"),
        (jwks(jwk("EC", kid=1)), r"keys\[0\]: 'kid' is not text"),
        (jwks(jwk("EC"), jwk("EC", d="AAAA")), r"keys\[1\] is a private key"),
        (jwks(jwk("EC", x="AAAA")), r"keys\[0\] cannot be read as a key for ES256"),
        (jwks({"kty": "RSA", "n": "AAAA"}), r"keys\[0\] cannot be read as a key for RS256"),
        (jwks({"kty": "oct", "k": "c2VjcmV0"}), r"keys\[0\] is too short for HS256, which needs 32 bytes"),
        (jwks({"kty": "new"}), "no key is for one of the algorithms"),
        (jwks(*[jwk("EC")] * (MOST_KEYS + 1)), f"at most {MOST_KEYS}"),
    ],
)
def test_what_cannot_be_used_is_refused(data: bytes, found: str) -> None:
    with pytest.raises(ValueError, match=found) as raised:
        parse_jwks(data, ALL)
    assert "c2VjcmV0" not in str(raised.value)


def test_a_short_rsa_key_is_refused() -> None:
    numbers = rsa_key(1024).public_key().public_numbers()

    def text(number: int) -> str:
        return base64.urlsafe_b64encode(number.to_bytes((number.bit_length() + 7) // 8)).rstrip(b"=").decode()

    key: dict[str, object] = {"kty": "RSA", "n": text(numbers.n), "e": text(numbers.e)}
    with pytest.raises(ValueError, match=r"keys\[0\] is too short for RS256, which needs 2048 bits"):
        parse_jwks(jwks(key), ALL)


def test_nothing_shows_a_key() -> None:
    assert str(jwk("oct")["k"]) not in repr(parse_jwks(jwks(jwk("oct")), ALL))
