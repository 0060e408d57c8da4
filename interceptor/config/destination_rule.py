"""Istio's DestinationRule: how a service is spoken to, which endpoint gets what, and its subsets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from interceptor.config.addresses import host_name
from interceptor.config.base import Document, Duration, Fault, Port, Strict
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


class ConsistentHash(Strict):
    """What of a request keeps it at one endpoint."""

    unsupported: ClassVar[frozenset[str]] = frozenset({"httpCookie", "ringHash", "maglev", "minimumRingSize"})

    httpHeaderName: str | None = Field(default=None, min_length=1)  # noqa: N815
    httpQueryParameterName: str | None = Field(default=None, min_length=1)  # noqa: N815
    useSourceIp: bool = False  # noqa: N815


class LoadBalancer(Strict):
    """How an endpoint is chosen; LEAST_REQUEST where nothing is said."""

    unsupported: ClassVar[frozenset[str]] = frozenset({"localityLbSetting", "warmup", "warmupDurationSecs"})
    unsupported_values: ClassVar[dict[str, frozenset[str]]] = {
        "simple": frozenset({"LEAST_CONN", "PASSTHROUGH", "UNSPECIFIED"})
    }

    simple: Literal["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM"] | None = None
    consistentHash: ConsistentHash | None = None  # noqa: N815

    def faults(self) -> Iterator[Fault]:
        """One way of choosing."""
        if (self.simple is None) == (self.consistentHash is None):
            yield Fault((), "needs one of simple and consistentHash")
        if (key := self.consistentHash) is not None:
            given = (key.httpHeaderName, key.httpQueryParameterName, key.useSourceIp or None)
            if sum(each is not None for each in given) != 1:
                message = "needs one of httpHeaderName, httpQueryParameterName and useSourceIp"
                yield Fault(("consistentHash",), message)


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
    """Bounds on requests."""

    unsupported: ClassVar[frozenset[str]] = frozenset(
        {
            *("http1MaxPendingRequests", "maxRequestsPerConnection", "idleTimeout", "h2UpgradePolicy"),
            *("useClientProtocol", "maxConcurrentStreams"),
        }
    )

    http2MaxRequests: int | None = Field(default=None, ge=1)  # noqa: N815 (requests in flight, of any version)
    maxRetries: int | None = Field(default=None, ge=1)  # noqa: N815 (in flight)


class TCPPool(Strict):
    """Bounds on connecting."""

    unsupported: ClassVar[frozenset[str]] = frozenset(
        {"maxConnections", "tcpKeepalive", "maxConnectionDuration", "idleTimeout"}
    )

    connectTimeout: Duration | None = None  # noqa: N815


class ConnectionPool(Strict):
    """What a service is never asked for more of."""

    http: HTTPPool = HTTPPool()
    tcp: TCPPool = TCPPool()


_UNSUPPORTED = frozenset({"tunnel", "proxyProtocol", "retryBudget"})
_TRAFFIC = ("loadBalancer", "connectionPool", "outlierDetection")


class PortPolicy(Strict):
    """What holds for one port, in place of all that is said for the others."""

    unsupported: ClassVar[frozenset[str]] = _UNSUPPORTED | set(_TRAFFIC)

    port: PortNumber
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

    def notes(self) -> Iterator[str]:
        """What it does not reach."""
        policy = self.spec.trafficPolicy
        if any(
            getattr(each, name)
            for each in (policy, *(each.trafficPolicy for each in self.spec.subsets))
            for name in _TRAFFIC
        ):
            yield (
                "loadBalancer, connectionPool and outlierDetection hold for requests of HTTP/1: in this version "
                "other connections go to the address the app dialled"
            )

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
        for where, balancer in balancers:
            for fault in balancer.faults() if balancer else ():
                yield Fault((*where, "loadBalancer", *fault.location), fault.message)
        if policy.tls is not None:
            for fault in policy.tls.faults():
                yield Fault((*at, "tls", *fault.location), fault.message)
        seen: dict[int, int] = {}
        for index, each in enumerate(policy.portLevelSettings):
            here = (*at, "portLevelSettings", index)
            if (first := seen.setdefault(each.port.number, index)) != index:
                message = f"port {each.port.number} is given twice, first in portLevelSettings[{first}]"
                yield Fault((*here, "port", "number"), message)
            for fault in each.tls.faults() if each.tls else ():
                yield Fault((*here, "tls", *fault.location), fault.message)
