"""The hub: one edge-triggered epoll set that relays the bytes of all flows (``relay``), until each ends.

Trio has the thread only when it has something to do (``turns``). A flow's sockets are handed over with a function to be
called with the flow's end; from then on they belong to the hub, which closes them. Accepts and dials wait in the same set.
"""

from __future__ import annotations

import socket
from functools import partial
from typing import TYPE_CHECKING, Final

import outcome
import trio

from interceptor.kernel import sockets
from interceptor.kernel.splice import Pipe
from interceptor.proxy.endings import Ended, Ending, Side
from interceptor.proxy.loop import INTEREST
from interceptor.proxy.pair import End, Pair
from interceptor.proxy.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.model.connection import Flow, RelayChoice
    from interceptor.proxy.loop import Leg

# A flow that lives so long has keepalive probes; most are over by then, and do not pay for setting the options.
YOUNG: Final = 30.0

_DOWNSTREAM: Final = Side.DOWNSTREAM  # looking a member of an enumeration up costs as much as a call
_UPSTREAM: Final = Side.UPSTREAM


class Hub(Relay):
    """Relays bytes between pairs of connected, non-blocking sockets."""

    def __init__(
        self,
        *,
        idle: float,
        linger: float,
        relay: RelayChoice = "auto",
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        # A timeout is noticed late by at most a second or an eighth of itself.
        super().__init__(min(1.0, idle / 8, linger / 8), clock, relay, linger)
        self._idle = idle
        self._young = min(YOUNG, idle)
        self._pairs: dict[Flow, Pair] = {}
        self._emptied = trio.Event()

    def start(
        self,
        flow: Flow,
        downstream: Leg,
        upstream: Leg,
        done: Callable[[Ended], None],
        early: tuple[bytes, bytes] | None = None,
        *,
        fresh: bool = False,
    ) -> Pair:
        """Relay until the flow ends, then close both sockets and call ``done``, which must not raise.

        The flow's byte counts are right by then; before, ``count`` brings them up to date. ``early`` is what was already
        read from the peer and from the upstream; the former is counted.
        """
        plain = isinstance(downstream, socket.SocketType) and isinstance(upstream, socket.SocketType)
        spliced = plain and self._relay != "copy"
        bulk = plain and self._relay == "splice"
        ends = End(_DOWNSTREAM, downstream, spliced, bulk), End(_UPSTREAM, upstream, spliced, bulk)
        for end in ends:
            self._epoll.register(end.fd, INTEREST)  # what already arrived is an event at once
            self._ends[end.fd] = end
        sockets.reset_on_close(upstream)
        if not fresh:  # what was just accepted has it from its listener
            sockets.reset_on_close(downstream)
        self._pairs[flow] = pair = Pair(flow, *ends, done, self._check_silence)
        pair.downstream.moved, pair.upstream.moved = flow.bytes_received, flow.bytes_sent
        pair.active = self.clock()
        self.schedule(pair, pair.active + self._young)
        flow.relay = "splice" if bulk else "copy"
        if not plain:
            self._begin_tls(pair)
        if early is not None:
            self._begin_with(pair, early)
        return pair

    def _begin_tls(self, pair: Pair) -> None:
        pair.plain, pair.flow.relay = False, "tls"
        for end in (pair.downstream, pair.upstream):
            if not isinstance(end.sock, socket.SocketType):
                end.sock.reader = end
                end.least, end.full = 0, True
                self._enqueue(end)  # what came with the handshake is no event

    def _begin_with(self, pair: Pair, early: tuple[bytes, bytes]) -> None:
        pair.upstream.moved += len(early[1])
        for end, data in zip((pair.downstream, pair.upstream), early, strict=True):
            if data:
                end.pending = data
                self._read.append(end)

    def allow_silence(self, pair: Pair, seconds: float, setting: str) -> None:
        """A flow that just began has an idle timeout of its own; inf: none."""
        pair.look = partial(self._check_silence, idle=seconds, setting=setting)
        self._wheel.hasten(pair, pair.active + min(seconds, self._idle))

    async def relay(
        self, flow: Flow, downstream: Leg, upstream: Leg, early: tuple[bytes, bytes] | None = None
    ) -> Ended:
        """The same for a task, which waits for the end; cancelled, both sides are reset."""
        task = trio.lowlevel.current_task()

        def wake(ended: Ended) -> None:
            trio.lowlevel.reschedule(task, outcome.Value(ended))

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            pair.done = lambda _ended: None
            self.abort(flow, "-")
            return trio.lowlevel.Abort.SUCCEEDED

        pair = self.start(flow, downstream, upstream, wake, early)
        ended: Ended = await trio.lowlevel.wait_task_rescheduled(abort)
        return ended

    def abort(self, flow: Flow, reason: str) -> None:
        """End a flow, if it is relayed here: both sides are reset, and the reason, a sentence, is recorded."""
        pair = self._pairs.get(flow)
        if pair is not None:
            self._finish(pair, Ended(Side.NEITHER, Ending.ABORT, reason=reason))

    def expire(self, flow: Flow, setting: str) -> None:
        """End a flow that has lasted as long as a setting allows, if it is relayed here."""
        pair = self._pairs.get(flow)
        if pair is not None:
            self._finish(pair, Ended(Side.NEITHER, Ending.LATE, reason=setting))

    def abort_all(self, reason: str) -> None:
        """End every flow."""
        for flow in tuple(self._pairs):
            self.abort(flow, reason)

    def end_denied(self) -> None:
        """Reset the flows that are denied by now."""
        for pair in tuple(self._pairs.values()):
            if pair.flow.denied is not None:
                self._finish(pair, Ended(Side.NEITHER, Ending.DENIED))

    async def wait_empty(self) -> None:
        """Wait until no flow is relayed."""
        while self._pairs:
            self._emptied = trio.Event()
            await self._emptied.wait()

    def count(self) -> None:
        """Bring the byte counts of all live flows up to date."""
        for pair in self._pairs.values():
            pair.count()

    def close(self) -> None:
        """Close the epoll set, once the last flow has left it."""
        assert not self._ends
        super().close()

    def _finish(self, pair: Pair, ended: Ended) -> None:
        """Forget the flow, close both sockets and tell the result."""
        pair.count()
        del self._pairs[pair.flow]
        self.unschedule(pair)
        for end in (pair.downstream, pair.upstream):
            if isinstance(end.pending, Pipe):
                end.pending.close()
            end.pending = None
            del self._ends[end.fd]
            if not pair.plain and not isinstance(end.sock, socket.SocketType):
                end.sock.reader = None
            if ended.how is Ending.FIN:
                sockets.finish(end.sock)
            else:
                end.sock.close()
            del end.other, end.pair  # cycles, which would wait for the collector
        if not self._pairs:
            self._emptied.set()
        pair.done(ended)

    def _check_silence(
        self, pair: Pair, now: float, idle: float | None = None, setting: str = "spec.timeouts.idle"
    ) -> None:
        if pair.flow not in self._pairs:  # it was ended since the wheel gave it out
            return
        if not pair.probed:
            pair.probed = True
            sockets.keep_alive(pair.upstream.sock)  # the other one inherited it from its listener
        half_closed = pair.first_eof is not None
        due = pair.active + (self._linger if half_closed else self._idle if idle is None else idle)
        if due > now:
            self.schedule(pair, min(due, now + self._idle))  # at infinity there is nothing to hasten
            return
        if pair.first_eof is not None:
            self._finish(pair, Ended(pair.first_eof, Ending.LINGER))
        else:
            self._finish(pair, Ended(Side.NEITHER, Ending.IDLE, reason=setting))
