"""Flows as the proxy would have left them, for whatever records or shows flows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from interceptor.model.address import (
    LocalAddress,
    OriginalDestination,
    PeerAddress,
    SocketAddress,
    UpstreamAddress,
)
from interceptor.model.connection import Direction, Flow, ResponseFlag

OK = Flow(
    id=1,
    direction=Direction.EGRESS,
    peer=PeerAddress(SocketAddress("10.0.0.1", 40000)),
    downstream_local=LocalAddress(SocketAddress("10.0.0.1", 15001)),
    started_at=1790000000.1239,
    opened=100.0,
    original_dst=OriginalDestination(SocketAddress("93.184.216.34", 443)),
    upstream=UpstreamAddress(SocketAddress("93.184.216.34", 443)),
    upstream_local=LocalAddress(SocketAddress("10.0.0.1", 50000)),
    upstream_cluster="outbound|443||example.com",
    destination_service="example.com",
    destination_namespace="shop",
    policy="ServiceEntry shop/example",
    relay="splice",
    connect_seconds=0.012,
    closed=101.5,
    bytes_received=100,
    bytes_sent=5000,
)
DENIED = replace(
    OK,
    original_dst=OriginalDestination(SocketAddress("fd00::9", 25)),
    upstream=None,
    upstream_local=None,
    upstream_cluster="BlackHoleCluster",
    destination_service="BlackHoleCluster",
    destination_namespace="unknown",
    policy="egress.policy=REGISTRY_ONLY",
    relay="-",
    connect_seconds=None,
    bytes_received=0,
    bytes_sent=0,
    flag=ResponseFlag.DENY,
    denied="registry",
    details="no ServiceEntry names it",
)
UPSTREAM_FAILURE = replace(
    OK,
    upstream_local=None,
    relay="-",
    connect_seconds=None,
    bytes_received=0,
    bytes_sent=0,
    flag=ResponseFlag.UPSTREAM_FAILURE,
    details="connect failed: Connection refused",
)
RESET = replace(OK, flag=ResponseFlag.DOWNSTREAM_RESET, details="the peer reset the connection")
NOT_REDIRECTED = replace(
    DENIED,
    original_dst=None,
    upstream_cluster="unknown",
    destination_service="unknown",
    policy="-",
    flag=ResponseFlag.NO_ROUTE,
    denied="loop",
    details="-",
    closed=None,
)


def flow(template: Flow = OK, **changes: Any) -> Flow:
    """A fresh flow like the template: flows are told apart by identity."""
    return replace(template, **changes)
