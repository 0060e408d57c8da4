"""The upstream of requests is dialled, whichever version of HTTP it is to be spoken to in."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from interceptor.kernel import sockets
from interceptor.model.address import LocalAddress
from interceptor.model.connection import Direction
from interceptor.proxy import upstream
from interceptor.proxy.http.client import Dialled
from interceptor.proxy.http.pool import keepalive

if TYPE_CHECKING:
    from interceptor.model.connection import ProtocolName
    from interceptor.proxy.http.serve import Service


async def dial(service: Service, timeout: float, protocol: ProtocolName) -> Dialled:
    """Connect to one upstream after the other, in the clear or by TLS. Raises DialError."""
    every, flow, decision = service.all, service.flow, service.decision
    started = every.clock()
    sock, address = await upstream.dial(
        decision.upstreams,
        every.hub,
        timeout=timeout,
        hint=decision.hint,
        begin=partial(upstream.begin, sources=service.sources, local=flow.direction is Direction.INGRESS),
    )
    if (asked := keepalive(service.key)) is not None:
        sockets.keep_alive(sock, *asked)
    flow.connect_seconds = every.clock() - started
    local = LocalAddress(sockets.local_address(sock))
    leg = await upstream.secured(sock, address, flow, decision, every.transport, protocol=protocol)
    until = math.inf if decision.tls is None else flow.proved_until
    return Dialled(leg, address, local, flow.upstream_identity, until)
