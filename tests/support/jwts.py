"""Tokens and the keys they are signed with, for tests."""

from __future__ import annotations

import base64
import functools
import json
import time

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

ISSUER = "https://issuer.example"


@functools.cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


@functools.cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@functools.cache
def ed_key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


SECRET = bytes(range(64))


def jwk(kind: str, **more: object) -> dict[str, object]:
    """The public part of a key; of ``oct`` the secret."""
    if kind == "oct":
        found: dict[str, object] = {"kty": "oct", "k": base64.urlsafe_b64encode(SECRET).rstrip(b"=").decode()}
    elif kind == "RSA":
        found = dict(jwt.algorithms.RSAAlgorithm.to_jwk(rsa_key().public_key(), as_dict=True))
    elif kind == "EC":
        found = dict(jwt.algorithms.ECAlgorithm.to_jwk(ec_key().public_key(), as_dict=True))
    else:
        found = dict(jwt.algorithms.OKPAlgorithm.to_jwk(ed_key().public_key(), as_dict=True))
    found.pop("key_ops", None)
    return {**found, **more}


def jwks(*keys: dict[str, object]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def claims(**more: object) -> dict[str, object]:
    """Of a token that is good now; None takes one away."""
    found: dict[str, object] = {"iss": ISSUER, "sub": "ann", "exp": int(time.time()) + 600}
    return {name: value for name, value in (found | more).items() if value is not None}


def token(algorithm: str = "RS256", kid: str | None = None, header: object = None, **more: object) -> str:
    """A token, signed."""
    keys = {"R": rsa_key, "P": rsa_key, "E": ec_key}
    key: object = SECRET if algorithm.startswith("HS") else keys[algorithm[0]]()
    if algorithm == "EdDSA":
        key = ed_key()
    headers: dict[str, object] = {} if kid is None else {"kid": kid}
    if isinstance(header, dict):
        headers |= header
    return jwt.encode(claims(**more), key, algorithm, headers)  # type: ignore[arg-type] # each is a key of its kind
