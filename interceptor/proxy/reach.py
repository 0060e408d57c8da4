"""Reaches the upstream of a flow, or an endpoint of the cluster that documents bring it to, and notes what became of it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from interceptor.kernel import sockets
from interceptor.model.address import LocalAddress
from interceptor.model.connection import Direction
from interceptor.proxy import permission, upstream
from interceptor.proxy.endings import DialError
from interceptor.proxy.http.client import Dialled
from interceptor.routing.traffic import DEFAULT

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Iterator

    from interceptor.model.address import SocketAddress, UpstreamAddress
    from interceptor.model.connection import Flow, ProtocolName
    from interceptor.proxy.services import Services
    from interceptor.proxy.upstream import Dial
    from interceptor.routing.destinations import Decision
    from interceptor.routing.traffic import Traffic


def dialler(
    flow: Flow, decision: Decision, services: Services, dialled: Dialled | None = None
) -> Callable[[], Awaitable[Dialled]] | None:
    """What dials the upstream while the peer is silent; nothing, where a policy refuses what is no request."""
    if permission.opaque(flow, decision, services.snapshot().policies).denied is not None:
        return None

    async def reach() -> Dialled:
        return dialled or await dial(flow, decision, services)

    return reach


async def dial(
    flow: Flow,
    decision: Decision,
    services: Services,
    begun: Dial | None = None,
    protocol: ProtocolName = "tcp",
) -> Dialled:
    """Connect to the upstream, or to an endpoint of the cluster that documents bring the flow to."""
    courses = services.courses
    course = None if begun is not None else courses.begin(flow, decision)
    if course is None:
        return await _connect(flow, decision, services, begun, protocol)
    try:
        while True:
            chosen = courses.next(flow, course)
            try:
                dialled = await _connect(flow, chosen, services, None, protocol, course.cluster.traffic)
            except DialError:
                if not courses.failed(course):
                    raise
            else:
                courses.note(flow, course, chosen)
                return dialled
    except BaseException:
        courses.leave(flow)
        raise


async def _connect(
    flow: Flow,
    decision: Decision,
    services: Services,
    begun: Dial | None,
    protocol: ProtocolName,
    traffic: Traffic = DEFAULT,
) -> Dialled:
    """Connect to one upstream after the other, and note what became of it."""
    started = services.http.clock()
    try:
        sock, address = await upstream.dial(
            decision.upstreams,
            services.hub,
            timeout=traffic.connect_timeout or services.connect_timeout,
            hint=decision.hint,
            begin=partial(
                upstream.begin, sources=sources(flow, services), local=flow.direction is Direction.INGRESS
            ),
            begun=begun,
        )
    except DialError as failure:
        flow.upstream = failure.address
        raise
    if traffic.reuse is not None and (asked := traffic.reuse.keepalive) is not None:
        sockets.keep_alive(sock, *asked)
    dialled = note_dialled(flow, sock, address, started, services)
    leg = await upstream.secured(sock, address, flow, decision, services.http.transport, protocol=protocol)
    return dialled if decision.tls is None else dialled._replace(sock=leg, until=flow.proved_until)


def note_dialled(
    flow: Flow, sock: socket.socket, address: UpstreamAddress, started: float, services: Services
) -> Dialled:
    """Note that the upstream accepted."""
    flow.connect_seconds = services.http.clock() - started
    flow.upstream, flow.upstream_local = address, LocalAddress(sockets.local_address(sock))
    return Dialled(sock, address, flow.upstream_local)


def sources(flow: Flow, services: Services) -> Iterator[SocketAddress] | None:
    """The addresses to dial from, where they are to be the peer's."""
    return services.tracker.sources(flow.peer) if keeps_addresses(flow, services) else None


def keeps_addresses(flow: Flow, services: Services) -> bool:
    """Whether a flow came by TPROXY: accepted at its original destination, to be dialled from its peer's address."""
    return services.transparent and flow.direction is Direction.INGRESS
