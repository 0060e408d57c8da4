"""Istio's RequestAuthentication: whose tokens are taken for a request's principal, and where they stand."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated, ClassVar, Final

from pydantic import AfterValidator, Field

from interceptor.config.base import Document, Duration, Fault, Strict
from interceptor.config.patterns import Selector, some

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FILE: Final = "file://"
_URL: Final = re.compile(r"https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?:[/?][!-~]*)?")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Of keys that are published: a symmetric one would let whoever reads this file sign.
_KEY_TYPES: Final = ("RSA", "EC", "OKP")
ALGORITHMS: Final = frozenset(
    ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
)


def key_set(text: str) -> str:
    """A JSON Web Key Set (RFC 7517) with at least one public key."""
    try:
        keys = json.loads(text)["keys"]
        types = [key["kty"] for key in keys]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError('is not a JSON Web Key Set; write it like {"keys": [{"kty": "RSA", ...}]}') from None
    if not types:
        raise ValueError("holds no key, so that no token would be valid; give at least one")
    if other := [kind for kind in types if kind not in _KEY_TYPES]:
        raise ValueError(f"holds a key of the kind {other[0]!r}; use public keys: {', '.join(_KEY_TYPES)}")
    if any("d" in key for key in keys):
        raise ValueError("holds a private key (its field 'd'); give the public part alone")
    from interceptor.config.jwks import parse_jwks  # noqa: PLC0415 (where a document asks for it)

    try:
        parse_jwks(text.encode(), ALGORITHMS)
    except ValueError as error:
        raise ValueError(f"holds a key that cannot be used: {error}") from None
    return text


def _place(value: str) -> str:
    if not value.startswith(FILE + "/") and not _URL.fullmatch(value):
        raise ValueError(
            f"'{value}' is not where keys can be; write it like https://issuer.example/keys, or {FILE}/path/of/keys.json"
        )
    return value


def _header(value: str) -> str:
    if not _TOKEN.fullmatch(value):
        raise ValueError(f"'{value}' is not the name of a header")
    return value


class TokenHeader(Strict):
    """A header that may hold a token, and what stands before it."""

    name: Annotated[str, AfterValidator(_header)]
    prefix: str = ""


class JwtRule(Strict):
    """One issuer, its keys, and where its tokens stand; by default ``Authorization: Bearer`` and ``?access_token=``."""

    unsupported: ClassVar[frozenset[str]] = frozenset(
        {
            "fromCookies",
            "jwks_uri",
            "outputClaimToHeaders",
            "outputPayloadToHeader",
            "spaceDelimitedClaims",
        }
    )

    issuer: str = Field(min_length=1)
    audiences: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], AfterValidator(some)] = Field(
        default=(), strict=False
    )
    jwks: Annotated[str, AfterValidator(key_set)] | None = None
    jwksUri: Annotated[str, AfterValidator(_place)] | None = None  # noqa: N815 (the document's spelling, here and below)
    timeout: Duration = 5.0  # for fetching the keys
    fromHeaders: Annotated[tuple[TokenHeader, ...], AfterValidator(some)] = Field(default=(), strict=False)  # noqa: N815
    fromParams: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], AfterValidator(some)] = Field(  # noqa: N815
        default=(), strict=False
    )
    forwardOriginalToken: bool = False  # noqa: N815


def _with_keys(rule: JwtRule) -> JwtRule:
    if (rule.jwks is None) == (rule.jwksUri is None):
        raise ValueError("must give the keys: either jwks, or jwksUri")
    return rule


class RequestAuthenticationSpec(Strict):
    """Some workloads, and the issuers they trust."""

    unsupported: ClassVar[frozenset[str]] = frozenset({"targetRef", "targetRefs"})

    selector: Selector | None = None
    jwtRules: tuple[Annotated[JwtRule, AfterValidator(_with_keys)], ...] = Field(default=(), strict=False)  # noqa: N815 (the document's spelling)


class RequestAuthentication(Document):
    """``apiVersion: security.istio.io/v1``, ``kind: RequestAuthentication``."""

    spec: RequestAuthenticationSpec = RequestAuthenticationSpec()

    @property
    def selected_labels(self) -> Mapping[str, str]:
        """The labels of the workloads it is about; none: all of its namespace, or of the mesh."""
        return self.spec.selector.matchLabels if self.spec.selector else {}

    def notes(self) -> Iterator[str]:
        """Whose tokens hold later only."""
        for rule in self.spec.jwtRules:
            if rule.jwksUri is not None and not rule.jwksUri.startswith(FILE):
                yield f"spec.jwtRules: until the keys come from {rule.jwksUri} no token of {rule.issuer} holds"

    def faults(self) -> Iterator[Fault]:
        """None: what is wrong is wrong in one rule."""
        yield from ()
