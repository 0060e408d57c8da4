"""A proxy on loopback without redirect rules, and what it is tested with: sockets, a snapshot, a recorder."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from interceptor.config.base import Metadata
from interceptor.config.sidecar import Limits, Sidecar, SidecarSpec, Timeouts
from interceptor.kernel import sockets
from interceptor.middleware.build import Stack
from interceptor.model.address import (
    OriginalDestination,
    PeerAddress,
    SocketAddress,
    UpstreamAddress,
    from_sockaddr,
)
from interceptor.model.connection import Direction, Flow, ProtocolName, RelayChoice
from interceptor.model.request import RequestRecord
from interceptor.policy.authorization import Shadow
from interceptor.policy.policies import Policies
from interceptor.proxy.hub import Hub
from interceptor.proxy.permission import SnapshotView
from interceptor.proxy.server import Proxy
from interceptor.proxy.transport import Transport
from interceptor.routing.destinations import Decision
from interceptor.routing.security import UpstreamTls
from interceptor.routing.table import Routing

RESET = struct.pack("ii", 1, 0)


@dataclass
class Records:
    """A recorder that remembers; ``active`` proves that every flow is opened and closed once."""

    opened_flows: list[Flow] = field(default_factory=list)
    closed_flows: list[Flow] = field(default_factory=list)
    accept_errors: list[int] = field(default_factory=list)
    requests: list[RequestRecord] = field(default_factory=list)
    detections: list[str] = field(default_factory=list)
    shadows: list[Shadow] = field(default_factory=list)
    mirrors: list[bool] = field(default_factory=list)  # whether each was sent
    faults: int = 0

    def opened(self, flow: Flow) -> None:
        assert flow not in self.opened_flows
        self.opened_flows.append(flow)

    def closed(self, flow: Flow) -> None:
        assert flow in self.opened_flows
        assert flow not in self.closed_flows
        self.closed_flows.append(flow)

    def request(self, record: RequestRecord) -> None:
        self.requests.append(record)

    def call(self, record: RequestRecord) -> None: ...

    def detected(self, flow: Flow, result: str) -> None:
        self.detections.append(result)

    def shadowed(self, flow: Flow, shadows: Sequence[Shadow]) -> None:
        self.shadows += shadows

    def mirrored(self, *, sent: bool) -> None:
        self.mirrors.append(sent)

    def accept_error(self, number: int) -> None:
        self.accept_errors.append(number)

    def internal_error(self) -> None:
        self.faults += 1

    async def wait_closed(self, number: int = 1) -> list[Flow]:
        """Wait until so many flows were recorded."""
        await wait_until(lambda: len(self.closed_flows) >= number)
        return self.closed_flows


@dataclass
class FixedView:
    """A snapshot that lets every connection go to the same upstreams; none: to its original destination."""

    upstreams: tuple[SocketAddress, ...] = ()
    denied: str | None = None
    policies: Policies | None = None
    routing: Routing | None = None
    protocol: ProtocolName = "auto"
    tls: UpstreamTls | None = None

    def _decide(self, destination: OriginalDestination) -> Decision:
        upstreams = tuple(UpstreamAddress(upstream) for upstream in self.upstreams or (destination,))
        if self.denied is not None:
            return Decision(
                (), "BlackHoleCluster", "BlackHoleCluster", "test", self.denied, "not allowed here"
            )
        return Decision(
            *(upstreams, "PassthroughCluster", "PassthroughCluster", "test"),
            protocol=self.protocol,
            tls=self.tls,
        )

    def ingress(self, destination: OriginalDestination) -> Decision:
        return self._decide(destination)

    def egress(self, destination: OriginalDestination) -> Decision:
        return self._decide(destination)


async def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for something that nothing announces, with a deadline."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 (it is the kernel that is waited for, mostly)
            await trio.sleep(0.005)


def listening(backlog: int = 128) -> tuple[socket.socket, SocketAddress]:
    """A plain blocking listener on loopback, and where it is."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=backlog)
    return listener, from_sockaddr(listener.getsockname())


def tcp_pair(buffers: int | None = None) -> tuple[socket.socket, socket.socket]:
    """Both ends of one loopback TCP connection, blocking; with small kernel buffers if asked."""
    listener, address = listening()
    near = socket.socket()
    if buffers is not None:
        for sock in (near, listener):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
    with listener:
        near.connect(address[:2])
        far, _ = listener.accept()
    return near, far


def reset(sock: socket.socket) -> None:
    """Close with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


def flow_between(downstream: socket.socket) -> Flow:
    """A flow record for a hub test."""
    return Flow(
        id=1,
        direction=Direction.INGRESS,
        peer=PeerAddress(from_sockaddr(downstream.getpeername())),
        started_at=0,
        opened=0,
    )


def settings(
    *,
    connections: int = 100,
    connect: float = 10,
    idle: float = 60,
    linger: float = 60,
    detect: float = 5,
    relay: RelayChoice = "auto",
) -> Sidecar:
    """Settings with the limits, timeouts and relay a test is about."""
    return Sidecar(
        metadata=Metadata(name="test"),
        spec=SidecarSpec(
            relay=relay,
            limits=Limits(connections=connections),
            timeouts=Timeouts.model_construct(connect=connect, idle=idle, linger=linger, detect=detect),
        ),
    )


@dataclass
class Running:
    """A proxy that serves on ``address``, and what it recorded."""

    proxy: Proxy
    address: SocketAddress
    records: Records

    def connect(self) -> socket.socket:
        """A peer's connection, blocking with a deadline."""
        return socket.create_connection(("127.0.0.1", self.address.port), timeout=10)


@asynccontextmanager
async def running_proxy(
    view: SnapshotView,
    given: Sidecar | None = None,
    *,
    original: Callable[[socket.socket, PeerAddress], OriginalDestination | None] | None = None,
    records: Records | None = None,
    transport: Callable[[Hub], Transport] | None = None,
    direction: Direction = Direction.INGRESS,
    middleware: Stack | None = None,
) -> AsyncIterator[Running]:
    """A proxy on loopback whose connections were all made to 192.0.2.1:80, whatever the kernel says."""
    listener = sockets.open_listener(0)
    address = from_sockaddr(listener.getsockname())
    records = records or Records()
    proxy = Proxy(
        given or settings(),
        [(direction, listener)],
        lambda: view,
        records,
        original_destination=original
        or (lambda _sock, _peer: OriginalDestination(SocketAddress("192.0.2.1", 80))),
        wall_clock=lambda: 1000.0,
        transport=transport,
        middleware=middleware,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.serve)
        yield Running(proxy, address, records)
        nursery.cancel_scope.cancel()
