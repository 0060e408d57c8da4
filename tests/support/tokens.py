"""Keys, and tokens signed with them."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

NOW = 1_790_000_000.0


@lru_cache
def private(kind: str = "EC") -> Any:
    """The one private key of a kind in a test run."""
    if kind == "EC":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(65537, 2048) if kind == "RSA" else ed25519.Ed25519PrivateKey.generate()


def jwk(kind: str = "EC", **more: str) -> dict[str, Any]:
    """Its public part."""
    algorithms: dict[str, Any] = {"EC": ECAlgorithm, "RSA": RSAAlgorithm, "OKP": OKPAlgorithm}
    algorithm = algorithms[kind]
    return {**algorithm.to_jwk(private(kind).public_key(), as_dict=True), **more}


def jwks(*keys: dict[str, Any]) -> str:
    """A key set; by default the one of the kind EC."""
    return json.dumps({"keys": list(keys) or [jwk()]})


def token(
    claims: dict[str, Any] | None = None, *, kind: str = "EC", algorithm: str = "ES256", **header: str
) -> str:
    """A token of ``issuer`` and ``alice`` that holds for a minute."""
    payload = {"iss": "issuer", "sub": "alice", "exp": int(NOW) + 60, **(claims or {})}
    # Signed as bytes: jwt.encode would refuse the claims that a test gets wrong on purpose.
    return jwt.api_jws.encode(json.dumps(payload).encode(), private(kind), algorithm, headers=header or None)
