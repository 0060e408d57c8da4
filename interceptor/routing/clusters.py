"""PURE. Clusters: the endpoints of a service's port, or of a subset of them, and how one of them is chosen.

From ServiceEntry documents (endpoints, else the addresses that the host resolves to, else the entry's own addresses) and
the DestinationRule about the host. A cluster is made when it is first asked for: of thousands a workload uses a few.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from interceptor.config.addresses import of_family
from interceptor.model.address import OriginalDestination, SocketAddress, UpstreamAddress
from interceptor.routing import reuse
from interceptor.routing.balance import Endpoint
from interceptor.routing.destinations import Decision, reached
from interceptor.routing.locality import Nearness, is_in, own_locality, parse, place_by, ranking
from interceptor.routing.names import is_virtual
from interceptor.routing.outlier import OutlierDetection

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from interceptor.config.destination_rule import (
        ConnectionPool,
        ConsistentHash,
        DestinationRule,
        LoadBalancer,
        OutlierDetection as OutlierFields,
        PortPolicy,
        Subset,
        TrafficPolicy,
    )
    from interceptor.config.health_check import HealthCheck
    from interceptor.config.service_entry import ServiceEntry, ServicePort
    from interceptor.model.connection import ProtocolName
    from interceptor.routing.locality import Locality
    from interceptor.routing.reuse import Reuse
    from interceptor.routing.routes import Question
    from interceptor.routing.security import Security

Balancing: TypeAlias = Literal["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM", "HASH"]


@dataclass(frozen=True, slots=True)
class HashCookie:
    """A cookie that keeps a client at one endpoint, and how one is made."""

    name: bytes
    path: bytes | None
    ttl: float  # seconds; 0: as long as the client runs


@dataclass(frozen=True, slots=True)
class HashOn:
    """What of a request its endpoint depends on; the client's address where none is named."""

    header: bytes | None = None
    parameter: bytes | None = None
    cookie: HashCookie | None = None


@dataclass(frozen=True, slots=True)
class SlowStart:
    """How an endpoint that is new gets its share."""

    seconds: float
    least: float = 0.1  # of its weight
    aggression: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """How a cluster's endpoints are used; Istio's defaults."""

    balancing: Balancing = "LEAST_REQUEST"
    hash_on: HashOn | None = None
    max_requests: int | None = None  # in flight
    max_pending: int | None = None  # that wait for one of ``max_connections``
    max_connections: int | None = None  # that carry something: an opaque flow, or a request of HTTP/1
    max_retries: int | None = None
    connect_timeout: float | None = None
    idle_timeout: float | None = None  # of an opaque flow
    outliers: OutlierDetection | None = None
    panic_below: float = 0.0
    near: Nearness | None = None
    slow_start: SlowStart | None = None
    reuse: Reuse | None = None  # of connections
    check: HealthCheck | None = None  # by which endpoints are found to be healthy


DEFAULT: Final = Traffic()


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
        for entry in sorted(entries, key=lambda entry: entry.metadata.creationTimestamp or "~"):
            for host in entry.spec.hosts:
                self._by_host.setdefault(host, []).append(entry)
        self._rules: dict[str, DestinationRule] = {}
        for rule in sorted(rules, key=lambda rule: rule.metadata.creationTimestamp or "~"):
            self._rules.setdefault(rule.spec.host, rule)
        self._resolved = resolved
        self._security = security
        self._made: dict[tuple[str, int, str | None], Cluster | None] = {}

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
        policy = None if rule is None else _general(rule, dialled)
        said = policy and (policy.loadBalancer or policy.connectionPool or policy.outlierDetection)
        if not said and self.check(host, dialled) is None:
            return None
        return self.find(host, dialled, None, dialled)

    def check(self, host: str, port: int) -> HealthCheck | None:
        """The active check of a service's port: its host's, else that of the longest ``*.`` that it ends in."""
        if not self._checks:
            return None
        labels = host.split(".")
        names = (host, *(f"*.{'.'.join(labels[at:])}" for at in range(1, len(labels))))
        tried = (self._checks.get((name, number)) for name in names for number in (port, None))
        return next(filter(None, tried), None)

    def checked(self) -> Iterator[Cluster]:
        """Every cluster whose endpoints are checked actively; not its subsets, which have the same endpoints."""
        for host, entries in self._by_host.items() if self._checks else ():
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
            protocol=_protocol(port.spoken, _pool(rule, chosen, port.number)),
        )
        endpoints: list[Endpoint] = []
        decisions: dict[UpstreamAddress, Decision] = {}
        counting = _priority(rule, chosen, port.number)
        for address, at, weight, locality in self._addresses(entry, host, port, labels, counting):
            upstream = UpstreamAddress(SocketAddress(address, at))
            if upstream in decisions or not weight:
                continue
            tls = None
            if self._security is not None:
                told = OriginalDestination(SocketAddress(address, port.number))
                tls = self._security.of(entry.full_name, host, told)
            endpoints.append(Endpoint(upstream, weight, locality))
            decisions[upstream] = Decision(
                *((upstream,), name, host, base.policy),
                namespace=base.namespace,
                entry=base.entry,
                protocol=base.protocol,
                tls=tls,
            )
        named = None if rule is None else f"DestinationRule {rule.full_name}"
        traffic = _traffic(rule, chosen, port.number, self._own, self._labels, self.check(host, port.number))
        return Cluster(
            *(name, base.policy, named, tuple(endpoints), decisions, traffic, base, port.number),
            given=bool(entry.spec.endpoints),
            original=entry.spec.resolution == "NONE",
        )

    def _addresses(
        self,
        entry: ServiceEntry,
        host: str,
        port: ServicePort,
        labels: Mapping[str, str],
        counting: Sequence[str],  # labels that say where an endpoint is, in place of its locality
    ) -> Iterator[tuple[str, int, int, Locality]]:
        """Each address, the port to dial, its weight, its locality. What has no labels is in no subset that asks for some."""
        spec, target = entry.spec, port.targetPort or port.number
        for endpoint in spec.endpoints:
            if labels.items() <= endpoint.labels.items():
                at = endpoint.ports.get(port.name, target)
                place = parse(endpoint.locality)
                if counting:
                    place = place_by(counting, endpoint.labels, place)
                addresses = of_family(spec.dnsLookupFamily, reached(spec, endpoint, self._resolved))
                yield from ((address, at, endpoint.weight, place) for address in addresses)
        if spec.endpoints or labels:
            return
        found = of_family(spec.dnsLookupFamily, self._resolved.get(host, ()))
        given = found if spec.hosts_to_resolve else spec.addresses
        for address in given:
            if "/" not in address:
                yield address, target, 1, ()


def hash_key(on: HashOn, question: Question | None, peer: str) -> tuple[str, bytes | None]:
    """What of a request, or of a connection where there is none, its endpoint depends on: its name, and its value."""
    if question is None or (on.header, on.parameter, on.cookie) == (None, None, None):
        return "source address", peer.encode()
    if on.header is not None:
        return f"header {on.header.decode()}", question.header(on.header)
    if on.parameter is not None:
        return f"parameter {on.parameter.decode()}", question.parameter(on.parameter)
    assert on.cookie is not None
    return f"cookie {on.cookie.name.decode()}", question.cookie(on.cookie.name)


def _general(rule: DestinationRule, port: int) -> TrafficPolicy | PortPolicy:
    """What a rule says for a port: its own settings in place of all others."""
    policy = rule.spec.trafficPolicy
    return next((each for each in policy.portLevelSettings if each.port.number == port), policy)


def _traffic(
    rule: DestinationRule | None,
    subset: Subset | None,
    port: int,
    own: Locality,
    labels: Mapping[str, str],  # our own
    check: HealthCheck | None,
) -> Traffic:
    panic = None if check is None else check.healthyPanicThreshold
    if rule is None:
        return DEFAULT if check is None else Traffic(check=check, panic_below=(panic or 0) / 100)
    general, special = _general(rule, port), None if subset is None else subset.trafficPolicy
    balancer: LoadBalancer | None = (special and special.loadBalancer) or general.loadBalancer
    pool = _pool(rule, subset, port)
    outliers: OutlierFields | None = (special and special.outlierDetection) or general.outlierDetection
    balancing: Balancing = "LEAST_REQUEST"
    hash_on = None
    if balancer is not None and balancer.consistentHash is not None:
        balancing, hash_on = "HASH", _hash_on(balancer.consistentHash)
    elif balancer is not None and balancer.simple is not None:
        balancing = balancer.simple
    warm = None if balancer is None else balancer.warms_up
    return Traffic(
        balancing=balancing,
        hash_on=hash_on,
        max_requests=None if pool is None else pool.http.http2MaxRequests,
        max_pending=None if pool is None else pool.http.http1MaxPendingRequests,
        max_connections=None if pool is None else pool.tcp.maxConnections,
        max_retries=None if pool is None else pool.http.maxRetries,
        connect_timeout=None if pool is None else pool.tcp.connectTimeout,
        idle_timeout=None if pool is None else reuse.idle_timeout(pool),
        reuse=None if pool is None else reuse.of_pool(pool),
        outliers=None if outliers is None else _outliers(outliers),
        panic_below=(panic if panic is not None else outliers.minHealthPercent if outliers else 0) / 100,
        near=_nearness(balancer, own, labels, ejects=outliers is not None or check is not None),
        slow_start=None
        if warm is None
        else SlowStart(warm.duration, warm.minimumPercent / 100, warm.aggression),
        check=check,
    )


def _hash_on(key: ConsistentHash) -> HashOn:
    if (cookie := key.httpCookie) is not None:
        path = None if cookie.path is None else cookie.path.encode()
        return HashOn(cookie=HashCookie(cookie.name.encode(), path, cookie.ttl))
    return HashOn(
        key.httpHeaderName.lower().encode() if key.httpHeaderName else None,
        key.httpQueryParameterName.encode() if key.httpQueryParameterName else None,
    )


def _nearness(
    balancer: LoadBalancer | None, own: Locality, labels: Mapping[str, str], *, ejects: bool
) -> Nearness | None:
    """Istio's rule: shares hold wherever they are given; nearest first only where endpoints that fail are left out."""
    asked = None if balancer is None else balancer.localityLbSetting
    if asked is not None and asked.enabled and asked.failoverPriority:
        return (
            Nearness(tuple(wanted for _, wanted in ranking(asked.failoverPriority, labels)), {})
            if ejects
            else None
        )
    if not own or (asked is not None and not asked.enabled):
        return None
    for each in () if asked is None else asked.distribute:
        if is_in(own, parse(each.from_)):
            return Nearness(own, {}, tuple((parse(to), share) for to, share in each.to.items()))
    if not ejects:
        return None
    return Nearness(own, {} if asked is None else {each.from_: each.to for each in asked.failover})


def _priority(rule: DestinationRule | None, subset: Subset | None, port: int) -> Sequence[str]:
    if rule is None:
        return ()
    special = None if subset is None else subset.trafficPolicy
    balancer = (special and special.loadBalancer) or _general(rule, port).loadBalancer
    asked = None if balancer is None else balancer.localityLbSetting
    return () if asked is None or not asked.enabled else asked.failoverPriority


def _pool(rule: DestinationRule | None, subset: Subset | None, port: int) -> ConnectionPool | None:
    if rule is None:
        return None
    special = None if subset is None else subset.trafficPolicy.connectionPool
    return special or _general(rule, port).connectionPool


def _protocol(declared: ProtocolName, pool: ConnectionPool | None) -> ProtocolName:
    """What endpoints are spoken to in: what is declared, unless the rule says otherwise; "auto" is the client's own."""
    if pool is None:
        return declared
    if pool.http.useClientProtocol:
        return "auto"
    return "http2" if declared == "http" and pool.http.h2UpgradePolicy == "UPGRADE" else declared


def _outliers(fields: OutlierFields) -> OutlierDetection:
    return OutlierDetection(
        consecutive_5xx=fields.consecutive5xxErrors,
        consecutive_gateway_errors=fields.consecutiveGatewayErrors,
        consecutive_local_failures=fields.consecutiveLocalOriginFailures,
        split_local=fields.splitExternalLocalOriginErrors,
        interval=fields.interval,
        base_ejection_time=fields.baseEjectionTime,
        max_ejection_percent=fields.maxEjectionPercent,
    )
