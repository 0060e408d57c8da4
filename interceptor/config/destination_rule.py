"""Istio's DestinationRule: how a service is spoken to, which endpoint gets what, and its subsets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from interceptor.config.addresses import host_name
from interceptor.config.base import Document, Duration, Fault, Port, Strict, seconds
from interceptor.model.identity import CertificateFiles

if TYPE_CHECKING:
    from collections.abc import Iterator

File = Annotated[str, Field(min_length=1, max_length=4096)]


class ClientTls(Strict):
    """Istio's ClientTLSSettings. ``ISTIO_MUTUAL`` presents the workload's own certificate, which ``spec.tls`` names."""

    unsupported: ClassVar[frozenset[str]] = frozenset({"credentialName", "insecureSkipVerify"})

    mode: Literal["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"]
    clientCertificate: File | None = None  # noqa: N815 (the document's spelling, here and below)
    privateKey: File | None = None  # noqa: N815
    caCertificates: File | None = None  # noqa: N815
    caCrl: File | None = None  # noqa: N815
    subjectAltNames: tuple[Annotated[str, Field(min_length=1)], ...] = Field(default=(), strict=False)  # noqa: N815
    sni: str | None = Field(default=None, min_length=1, max_length=253)

    @property
    def files(self) -> CertificateFiles:
        """What is presented and believed, where it is not the workload's own; None: nothing, and the system's bundle."""
        return CertificateFiles(self.clientCertificate, self.privateKey, self.caCertificates, self.caCrl)

    def faults(self) -> Iterator[Fault]:
        """Which files a mode needs, and which it cannot have."""
        pair = {"clientCertificate": self.clientCertificate, "privateKey": self.privateKey}
        others = {"caCertificates": self.caCertificates, "caCrl": self.caCrl}
        if self.mode == "MUTUAL":
            for name, path in pair.items():
                if path is None:
                    yield Fault((name,), "is required by the mode MUTUAL; add it, or use ISTIO_MUTUAL")
            pair = {}
        if self.mode in {"MUTUAL", "SIMPLE"}:
            others = {}
            if self.caCrl is not None and self.caCertificates is None:
                yield Fault(("caCrl",), "needs caCertificates, the authority that signed it; add that")
        for name, path in {**pair, **others}.items():
            if path is not None:
                yield Fault((name,), f"has no meaning in the mode {self.mode}; remove it")


class PortNumber(Strict):
    """A port of the service."""

    number: Port


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


class HTTPCookie(Strict):
    """A cookie that keeps a client at one endpoint; it is made where a request has none. A ``ttl`` of 0s: a session's."""

    unsupported: ClassVar[frozenset[str]] = frozenset({"attributes"})

    name: Annotated[str, AfterValidator(_token)]
    path: Annotated[str, AfterValidator(_path)] | None = None
    ttl: Annotated[float, BeforeValidator(seconds), Field(ge=0, le=86_400 * 3650)]


class ConsistentHash(Strict):
    """What of a request keeps it at one endpoint."""

    unsupported: ClassVar[frozenset[str]] = frozenset({"ringHash", "maglev", "minimumRingSize"})

    httpHeaderName: str | None = Field(default=None, min_length=1)  # noqa: N815
    httpCookie: HTTPCookie | None = None  # noqa: N815
    httpQueryParameterName: str | None = Field(default=None, min_length=1)  # noqa: N815
    useSourceIp: bool = False  # noqa: N815


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
        if self.warmup is not None and self.warmupDurationSecs is not None:
            yield Fault(("warmupDurationSecs",), "says the same as warmup.duration; keep one")
        if self.warms_up is not None and (self.simple == "RANDOM" or self.consistentHash is not None):
            yield Fault(("warmup",), "works with ROUND_ROBIN and LEAST_REQUEST; change simple, or remove it")
        for fault in self.localityLbSetting.faults() if self.localityLbSetting else ():
            yield Fault(("localityLbSetting", *fault.location), fault.message)


class OutlierDetection(Strict):
    """When an endpoint that fails is left out for a while."""

    unsupported: ClassVar[frozenset[str]] = frozenset({"consecutiveErrors"})

    splitExternalLocalOriginErrors: bool = False  # noqa: N815
    consecutiveLocalOriginFailures: int = Field(default=5, ge=0)  # noqa: N815
    consecutiveGatewayErrors: int = Field(default=0, ge=0)  # noqa: N815
    consecutive5xxErrors: int = Field(default=5, ge=0)  # noqa: N815
    interval: Duration = 10.0
    baseEjectionTime: Duration = 30.0  # noqa: N815
    maxEjectionPercent: int = Field(default=10, ge=0, le=100)  # noqa: N815
    minHealthPercent: int = Field(default=0, ge=0, le=100)  # noqa: N815


class HTTPPool(Strict):
    """Bounds on requests, and on the connections that carry them."""

    http1MaxPendingRequests: int | None = Field(default=None, ge=1)  # noqa: N815 (that wait for a connection)
    http2MaxRequests: int | None = Field(default=None, ge=1)  # noqa: N815 (requests in flight, of any version)
    maxRetries: int | None = Field(default=None, ge=1)  # noqa: N815 (in flight)
    h2UpgradePolicy: Literal["DEFAULT", "DO_NOT_UPGRADE", "UPGRADE"] = "DEFAULT"  # noqa: N815
    useClientProtocol: bool = False  # noqa: N815
    idleTimeout: Duration | None = None  # noqa: N815 (of a connection that carries nothing)
    maxRequestsPerConnection: int = Field(default=0, ge=0)  # noqa: N815 (0: any number)
    maxConcurrentStreams: int | None = Field(default=None, ge=1)  # noqa: N815 (of one connection of HTTP/2)


# Linux counts whole seconds, and no more of them than this; a part of one is dropped, as Istio does.
ProbeSeconds = Annotated[float, BeforeValidator(seconds), Field(ge=1, le=32767)]


class TCPKeepalive(Strict):
    """How the kernel finds out that an endpoint has vanished; what is not given is as the kernel has it."""

    probes: int = Field(default=0, ge=0, le=127)  # that go unanswered (0: as the kernel has it)
    time: ProbeSeconds | None = None  # of silence before the first
    interval: ProbeSeconds | None = None  # between two


class TCPPool(Strict):
    """Bounds on connecting, and how connections are kept."""

    unsupported: ClassVar[frozenset[str]] = frozenset({"maxConnectionDuration"})

    maxConnections: int | None = Field(default=None, ge=1)  # noqa: N815 (that carry something)
    connectTimeout: Duration | None = None  # noqa: N815
    tcpKeepalive: TCPKeepalive | None = None  # noqa: N815
    idleTimeout: Annotated[float, BeforeValidator(seconds), Field(ge=0, le=86_400 * 30)] | None = None  # noqa: N815 (of an opaque flow; 0s: none)


class ConnectionPool(Strict):
    """What a service is never asked for more of. Each worker counts for itself."""

    http: HTTPPool = HTTPPool()
    tcp: TCPPool = TCPPool()


_UNSUPPORTED = frozenset({"tunnel", "proxyProtocol", "retryBudget"})
TRAFFIC: Final = ("loadBalancer", "connectionPool", "outlierDetection")


class PortPolicy(Strict):
    """What holds for one port, in place of all that is said for the others."""

    unsupported: ClassVar[frozenset[str]] = _UNSUPPORTED

    port: PortNumber
    loadBalancer: LoadBalancer | None = None  # noqa: N815
    connectionPool: ConnectionPool | None = None  # noqa: N815
    outlierDetection: OutlierDetection | None = None  # noqa: N815
    tls: ClientTls | None = None


class SubsetPolicy(Strict):
    """Which endpoint of a subset gets what, in place of what is said for all."""

    unsupported: ClassVar[frozenset[str]] = _UNSUPPORTED | {"tls", "portLevelSettings"}

    loadBalancer: LoadBalancer | None = None  # noqa: N815
    connectionPool: ConnectionPool | None = None  # noqa: N815
    outlierDetection: OutlierDetection | None = None  # noqa: N815


class Subset(Strict):
    """The endpoints that have all of these labels."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    labels: dict[str, str] = Field(default_factory=dict)
    trafficPolicy: SubsetPolicy = SubsetPolicy()  # noqa: N815


class TrafficPolicy(Strict):
    """How the service is spoken to, and which of its endpoints gets what."""

    unsupported: ClassVar[frozenset[str]] = _UNSUPPORTED

    loadBalancer: LoadBalancer | None = None  # noqa: N815
    connectionPool: ConnectionPool | None = None  # noqa: N815
    outlierDetection: OutlierDetection | None = None  # noqa: N815
    tls: ClientTls | None = None
    portLevelSettings: tuple[PortPolicy, ...] = Field(default=(), strict=False)  # noqa: N815


class DestinationRuleSpec(Strict):
    """The host is one of a ServiceEntry's, or ``*.`` and a name."""

    unsupported: ClassVar[frozenset[str]] = frozenset({"workloadSelector"})

    host: Annotated[str, AfterValidator(host_name)]
    trafficPolicy: TrafficPolicy = TrafficPolicy()  # noqa: N815
    subsets: tuple[Subset, ...] = Field(default=(), strict=False)
    exportTo: tuple[Annotated[str, Field(min_length=1)], ...] = Field(default=("*",), strict=False)  # noqa: N815


class DestinationRule(Document):
    """``apiVersion: networking.istio.io/v1``, ``kind: DestinationRule``."""

    spec: DestinationRuleSpec

    @property
    def port_tls(self) -> dict[int, ClientTls | None]:
        """What each port of its own is said to have."""
        return {each.port.number: each.tls for each in self.spec.trafficPolicy.portLevelSettings}

    @property
    def uses_identity(self) -> bool:
        """Whether it needs the workload's own certificate."""
        policy = self.spec.trafficPolicy
        return any(tls and tls.mode == "ISTIO_MUTUAL" for tls in (policy.tls, *self.port_tls.values()))

    def faults(self) -> Iterator[Fault]:
        """Modes need their files; a port or a subset is spoken of once."""
        policy, at = self.spec.trafficPolicy, ("spec", "trafficPolicy")
        names: dict[str, int] = {}
        balancers: list[tuple[tuple[str | int, ...], LoadBalancer | None]] = [(at, policy.loadBalancer)]
        for index, subset in enumerate(self.spec.subsets):
            place = ("spec", "subsets", index)
            if (first := names.setdefault(subset.name, index)) != index:
                message = f"'{subset.name}' is given twice, first in spec.subsets[{first}]"
                yield Fault((*place, "name"), message)
            balancers.append(((*place, "trafficPolicy"), subset.trafficPolicy.loadBalancer))
        if policy.tls is not None:
            for fault in policy.tls.faults():
                yield Fault((*at, "tls", *fault.location), fault.message)
        seen: dict[int, int] = {}
        for index, each in enumerate(policy.portLevelSettings):
            here = (*at, "portLevelSettings", index)
            balancers.append((here, each.loadBalancer))
            if (first := seen.setdefault(each.port.number, index)) != index:
                message = f"port {each.port.number} is given twice, first in portLevelSettings[{first}]"
                yield Fault((*here, "port", "number"), message)
            for fault in each.tls.faults() if each.tls else ():
                yield Fault((*here, "tls", *fault.location), fault.message)
        for where, balancer in balancers:
            for fault in balancer.faults() if balancer else ():
                yield Fault((*where, "loadBalancer", *fault.location), fault.message)
