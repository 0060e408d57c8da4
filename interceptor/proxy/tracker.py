"""The live flows: their ids, their number against the limit, and the one record of each."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Protocol

from interceptor.model.address import PeerAddress
from interceptor.model.connection import Flow, ResponseFlag
from interceptor.proxy.share import PORTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from interceptor.model.address import LocalAddress, SocketAddress
    from interceptor.model.connection import Direction
    from interceptor.model.request import RequestRecord
    from interceptor.policy.authorization import Shadow
    from interceptor.proxy.share import Share


class Recorder(Protocol):
    """Who counts and logs flows. Each flow is opened once, when its decision is known or refused, then closed once."""

    def opened(self, flow: Flow) -> None: ...

    def closed(self, flow: Flow) -> None: ...

    def request(self, record: RequestRecord) -> None:
        """A request is over; its flow goes on, or not."""

    def call(self, record: RequestRecord) -> None:
        """A request whose messages are counted while it lasts has begun."""

    def detected(self, flow: Flow, result: str) -> None:
        """What a flow carries was found out, or was not in time."""

    def shadowed(self, flow: Flow, shadows: Sequence[Shadow]) -> None:
        """Policies in dry run, or that only audit, have something to say of a connection or a request."""

    def mirrored(self, *, sent: bool) -> None:
        """A copy of a request was sent, or dropped."""

    def accept_error(self, number: int) -> None:
        """Accepting failed with this errno; the connections wait in the kernel."""

    def internal_error(self) -> None:
        """A connection was ended by a fault of the proxy, which is in the program log."""


class Tracker:
    """Owns the live flows."""

    def __init__(
        self,
        share: Share,
        recorder: Recorder,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._share = share
        self._recorder = recorder
        self.clock = clock
        self._wall_clock = wall_clock
        self._ids = share.ids
        self._live: dict[int, Flow] = {}
        self._announced: set[int] = set()
        self._peers: dict[PeerAddress, int] = {}  # of the live flows

    @property
    def active(self) -> int:
        """How many flows are live."""
        return len(self._live)

    def flows(self) -> list[Flow]:
        """The live flows, oldest first."""
        return list(self._live.values())

    def decided_flows(self) -> list[Flow]:
        """Those whose destination is decided; the others will be, by the configuration of that moment."""
        return [flow for flow in self._live.values() if flow.id in self._announced]

    def admit(self, direction: Direction, peer: PeerAddress) -> Flow | None:
        """Begin a flow; None where the limit on connections is reached."""
        return self._register(direction, peer) if self._share.take_seat(peer.port) else None

    def _register(self, direction: Direction, peer: PeerAddress) -> Flow:
        flow = Flow(
            id=next(self._ids),
            direction=direction,
            peer=peer,
            started_at=self._wall_clock(),
            opened=self.clock(),
        )
        self._live[flow.id] = flow
        self._peers[peer] = self._peers.get(peer, 0) + 1
        return flow

    def decided(self, flow: Flow) -> None:
        """The flow's destination is known: from here it counts as opened."""
        self._announced.add(flow.id)
        self._recorder.opened(flow)

    def close(self, flow: Flow) -> None:
        """End a flow and record it; a second call does nothing, also when recording the first one failed."""
        if flow.id not in self._live:
            return
        self._share.give_back_seat(flow.peer.port)
        self._end(flow)

    def _end(self, flow: Flow) -> None:
        del self._live[flow.id]
        more = self._peers[flow.peer] - 1
        if more:
            self._peers[flow.peer] = more
        else:
            del self._peers[flow.peer]
        flow.closed = self.clock()
        if flow.id not in self._announced:
            self._recorder.opened(flow)
        self._announced.discard(flow.id)
        self._recorder.closed(flow)

    def sources(self, peer: PeerAddress) -> Iterator[SocketAddress]:
        """Addresses of the peer's to dial the app from, one after the other, with ports it does not use itself.

        The kernel cannot choose: it does not know that a connection of the peer's to the same app has its port already,
        and the two would be one to it.
        """
        for port in itertools.islice(self._share.source_ports, PORTS):
            source = peer._replace(port=port)
            if PeerAddress(source) not in self._peers and not self._share.elsewhere(port):
                yield source

    def refuse(self, direction: Direction, peer: PeerAddress, local: LocalAddress) -> None:
        """Record a connection that the limit kept out, with the address of ours that accepted it."""
        flow = self._register(direction, peer)
        flow.downstream_local = local
        flow.flag = ResponseFlag.OVERFLOW
        flow.denied = "limit"
        flow.details = (
            f"the proxy already has {self._share.limit} connections: raise spec.limits.connections, "
            "or find out who opens so many"
        )
        self._end(flow)
