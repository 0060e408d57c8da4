"""How an upstream is spoken to: in the clear, by TLS, or by mutual TLS of the mesh.

Istio's order: a DestinationRule about the port, then about the host, then what the endpoint says of itself (the label
``security.istio.io/tlsMode``), then in the clear. Of several rules the most specific host wins, then the oldest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from interceptor.config.addresses import is_ip_address
from interceptor.model.identity import SpiffeId

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from interceptor.config.destination_rule import ClientTls, DestinationRule
    from interceptor.config.service_entry import ServiceEntry
    from interceptor.model.address import OriginalDestination
    from interceptor.model.identity import CertificateFiles

TLS_MODE: Final = "security.istio.io/tlsMode"  # of an endpoint whose proxy takes mutual TLS: "istio"


@dataclass(frozen=True, slots=True)
class UpstreamTls:
    """TLS towards an upstream."""

    policy: str  # the document that asks for it
    kind: Literal["mesh", "mutual", "simple"]
    files: CertificateFiles | None  # None: the workload's own
    server_name: str | None  # SNI, and the name that is compared where nothing else is expected
    expected: tuple[str, ...] = ()  # names of which the certificate must have one


class Security:
    """How each service of the registry is spoken to, by the documents that a workload sees."""

    def __init__(
        self,
        rules: Iterable[DestinationRule],
        entries: Iterable[ServiceEntry],
        trust_domain: str,
        *,
        has_identity: bool,
    ) -> None:
        """Without an identity of the workload's own nothing is spoken to by mutual TLS for what an endpoint says."""
        self._by_host: dict[str, DestinationRule] = {}
        for rule in sorted(rules, key=lambda rule: rule.metadata.creationTimestamp or "~"):
            self._by_host.setdefault(rule.spec.host, rule)
        self._entries = {entry.full_name: entry for entry in entries}
        self._trust_domain = trust_domain
        self._has_identity = has_identity

    def of(self, entry: str, host: str, destination: OriginalDestination) -> UpstreamTls | None:
        """How a destination of a ServiceEntry is spoken to; None: in the clear."""
        document = self._entries[entry]
        expected, meshed = document.spec.subjectAltNames, False
        for endpoint in document.spec.endpoints:
            if endpoint.address != destination.host:
                continue
            meshed = self._has_identity and in_mesh(endpoint.labels)
            if meshed and not expected and endpoint.serviceAccount is not None:
                owner = SpiffeId(self._trust_domain, document.metadata.namespace, endpoint.serviceAccount)
                expected = (str(owner),)
        by = f"ServiceEntry {entry}" if meshed else None
        return self.upstream(host, destination.port, expected=expected, in_mesh=by)

    def about(self, host: str) -> DestinationRule | None:
        """The rule about a host: its own, else that of the longest ``*.`` that it ends in."""
        if host in self._by_host or is_ip_address(host):
            return self._by_host.get(host)
        labels = host.removeprefix("*.").split(".")
        begin = 0 if host.startswith("*.") else 1
        tried = (f"*.{'.'.join(labels[at:])}" for at in range(begin, len(labels)))
        return next((self._by_host[name] for name in tried if name in self._by_host), None)

    def upstream(
        self, host: str, port: int, *, expected: tuple[str, ...], in_mesh: str | None
    ) -> UpstreamTls | None:
        """How a port of a host is spoken to; ``in_mesh`` names the document whose endpoint says that it takes mutual TLS."""
        rule = self.about(host)
        tls = None if rule is None else rule.port_tls.get(port, rule.spec.trafficPolicy.tls)
        if rule is not None and tls is not None:
            return _by_rule(f"DestinationRule {rule.full_name}", tls, host, port, expected)
        if in_mesh is None:
            return None
        return UpstreamTls(in_mesh, "mesh", None, mesh_name(host, port), expected)


def _by_rule(
    policy: str, tls: ClientTls, host: str, port: int, expected: tuple[str, ...]
) -> UpstreamTls | None:
    if tls.mode == "DISABLE":
        return None
    names = tls.subjectAltNames or expected
    if tls.mode == "ISTIO_MUTUAL":
        return UpstreamTls(policy, "mesh", None, tls.sni or mesh_name(host, port), names)
    own = None if host.startswith("*.") or is_ip_address(host) else host
    return UpstreamTls(
        policy, "mutual" if tls.mode == "MUTUAL" else "simple", tls.files, tls.sni or own, names
    )


def mesh_name(host: str, port: int) -> str:
    """The server name by which Istio's proxies tell the services behind one address apart."""
    return f"outbound_.{port}_._.{host}"


def in_mesh(labels: Mapping[str, str]) -> bool:
    """Whether an endpoint says that it takes mutual TLS."""
    return labels.get(TLS_MODE) == "istio"
