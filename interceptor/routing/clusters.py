"""PURE. Clusters: the endpoints of a service's port, or of a subset of them, and how one of them is chosen.

From ServiceEntry documents (endpoints, else the addresses that the host resolves to, else the entry's own addresses) and
the DestinationRule about the host. A cluster is made when it is first asked for: of thousands a workload uses a few.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from interceptor.config.addresses import of_family
from interceptor.model.address import OriginalDestination, SocketAddress, UpstreamAddress
from interceptor.model.work import Work, done, steps
from interceptor.routing import traffic as traffic_of
from interceptor.routing.age import oldest_first
from interceptor.routing.balance import Endpoint
from interceptor.routing.destinations import Decision, reached
from interceptor.routing.locality import own_locality, parse, place_by
from interceptor.routing.names import is_virtual

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from interceptor.config.destination_rule import DestinationRule, Subset
    from interceptor.config.health_check import Check, HealthCheck
    from interceptor.config.service_entry import ServiceEntry, ServicePort
    from interceptor.routing.locality import Locality
    from interceptor.routing.security import Security
    from interceptor.routing.traffic import Traffic


Key: TypeAlias = tuple[str, int, str | None]  # of a cluster: host, port, subset


class _Same:
    """A document: equal to itself alone, and not looked into."""

    __slots__ = ("document",)

    def __init__(self, document: object) -> None:
        self.document = document

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.document is self.document

    __hash__ = None  # type: ignore[assignment]  # it is compared, and nothing else


@dataclass(frozen=True, slots=True)
class Cluster:
    """Endpoints that mean the same, and how they are used. By each the decision of who goes there."""

    name: str
    document: str  # that the endpoints are from
    rule: str | None  # the DestinationRule about them
    endpoints: tuple[Endpoint, ...]
    decisions: Mapping[UpstreamAddress, Decision]
    traffic: Traffic
    base: Decision  # without an upstream
    port: int  # of the service
    given: bool = False  # the endpoints are a document's own, not its addresses nor what a name resolves to
    original: bool = False  # a connection goes where its sender sent it (the resolution NONE)
    graded: bool = False  # the document gives its endpoints priorities, or their localities shares

    def is_behind(self, destination: OriginalDestination) -> bool:
        """Whether an address that was dialled only stands for the endpoints."""
        if self.original:
            return False
        return is_virtual(destination.host) or (
            self.given and UpstreamAddress(destination) not in self.decisions
        )


class Clusters:
    """The clusters of one configuration and the addresses of its hosts as of now."""

    def __init__(
        self,
        entries: Sequence[ServiceEntry],
        rules: Iterable[DestinationRule],
        resolved: Mapping[str, Sequence[str]],
        security: Security | None,
        own: Mapping[str, str] = MappingProxyType({}),  # our labels
        checks: Iterable[HealthCheck] = (),
    ) -> None:
        self._own, self._labels = own_locality(own), own
        self._checks = {(check.host, check.port): check for check in checks}
        self._by_host: dict[str, list[ServiceEntry]] = {}
        self._rules: dict[str, DestinationRule] = {}
        self._ruled = False  # a rule has a health check
        self._resolved = resolved
        self._security = security
        self._made: dict[Key, Cluster | None] = {}
        done(self.fill(oldest_first(entries), oldest_first(tuple(rules))))

    def fill(
        self,
        entries: Sequence[ServiceEntry],
        rules: Sequence[DestinationRule],
        before: Clusters | None = None,
    ) -> Work[None]:
        """Take all documents, the oldest first, once; clusters that the one before had and that would be the same stay."""
        for some in steps(entries):
            yield
            for entry in some:
                for host in entry.spec.hosts:
                    self._by_host.setdefault(host, []).append(entry)
        for others in steps(rules):
            yield
            for rule in others:
                self._rules.setdefault(rule.spec.host, rule)
                self._ruled |= rule.spec.trafficPolicy.healthCheck is not None
        for few in steps(() if before is None else before.made):
            yield
            for key, cluster, basis in few:
                if self._basis(key[0]) == basis:
                    self._made[key] = cluster

    @property
    def made(self) -> tuple[tuple[Key, Cluster, tuple[object, ...]], ...]:
        """The clusters that were asked for, and what each was made of."""
        asked = ((key, cluster) for key, cluster in self._made.items() if cluster is not None)
        return tuple((key, cluster, self._basis(key[0])) for key, cluster in asked)

    def _basis(self, host: str) -> tuple[object, ...]:
        """What the clusters of a host are made of, each document by its very object."""
        entries = self._by_host.get(host, ())
        addresses = (self._resolved.get(name) for entry in entries for name in entry.spec.names_to_resolve)
        return (self._checks, _Same(self.rule(host)), *map(_Same, entries), *addresses)

    def find(self, host: str, port: int | None, subset: str | None, dialled: int) -> Cluster | None:
        """The cluster of a destination; without a port that of the one dialled, or of the only one. None: there is none."""
        found = self._port(host, port, dialled)
        if found is None:
            return None
        entry, service_port = found
        key = (host, service_port.number, subset)
        if key not in self._made:
            self._made[key] = self._cluster(entry, host, service_port, subset)
        return self._made[key]

    def managed(self, host: str, dialled: int) -> Cluster | None:
        """The cluster of a service of which a DestinationRule says how its endpoints are used."""
        rule = self.rule(host)
        policy = None if rule is None else traffic_of.general(rule, dialled)
        said = policy and any((policy.loadBalancer, policy.connectionPool, policy.outlierDetection))
        said = said or (rule is not None and rule.spec.trafficPolicy.retryBudget is not None)
        if not said and self.check(host, dialled) is None:
            return None
        return self.find(host, dialled, None, dialled)

    def check(self, host: str, port: int) -> Check | None:
        """The active check of a service's port: the Sidecar's, of its host or of the longest ``*.``, else the rule's."""
        rule = self.rule(host) if self._ruled else None
        own = None if rule is None else rule.spec.trafficPolicy.healthCheck
        if not self._checks:
            return own
        labels = host.split(".")
        names = (host, *(f"*.{'.'.join(labels[at:])}" for at in range(1, len(labels))))
        tried = (self._checks.get((name, number)) for name in names for number in (port, None))
        return next(filter(None, tried), own)

    @property
    def are_checked(self) -> bool:
        """Whether any document asks for active checks."""
        return bool(self._checks) or self._ruled

    def checked(self) -> Iterator[Cluster]:
        """Every cluster whose endpoints are checked actively; not its subsets, which have the same endpoints."""
        for host, entries in self._by_host.items() if self.are_checked else ():
            for number in dict.fromkeys(each.number for entry in entries for each in entry.spec.ports):
                cluster = None if self.check(host, number) is None else self.find(host, number, None, number)
                if cluster is not None and not cluster.original:
                    yield cluster

    def rule(self, host: str) -> DestinationRule | None:
        """The rule about a host: its own, else that of the longest ``*.`` that it ends in."""
        if not self._rules or host in self._rules:
            return self._rules.get(host)
        labels = host.split(".")
        tried = (f"*.{'.'.join(labels[at:])}" for at in range(1, len(labels)))
        return next((self._rules[name] for name in tried if name in self._rules), None)

    def _port(self, host: str, port: int | None, dialled: int) -> tuple[ServiceEntry, ServicePort] | None:
        wanted = dialled if port is None else port
        entries = self._by_host.get(host, ())
        every = [(entry, each) for entry in entries for each in entry.spec.ports]
        for entry, each in every:
            if each.number == wanted:
                return entry, each
        return every[0] if port is None and len(every) == 1 else None

    def _cluster(
        self, entry: ServiceEntry, host: str, port: ServicePort, subset: str | None
    ) -> Cluster | None:
        rule = self.rule(host)
        chosen: Subset | None = None
        if subset is not None:
            subsets = () if rule is None else rule.spec.subsets
            chosen = next((each for each in subsets if each.name == subset), None)
            if chosen is None:
                return None
        labels = {} if chosen is None else chosen.labels
        name = f"outbound|{port.number}|{subset or ''}|{host}"
        base = Decision(
            *((), name, host, f"ServiceEntry {entry.full_name}"),
            namespace=entry.metadata.namespace,
            entry=entry.full_name,
            protocol=traffic_of.protocol(port.spoken, traffic_of.pool(rule, chosen, port.number)),
        )
        endpoints: list[Endpoint] = []
        decisions: dict[UpstreamAddress, Decision] = {}
        counting = traffic_of.counting(rule, chosen, port.number)
        for address, at, weight, locality, grade in self._addresses(entry, host, port, labels, counting):
            upstream = UpstreamAddress(SocketAddress(address, at))
            if upstream in decisions or not weight:
                continue
            tls = None
            if self._security is not None:
                told = OriginalDestination(SocketAddress(address, port.number))
                tls = self._security.of(entry.full_name, host, told)
            endpoints.append(Endpoint(upstream, weight, locality, *grade))
            decisions[upstream] = Decision(
                *((upstream,), name, host, base.policy),
                namespace=base.namespace,
                entry=base.entry,
                protocol=base.protocol,
                tls=tls,
            )
        named = None if rule is None else f"DestinationRule {rule.full_name}"
        traffic = traffic_of.of(
            rule, chosen, port.number, self._own, self._labels, self.check(host, port.number)
        )
        graded = any(each.priority or each.share for each in endpoints)
        if graded:  # then what is nearer counts for nothing
            traffic = replace(traffic, near=None)
        return Cluster(
            *(name, base.policy, named, tuple(endpoints), decisions, traffic, base, port.number),
            given=bool(entry.spec.endpoints),
            original=entry.spec.resolution == "NONE",
            graded=graded,
        )

    def _addresses(
        self,
        entry: ServiceEntry,
        host: str,
        port: ServicePort,
        labels: Mapping[str, str],
        counting: Sequence[str],  # labels that say where an endpoint is, in place of its locality
    ) -> Iterator[tuple[str, int, int, Locality, tuple[int, int]]]:
        """Each address, the port to dial, its weight, its locality, its priority and share. What has no labels is in no subset that asks for some."""
        spec, target = entry.spec, port.targetPort or port.number
        for endpoint in spec.endpoints:
            if labels.items() <= endpoint.labels.items():
                at = endpoint.ports.get(port.name, target)
                place = parse(endpoint.locality)
                if counting:
                    place = place_by(counting, endpoint.labels, place)
                addresses = of_family(spec.dnsLookupFamily, reached(spec, endpoint, self._resolved))
                grade = (endpoint.priority, endpoint.localityWeight)
                yield from ((address, at, endpoint.weight, place, grade) for address in addresses)
        if spec.endpoints or labels:
            return
        found = of_family(spec.dnsLookupFamily, self._resolved.get(host, ()))
        given = found if spec.hosts_to_resolve else spec.addresses
        for address in given:
            if "/" not in address:
                yield address, target, 1, (), (0, 0)
