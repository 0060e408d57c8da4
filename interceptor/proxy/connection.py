"""THE path: the life of one intercepted connection, from its original destination to its record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from interceptor.kernel import sockets
from interceptor.model.address import LocalAddress, OriginalDestination
from interceptor.model.connection import Direction
from interceptor.proxy import endings, permission, upstream
from interceptor.routing.destinations import Decision

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from interceptor.model.address import PeerAddress, SocketAddress
    from interceptor.model.connection import Flow
    from interceptor.proxy.hub import Hub
    from interceptor.proxy.permission import SnapshotView
    from interceptor.proxy.tracker import Recorder, Tracker


@dataclass(slots=True)
class Services:
    """What every connection is served with."""

    snapshot: Callable[[], SnapshotView]
    tracker: Tracker
    recorder: Recorder
    hub: Hub
    connect_timeout: float
    ports: frozenset[int]  # that our listeners accept on
    original_destination: Callable[[socket.socket, PeerAddress], OriginalDestination | None] = (
        sockets.original_destination
    )
    transparent: bool = False  # ingress: peers' addresses and ports reach us, and the app, unchanged
    abort_reason: str = "the proxy was stopped"


_NOT_REDIRECTED: Final = Decision(
    upstreams=(),
    cluster="BlackHoleCluster",
    service="BlackHoleCluster",
    policy="-",
    denied="loop",
    details="the connection was made straight to the proxy's own listener and not redirected to it: "
    "connect to the app's port",
)


async def intercept(flow: Flow, downstream: socket.socket, services: Services) -> None:
    """Serve one accepted connection, whose flow is registered; record it exactly once, however it ends.

    Every end but an orderly one is a RST to the peer: it must never take a failure for a complete answer.
    """
    try:
        decision = decide(flow, downstream, services)
        services.tracker.decided(flow)
        if decision.denied is not None:
            permission.deny(flow, decision)
            return
        started = trio.current_time()
        dialled, flow.upstream = await upstream.dial(
            decision.upstreams,
            services.hub,
            timeout=services.connect_timeout,
            hint=decision.hint,
            sources=services.tracker.sources(flow.peer) if _keeps_addresses(flow, services) else None,
        )
        if flow.denied is not None:  # while it was dialled: policies have changed
            dialled.close()
            return
        flow.connect_seconds = trio.current_time() - started
        flow.upstream_local = LocalAddress(sockets.local_address(dialled))
        ended = await services.hub.relay(flow, downstream, dialled)  # both sockets are the hub's from here
        if flow.denied is None:
            flow.flag, flow.details = endings.of_relay(ended)
    except endings.DialError as failure:
        flow.upstream = failure.address
        if flow.denied is None:
            flow.flag, flow.details = endings.of_dial(failure)
    except trio.Cancelled:
        flow.flag, flow.details = endings.of_abort(services.abort_reason)
        raise
    except BaseException:
        flow.flag, flow.details = endings.FAULT
        raise
    finally:
        if downstream.fileno() != -1:
            sockets.reset(downstream)
        services.tracker.close(flow)


def decide(flow: Flow, downstream: socket.socket, services: Services) -> Decision:
    """Find the original destination and ask one snapshot; note both in the flow."""
    view = services.snapshot()
    kept = _keeps_addresses(flow, services)
    destination = (
        OriginalDestination(sockets.local_address(downstream))
        if kept
        else services.original_destination(downstream, flow.peer)
    )
    if destination is None or (
        destination.port in services.ports and (kept or _is_ours(destination, downstream))
    ):
        flow.downstream_local = LocalAddress(sockets.local_address(downstream))
        decision = _NOT_REDIRECTED
    else:
        flow.original_dst = destination
        decision = permission.decided(flow, destination, view)
    flow.original_dst = destination
    flow.upstream_cluster = decision.cluster
    flow.destination_service = decision.service
    flow.destination_namespace = decision.namespace
    flow.policy = decision.policy
    return decision


def _is_ours(destination: SocketAddress, downstream: socket.socket) -> bool:
    """Whether a connection goes where it was accepted: conntrack names that for what was never redirected."""
    return destination == sockets.local_address(downstream)


def _keeps_addresses(flow: Flow, services: Services) -> bool:
    """Whether a flow came by TPROXY: accepted at its original destination, to be dialled from its peer's address."""
    return services.transparent and flow.direction is Direction.INGRESS
