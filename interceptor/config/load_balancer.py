"""Istio's LoadBalancerSettings: how an endpoint is chosen."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from interceptor.config.base import Duration, Fault, Strict, seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def _token(value: str) -> str:
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", value, re.ASCII):
        raise ValueError(f"'{value}' is not a cookie's name")
    return value


def _path(value: str) -> str:
    if not re.fullmatch(r"/[!-:<-~]*", value, re.ASCII):
        raise ValueError(f"'{value}' is not a path that a cookie can have; write it like /shop")
    return value


def _locality(value: str) -> str:
    if not re.fullmatch(r"\*|[^/*]+(/[^/*]+){0,2}(/\*)?", value):
        raise ValueError(f"'{value}' is not a locality; write it like region/zone/subzone or region/*")
    return value


Place = Annotated[str, AfterValidator(_locality)]


def _attribute(value: str) -> str:
    if not re.fullmatch(r"[!-:<-~]*( [!-:<-~]+)*", value, re.ASCII):
        raise ValueError(f"'{value}' is not what an attribute of a cookie can be")
    return value


RingSize = Annotated[int, Field(ge=1, le=8 * 1024 * 1024)]


class CookieAttribute(Strict):
    """What else a browser is told of a cookie, as ``SameSite: Lax``, or ``Secure`` without a value."""

    name: Annotated[str, AfterValidator(_token)]
    value: Annotated[str, AfterValidator(_attribute)] = ""


class HTTPCookie(Strict):
    """A cookie that keeps a client at one endpoint; it is made where a request has none. A ``ttl`` of 0s: a session's."""

    name: Annotated[str, AfterValidator(_token)]
    path: Annotated[str, AfterValidator(_path)] | None = None
    ttl: Annotated[float, BeforeValidator(seconds), Field(ge=0, le=86_400 * 3650)]
    attributes: tuple[CookieAttribute, ...] = Field(default=(), max_length=16, strict=False)


class RingHash(Strict):
    """How many points the ring has at least: the more there are, the more even are the shares."""

    minimumRingSize: RingSize | None = None  # noqa: N815


class Maglev(Strict):
    """Istio's other way of consistent hashing; both are a ring here."""

    refused: ClassVar[Mapping[str, str]] = {
        "tableSize": "both ways are a ring here: give ringHash.minimumRingSize in place of maglev, or remove it"
    }


class ConsistentHash(Strict):
    """What of a request keeps it at one endpoint."""

    httpHeaderName: str | None = Field(default=None, min_length=1)  # noqa: N815
    httpCookie: HTTPCookie | None = None  # noqa: N815
    httpQueryParameterName: str | None = Field(default=None, min_length=1)  # noqa: N815
    useSourceIp: bool = False  # noqa: N815
    minimumRingSize: RingSize | None = None  # noqa: N815 (Istio's older name of ringHash.minimumRingSize)
    ringHash: RingHash | None = None  # noqa: N815
    maglev: Maglev | None = None

    @property
    def ring_size(self) -> int:
        """What both of its fields come to; 0: as large as ours are."""
        ring = None if self.ringHash is None else self.ringHash.minimumRingSize
        return ring or self.minimumRingSize or 0


class Distribute(Strict):
    """Shares of the load of one locality, in per cent, by the locality that gets them."""

    from_: Place = Field(alias="from")
    to: dict[Place, Annotated[int, Field(ge=1, le=100)]]


class Failover(Strict):
    """The region that comes next where a region has too few healthy endpoints."""

    from_: Annotated[str, Field(min_length=1)] = Field(alias="from")
    to: Annotated[str, Field(min_length=1)]


class LocalityLoadBalancer(Strict):
    """Nearer endpoints first, as long as they are healthy; or shares for localities."""

    enabled: bool = True
    distribute: tuple[Distribute, ...] = Field(default=(), strict=False)
    failover: tuple[Failover, ...] = Field(default=(), strict=False)
    # Labels, or label=value, in the order in which they count.
    failoverPriority: tuple[Annotated[str, Field(min_length=1, max_length=317)], ...] = Field(  # noqa: N815
        default=(), strict=False
    )

    def faults(self) -> Iterator[Fault]:
        """Istio's rules."""
        if self.distribute and self.failover:
            yield Fault(("failover",), "cannot be given together with distribute; keep one")
        if self.failoverPriority and (self.distribute or self.failover):
            yield Fault(
                ("failoverPriority",), "cannot be given together with distribute or failover; keep one"
            )
        for index, each in enumerate(self.distribute):
            if sum(each.to.values()) != 100:
                yield Fault(("distribute", index, "to"), "must come to 100 in all")
        for index, other in enumerate(self.failover):
            if other.from_ == other.to:
                yield Fault(("failover", index, "to"), "is the region itself; name another one")


class Warmup(Strict):
    """How an endpoint that is new gets its share little by little."""

    duration: Duration
    minimumPercent: float = Field(default=10.0, ge=0, le=100, strict=False)  # noqa: N815
    aggression: float = Field(default=1.0, ge=1, le=100, strict=False)


def _simple(value: object) -> object:
    """Istio's older name of the default, and the default."""
    return "LEAST_REQUEST" if value in {"LEAST_CONN", "UNSPECIFIED"} else value


class LoadBalancer(Strict):
    """How an endpoint is chosen; LEAST_REQUEST where nothing is said."""

    unsupported_values: ClassVar[dict[str, frozenset[str]]] = {"simple": frozenset({"PASSTHROUGH"})}

    simple: Annotated[Literal["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM"] | None, BeforeValidator(_simple)] = (
        None
    )
    consistentHash: ConsistentHash | None = None  # noqa: N815
    localityLbSetting: LocalityLoadBalancer | None = None  # noqa: N815
    warmupDurationSecs: Duration | None = None  # noqa: N815 (Istio's older name of warmup.duration)
    warmup: Warmup | None = None

    @property
    def warms_up(self) -> Warmup | None:
        """What both of its fields come to."""
        if self.warmup is None and self.warmupDurationSecs is not None:
            return Warmup.model_construct(duration=self.warmupDurationSecs)
        return self.warmup

    def faults(self) -> Iterator[Fault]:
        """One way of choosing."""
        given = (self.simple, self.consistentHash)
        others = (self.localityLbSetting, self.warms_up)
        if all(each is not None for each in given) or not any(each is not None for each in (*given, *others)):
            yield Fault((), "needs one of simple and consistentHash")
        if (key := self.consistentHash) is not None:
            ways = (key.httpHeaderName, key.httpCookie, key.httpQueryParameterName, key.useSourceIp or None)
            if sum(each is not None for each in ways) != 1:
                message = "needs one of httpHeaderName, httpCookie, httpQueryParameterName and useSourceIp"
                yield Fault(("consistentHash",), message)
            rings = {"minimumRingSize": key.minimumRingSize, "ringHash": key.ringHash, "maglev": key.maglev}
            named = [name for name, each in rings.items() if each is not None]
            if len(named) > 1:
                yield Fault(
                    ("consistentHash", named[1]), f"cannot be given together with {named[0]}; keep one"
                )
        if self.warmup is not None and self.warmupDurationSecs is not None:
            yield Fault(("warmupDurationSecs",), "says the same as warmup.duration; keep one")
        if self.warms_up is not None and (self.simple == "RANDOM" or self.consistentHash is not None):
            yield Fault(("warmup",), "works with ROUND_ROBIN and LEAST_REQUEST; change simple, or remove it")
        for fault in self.localityLbSetting.faults() if self.localityLbSetting else ():
            yield Fault(("localityLbSetting", *fault.location), fault.message)
