"""The one check of tokens: what its two users see is in their own tests, here is what neither shows alone."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from interceptor.config.jwks import parse_jwks
from interceptor.policy import jwts
from interceptor.policy.jwts import Claims, Fault, TokenError
from tests.support.jwts import jwk, jwks, token

KEYS = parse_jwks(jwks(jwk("RSA", kid="r"), jwk("EC", kid="e")), {"RS256", "ES256"})


def fault_of(claims: Claims, now: float = 100) -> Fault | None:
    try:
        jwts.valid_until(claims, now, 10)
    except TokenError as error:
        return error.fault
    return None


@pytest.mark.parametrize(
    ("claims", "fault"),
    [
        ({}, None),
        ({"exp": 90.5, "nbf": 110}, None),
        ({"exp": 90}, Fault.EXPIRED),
        ({"nbf": 110.5}, Fault.EARLY),
        ({"exp": float("nan")}, Fault.EXPIRED),
        ({"nbf": float("nan")}, Fault.EARLY),
        ({"exp": "200"}, Fault.FORM),
        ({"nbf": None}, Fault.FORM),
    ],
)
def test_when_a_token_holds(claims: Claims, fault: Fault | None) -> None:
    assert fault_of(claims) is fault


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_it_holds_until_the_answer_and_not_after(now: int, end: int) -> None:
    if fault_of({"exp": end}, now) is None:
        until = jwts.valid_until({"exp": end}, now, 10)
        assert now < until
        assert fault_of({"exp": end}, until) is Fault.EXPIRED


@pytest.mark.parametrize(
    ("given_audience", "fault"),
    [("a", None), (["b", "a"], None), ("c", Fault.AUDIENCE), (["a", 1], Fault.AUDIENCE), (None, Fault.CLAIM)],
)
def test_for_whom_a_token_is(given_audience: object, fault: Fault | None) -> None:
    claims: Claims = {"aud": given_audience}
    jwts.check_audience(claims, ())
    if fault is None:
        jwts.check_audience(claims, ("a", "x"))
    else:
        with pytest.raises(TokenError) as raised:
            jwts.check_audience(claims, ("a", "x"))
        assert raised.value.fault is fault


def test_every_key_that_fits_is_tried_and_no_other() -> None:
    text = token("ES256", "e")
    header, unverified = jwts.read(text)
    assert jwts.verified(text, header, KEYS) == unverified
    for keys, fault in ((KEYS[:1], Fault.NO_KEY), ((), Fault.NO_KEY)):
        with pytest.raises(TokenError) as raised:
            jwts.verified(text, header, keys)
        assert raised.value.fault is fault
    changed = text[:-8] + "AAAAAAAA"
    with pytest.raises(TokenError) as raised:
        jwts.verified(changed, header, KEYS)
    assert raised.value.fault is Fault.SIGNATURE
