"""Istio's DestinationRule: how a service is spoken to, which endpoint gets what, and its subsets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from interceptor.config.addresses import host_name
from interceptor.config.base import Document, Duration, Fault, FilePath, Port, Strict, seconds
from interceptor.config.health_check import Check  # noqa: TC001 (pydantic reads it)
from interceptor.config.load_balancer import LoadBalancer  # noqa: TC001 (pydantic reads it)
from interceptor.config.route_words import Percent  # noqa: TC001 (pydantic reads it)
from interceptor.model.identity import CertificateFiles

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class ClientTls(Strict):
    """Istio's ClientTLSSettings. ``ISTIO_MUTUAL`` presents the workload's own certificate, which ``spec.tls`` names."""

    refused: ClassVar[Mapping[str, str]] = {
        "credentialName": "secrets of Kubernetes are not read: name the files in clientCertificate, privateKey and caCertificates",
        "insecureSkipVerify": "an upstream that anybody may be is not spoken to by TLS: name its authority in caCertificates",
    }

    mode: Literal["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"]
    clientCertificate: FilePath | None = None  # noqa: N815 (the document's spelling, here and below)
    privateKey: FilePath | None = None  # noqa: N815
    caCertificates: FilePath | None = None  # noqa: N815
    caCrl: FilePath | None = None  # noqa: N815
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


class OutlierDetection(Strict):
    """When an endpoint that fails is left out for a while."""

    refused: ClassVar[Mapping[str, str]] = {
        "consecutiveErrors": "Istio has consecutive5xxErrors and consecutiveGatewayErrors in its place"
    }

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

    maxConnections: int | None = Field(default=None, ge=1)  # noqa: N815 (that carry something)
    connectTimeout: Duration | None = None  # noqa: N815
    tcpKeepalive: TCPKeepalive | None = None  # noqa: N815
    idleTimeout: Annotated[float, BeforeValidator(seconds), Field(ge=0, le=86_400 * 30)] | None = None  # noqa: N815 (of an opaque flow; 0s: none)
    # Of any connection, from when it is made: an opaque flow is ended then, one that carries requests after those that it has.
    maxConnectionDuration: Duration | None = None  # noqa: N815


class ConnectionPool(Strict):
    """What a service is never asked for more of. Each worker counts for itself."""

    http: HTTPPool = HTTPPool()
    tcp: TCPPool = TCPPool()


class RetryBudget(Strict):
    """How many retries may be in flight: a share of the requests in flight, and so many in any case."""

    percent: Percent = 20.0
    minRetryConcurrency: int = Field(default=3, ge=0)  # noqa: N815


_UNSUPPORTED: Final[Mapping[str, str]] = {
    "tunnel": "connections are not sent through another proxy's CONNECT; remove it",
    "proxyProtocol": "no PROXY header is sent to upstreams; remove it",
}
TRAFFIC: Final = ("loadBalancer", "connectionPool", "outlierDetection")


class PortPolicy(Strict):
    """What holds for one port, in place of all that is said for the others."""

    refused: ClassVar[Mapping[str, str]] = _UNSUPPORTED

    port: PortNumber
    loadBalancer: LoadBalancer | None = None  # noqa: N815
    connectionPool: ConnectionPool | None = None  # noqa: N815
    outlierDetection: OutlierDetection | None = None  # noqa: N815
    tls: ClientTls | None = None


class SubsetPolicy(Strict):
    """Which endpoint of a subset gets what, in place of what is said for all."""

    refused: ClassVar[Mapping[str, str]] = {
        **_UNSUPPORTED,
        "tls": "it is the host's for all subsets: write it in spec.trafficPolicy",
        "portLevelSettings": "they are the host's for all subsets: write them in spec.trafficPolicy",
    }

    loadBalancer: LoadBalancer | None = None  # noqa: N815
    connectionPool: ConnectionPool | None = None  # noqa: N815
    outlierDetection: OutlierDetection | None = None  # noqa: N815
    retryBudget: RetryBudget | None = None  # noqa: N815


class Subset(Strict):
    """The endpoints that have all of these labels."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    labels: dict[str, str] = Field(default_factory=dict)
    trafficPolicy: SubsetPolicy = SubsetPolicy()  # noqa: N815


class TrafficPolicy(Strict):
    """How the service is spoken to, and which of its endpoints gets what."""

    refused: ClassVar[Mapping[str, str]] = _UNSUPPORTED

    loadBalancer: LoadBalancer | None = None  # noqa: N815
    connectionPool: ConnectionPool | None = None  # noqa: N815
    outlierDetection: OutlierDetection | None = None  # noqa: N815
    tls: ClientTls | None = None
    retryBudget: RetryBudget | None = None  # noqa: N815
    healthCheck: Check | None = None  # noqa: N815 (ours, as spec.healthChecks of the Sidecar, which count first)
    portLevelSettings: tuple[PortPolicy, ...] = Field(default=(), strict=False)  # noqa: N815


class DestinationRuleSpec(Strict):
    """The host is one of a ServiceEntry's, or ``*.`` and a name."""

    refused: ClassVar[Mapping[str, str]] = {
        "workloadSelector": "give the proxies of other workloads files without this document"
    }

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
        for name, given in (("tls", policy.tls), ("healthCheck", policy.healthCheck)):
            for fault in given.faults() if given else ():
                yield Fault((*at, name, *fault.location), fault.message)
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
