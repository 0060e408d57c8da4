"""The live flows: their ids, their number against the limit, and the one record of each."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Protocol

from interceptor.model.connection import Flow, ResponseFlag

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.model.address import PeerAddress
    from interceptor.model.connection import Direction


class Recorder(Protocol):
    """Who counts and logs flows. Each flow is opened once, when its decision is known or refused, then closed once."""

    def opened(self, flow: Flow) -> None: ...

    def closed(self, flow: Flow) -> None: ...

    def accept_error(self, number: int) -> None:
        """Accepting failed with this errno; the connections wait in the kernel."""

    def internal_error(self) -> None:
        """A connection was ended by a fault of the proxy, which is in the program log."""


class Tracker:
    """Owns the live flows."""

    def __init__(
        self,
        limit: int,
        recorder: Recorder,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._limit = limit
        self._recorder = recorder
        self._clock = clock
        self._wall_clock = wall_clock
        self._ids = itertools.count(1)
        self._live: dict[int, Flow] = {}
        self._announced: set[int] = set()

    @property
    def active(self) -> int:
        """How many flows are live."""
        return len(self._live)

    @property
    def full(self) -> bool:
        """Whether the limit on connections is reached."""
        return len(self._live) >= self._limit

    def flows(self) -> list[Flow]:
        """The live flows, oldest first."""
        return list(self._live.values())

    def register(self, direction: Direction, peer: PeerAddress) -> Flow:
        """Begin a flow."""
        flow = Flow(
            id=next(self._ids),
            direction=direction,
            peer=peer,
            started_at=self._wall_clock(),
            opened=self._clock(),
        )
        self._live[flow.id] = flow
        return flow

    def decided(self, flow: Flow) -> None:
        """The flow's destination is known: from here it counts as opened."""
        self._announced.add(flow.id)
        self._recorder.opened(flow)

    def close(self, flow: Flow) -> None:
        """End a flow and record it; a second call does nothing, also when recording the first one failed."""
        if self._live.pop(flow.id, None) is None:
            return
        flow.closed = self._clock()
        if flow.id not in self._announced:
            self._recorder.opened(flow)
        self._announced.discard(flow.id)
        self._recorder.closed(flow)

    def refuse(self, direction: Direction, peer: PeerAddress) -> None:
        """Record a connection that the limit kept out."""
        flow = self.register(direction, peer)
        flow.flag = ResponseFlag.OVERFLOW
        flow.denied = "limit"
        flow.details = (
            f"the proxy already has {self._limit} connections: raise spec.limits.connections, "
            "or find out who opens so many"
        )
        self.close(flow)
