"""Istio's VirtualService: where requests and connections for a host go, and what is done to them on the way.

The proxy beside an app is Istio's gateway ``mesh``: documents, or matches, for other gateways are not for it. Regular
expressions are RE2's, as in Istio: an expression cannot take more than linear time, whatever a peer sends.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from interceptor.config.addresses import ip_address_or_network
from interceptor.config.base import Document, Duration, Fault, Name, Port, Strict
from interceptor.config.fault_injection import HTTPFaultInjection, Percentage
from interceptor.config.route_words import (
    Expression,
    HeaderName,
    HeaderText,
    HeaderToken,
    ServiceHost,
    SettableHeader,
    Status,
    SubsetName,
    some,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Self

MESH: Final = "mesh"
RETRY_CONDITIONS: Final = frozenset(
    (
        *("5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "refused-stream"),
        *("retriable-4xx", "retriable-status-codes"),
        *("cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"),
    )
)


class StringMatch(Strict):
    """Text that is equal, begins so, or matches whole; without any of them it only has to be there."""

    exact: str | None = None
    prefix: str | None = None
    regex: Expression | None = None

    @model_validator(mode="after")
    def _at_most_one(self) -> Self:
        given = [name for name in ("exact", "prefix", "regex") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"gives both {given[0]} and {given[1]}; keep one")
        return self


class HTTPMatchRequest(Strict):
    """Conditions on a request; all of them must hold."""

    refused: ClassVar[Mapping[str, str]] = {
        "statPrefix": "metrics have Istio's labels, and no others of a route's own; remove it"
    }

    name: str = ""
    uri: StringMatch | None = None
    ignoreUriCase: bool = False  # noqa: N815 (the document's spelling, here and below)
    scheme: StringMatch | None = None
    method: StringMatch | None = None
    authority: StringMatch | None = None
    headers: dict[HeaderName, StringMatch] = Field(default_factory=dict)
    withoutHeaders: dict[HeaderName, StringMatch] = Field(default_factory=dict)  # noqa: N815
    queryParams: dict[str, StringMatch] = Field(default_factory=dict)  # noqa: N815
    port: Port | None = None
    sourceLabels: dict[str, str] = Field(default_factory=dict)  # noqa: N815
    sourceNamespace: Name | None = None  # noqa: N815
    gateways: tuple[str, ...] = Field(default=(), strict=False)


class PortSelector(Strict):
    """A port by its number."""

    number: Port


class Destination(Strict):
    """A host of the registry, one of its subsets and one of its ports; the port dialled where none is given."""

    host: ServiceHost
    subset: SubsetName | None = None
    port: PortSelector | None = None


class HeaderOperations(Strict):
    """Headers to put in place of what is there, to append, and to drop."""

    set: dict[SettableHeader, HeaderText] = Field(default_factory=dict)
    add: dict[SettableHeader, HeaderText] = Field(default_factory=dict)
    remove: tuple[SettableHeader, ...] = Field(default=(), strict=False)


class Headers(Strict):
    """What is done to the headers of the request and of the response."""

    request: HeaderOperations = HeaderOperations()
    response: HeaderOperations = HeaderOperations()


class HTTPRouteDestination(Strict):
    """One destination and its share of the requests."""

    destination: Destination
    weight: int = Field(default=0, ge=0, le=1_000_000)
    headers: Headers = Headers()


class HTTPRedirect(Strict):
    """An answer that sends the client elsewhere."""

    uri: HeaderText | None = None
    authority: HeaderText | None = None
    port: Port | None = None
    derivePort: Literal["FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"] | None = None  # noqa: N815
    scheme: Literal["http", "https"] | None = None
    redirectCode: Literal[301, 302, 303, 307, 308] = 301  # noqa: N815


class Body(Strict):
    """The body of an answer."""

    refused: ClassVar[Mapping[str, str]] = {"bytes": "write the body as text, in string"}

    string: str = Field(default="", max_length=65_536)


class HTTPDirectResponse(Strict):
    """An answer of the proxy's own."""

    status: Status
    body: Body = Body()


class RegexRewrite(Strict):
    """A path made of another one by an expression."""

    match: Expression
    rewrite: HeaderText


class HTTPRewrite(Strict):
    """The path's matched prefix, or the whole path, and the authority that the upstream gets."""

    uri: HeaderText | None = None
    authority: HeaderText | None = None
    uriRegexRewrite: RegexRewrite | None = None  # noqa: N815


def _conditions(value: str) -> str:
    names = [name.strip() for name in value.split(",") if name.strip()]
    unknown = [
        name for name in names if name not in RETRY_CONDITIONS and not re.fullmatch(r"[1-5]\d\d", name)
    ]
    if unknown:
        known = ", ".join(sorted(RETRY_CONDITIONS))
        raise ValueError(
            f"'{unknown[0]}' is not a condition to retry on; known are: {known}, and status codes"
        )
    return ",".join(names)


class HTTPRetry(Strict):
    """How often a request that failed is tried again, and after what."""

    attempts: int = Field(default=2, ge=0, le=100)
    perTryTimeout: Duration | None = None  # noqa: N815
    retryOn: Annotated[str, AfterValidator(_conditions)] | None = None  # noqa: N815
    backoff: Duration | None = None
    retryRemoteLocalities: bool = False  # noqa: N815 (another attempt goes to another priority or locality than those before)
    retryIgnorePreviousHosts: bool = True  # noqa: N815 (and to another endpoint)


class HTTPMirror(Strict):
    """Where copies of requests go, and of how many."""

    destination: Destination
    percentage: Percentage = Percentage(value=100.0)
    keepHost: bool = False  # noqa: N815 (ours: without "-shadow" behind the host, as Envoy's disable_shadow_host_suffix_append)


class CorsPolicy(Strict):
    """Which pages of other origins may ask."""

    refused: ClassVar[Mapping[str, str]] = {
        "allowOrigin": "Istio has allowOrigins in its place: [{exact: ...}]"
    }

    allowOrigins: Annotated[tuple[StringMatch, ...], AfterValidator(some)] = Field(strict=False)  # noqa: N815
    allowMethods: tuple[HeaderToken, ...] = Field(default=(), strict=False)  # noqa: N815
    allowHeaders: tuple[HeaderToken, ...] = Field(default=(), strict=False)  # noqa: N815
    exposeHeaders: tuple[HeaderToken, ...] = Field(default=(), strict=False)  # noqa: N815
    maxAge: Duration | None = None  # noqa: N815
    allowCredentials: bool = False  # noqa: N815
    unmatchedPreflights: Literal["FORWARD", "IGNORE", "UNSPECIFIED"] = "UNSPECIFIED"  # noqa: N815


class Delegate(Strict):
    """Another VirtualService, without hosts, whose routes stand in this one's place; of the same namespace where none is given."""

    name: Name
    namespace: Name | None = None


class HTTPRoute(Strict):
    """What is done with requests that one of its matches, or no match where it has none, holds for."""

    refused: ClassVar[Mapping[str, str]] = {
        "mirrorPercent": "Istio has mirrorPercentage: {value: ...} in its place"
    }

    name: str = ""
    match: tuple[HTTPMatchRequest, ...] = Field(default=(), strict=False)
    route: tuple[HTTPRouteDestination, ...] = Field(default=(), strict=False)
    redirect: HTTPRedirect | None = None
    directResponse: HTTPDirectResponse | None = None  # noqa: N815
    delegate: Delegate | None = None
    rewrite: HTTPRewrite | None = None
    timeout: Duration | None = None
    retries: HTTPRetry | None = None
    fault: HTTPFaultInjection | None = None
    headers: Headers = Headers()
    corsPolicy: CorsPolicy | None = None  # noqa: N815
    mirror: Destination | None = None
    mirrorPercentage: Percentage | None = None  # noqa: N815
    mirrors: tuple[HTTPMirror, ...] = Field(default=(), strict=False)

    @property
    def copies(self) -> tuple[tuple[Destination, float, bool], ...]:
        """Where copies of requests go, of how many per cent of them, and whether with the host as it is."""
        share = 100.0 if self.mirrorPercentage is None else self.mirrorPercentage.value
        one = () if self.mirror is None else ((self.mirror, share, False),)
        others = ((each.destination, each.percentage.value, each.keepHost) for each in self.mirrors)
        return (*one, *others)


class L4Match(Strict):
    """Conditions on a connection; all of them must hold."""

    refused: ClassVar[Mapping[str, str]] = {
        "sourceSubnet": "this proxy stands beside one workload: give sourceLabels, sourceNamespace, or remove it"
    }

    destinationSubnets: tuple[Annotated[str, AfterValidator(ip_address_or_network)], ...] = Field(  # noqa: N815
        default=(), strict=False
    )
    port: Port | None = None
    sourceLabels: dict[str, str] = Field(default_factory=dict)  # noqa: N815
    sourceNamespace: Name | None = None  # noqa: N815
    gateways: tuple[str, ...] = Field(default=(), strict=False)


class TLSMatch(L4Match):
    """The same of a connection that begins with TLS, and the server names that its client asks for."""

    sniHosts: Annotated[tuple[ServiceHost, ...], AfterValidator(some)] = Field(strict=False)  # noqa: N815


class RouteDestination(Strict):
    """One destination and its share of the connections."""

    destination: Destination
    weight: int = Field(default=0, ge=0, le=1_000_000)


class TCPRoute(Strict):
    """Where connections go that one of its matches, or no match where it has none, holds for."""

    match: tuple[L4Match, ...] = Field(default=(), strict=False)
    route: Annotated[tuple[RouteDestination, ...], AfterValidator(some)] = Field(strict=False)


class TLSRoute(Strict):
    """Where connections go whose ClientHello one of its matches holds for."""

    match: Annotated[tuple[TLSMatch, ...], AfterValidator(some)] = Field(strict=False)
    route: Annotated[tuple[RouteDestination, ...], AfterValidator(some)] = Field(strict=False)


class VirtualServiceSpec(Strict):
    """The hosts, and their routes in the order in which they are tried."""

    hosts: tuple[ServiceHost, ...] = Field(default=(), strict=False)  # none: others delegate to it
    gateways: tuple[str, ...] = Field(default=(MESH,), strict=False)
    http: tuple[HTTPRoute, ...] = Field(default=(), strict=False)
    tls: tuple[TLSRoute, ...] = Field(default=(), strict=False)
    tcp: tuple[TCPRoute, ...] = Field(default=(), strict=False)
    exportTo: tuple[Annotated[str, Field(min_length=1)], ...] = Field(default=("*",), strict=False)  # noqa: N815


class VirtualService(Document):
    """``apiVersion: networking.istio.io/v1``, ``kind: VirtualService``."""

    spec: VirtualServiceSpec

    def faults(self) -> Iterator[Fault]:
        """Istio's rules between fields."""
        spec = self.spec
        if not (spec.http or spec.tls or spec.tcp):
            yield Fault(("spec",), "routes nothing; give http, tls or tcp")
        if not spec.hosts:
            yield from _delegate_faults(spec)
        for index, route in enumerate(spec.http):
            yield from _http_faults(route, ("spec", "http", index))
        for index, each in enumerate(spec.tcp):
            yield from _weight_faults(each.route, ("spec", "tcp", index, "route"))
        for index, route_of_tls in enumerate(spec.tls):
            yield from _weight_faults(route_of_tls.route, ("spec", "tls", index, "route"))
            for number, match in enumerate(route_of_tls.match):
                for place, name in enumerate(match.sniHosts):
                    if not any(_within(name, host) for host in spec.hosts):
                        message = f"'{name}' is none of spec.hosts; name it there too"
                        yield Fault(("spec", "tls", index, "match", number, "sniHosts", place), message)

    def notes(self) -> Iterator[str]:
        """Routes that nothing reaches, and a document that is for other gateways alone."""
        if not self.spec.hosts:
            yield "it has no hosts: it holds where a route of another VirtualService delegates to it, and nowhere else"
        if MESH not in self.spec.gateways:
            yield f"spec.gateways does not name '{MESH}': the document says nothing to this proxy"
        for name, matches in (
            ("http", [each.match for each in self.spec.http]),
            ("tcp", [each.match for each in self.spec.tcp]),
        ):
            first = next((index for index, match in enumerate(matches) if not match), len(matches))
            if first + 1 < len(matches):
                yield f"spec.{name}[{first + 1}] is never reached: spec.{name}[{first}] takes everything"


def _delegate_faults(spec: VirtualServiceSpec) -> Iterator[Fault]:
    """A document without hosts is for others to delegate to, which they do for requests alone."""
    for name in ("tls", "tcp"):
        if getattr(spec, name):
            yield Fault(("spec", "hosts"), f"must name at least one: {name} routes are of hosts")
    for index, route in enumerate(spec.http):
        if route.delegate is not None:
            message = "a VirtualService without hosts, to which others delegate, cannot delegate in turn"
            yield Fault(("spec", "http", index, "delegate"), message)


def _http_faults(route: HTTPRoute, at: tuple[str | int, ...]) -> Iterator[Fault]:
    abort = None if route.fault is None else route.fault.abort
    if abort is not None and (abort.httpStatus is None) == (abort.grpcStatus is None):
        yield Fault((*at, "fault", "abort"), "needs one of httpStatus and grpcStatus")
    given = [name for name in ("route", "redirect", "directResponse", "delegate") if getattr(route, name)]
    if not given:
        yield Fault(at, "does nothing with a request; give route, redirect, directResponse or delegate")
    if len(given) > 1:
        yield Fault((*at, given[1]), f"cannot be given together with {given[0]}; keep one")
    yield from _weight_faults(route.route, (*at, "route"))
    if route.mirrorPercentage is not None and route.mirror is None:
        yield Fault((*at, "mirrorPercentage"), "needs mirror; mirrors have a percentage of their own")
    if route.copies and not route.route and route.delegate is None:
        field = "mirror" if route.mirror is not None else "mirrors"
        yield Fault((*at, field), "needs route: what is answered here is not copied")
    if (
        route.rewrite is not None
        and route.rewrite.uri is not None
        and route.rewrite.uriRegexRewrite is not None
    ):
        yield Fault((*at, "rewrite"), "gives both uri and uriRegexRewrite; keep one")
    for index, match in enumerate(route.match):
        for name in ("uri", "scheme", "method", "authority"):
            value = getattr(match, name)
            if value is not None and value.exact is None and value.prefix is None and value.regex is None:
                yield Fault((*at, "match", index, name), "needs one of exact, prefix and regex")


def _within(name: str, host: str) -> bool:
    """Whether every name that one host stands for is one that another host stands for."""
    return host in {"*", name} or (host.startswith("*.") and name.endswith(host[1:]))


def _weight_faults(
    route: tuple[HTTPRouteDestination, ...] | tuple[RouteDestination, ...], at: tuple[str | int, ...]
) -> Iterator[Fault]:
    """A lone destination gets everything without a weight; several need one that is not 0."""
    if len(route) > 1 and not any(each.weight for each in route):
        yield Fault(at, "has several destinations and no weight; give each one a weight")
