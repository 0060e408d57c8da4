"""Exchanges for tests: a flow, a request, and what was counted of the middleware."""

from __future__ import annotations

from dataclasses import dataclass, field

from interceptor.middleware.api import Exchange
from interceptor.model.address import OriginalDestination, PeerAddress, SocketAddress
from interceptor.model.connection import Direction, Flow
from interceptor.model.http import Headers, RequestHead
from interceptor.model.identity import SpiffeId


@dataclass
class Observed:
    """An observer that remembers."""

    failures: list[str] = field(default_factory=list)
    durations: list[tuple[str, float]] = field(default_factory=list)

    def failed(self, name: str) -> None:
        self.failures.append(name)

    def took(self, name: str, seconds: float) -> None:
        self.durations.append((name, seconds))


def a_flow(
    *,
    peer: str = "10.0.0.1",
    port: int = 80,
    direction: Direction = Direction.INGRESS,
    identity: str | None = None,
) -> Flow:
    """A flow whose destination is known."""
    return Flow(
        id=1,
        direction=direction,
        peer=PeerAddress(SocketAddress(peer, 40000)),
        started_at=0,
        opened=0,
        original_dst=OriginalDestination(SocketAddress("10.0.0.9", port)),
        peer_identity=None if identity is None else SpiffeId.parse(identity),
    )


def an_exchange(
    headers: Headers | None = None,
    *,
    method: bytes = b"GET",
    target: bytes = b"/",
    flow: Flow | None = None,
) -> Exchange:
    """A request on its way."""
    head = RequestHead(method, target, b"app.example", b"http", b"1.1", [] if headers is None else headers)
    return Exchange(flow or a_flow(), head)
