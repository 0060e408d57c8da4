"""What a client's connection becomes after 101 or CONNECT: bytes of another protocol, relayed until they end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from interceptor.proxy import endings

if TYPE_CHECKING:
    from interceptor.proxy.http.exchange import Exchange
    from interceptor.proxy.http.serve import Service
    from interceptor.proxy.loop import Leg


class Tunnel:
    """A connection that carries something else than HTTP from here on."""

    def __init__(self, exchange: Exchange, upstream: Leg, early: tuple[bytes, bytes], held: int) -> None:
        """``held``: how much of what is early is still the response's head."""
        self._exchange = exchange
        self._upstream = upstream
        self._early = early
        self._held = held

    async def relay(self, service: Service, downstream: Leg) -> None:
        """Relay it like any other bytes; the request is recorded at the end."""
        flow, exchange = service.flow, self._exchange
        received, sent = flow.bytes_received, flow.bytes_sent
        exchange.bytes_received += len(self._early[0])
        try:
            ended = await service.all.hub.relay(flow, downstream, self._upstream, self._early)
            exchange.flag, exchange.details = flow.flag, flow.details = endings.of_relay(ended)
        except trio.Cancelled:
            exchange.flag, exchange.details = endings.of_abort("the proxy was stopped")
            raise
        finally:
            exchange.bytes_received += flow.bytes_received - received
            exchange.bytes_sent += flow.bytes_sent - sent - self._held
            exchange.finish()
