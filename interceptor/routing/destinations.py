"""Where a flow may go: the egress policy over the registry, and the app's own ports on ingress.

Pure: the registry holds addresses that somebody else resolved. Lookups are by hash for single addresses and by
longest prefix for CIDRs.
"""

from __future__ import annotations

import ipaddress
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from interceptor.config.addresses import is_loopback, of_family
from interceptor.model.address import SocketAddress, UpstreamAddress
from interceptor.model.work import Kept, Work, done, steps
from interceptor.routing.age import oldest_first
from interceptor.routing.names import is_virtual, needs_virtual, virtual_addresses

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from interceptor.config.service_entry import Endpoint, ServiceEntry, ServiceEntrySpec
    from interceptor.config.sidecar import Sidecar
    from interceptor.model.address import OriginalDestination
    from interceptor.model.connection import ProtocolName
    from interceptor.routing.security import UpstreamTls

PASSTHROUGH: Final = "PassthroughCluster"  # Istio's names; its dashboards look for them
BLACK_HOLE: Final = "BlackHoleCluster"
# What requests are answered with that may go nowhere, by the reason label: as Istio's BlackHoleCluster does, and Envoy
# where a service has no endpoint. Anything else is reset.
ANSWERS: Final = {"registry": 502, "unresolved": 503}
MOST_TRIED: Final = 256  # upstreams of one flow, where nothing chooses among them

EgressPolicy: TypeAlias = Literal["ALLOW_ANY", "REGISTRY_ONLY"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided for a flow, once, from plain data."""

    upstreams: tuple[UpstreamAddress, ...]  # tried in order; the next only where the one before refused
    cluster: (
        str  # Envoy's cluster names: PassthroughCluster, BlackHoleCluster, outbound|443||host, inbound|8080||
    )
    service: str  # the ServiceEntry host, Istio's PassthroughCluster or BlackHoleCluster, or this workload on ingress
    policy: str  # the document or setting that decided, for the log: "egress.policy=ALLOW_ANY", "ServiceEntry ns/name"
    denied: str | None = None  # the reason label when refused ("registry", "loop"); upstreams is then empty
    details: str = "-"  # one sentence for the operator: why it was refused
    hint: str = "-"  # one sentence to add where every upstream refused the connection
    namespace: str = "unknown"  # of the service
    entry: str | None = None  # namespace/name of the ServiceEntry that names the destination
    protocol: ProtocolName = "auto"  # what is declared of the destination
    tls: UpstreamTls | None = None  # how the upstream is spoken to; None: in the clear


_Network: TypeAlias = "tuple[int, int, tuple[int, int]]"  # IP version, prefix length, (number, port)


@dataclass(frozen=True, slots=True)
class Service:
    """One host of a ServiceEntry at one of its ports."""

    entry: str  # namespace/name
    host: str
    port: int
    protocol: ProtocolName = "tcp"

    @property
    def cluster(self) -> str:
        """Envoy's name for it, as Istio writes it."""
        return f"outbound|{self.port}||{self.host}"

    @property
    def namespace(self) -> str:
        """The namespace of the document that names it."""
        return self.entry.partition("/")[0]


class _Part(NamedTuple):
    """What one entry adds to the registry; of its own addresses the first that names one wins."""

    single: dict[tuple[str, int], Service]
    networks: dict[_Network, Service]
    behind: tuple[Service, ...]  # services dialled at addresses, or at ports, that are not their members'


class Registry:
    """The services named by ServiceEntry documents, found by address and port; immutable once made.

    The most specific match wins; among equals the oldest document (by creationTimestamp; one without a timestamp
    counts as younger), then the one given first.
    """

    def __init__(
        self,
        entries: Sequence[ServiceEntry] = (),
        resolved: Mapping[str, Sequence[str]] | None = None,
        places: Mapping[str, int] | None = None,
    ) -> None:
        self._single: dict[tuple[str, int], Service] = {}
        self._behind: dict[Service, ServiceEntry] = {}
        self._members: dict[Service, tuple[UpstreamAddress, ...]] = {}  # of those that were asked for
        self._resolved: Mapping[str, Sequence[str]] = {}
        # IP version -> prefix length, longest first -> (network address as a number, port) -> service
        self._networks: dict[int, dict[int, dict[tuple[int, int], Service]]] = {4: {}, 6: {}}
        self.parts: Kept[ServiceEntry, _Part] = Kept()
        done(self.fill(oldest_first(entries), resolved or {}, places or {}))

    def fill(
        self,
        entries: Sequence[ServiceEntry],
        resolved: Mapping[str, Sequence[str]],
        places: Mapping[str, int],
        before: Registry | None = None,
    ) -> Work[None]:
        """Take the services of all entries, the oldest first, once; of those of the one before what they came to then."""
        self._resolved = resolved
        self.parts = Kept(None if before is None else before.parts)
        # The first wins, so it comes last: what comes later takes the place of what came before.
        for some in steps(entries[::-1]):
            yield
            for entry in some:
                self._add(entry, resolved, places)
        self.parts.close()
        self._networks = {
            version: dict(sorted(lengths.items(), reverse=True))
            for version, lengths in self._networks.items()
        }

    def _add(
        self, entry: ServiceEntry, resolved: Mapping[str, Sequence[str]], places: Mapping[str, int]
    ) -> None:
        """Take an entry's, which count for more than those that were taken before it."""
        names, virtual = entry.spec.names_to_resolve, needs_virtual(entry) if places else ()
        depends = (
            *(() if not names else map(resolved.get, names)),
            *(() if not virtual else map(places.get, virtual)),
        )
        part = self.parts.of(entry, depends, lambda: _part(entry, resolved, places))
        self._single.update(part.single)
        for (version, length, key), service in part.networks.items():
            self._networks[version].setdefault(length, {})[key] = service
        for service in part.behind:
            self._behind[service] = entry

    def dump(self) -> list[dict[str, object]]:
        """Every service with the addresses that mean it, for the admin endpoint."""
        addresses: dict[Service, list[str]] = {}
        for (host, _), service in self._single.items():
            addresses.setdefault(service, []).append(host)
        for lengths in self._networks.values():
            for length, networks in lengths.items():
                for (number, _), service in networks.items():
                    network = ipaddress.ip_network((number, length))
                    addresses.setdefault(service, []).append(str(network))
        return [
            {"name": service.cluster, "document": f"ServiceEntry {service.entry}", "addresses": found}
            for service, found in reversed(
                addresses.items()
            )  # the documents' order: the first was taken last
        ]

    def upstreams(self, service: Service, destination: OriginalDestination) -> tuple[UpstreamAddress, ...]:
        """Where a connection to a service goes: to its members where what was dialled only stands for them."""
        entry = self._behind.get(service)
        if entry is None:
            return (UpstreamAddress(destination),)
        members = self._members.get(service)
        if members is None:
            members = self._members[service] = tuple(_members(entry, service, self._resolved))
        if UpstreamAddress(destination) in members:
            return (UpstreamAddress(destination),)
        return members

    def gives_out(self, destination: SocketAddress) -> bool:
        """Whether an address is a virtual one, which is nowhere on a network."""
        return bool(self._behind) and is_virtual(destination.host)

    def find(self, destination: SocketAddress) -> Service | None:
        """The service behind an address and a port, if a document names it."""
        single = self._single.get((destination.host, destination.port))
        if single is not None:
            return single
        address = ipaddress.ip_address(destination.host)
        number = int(address)
        for length, networks in self._networks[address.version].items():
            shift = address.max_prefixlen - length
            found = networks.get((number >> shift << shift, destination.port))
            if found is not None:
                return found
        return None


def _part(entry: ServiceEntry, resolved: Mapping[str, Sequence[str]], places: Mapping[str, int]) -> _Part:
    """What one entry adds to the registry."""
    single: dict[tuple[str, int], Service] = {}
    networks: dict[_Network, Service] = {}
    behind: dict[Service, None] = {}
    stands = bool(entry.spec.endpoints) and (bool(entry.spec.addresses) or entry.spec.translates)
    named = ((*each, stands) for each in _named(entry, resolved))
    virtual = ((*each, True) for each in _virtual(entry, places))
    for service, address, stands_for_others in itertools.chain(named, virtual):
        if stands_for_others:
            behind[service] = None
        if (
            "/" not in address
        ):  # in canonical form, as documents and the resolver have it: 50 000 are not read
            single.setdefault((address, service.port), service)
            continue
        network = ipaddress.ip_network(address)
        number = int(network.network_address)
        if network.prefixlen == network.max_prefixlen:
            single.setdefault((str(network.network_address), service.port), service)
        else:
            networks.setdefault((network.version, network.prefixlen, (number, service.port)), service)
    return _Part(single, networks, tuple(behind))


def reached(
    spec: ServiceEntrySpec, endpoint: Endpoint, resolved: Mapping[str, Sequence[str]]
) -> Sequence[str]:
    """The addresses of an endpoint: its own, or what its name resolves to."""
    return resolved.get(endpoint.address, ()) if spec.resolution == "DNS" else (endpoint.address,)


def _named(entry: ServiceEntry, resolved: Mapping[str, Sequence[str]]) -> Iterator[tuple[Service, str]]:
    """Every service of an entry, with every address or CIDR that means it."""
    spec = entry.spec
    behind = (address for endpoint in spec.endpoints for address in reached(spec, endpoint, resolved))
    given = (*spec.addresses, *behind)
    for port in spec.ports:
        for address in given:
            # An address given for several hosts does not tell them apart: it is reported as the first.
            yield Service(entry.full_name, spec.hosts[0], port.number, port.spoken), address
        for host in spec.hosts_to_resolve:
            for address in resolved.get(host, ()):
                yield Service(entry.full_name, host, port.number, port.spoken), address


def _virtual(entry: ServiceEntry, places: Mapping[str, int]) -> Iterator[tuple[Service, str]]:
    """The virtual addresses of an entry's hosts, where they have any."""
    for host in needs_virtual(entry):
        if host in places:
            for port in entry.spec.ports:
                for address in virtual_addresses(places[host]):
                    yield Service(entry.full_name, host, port.number, port.spoken), address


def _members(
    entry: ServiceEntry, service: Service, resolved: Mapping[str, Sequence[str]]
) -> Iterator[UpstreamAddress]:
    """The addresses behind a service, each once: its entry's endpoints, else what its host resolves to; not too many."""
    port = next(port for port in entry.spec.ports if port.number == service.port)
    target = port.targetPort or port.number
    spec = entry.spec
    given = {
        (address, each.ports.get(port.name, target)): None
        for each in spec.endpoints
        for address in of_family(spec.dnsLookupFamily, reached(spec, each, resolved))
    }
    known = of_family(spec.dnsLookupFamily, resolved.get(service.host, ()))
    found = given if spec.endpoints else dict.fromkeys((address, target) for address in known)
    for host, at in itertools.islice(found, MOST_TRIED):
        yield UpstreamAddress(SocketAddress(host, at))


def egress_decision(policy: EgressPolicy, registry: Registry, destination: OriginalDestination) -> Decision:
    """Where a connection of the app may go: to its original destination, or to who is behind a virtual one."""
    service = registry.find(destination)
    setting = f"egress.policy={policy}"
    if service is not None:
        upstreams = registry.upstreams(service, destination)
        named_by = f"ServiceEntry {service.entry}"
        if not upstreams:
            details = f"{service.host} has no addresses: its name does not resolve; look at the program log"
            return Decision(
                *((), service.cluster, service.host, named_by, "unresolved", details),
                namespace=service.namespace,
                protocol=service.protocol,
            )
        return Decision(
            *(upstreams, service.cluster, service.host, named_by),
            namespace=service.namespace,
            entry=service.entry,
            protocol=service.protocol,
        )
    if registry.gives_out(destination):
        details = (
            f"{destination} is a virtual address, and its service has no port {destination.port}: name the port in its "
            "ServiceEntry; an app that kept the address over a restart of the proxy has to ask for the name again"
        )
        return Decision((), BLACK_HOLE, BLACK_HOLE, setting, denied="unresolved", details=details)
    if policy == "ALLOW_ANY":
        return Decision((UpstreamAddress(destination),), PASSTHROUGH, PASSTHROUGH, setting)
    details = (
        f"no ServiceEntry names {destination} and spec.egress.policy is REGISTRY_ONLY; to allow it, add a ServiceEntry "
        f"with the host or the address {destination.host} and the port {destination.port}"
    )
    return Decision((), BLACK_HOLE, BLACK_HOLE, setting, denied="registry", details=details)


def ingress_decision(sidecar: Sidecar, destination: OriginalDestination) -> Decision:
    """Where a peer's connection goes: to the app, at the address the peer dialled.

    An app that listens only on loopback is reached at the ports declared in the Sidecar, and at no other: a service
    bound to loopback on purpose stays where it is.
    """
    port = destination.port
    service, namespace = sidecar.service_name, sidecar.metadata.namespace
    if port in sidecar.own_ports:
        policy = f"Sidecar {sidecar.full_name}"
        details = f"{destination} is a listener of this proxy, not of the app; connect to a port of the app"
        return Decision((), BLACK_HOLE, service, policy, denied="loop", details=details, namespace=namespace)
    upstreams: tuple[UpstreamAddress, ...] = (UpstreamAddress(destination),)
    hint = "-"
    if port in sidecar.app_ports and not is_loopback(destination.host):
        loopback = SocketAddress("::1" if destination.is_v6 else "127.0.0.1", port)
        upstreams = (*upstreams, UpstreamAddress(loopback))
    elif port not in sidecar.app_ports:
        hint = (
            f"port {port} is not declared in spec.ingress.ports, so an app that listens only on loopback is not "
            "tried there; declare the port if it is meant to be reached"
        )
    protocol = sidecar.protocols.get(port, "auto")
    return Decision(
        upstreams, f"inbound|{port}||", service, "-", hint=hint, namespace=namespace, protocol=protocol
    )
