"""Whether a token (JWT, RFC 7519) holds, by RFC 8725: the one check of it, for policies and for middleware.

A key verifies only by the algorithm that it is bound to, so that no token can choose a weaker check. The time is an
argument. PyJWT brings all of cryptography, so it is imported where there is a token.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from jwt.types import Options

    from interceptor.config.jwks import VerificationKey

LONGEST: Final = 16 * 1024  # characters; the header of a request is not much longer
Claims: TypeAlias = dict[str, object]

# Times and audiences are looked at by us: with our own clock, and to say which one it was.
_UNCHECKED: Final[Options] = {
    "verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False,
    "enforce_minimum_key_length": True,
}  # fmt: skip


class Fault(Enum):
    """What may be wrong with a token."""

    TOO_LONG = "it is too long"
    FORM = "it is no token"
    EXTENSION = "it needs an extension that is not known here"
    ISSUER = "it is of another issuer"
    NO_KEY = "no key fits it"
    SIGNATURE = "its signature is wrong"
    CLAIM = "it lacks a claim"
    AUDIENCE = "it is for another audience"
    EXPIRED = "it has expired"
    EARLY = "it is not valid yet"


class TokenError(Exception):
    """A token that does not hold. The text repeats nothing of it."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.value)
        self.fault = fault


def read(token: str) -> tuple[Mapping[str, object], Claims]:
    """The header and the claims of a token, of which nothing is proved yet."""
    import jwt  # noqa: PLC0415 (where a document asks for it)

    if len(token) > LONGEST:
        raise TokenError(Fault.TOO_LONG)
    try:
        header = jwt.get_unverified_header(token)
        if "crit" in header:  # there is no extension that we understand: RFC 7515, section 4.1.11
            raise TokenError(Fault.EXTENSION)
        unverified: Claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise TokenError(Fault.FORM) from None
    return header, unverified


def verified(token: str, header: Mapping[str, object], keys: Iterable[VerificationKey]) -> Claims:
    """The claims of a token that one of these keys has signed."""
    import jwt  # noqa: PLC0415 (as above)

    fault = Fault.NO_KEY
    for key in keys:
        if not _fits(key, header):
            continue
        fault = Fault.SIGNATURE
        try:
            return jwt.decode(token, key.key, algorithms=[key.algorithm], options=_UNCHECKED)
        except (jwt.PyJWTError, ValueError, RecursionError):
            continue
    raise TokenError(fault)


def _fits(key: VerificationKey, header: Mapping[str, object]) -> bool:
    """Whether a token may be tried with a key: the algorithm is the key's, and so is the key id where both have one."""
    kid = header.get("kid")
    return header.get("alg") == key.algorithm and (kid is None or key.kid is None or kid == key.kid)


def check_audience(claims: Claims, audiences: Sequence[str]) -> None:
    """It is for one of these; without any it may be for anybody."""
    if not audiences:
        return
    given = claims.get("aud")
    if given is None:
        raise TokenError(Fault.CLAIM)
    listed = given if isinstance(given, list) else [given]
    texts = {each for each in listed if isinstance(each, str)}
    if len(texts) < len(listed) or texts.isdisjoint(audiences):
        raise TokenError(Fault.AUDIENCE)


def valid_until(claims: Claims, now: float, skew: float) -> float:
    """When it ends to hold, with what clocks may differ by; TokenError where it does not hold now."""
    begins, ends = claims.get("nbf", 0), claims.get("exp", float("inf"))
    if not isinstance(begins, int | float) or not isinstance(ends, int | float):
        raise TokenError(Fault.FORM)
    if not begins <= now + skew:  # not the reverse: NaN is never early enough
        raise TokenError(Fault.EARLY)
    if not now - skew < ends:
        raise TokenError(Fault.EXPIRED)
    return ends + skew
