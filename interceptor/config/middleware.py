"""``spec.middleware``: what stands around requests and connections, in order. Each kind has a model of its own.

Fields are named as in the field's own tools: the JWT rule and the fault as Istio's, headers as in a VirtualService,
operators in the access log as Envoy's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, Tag

from interceptor.config.base import Duration, Fault, Strict
from interceptor.config.middleware_credentials import ApiKeyItem, BasicItem, JwtItem
from interceptor.config.middleware_fields import (
    HeaderValue,
    LogField,
    PathPrefix,
    Rate,
    RateKey,
    SettableHeader,
    rate,
)
from interceptor.config.middleware_item import Item
from interceptor.config.sentences import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.config.tree import Location

Failure: TypeAlias = Literal["open", "closed"]
_MODULE: Final = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*")


class Limit(Strict):
    """A steady rate and how many may come at once; as many as the rate's number where that is not given."""

    rate: Rate
    burst: int | None = Field(default=None, ge=1, le=1_000_000_000)

    @property
    def numbers(self) -> tuple[int, int, int | None]:
        """So many in so many seconds, and the burst."""
        return (*rate(self.rate), self.burst)


class PerKey(Limit):
    """A limit for each key; a key is the list of what ``by`` names."""

    by: tuple[RateKey, ...] = Field(strict=False)
    pathPrefixes: tuple[PathPrefix, ...] = Field(default=(), strict=False)  # noqa: N815
    maxKeys: int = Field(default=10_000, ge=1, le=1_000_000)  # noqa: N815 (some 250 bytes each)


class Override(Limit):
    """Another limit for one key."""

    key: tuple[str, ...] = Field(strict=False)


class RateLimitConfig(Strict):
    """One limit for all, one for each key, and exceptions for some keys."""

    total: Limit | None = None
    perKey: PerKey | None = None  # noqa: N815
    overrides: tuple[Override, ...] = Field(default=(), strict=False)


class RateLimitItem(Item):
    """Requests, or new connections, for a time."""

    use: Literal["rateLimit"]
    scope: Literal["connection", "request"] = "request"
    failure: Failure = "closed"
    config: RateLimitConfig

    def faults(self, at: Location) -> Iterator[Fault]:
        """A limit that limits nothing, and keys that cannot be made."""
        config, at = self.config, (*at, "config")
        if config.total is None and config.perKey is None:
            yield Fault(at, "nothing is limited; give total, perKey or both")
        if config.perKey is None:
            if config.overrides:
                message = "overrides are exceptions from perKey, which is not given; add it"
                yield Fault((*at, "overrides"), message)
            return
        by = config.perKey.by
        yield from self._key_faults(config.perKey, (*at, "perKey"))
        seen: dict[tuple[str, ...], int] = {}
        for index, override in enumerate(config.overrides):
            where = (*at, "overrides", index, "key")
            if len(override.key) != len(by):
                message = f"a key has {len(by)} parts, one for each of perKey.by: {', '.join(by)}"
                yield Fault(where, message)
            if (first := seen.setdefault(override.key, index)) != index:
                yield Fault(where, f"the key is given twice, first in overrides[{first}]; keep one of them")

    def _key_faults(self, per_key: PerKey, at: Location) -> Iterator[Fault]:
        if not per_key.by:
            yield Fault((*at, "by"), "must name at least one; use total for a limit on all together")
        if self.scope == "connection":
            for index, part in enumerate(per_key.by):
                if part not in {"peer", "identity"}:
                    message = f"'{part}' is of requests; a connection has peer and identity"
                    yield Fault((*at, "by", index), message)
        if ("pathPrefix" in per_key.by) != bool(per_key.pathPrefixes):
            message = "pathPrefix in by and the list pathPrefixes belong together; give both or neither"
            yield Fault((*at, "by"), message)


class RateLimitDocumentsItem(Item):
    """The place of the limits that RateLimit documents ask for, of requests and of connections."""

    use: Literal["rateLimitDocuments"]
    scope: Literal["request"] = "request"
    failure: Literal["closed"] = "closed"


class HeaderChanges(Strict):
    """As in a VirtualService: set replaces, add appends; remove comes first."""

    set: dict[SettableHeader, HeaderValue] = Field(default_factory=dict)
    add: dict[SettableHeader, HeaderValue] = Field(default_factory=dict)
    remove: tuple[SettableHeader, ...] = Field(default=(), strict=False)


class HeadersConfig(Strict):
    """What is changed on the way there and on the way back."""

    request: HeaderChanges = HeaderChanges()
    response: HeaderChanges = HeaderChanges()


class HeadersItem(Item):
    """Sets, adds and removes headers."""

    use: Literal["headers"]
    scope: Literal["request"] = "request"
    failure: Failure = "closed"
    config: HeadersConfig


class Percentage(Strict):
    """Istio's form of one."""

    value: float = Field(ge=0, le=100)


class FaultDelay(Strict):
    """Some requests are held back."""

    fixedDelay: Duration  # noqa: N815
    percentage: Percentage


class FaultAbort(Strict):
    """Some requests are answered with an error."""

    unsupported: ClassVar[frozenset[str]] = frozenset({"grpcStatus", "http2Error"})

    httpStatus: int = Field(ge=200, le=599)  # noqa: N815
    percentage: Percentage


class FaultConfig(Strict):
    """Istio's fault injection."""

    delay: FaultDelay | None = None
    abort: FaultAbort | None = None


class FaultItem(Item):
    """Trouble on purpose."""

    use: Literal["fault"]
    scope: Literal["request"] = "request"
    failure: Failure = "open"
    config: FaultConfig


class BodyLimitConfig(Strict):
    """The longest request body."""

    maxRequestBytes: int = Field(ge=0)  # noqa: N815


class BodyLimitItem(Item):
    """Requests with a longer body are answered with 413, also while it streams."""

    use: Literal["bodyLimit"]
    scope: Literal["request"] = "request"
    failure: Failure = "closed"
    config: BodyLimitConfig


class LogCondition(Strict):
    """Everything that is given must hold."""

    minStatus: int | None = Field(default=None, ge=100, le=599)  # noqa: N815
    minDuration: Duration | None = None  # noqa: N815
    flagged: bool | None = None  # whether there is a response flag
    percentage: Percentage | None = None


class AccessLogConfig(Strict):
    """Which requests are logged (those that meet one of the conditions; none: all), and what more their lines say."""

    when: tuple[LogCondition, ...] = Field(default=(), strict=False)
    extraFields: dict[Annotated[str, Field(min_length=1, max_length=64)], LogField] = Field(  # noqa: N815
        default_factory=dict
    )


class AccessLogItem(Item):
    """Filters the access log, and adds fields to it."""

    use: Literal["accessLog"]
    scope: Literal["request"] = "request"
    failure: Failure = "open"
    config: AccessLogConfig


def _module(value: object) -> object:
    if isinstance(value, str) and not _MODULE.fullmatch(value):
        if ":" in value:
            raise ValueError(f"'{value}' is not a module and an attribute; write it like package.module:name")
        raise ValueError(f"'{value}' is neither built in nor module:attribute{did_you_mean(value, _TAGS)}")
    return value


class ModuleItem(Item):
    """The user's own, named as ``module:attribute``: a callable, or a class that is made with the config."""

    use: Annotated[str, BeforeValidator(_module)]
    scope: Literal["connection", "request"] = "request"
    timeout: Duration = 1.0  # of its own time: waiting for others is not counted
    failure: Failure = "closed"
    config: dict[str, Any] = Field(default_factory=dict)


_TAGS: Final = (
    "jwt",
    "basic",
    "apiKey",
    "rateLimit",
    "rateLimitDocuments",
    "headers",
    "fault",
    "bodyLimit",
    "accessLog",
)


def _tag(value: Any) -> str:
    """Which model an entry is judged by; every word that is not a built-in is taken for the user's own."""
    use = value.get("use") if isinstance(value, dict) else getattr(value, "use", None)
    return f"use={use if use in _TAGS else 'module'}"


AnyItem = Annotated[
    Annotated[JwtItem, Tag("use=jwt")]
    | Annotated[BasicItem, Tag("use=basic")]
    | Annotated[ApiKeyItem, Tag("use=apiKey")]
    | Annotated[RateLimitItem, Tag("use=rateLimit")]
    | Annotated[RateLimitDocumentsItem, Tag("use=rateLimitDocuments")]
    | Annotated[HeadersItem, Tag("use=headers")]
    | Annotated[FaultItem, Tag("use=fault")]
    | Annotated[BodyLimitItem, Tag("use=bodyLimit")]
    | Annotated[AccessLogItem, Tag("use=accessLog")]
    | Annotated[ModuleItem, Tag("use=module")],
    Discriminator(_tag),
]


def faults(items: tuple[Item, ...], at: Location) -> Iterator[Fault]:
    """What is wrong between the entries, and between the fields of each."""
    names: dict[str, int] = {}
    for index, item in enumerate(items):
        if (first := names.setdefault(item.name, index)) != index:
            message = (
                f"the name '{item.name}' is given twice, first in middleware[{first}]; metrics go by name"
            )
            yield Fault((*at, index, "name"), message)
        yield from item.faults((*at, index))
