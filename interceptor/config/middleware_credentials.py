"""Entries of ``spec.middleware`` that ask who is calling: tokens, passwords, keys. All of them fail closed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field

from interceptor.config.base import Duration, Fault, FilePath, Strict
from interceptor.config.middleware_fields import (  # noqa: TC001 (pydantic reads them)
    HeaderName,
    HeaderValue,
    SettableHeader,
)
from interceptor.config.middleware_item import Item

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.config.tree import Location


class ClaimToHeader(Strict):
    """A claim of a token, told to the app in a header; what the client wrote there is dropped."""

    header: SettableHeader
    claim: str = Field(min_length=1)


class FromHeader(Strict):
    """Where a token is looked for."""

    name: HeaderName
    prefix: str = ""


Algorithm: TypeAlias = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
    "HS256", "HS384", "HS512",
]  # fmt: skip


class JwtConfig(Strict):
    """Istio's JWT rule. Symmetric algorithms are taken only where they are named, and only with an ``oct`` key."""

    unsupported: ClassVar[frozenset[str]] = frozenset(
        {"jwks", "jwksUri", "jwks_uri", "fromParams", "fromCookies", "outputPayloadToHeader"}
    )

    issuer: str = Field(min_length=1)
    audiences: tuple[Annotated[str, Field(min_length=1)], ...] = Field(default=(), strict=False)
    jwksFile: FilePath  # noqa: N815 (the document's spelling, here and below)
    algorithms: tuple[Algorithm, ...] = Field(
        default=("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"),
        strict=False,
    )
    fromHeaders: tuple[FromHeader, ...] = Field(  # noqa: N815
        default=(FromHeader(name="authorization", prefix="Bearer "),), strict=False
    )
    clockSkew: Duration = 60.0  # noqa: N815 (Envoy's and Istio's default)
    forwardOriginalToken: bool = False  # noqa: N815
    outputClaimToHeaders: tuple[ClaimToHeader, ...] = Field(default=(), strict=False)  # noqa: N815


class JwtItem(Item):
    """Bearer tokens, checked by the keys in a JWKS file. It always fails closed."""

    use: Literal["jwt"]
    scope: Literal["request"] = "request"
    failure: Literal["closed"] = "closed"
    config: JwtConfig

    def faults(self, at: Location) -> Iterator[Fault]:
        """Nothing to go by is a rule that refuses everybody."""
        for field in ("algorithms", "fromHeaders"):
            if not getattr(self.config, field):
                yield Fault((*at, "config", field), "must name at least one")


class BasicConfig(Strict):
    """Users and hashed passwords, as ``htpasswd -s`` writes them, or salted."""

    usersFile: FilePath  # noqa: N815
    realm: HeaderValue = "interceptor"
    userHeader: SettableHeader | None = None  # noqa: N815
    forwardCredentials: bool = False  # noqa: N815


class BasicItem(Item):
    """User and password. It always fails closed."""

    use: Literal["basic"]
    scope: Literal["request"] = "request"
    failure: Literal["closed"] = "closed"
    config: BasicConfig


class ApiKeyConfig(Strict):
    """Clients and their keys, and where a request carries one."""

    keysFile: FilePath  # noqa: N815
    header: HeaderName | None = None
    query: str | None = Field(default=None, min_length=1)
    clientHeader: SettableHeader | None = None  # noqa: N815
    forwardCredentials: bool = False  # noqa: N815


class ApiKeyItem(Item):
    """A key for each client. It always fails closed."""

    use: Literal["apiKey"]
    scope: Literal["request"] = "request"
    failure: Literal["closed"] = "closed"
    config: ApiKeyConfig

    def faults(self, at: Location) -> Iterator[Fault]:
        """One place for the key, so that what is checked is what is forwarded."""
        if (self.config.header is None) == (self.config.query is None):
            message = "the key comes in a header or in the query; give one of header and query"
            yield Fault((*at, "config"), message)
