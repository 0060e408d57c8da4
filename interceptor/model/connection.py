"""A flow: one intercepted connection, and everything that is recorded of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from interceptor.model.address import LocalAddress, OriginalDestination, PeerAddress, UpstreamAddress
    from interceptor.model.forwarding import Presented
    from interceptor.model.identity import Issued, Security, SpiffeId
    from interceptor.model.workload import Workload


ProtocolName: TypeAlias = Literal["auto", "http", "http2", "grpc", "tls", "tcp"]
RelayChoice: TypeAlias = Literal["auto", "splice", "copy"]  # auto: copy until a flow turns bulk


class Direction(Enum):
    """Which way a flow was opened, as seen from the app."""

    INGRESS = "ingress"
    EGRESS = "egress"

    __hash__ = object.__hash__  # Enum's own is a function in Python


class ResponseFlag(Enum):
    """How a flow ended: Envoy's short codes, plus DENY for a refusal by policy."""

    NONE = "-"
    UPSTREAM_FAILURE = "UF"  # could not connect to the upstream: refused, unreachable or timed out
    UPSTREAM_RESET = "UR"  # the upstream reset the connection
    UPSTREAM_CLOSED = "UC"  # the upstream ended the connection before its response was complete
    UPSTREAM_TIMEOUT = "UT"  # the upstream did not answer a request in time
    UPSTREAM_PROTOCOL = "UPE"  # the upstream answered with what is not HTTP
    NO_HEALTHY_UPSTREAM = "UH"
    DOWNSTREAM_RESET = "DC"  # the peer reset the connection
    IDLE_TIMEOUT = "SI"  # nothing moved for the idle timeout
    RETRY_LIMIT = "URX"  # what the upstream answered was not tried again: all attempts were used
    OVERFLOW = "UO"  # the connection limit was reached
    NO_ROUTE = "NR"  # not redirected, or redirected to nowhere: no destination to go to
    NO_CLUSTER = "NC"  # a route names a destination that the registry does not have
    DENY = "DENY"  # a policy refused it
    RATE_LIMITED = "RL"
    EXTERNAL_DENIAL = "UAEX"  # a filter that asks who the client is refused the request
    DELAY_INJECTED = "DI"  # the fault injection filter held the request back
    FAULT_INJECTED = "FI"  # the fault injection filter answered
    DURATION_TIMEOUT = "DT"  # a request, or a flow, took longer than it may
    DOWNSTREAM_PROTOCOL = "DPE"  # what the client sent is not HTTP, or may not be passed on
    LOCAL_RESET = "LR"  # ended by us: the drain deadline passed, or a fault of ours that the log names

    __hash__ = object.__hash__  # Enum's own is a function in Python


@dataclass(slots=True, kw_only=True, eq=False)
class Flow:
    """One intercepted connection. Byte counts are from the peer's point of view, as in Envoy's access log.

    Times: ``started_at`` is Unix time in seconds; the others are in seconds on the monotonic clock's scale.
    """

    id: int
    direction: Direction
    peer: PeerAddress
    started_at: float
    opened: float  # monotonic
    original_dst: OriginalDestination | None = None
    downstream_local: LocalAddress | None = None  # of a connection that was not redirected
    server_name: str | None = None  # that a TLS client asked for
    upstream: UpstreamAddress | None = None
    upstream_local: LocalAddress | None = None
    upstream_cluster: str = "unknown"
    destination_service: str = "unknown"
    destination_namespace: str = "unknown"  # of the document that names the destination service
    policy: str = "-"  # the document or setting that decided
    routed_entry: str | None = (
        None  # namespace/name of the ServiceEntry that a route brought it to, where that is another
    )
    peer_certificate: Issued | None = None  # to be judged again, where the authorities change
    peer_presented: Presented | None = (
        None  # in x-forwarded-client-cert: the same for the app and its policies
    )
    peer_identity: SpiffeId | None = (
        None  # by the certificate of the peer, verified; on egress our app has none
    )
    upstream_identity: SpiffeId | None = None  # the same of the upstream
    proved_until: float = (
        inf  # monotonic; when a certificate expires by which the connection is secured that faces the network
    )
    peer_workload: Workload | None = (
        None  # what a peer of the mesh said of itself; None: it was not asked yet
    )
    security: Security = (
        "none"  # of the connection that faces the network: ingress the peer's, egress the upstream's
    )
    relay: str = "-"
    http: bool = False  # its requests are counted and logged, not the connection
    connect_seconds: float | None = None
    closed: float | None = None  # monotonic
    bytes_received: int = 0  # read from the peer
    bytes_sent: int = 0  # written to the peer
    flag: ResponseFlag = ResponseFlag.NONE
    denied: str | None = None  # the reason label of interceptor_connections_denied_total, when it was refused
    details: str = "-"  # one sentence: why it ended as it did
    line: tuple[str, tuple[str, str, str]] | None = field(default=None, repr=False)  # see request_lines
    series: dict[int, object] = field(default_factory=dict, init=False, repr=False)  # see request_metrics
