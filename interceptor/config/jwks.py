"""The keys of a JWKS file (RFC 7517), each with the algorithms that it may be used for, whatever a token says."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import jwt

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

MOST_KEYS: Final = 64  # a token without a key id is tried with each
LEAST_RSA_BITS: Final = 2048  # RFC 7518, section 3.3

_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_OF_CURVE: Final = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
_OF_SECRET: Final = {"HS256": 32, "HS384": 48, "HS512": 64}  # the fewest bytes: RFC 7518, section 3.2


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A key, bound to one algorithm: a token cannot choose another one for it."""

    kid: str | None
    algorithm: str
    key: jwt.PyJWK = field(repr=False)


def parse_jwks(data: bytes, allowed: Collection[str]) -> tuple[VerificationKey, ...]:
    """The keys of a file for the algorithms that are allowed; ValueError with a sentence that repeats no contents."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("this is not JSON; write a JWKS: an object with the list 'keys'") from None
    listed = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(listed, list) or not listed:
        raise ValueError("this is no JWKS: an object with the list 'keys', and at least one in it")
    if len(listed) > MOST_KEYS:
        raise ValueError(f"there are {len(listed)} keys; at most {MOST_KEYS} are looked through")
    keys = tuple(key for index, jwk in enumerate(listed) for key in _keys(index, jwk, allowed))
    if not keys:
        raise ValueError(f"no key is for one of the algorithms {', '.join(sorted(allowed))}")
    return keys


def _keys(index: int, jwk: object, allowed: Collection[str]) -> list[VerificationKey]:
    """One entry, once for each algorithm it may be used for; none where it is for something else than signatures."""
    if not isinstance(jwk, dict):
        raise ValueError(f"keys[{index}] is not an object")  # noqa: TRY004 (a ValueError is what is caught)
    kid = jwk.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise ValueError(f"keys[{index}]: 'kid' is not text")
    if jwk.get("use", "sig") != "sig" or "verify" not in jwk.get("key_ops", ("verify",)):
        return []
    if "d" in jwk:
        raise ValueError(f"keys[{index}] is a private key; publish the public part only")
    named = jwk.get("alg")
    algorithms = [each for each in _algorithms(jwk) if each in allowed and named in {None, each}]
    return [VerificationKey(kid, algorithm, _load(index, jwk, algorithm)) for algorithm in algorithms]


def _algorithms(jwk: Mapping[str, object]) -> tuple[str, ...]:
    """What a key's own type allows: the public part of an RSA key can never be taken for a secret."""
    match jwk.get("kty"), jwk.get("crv"):
        case "RSA", _:
            return _RSA
        case "EC", str(curve) if curve in _OF_CURVE:
            return (_OF_CURVE[curve],)
        case "OKP", "Ed25519":
            return ("EdDSA",)
        case "oct", _:
            return tuple(_OF_SECRET)
        case _:
            return ()


def _load(index: int, jwk: dict[str, object], algorithm: str) -> jwt.PyJWK:
    try:
        key = jwt.PyJWK(jwk, algorithm)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):  # whose texts repeat the key
        raise ValueError(f"keys[{index}] cannot be read as a key for {algorithm}") from None
    if key.Algorithm.check_key_length(key.key):
        least = f"{LEAST_RSA_BITS} bits" if algorithm in _RSA else f"{_OF_SECRET[algorithm]} bytes"
        raise ValueError(f"keys[{index}] is too short for {algorithm}, which needs {least}")
    return key
