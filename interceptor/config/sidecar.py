"""The Sidecar document: this proxy's own settings. Defaults stand here and nowhere else.

Durations are seconds (written ``10s``, ``1m30s``, ``1h``); addresses are ``host:port``.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from interceptor.config.addresses import ip_address, is_loopback, socket_address
from interceptor.config.base import Document, Duration, Fault, FilePath, Name, Port, Strict
from interceptor.config.health_check import HealthCheck, faults as health_check_faults
from interceptor.config.middleware import AnyItem, faults as middleware_faults
from interceptor.config.xds import Xds  # noqa: TC001 (pydantic reads it)
from interceptor.model.connection import ProtocolName  # noqa: TC001 (pydantic reads it)
from interceptor.model.forwarding import CertificateDetails, Forwarding, ForwardingMode
from interceptor.model.identity import SECRETS, CertificateFiles
from interceptor.model.ports import ADMIN_PORT, DNS_PORT, EGRESS_PORT, INGRESS_PORT, TELEMETRY_PORT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.model.address import SocketAddress

MAX_WORKERS: Final = 256  # a typing error should not fill the machine with processes


def _listen(value: str) -> str:
    return str(socket_address(value))


def _loopback(value: str) -> str:
    if not is_loopback(socket_address(value).host):
        raise ValueError(
            f"'{value}' can be reached from outside; the admin endpoint stays on loopback: "
            f"write 127.0.0.1:{ADMIN_PORT} or [::1]:{ADMIN_PORT}"
        )
    return value


def _workers(value: object) -> object:
    if value == "auto" or (
        isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_WORKERS
    ):
        return value
    raise ValueError(
        f"must be a number of processes from 1 to {MAX_WORKERS}, or auto: one for each processor"
    )


ListenAddress = Annotated[str, AfterValidator(_listen)]
LoopbackAddress = Annotated[ListenAddress, AfterValidator(_loopback)]
Workers = Annotated[int | Literal["auto"], BeforeValidator(_workers)]


class AppPort(Strict):
    """A port the app serves, and what it speaks there; ``auto`` is found out from each flow's first bytes."""

    port: Port
    protocol: ProtocolName = "auto"


class Ingress(Strict):
    """Connections from peers to the app; with ``TPROXY`` the app sees its peers' addresses.

    The modes are those of Istio's ``interceptionMode``, and of ``sidecar-setup --mode``: rules and proxy must agree.
    """

    mode: Literal["REDIRECT", "TPROXY"] = "REDIRECT"
    port: Port = INGRESS_PORT
    ports: tuple[AppPort, ...] = Field(default=(), strict=False)


class Egress(Strict):
    """Connections of the app to the world."""

    port: Port = EGRESS_PORT
    policy: Literal["ALLOW_ANY", "REGISTRY_ONLY"] = "ALLOW_ANY"


class Admin(Strict):
    """The admin endpoint: loopback only."""

    address: LoopbackAddress = f"127.0.0.1:{ADMIN_PORT}"

    @property
    def listen(self) -> SocketAddress:
        """The address, parsed."""
        return socket_address(self.address)


class TelemetryEndpoint(Strict):
    """Metrics and health, for scrapers and probes: all addresses."""

    address: ListenAddress = f"[::]:{TELEMETRY_PORT}"

    @property
    def listen(self) -> SocketAddress:
        """The address, parsed."""
        return socket_address(self.address)


class AccessLog(Strict):
    """One line per HTTP request, and per connection of anything else; ``-`` is standard output."""

    format: Literal["json", "text"] = "json"
    path: str = Field(default="-", min_length=1)


class Limits(Strict):
    """What is bounded."""

    connections: int = Field(default=8_192, ge=1, le=1_000_000)


class Timeouts(Strict):
    """What is waited for, and how long."""

    connect: Duration = 10.0  # Envoy's and Istio's default
    idle: Duration = 3600.0  # Envoy's TCP idle timeout
    handshake: Duration = 10.0  # of TLS, each side; slower ones hold a connection for nothing
    linger: Duration = 60.0  # silence after a first FIN: nf_conntrack_tcp_timeout_close_wait is 60 s as well
    detect: Duration = 5.0  # for the rest of what a client has begun to say, until it is relayed as it is
    requestHead: Duration = 30.0  # noqa: N815 (here and below: the document's spelling)
    request: Duration | None = None  # until the response is complete; Istio has no such limit by default
    upstreamIdle: Duration = 3.0  # noqa: N815 (below the keep-alive of every common server: Node.js has 5 s)
    drainDelay: Duration = 1.0  # noqa: N815 (the document's spelling): accepts go on while readiness is seen to be off
    drain: Duration = 5.0  # Istio's terminationDrainDuration


class PathNormalization(Strict):
    """What a path is before it is compared and forwarded, as in Istio's mesh configuration."""

    unsupported_values: ClassVar[dict[str, frozenset[str]]] = {"normalization": frozenset({"NONE"})}

    normalization: Literal["DEFAULT", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"] = (
        "DEFAULT"  # is BASE
    )


class GatewayTopology(Strict):
    """Who stands before this proxy, as in Istio's proxy configuration."""

    numTrustedProxies: int = Field(default=0, ge=0, le=32)  # noqa: N815 (the document's spelling)


class ClientCertDetails(Strict):
    """What of a peer's certificate the app is told; Istio's defaults."""

    unsupported: ClassVar[frozenset[str]] = frozenset({"chain"})

    subject: bool = True
    cert: bool = False
    dns: bool = True
    uri: bool = True


class ProxyHeaders(Strict):
    """What the app is told in headers, as in Istio's proxy configuration."""

    unsupported: ClassVar[frozenset[str]] = frozenset(
        {
            *("server", "requestId", "attemptCount", "envoyDebugHeaders", "metadataExchangeHeaders"),
            *("preserveHttp1HeaderCase", "xForwardedHost", "xForwardedPort"),
        }
    )

    forwardedClientCert: Literal["UNDEFINED"] | ForwardingMode = "UNDEFINED"  # noqa: N815 (the document's spelling, here and below)
    setCurrentClientCertDetails: ClientCertDetails = ClientCertDetails()  # noqa: N815

    @property
    def forwarding(self) -> Forwarding:
        """The same as whoever forwards wants it; undefined is what Istio does for what comes to an app."""
        asked, details = self.forwardedClientCert, self.setCurrentClientCertDetails
        mode = "APPEND_FORWARD" if asked == "UNDEFINED" else asked
        return Forwarding(mode, CertificateDetails(details.subject, details.cert, details.dns, details.uri))


class TlsFiles(Strict):
    """A certificate of ours and whom it believes: PEM files, which may be replaced at any time."""

    certificate: FilePath
    privateKey: FilePath  # noqa: N815 (the document's spelling, here and below)
    trustBundle: FilePath  # noqa: N815
    revocationList: FilePath | None = None  # noqa: N815

    @property
    def files(self) -> CertificateFiles:
        """The same as whoever reads them wants it."""
        return CertificateFiles(self.certificate, self.privateKey, self.trustBundle, self.revocationList)


class WorkloadApi(Strict):
    """A SPIFFE agent that gives the certificates; without ``socket`` it is where SPIFFE_ENDPOINT_SOCKET says."""

    socket: str | None = Field(default=None, min_length=1)
    hint: str | None = Field(default=None, min_length=1)  # which of several identities; without: the first


class Sds(Strict):
    """The secrets of the control plane (``spec.discovery.xds``) that are the certificates: Istio's names."""

    certificate: str = Field(default="default", min_length=1, max_length=1024)
    trustBundle: str = Field(default="ROOTCA", min_length=1, max_length=1024)  # noqa: N815

    @property
    def files(self) -> CertificateFiles:
        """What they are called as files."""
        pair = f"{SECRETS}{self.certificate}/"
        return CertificateFiles(f"{pair}tls.crt", f"{pair}tls.key", f"{SECRETS}{self.trustBundle}/ca.crt")


class Tls(Strict):
    """The workload's own certificate and whom it believes: of files, as ``TlsFiles``, of an agent, or by SDS."""

    sds: Sds | None = None
    workloadApi: WorkloadApi | None = None  # noqa: N815 (the document's spelling, here and below)
    certificate: FilePath | None = None
    privateKey: FilePath | None = None  # noqa: N815
    trustBundle: FilePath | None = None  # noqa: N815
    revocationList: FilePath | None = None  # noqa: N815

    @property
    def files(self) -> CertificateFiles:
        """The same as whoever reads them wants it."""
        if self.sds is not None:
            return self.sds.files
        return CertificateFiles(self.certificate, self.privateKey, self.trustBundle, self.revocationList)

    def faults(self) -> Iterator[Fault]:
        """Files, all three of them, or an agent, or a control plane."""
        files = {
            "certificate": self.certificate,
            "privateKey": self.privateKey,
            "trustBundle": self.trustBundle,
        }
        chosen = "sds" if self.sds is not None else "workloadApi" if self.workloadApi is not None else None
        for name, value in files.items():
            if value is None and chosen is None:
                message = (
                    "is required, unless workloadApi names a SPIFFE agent, or sds a control plane's secrets"
                )
                yield Fault(("spec", "tls", name), message)
        beside = {**files, "revocationList": self.revocationList}
        if chosen == "sds":
            beside["workloadApi"] = None if self.workloadApi is None else "given"
        for name, value in beside.items():
            if value is not None and chosen is not None:
                yield Fault(("spec", "tls", name), f"has no meaning beside {chosen}; leave one of them out")


class Dns(Strict):
    """The listener for the name queries that the rules capture: where it is, and who is asked for what is not ours."""

    port: Port = DNS_PORT
    nameservers: tuple[Annotated[str, AfterValidator(ip_address)], ...] = Field(default=(), strict=False)


class Remote(Strict):
    """Pushes from other machines, by mutual TLS: where they come in, and whose certificates may push."""

    address: ListenAddress
    subjectAltNames: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1, strict=False)  # noqa: N815 (the document's spelling)
    tls: TlsFiles | None = None  # None: the workload's own certificate and trust bundle

    @property
    def listen(self) -> SocketAddress:
        """The address, parsed."""
        return socket_address(self.address)


class Push(Strict):
    """Whether documents may be pushed: to the admin endpoint by the token of a file, from elsewhere by mutual TLS."""

    enabled: bool = False
    tokenFile: FilePath | None = None  # noqa: N815 (the document's spelling)
    remote: Remote | None = None


class Discovery(Strict):
    """Where documents come from besides the files."""

    push: Push = Push()
    xds: Xds | None = None


class SidecarSpec(Strict):
    """Everything the proxy is told about itself."""

    serviceName: str | None = Field(default=None, min_length=1)  # noqa: N815 (the document's spelling, here and below)
    meshId: str | None = Field(default=None, min_length=1)  # noqa: N815
    trustDomain: str = Field(default="cluster.local", min_length=1)  # noqa: N815
    trustDomainAliases: tuple[str, ...] = Field(default=(), strict=False)  # noqa: N815
    serviceAccount: str = Field(default="default", min_length=1)  # noqa: N815
    rootNamespace: Name = "istio-system"  # noqa: N815 (its policies are the whole mesh's)
    pathNormalization: PathNormalization = PathNormalization()  # noqa: N815
    gatewayTopology: GatewayTopology = GatewayTopology()  # noqa: N815
    workers: Workers = 1  # processes that serve connections
    ingress: Ingress = Ingress()
    egress: Egress = Egress()
    admin: Admin = Admin()
    telemetry: TelemetryEndpoint = TelemetryEndpoint()
    accessLog: AccessLog = AccessLog()  # noqa: N815
    relay: Literal["auto", "splice", "copy"] = "auto"
    detection: bool = True  # find out what flows carry where no document says it; off: relay them as they are
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    tls: Tls | None = None
    proxyHeaders: ProxyHeaders = ProxyHeaders()  # noqa: N815
    middleware: tuple[AnyItem, ...] = Field(default=(), strict=False)
    dns: Dns | None = None  # None: no name query is answered
    discovery: Discovery = Discovery()
    healthChecks: tuple[HealthCheck, ...] = Field(default=(), strict=False)  # noqa: N815


class Sidecar(Document):
    """``apiVersion: interceptor/v1``, ``kind: Sidecar``."""

    spec: SidecarSpec = SidecarSpec()

    @cached_property  # asked for once a flow
    def own_ports(self) -> frozenset[int]:
        """The ports this proxy listens on: never captured on ingress, never an upstream."""
        return frozenset(port for _, port in self._listeners())

    @cached_property
    def app_ports(self) -> frozenset[int]:
        """The ports the app is declared to serve."""
        return frozenset(app.port for app in self.spec.ingress.ports)

    @cached_property
    def protocols(self) -> dict[int, ProtocolName]:
        """What the app is declared to speak at each of its ports."""
        return {app.port: app.protocol for app in self.spec.ingress.ports}

    @property
    def service_name(self) -> str:
        """The name this workload is known by in logs and metrics."""
        return self.spec.serviceName or self.metadata.name

    def faults(self) -> Iterator[Fault]:
        """No two listeners on one port, none of them declared as the app's; and those of the middleware and the checks."""
        taken: dict[int, str] = {}
        for location, port in self._listeners():
            if port in taken:
                message = f"port {port} is taken by {taken[port]}; give every listener a port of its own"
                yield Fault(location, message)
            taken.setdefault(port, ".".join(map(str, location)))
        for index, app in enumerate(self.spec.ingress.ports):
            location = ("spec", "ingress", "ports", index, "port")
            if app.port in taken:
                message = f"port {app.port} is taken by {taken[app.port]}; an app's port must be another one"
                yield Fault(location, message)
            taken.setdefault(app.port, f"spec.ingress.ports[{index}].port")
        yield from self._push_faults()
        if self.spec.discovery.xds is not None:
            own = self.spec.tls is not None and self.spec.tls.sds is None
            yield from self.spec.discovery.xds.faults(own=own)
        if self.spec.tls is not None:
            yield from self.spec.tls.faults()
            if self.spec.tls.sds is not None and self.spec.discovery.xds is None:
                yield Fault(
                    ("spec", "tls", "sds"),
                    "needs spec.discovery.xds, the control plane that gives the secrets",
                )
        yield from middleware_faults(self.spec.middleware, ("spec", "middleware"))
        yield from health_check_faults(self.spec.healthChecks, ("spec", "healthChecks"))

    def _push_faults(self) -> Iterator[Fault]:
        push, location = self.spec.discovery.push, ("spec", "discovery", "push")
        if push.enabled and push.tokenFile is None and push.remote is None:
            message = "is required where pushes are enabled: the app could push as well; name a file that it cannot read"
            yield Fault((*location, "tokenFile"), message)
        if push.remote is not None and not push.enabled:
            yield Fault((*location, "remote"), "pushes are off; set spec.discovery.push.enabled to true")
        if push.remote is not None and push.remote.tls is None and self.spec.tls is None:
            message = (
                "is required where the Sidecar has no spec.tls: give certificate, privateKey and trustBundle"
            )
            yield Fault((*location, "remote", "tls"), message)

    def _listeners(self) -> tuple[tuple[tuple[str | int, ...], int], ...]:
        spec = self.spec
        remote = spec.discovery.push.remote
        pushes = (
            ()
            if remote is None
            else ((("spec", "discovery", "push", "remote", "address"), remote.listen.port),)
        )
        return (
            (("spec", "dns", "port"), DNS_PORT if spec.dns is None else spec.dns.port),
            (("spec", "ingress", "port"), spec.ingress.port),
            (("spec", "egress", "port"), spec.egress.port),
            (("spec", "admin", "address"), spec.admin.listen.port),
            (("spec", "telemetry", "address"), spec.telemetry.listen.port),
            *pushes,
        )
