"""PURE. How the endpoints of a cluster are used: all that a DestinationRule says of it, with Istio's defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from interceptor.routing import reuse
from interceptor.routing.locality import Nearness, is_in, parse, ranking
from interceptor.routing.outlier import OutlierDetection
from interceptor.routing.retry import RetryBudget

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from interceptor.config.destination_rule import (
        ConnectionPool,
        DestinationRule,
        OutlierDetection as OutlierFields,
        PortPolicy,
        Subset,
        TrafficPolicy,
    )
    from interceptor.config.health_check import Check
    from interceptor.config.load_balancer import ConsistentHash, LoadBalancer
    from interceptor.model.connection import ProtocolName
    from interceptor.routing.locality import Locality
    from interceptor.routing.reuse import Reuse
    from interceptor.routing.routes import Question

Balancing: TypeAlias = Literal["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM", "HASH"]


@dataclass(frozen=True, slots=True)
class HashCookie:
    """A cookie that keeps a client at one endpoint, and how one is made."""

    name: bytes
    path: bytes | None
    ttl: float  # seconds; 0: as long as the client runs
    attributes: tuple[bytes, ...] = ()  # what else is said of it


@dataclass(frozen=True, slots=True)
class HashOn:
    """What of a request its endpoint depends on; the client's address where none is named."""

    header: bytes | None = None
    parameter: bytes | None = None
    cookie: HashCookie | None = None
    ring: int = 0  # points that the ring has at least


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
    retries: RetryBudget | None = None  # where it is not for that
    connect_timeout: float | None = None
    idle_timeout: float | None = None  # of an opaque flow
    longest: float | None = None  # that a connection lasts
    outliers: OutlierDetection | None = None
    panic_below: float = 0.0
    near: Nearness | None = None
    slow_start: SlowStart | None = None
    reuse: Reuse | None = None  # of connections
    check: Check | None = None  # by which endpoints are found to be healthy


DEFAULT: Final = Traffic()


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


def general(rule: DestinationRule, port: int) -> TrafficPolicy | PortPolicy:
    """What a rule says for a port: its own settings in place of all others."""
    policy = rule.spec.trafficPolicy
    return next((each for each in policy.portLevelSettings if each.port.number == port), policy)


def of(
    rule: DestinationRule | None,
    subset: Subset | None,
    port: int,
    own: Locality,
    labels: Mapping[str, str],  # our own
    check: Check | None,
) -> Traffic:
    """How the endpoints of a port, or of a subset of them, are used."""
    panic = None if check is None else check.healthyPanicThreshold
    if rule is None:
        return DEFAULT if check is None else Traffic(check=check, panic_below=(panic or 0) / 100)
    every, special = general(rule, port), None if subset is None else subset.trafficPolicy
    balancer: LoadBalancer | None = (special and special.loadBalancer) or every.loadBalancer
    connections = pool(rule, subset, port)
    outliers: OutlierFields | None = (special and special.outlierDetection) or every.outlierDetection
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
        max_requests=None if connections is None else connections.http.http2MaxRequests,
        max_pending=None if connections is None else connections.http.http1MaxPendingRequests,
        max_connections=None if connections is None else connections.tcp.maxConnections,
        max_retries=None if connections is None else connections.http.maxRetries,
        retries=_budget(rule, subset),
        connect_timeout=None if connections is None else connections.tcp.connectTimeout,
        idle_timeout=None if connections is None else reuse.idle_timeout(connections),
        longest=None if connections is None else connections.tcp.maxConnectionDuration,
        reuse=None if connections is None else reuse.of_pool(connections),
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
        said = tuple(f"{each.name}={each.value}" if each.value else each.name for each in cookie.attributes)
        made = HashCookie(cookie.name.encode(), path, cookie.ttl, tuple(each.encode() for each in said))
        return HashOn(cookie=made, ring=key.ring_size)
    return HashOn(
        key.httpHeaderName.lower().encode() if key.httpHeaderName else None,
        key.httpQueryParameterName.encode() if key.httpQueryParameterName else None,
        ring=key.ring_size,
    )


def _budget(rule: DestinationRule, subset: Subset | None) -> RetryBudget | None:
    asked = (subset and subset.trafficPolicy.retryBudget) or rule.spec.trafficPolicy.retryBudget
    return None if asked is None else RetryBudget(asked.percent, asked.minRetryConcurrency)


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


def counting(rule: DestinationRule | None, subset: Subset | None, port: int) -> Sequence[str]:
    """The labels that say where an endpoint is, in place of its locality."""
    if rule is None:
        return ()
    special = None if subset is None else subset.trafficPolicy
    balancer = (special and special.loadBalancer) or general(rule, port).loadBalancer
    asked = None if balancer is None else balancer.localityLbSetting
    return () if asked is None or not asked.enabled else asked.failoverPriority


def pool(rule: DestinationRule | None, subset: Subset | None, port: int) -> ConnectionPool | None:
    """The bounds of a port, or of a subset."""
    if rule is None:
        return None
    special = None if subset is None else subset.trafficPolicy.connectionPool
    return special or general(rule, port).connectionPool


def protocol(declared: ProtocolName, connections: ConnectionPool | None) -> ProtocolName:
    """What endpoints are spoken to in: what is declared, unless the rule says otherwise; "auto" is the client's own."""
    if connections is None:
        return declared
    if connections.http.useClientProtocol:
        return "auto"
    return "http2" if declared == "http" and connections.http.h2UpgradePolicy == "UPGRADE" else declared


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
