"""Istio's ServiceEntry: destinations that the registry knows.

A destination is the entry's when its port is one of ``ports`` and its address is one of ``addresses``, of the STATIC
endpoints, or of what ``hosts``, or DNS endpoints, resolve to. Hosts are resolved where ``addresses`` and ``endpoints``
are empty and the resolution is not STATIC. What was dialled by one of ``addresses`` goes to one of the endpoints, where there are any, at the endpoint's port.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal, TypeVar

from pydantic import AfterValidator, Field

from interceptor.config.addresses import (
    BOTH,
    DnsLookupFamily,
    host_name,
    ip_address_or_network,
    is_ip_address,
)
from interceptor.config.base import Document, Fault, Port, Strict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from interceptor.model.connection import ProtocolName

T = TypeVar("T")

# Istio's names (pkg/config/protocol); all of them run over TCP and are relayed as they are.
PROTOCOLS: Final = (
    "TCP",
    "TLS",
    "HTTP",
    "HTTPS",
    "HTTP2",
    "GRPC",
    "GRPC-WEB",
    "MONGO",
    "REDIS",
    "MYSQL",
    "AUTO",
)


_SPOKEN: Final[dict[str, ProtocolName]] = {
    **dict.fromkeys(("TLS", "HTTPS"), "tls"),
    **dict.fromkeys(("HTTP", "GRPC-WEB"), "http"),
    "AUTO": "auto",  # our own: a control plane's listener that takes both HTTP and the rest
    "HTTP2": "http2",
    "GRPC": "grpc",
}


def _protocol(value: str) -> str:
    if value.upper() == "UDP":
        raise ValueError("UDP is not captured, so it cannot be decided here; remove the port")
    if value.upper() not in PROTOCOLS:
        raise ValueError(f"'{value}' is not a protocol; use one of {', '.join(PROTOCOLS)}")
    return value.upper()


def _endpoint_address(value: str) -> str:
    if value.startswith("unix:"):
        raise ValueError("unix sockets are not supported by this version; give an IP address")
    name = host_name(value)
    if name.startswith("*."):
        raise ValueError(f"'{value}' is many names; give one, or an IP address")
    return name


def _some(value: tuple[T, ...]) -> tuple[T, ...]:
    """At least one; pydantic's ``min_length`` would complain of a list whose items are wrong as well."""
    if not value:
        raise ValueError("must name at least one")
    return value


class ServicePort(Strict):
    """A port the service is dialled at."""

    number: Port
    name: str = Field(min_length=1, max_length=63)
    protocol: Annotated[str, AfterValidator(_protocol)] = "TCP"
    targetPort: Port | None = None  # noqa: N815 (the document's spelling)

    @property
    def spoken(self) -> ProtocolName:
        """What flows to it carry, in the words of a Sidecar's ports."""
        return _SPOKEN.get(self.protocol, "tcp")


class Endpoint(Strict):
    """One address of a STATIC service, or one name or address of a DNS service; a locality is written ``region/zone/subzone``."""

    refused: ClassVar[Mapping[str, str]] = {
        "network": "gateways between networks are not known here; give an address that this workload reaches"
    }

    address: Annotated[str, AfterValidator(_endpoint_address)]
    ports: dict[str, Port] = Field(default_factory=dict)
    labels: dict[str, str] = Field(
        default_factory=dict
    )  # security.istio.io/tlsMode says whether it takes mutual TLS
    weight: int = Field(default=1, ge=0, le=1_000_000)
    locality: str = Field(default="", max_length=200)
    # Ours, with Envoy's meaning: those of a higher number get what the healthy ones of lower numbers cannot take; and the
    # share of a locality among those of its priority (0 everywhere: its endpoints count alone).
    priority: int = Field(default=0, ge=0, le=128)
    localityWeight: int = Field(default=0, ge=0, le=4_294_967_295)  # noqa: N815
    serviceAccount: str | None = Field(default=None, min_length=1)  # noqa: N815 (whose certificate it presents)


class ServiceEntrySpec(Strict):
    """Hosts, the addresses behind them, and the ports they are dialled at."""

    refused: ClassVar[Mapping[str, str]] = {
        "workloadSelector": "no workloads are known here but by their addresses: give endpoints"
    }
    unsupported_values: ClassVar[dict[str, frozenset[str]]] = {
        "resolution": frozenset({"DNS_ROUND_ROBIN", "DYNAMIC_DNS"})
    }

    hosts: Annotated[tuple[Annotated[str, AfterValidator(host_name)], ...], AfterValidator(_some)] = Field(
        strict=False
    )
    addresses: tuple[Annotated[str, AfterValidator(ip_address_or_network)], ...] = Field(
        default=(), strict=False
    )
    ports: Annotated[tuple[ServicePort, ...], AfterValidator(_some)] = Field(strict=False)
    location: Literal["MESH_EXTERNAL", "MESH_INTERNAL"] = "MESH_EXTERNAL"
    resolution: Literal["NONE", "STATIC", "DNS"] = "NONE"
    dnsLookupFamily: DnsLookupFamily = "ALL"  # noqa: N815 (our own, with Envoy's word: of what hosts resolve to)
    endpoints: tuple[Endpoint, ...] = Field(default=(), strict=False)
    exportTo: tuple[Annotated[str, Field(min_length=1)], ...] = Field(default=("*",), strict=False)  # noqa: N815
    subjectAltNames: tuple[Annotated[str, Field(min_length=1)], ...] = Field(default=(), strict=False)  # noqa: N815

    @property
    def hosts_to_resolve(self) -> tuple[str, ...]:
        """The hosts whose addresses decide, because the document gives none."""
        return () if self.addresses or self.endpoints or self.resolution == "STATIC" else self.hosts

    @property
    def names_to_resolve(self) -> tuple[str, ...]:
        """Every name whose addresses decide: the hosts, or those of endpoints."""
        named = (endpoint.address for endpoint in self.endpoints if self.resolution == "DNS")
        return (*self.hosts_to_resolve, *named)

    @property
    def versions(self) -> frozenset[int]:
        """The versions of IP whose addresses are asked for."""
        return {"V4_ONLY": frozenset({4}), "V6_ONLY": frozenset({6})}.get(self.dnsLookupFamily, BOTH)

    @property
    def translates(self) -> bool:
        """Whether an endpoint is reached at another port than the service."""
        numbers = {port.name: port.number for port in self.ports}
        return any(port.targetPort not in {None, port.number} for port in self.ports) or any(
            number != numbers.get(name)
            for endpoint in self.endpoints
            for name, number in endpoint.ports.items()
        )


class ServiceEntry(Document):
    """``apiVersion: networking.istio.io/v1``, ``kind: ServiceEntry``."""

    spec: ServiceEntrySpec

    def faults(self) -> Iterator[Fault]:
        """Istio's rules between fields, and what this version cannot decide."""
        yield from self._address_faults()
        yield from self._port_faults()
        yield from self._endpoint_faults()

    def _address_faults(self) -> Iterator[Fault]:
        spec = self.spec
        if spec.resolution == "DNS" and any("/" in address for address in spec.addresses):
            message = "CIDRs need the resolution NONE or STATIC; change spec.resolution"
            yield Fault(("spec", "addresses"), message)
        for index, host in enumerate(spec.hosts):
            if host.startswith("*.") and host in spec.hosts_to_resolve:
                message = (
                    f"'{host}' has no addresses of its own, and opaque TCP carries no host name to compare; "
                    "name each host, or give spec.addresses"
                )
                yield Fault(("spec", "hosts", index), message)
        if spec.resolution != "DNS" and spec.dnsLookupFamily != "ALL" and not spec.hosts_to_resolve:
            message = (
                f"has no meaning here: nothing is looked up with the resolution {spec.resolution}; remove it"
            )
            yield Fault(("spec", "dnsLookupFamily"), message)
        if spec.resolution == "STATIC" and not spec.endpoints and not spec.addresses:
            message = "the resolution STATIC needs addresses; give spec.endpoints or spec.addresses"
            yield Fault(("spec", "resolution"), message)

    def _port_faults(self) -> Iterator[Fault]:
        numbers: dict[int, int] = {}
        names: dict[str, int] = {}
        for index, port in enumerate(self.spec.ports):
            at = ("spec", "ports", index)
            if (first := numbers.setdefault(port.number, index)) != index:
                yield Fault(
                    (*at, "number"), f"port {port.number} is given twice, first in spec.ports[{first}]"
                )
            if (first := names.setdefault(port.name, index)) != index:
                yield Fault(
                    (*at, "name"), f"the name '{port.name}' is given twice, first in spec.ports[{first}]"
                )
            if port.targetPort not in {None, port.number} and not self.spec.endpoints:
                message = (
                    "needs endpoints to be the port of: a connection goes to the port that the app dialled"
                )
                yield Fault((*at, "targetPort"), f"{message}; add spec.endpoints, or remove it")

    def _endpoint_faults(self) -> Iterator[Fault]:
        spec = self.spec
        if spec.endpoints and spec.resolution == "NONE":
            message = (
                "endpoints with the resolution NONE are not supported by this version; use STATIC or DNS"
            )
            yield Fault(("spec", "endpoints"), message)
        names = {port.name for port in spec.ports}
        for index, endpoint in enumerate(spec.endpoints):
            if spec.resolution == "STATIC" and not is_ip_address(endpoint.address):
                message = (
                    f"'{endpoint.address}' is a name; write an IP address, or change spec.resolution to DNS"
                )
                yield Fault(("spec", "endpoints", index, "address"), message)
            if spec.resolution == "DNS" and (endpoint.labels or endpoint.serviceAccount):
                message = "labels and serviceAccount need the resolution STATIC in this version; remove them"
                yield Fault(("spec", "endpoints", index), message)
            for name in endpoint.ports.keys() - names:
                at = ("spec", "endpoints", index, "ports", name)
                yield Fault(at, f"no port of spec.ports is named '{name}'; name one that is")
        if spec.endpoints and not any(endpoint.weight for endpoint in spec.endpoints):
            yield Fault(("spec", "endpoints"), "all have the weight 0; give one of them another")
