"""What a client's connection becomes after 101 or CONNECT: bytes of another protocol, relayed until they end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from interceptor.kernel import sockets
from interceptor.proxy import endings

if TYPE_CHECKING:
    from interceptor.proxy.http.exchange import Exchange
    from interceptor.proxy.http.roles import Judge
    from interceptor.proxy.http.serve import Service
    from interceptor.proxy.loop import Leg


class Tunnel:
    """A connection that carries something else than HTTP from here on."""

    def __init__(
        self, service: Service, exchange: Exchange, upstream: Leg, early: tuple[bytes, bytes], held: int
    ) -> None:
        """``held``: how much of what is early is still the response's head."""
        self._service = service
        self._exchange = exchange
        self._upstream = upstream
        self._early = early
        self._held = held
        service.all.live.add(self)

    async def relay(self, downstream: Leg) -> None:
        """Relay it like any other bytes; the request is recorded at the end."""
        every, flow, exchange = self._service.all, self._service.flow, self._exchange
        received, sent = flow.bytes_received, flow.bytes_sent
        exchange.bytes_received += len(self._early[0])
        try:
            if flow.denied is not None:  # since the upstream agreed
                sockets.reset(self._upstream)
            else:
                ended = await every.hub.relay(flow, downstream, self._upstream, self._early)
                if flow.denied is None:
                    flow.flag, flow.details = endings.of_relay(ended)
            exchange.flag, exchange.details = flow.flag, flow.details
        except trio.Cancelled:
            exchange.flag, exchange.details = endings.of_abort("the proxy was stopped")
            raise
        finally:
            every.live.discard(self)
            exchange.bytes_received += flow.bytes_received - received
            exchange.bytes_sent += flow.bytes_sent - sent - self._held
            exchange.finish()

    # What the server calls

    def reconsider(self, judge: Judge) -> int:
        """Deny the flow where the request that it became is refused by now: the hub ends it then."""
        flow = self._service.flow
        refusal = None if flow.denied is not None else judge(self._exchange, self._service.decision)
        if refusal is None:
            return 0
        flow.denied, flow.flag, flow.details = "policy", refusal.flag, refusal.details
        flow.policy = self._exchange.policy or flow.policy
        return 1

    def end_denied(self) -> None:
        """The hub ends what it relays."""

    def drain_now(self) -> None:
        """It goes on until it ends."""
