"""Istio's DestinationRule: how connections to a service are secured; nothing else of it is honoured in this version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from interceptor.config.addresses import host_name
from interceptor.config.base import Document, Fault, Port, Strict
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


_UNSUPPORTED = frozenset(
    {"loadBalancer", "connectionPool", "outlierDetection", "tunnel", "proxyProtocol", "retryBudget"}
)


class PortPolicy(Strict):
    """What holds for one port, in place of all that is said for the others."""

    unsupported: ClassVar[frozenset[str]] = _UNSUPPORTED

    port: PortNumber
    tls: ClientTls | None = None


class TrafficPolicy(Strict):
    """How the service is spoken to."""

    unsupported: ClassVar[frozenset[str]] = _UNSUPPORTED

    tls: ClientTls | None = None
    portLevelSettings: tuple[PortPolicy, ...] = Field(default=(), strict=False)  # noqa: N815


class DestinationRuleSpec(Strict):
    """The host is one of a ServiceEntry's, or ``*.`` and a name."""

    unsupported: ClassVar[frozenset[str]] = frozenset({"subsets", "workloadSelector"})

    host: Annotated[str, AfterValidator(host_name)]
    trafficPolicy: TrafficPolicy = TrafficPolicy()  # noqa: N815
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
        """Modes need their files; a port is spoken of once."""
        policy, at = self.spec.trafficPolicy, ("spec", "trafficPolicy")
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
