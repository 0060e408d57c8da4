"""What the hub keeps of a flow: two ends, each the source of the bytes that go to the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from interceptor.kernel.splice import Pipe
    from interceptor.model.connection import Flow
    from interceptor.proxy.endings import Ended, Side
    from interceptor.tls.stream import TlsStream


MESSAGE: Final = 64 * 1024  # the most of one read that is written with the rest of its batch


class End:
    """One socket of a flow, as the source of the bytes that go to ``other``."""

    __slots__ = (
        "bulk", "drain", "eof", "fd", "full", "last", "least", "moved", "other", "pair", "pending", "queued", "side",
        "sock", "spliced", "stalled", "told",
    )  # fmt: skip

    other: End
    pair: Pair

    def __init__(self, side: Side, sock: socket.socket | TlsStream, spliced: bool, bulk: bool) -> None:  # noqa: FBT001 (made in one place, for every flow)
        self.side = side
        self.sock = sock
        self.fd = sock.fileno()
        self.moved = 0  # bytes read from this socket
        self.pending: bytes | memoryview | Pipe | None = None  # of those, what the other one did not take yet
        self.stalled = False  # the other one refused: it tells when there is room
        self.full = False  # the next read is into the large buffer, for the last one was of at least
        self.least = MESSAGE
        self.spliced = spliced  # once it is bulk
        self.bulk = bulk
        self.drain = False  # read until nothing comes: a short read proves nothing any more
        self.told = False  # the kernel has all that this side ever sends: a short read is the last one
        self.last = False  # so was what is pending
        self.eof = False
        self.queued = False  # in the run queue


class Pair:
    """Both ends of a flow."""

    __slots__ = (
        "active",
        "done",
        "downstream",
        "first_eof",
        "flow",
        "look",
        "plain",
        "probed",
        "slot",
        "upstream",
    )

    def __init__(
        self,
        flow: Flow,
        downstream: End,
        upstream: End,
        done: Callable[[Ended], None],
        look: Callable[[Pair, float], None],
    ) -> None:
        self.flow = flow
        self.downstream = downstream
        self.upstream = upstream
        self.done = done
        self.look = look
        self.active = 0.0  # when a byte moved last
        self.plain = True  # both are sockets: no TLS
        self.probed = False  # the kernel finds out whether the upstream is there
        self.first_eof: Side | None = None  # set: half-closed
        self.slot = 0  # of the timer wheel
        downstream.other, upstream.other = upstream, downstream
        downstream.pair = upstream.pair = self

    def count(self) -> None:
        """Bring the flow's byte counts up to date."""
        pending = None if self.upstream.eof else self.upstream.pending  # at an end it stands for that
        self.flow.bytes_received = self.downstream.moved
        self.flow.bytes_sent = self.upstream.moved - (len(pending) if pending is not None else 0)

    def check_time(self, now: float) -> None:
        """The timer wheel has come to it."""
        self.look(self, now)
