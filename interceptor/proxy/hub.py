"""The hub: one edge-triggered epoll set that relays the bytes of all flows.

It serves every ready socket in one synchronous batch, so a message costs its system calls and little more; trio has
the thread only when it has something to do (``turns``). A flow's sockets are handed over with a function to be called
with the flow's end; from then on they belong to the hub, which closes them. Accepts and dials wait in the same set.

What keeps it right:

- An edge tells once, so a socket is read until the kernel has no more. A read shorter than the buffer is such an end,
  except after a FIN or urgent data was announced: then only a read of nothing is (``drain``).
- What the sink did not take stays pending and its source is not read again until it did: exact backpressure, and a
  flow never holds more than one buffer for each direction. So at an end of stream nothing is ever pending.
- Of a batch all is read first and written then: who waits for the bytes is woken once for several messages. What was
  read is pending meanwhile, so it is in nobody's way.
- A flow begins as copy. A source that fills the buffer of a message is bulk: its next turns go by splice through a pipe, which costs
  half as much for a byte and more for a message; a small piece, a FIN or urgent data makes it copy again. A pipe
  belongs to a source only while its sink has not taken all: mostly one serves every flow. Without a pipe it is copied.
- A turn is one buffer, or one pipe. A source that filled it goes to the run queue and has its next turn after the other events
  of a fresh poll: a bulk flow delays a small one by one buffer, never by its length.
- A TLS stream (``interceptor.tls.stream``) is read and written like a socket, and never spliced. Its end of stream is a
  record, for which the kernel may have no room: then a byte that is never sent stands in ``pending`` for it.
- A RST is never turned into an orderly end: the other side is reset too, after what had arrived before was passed on.
  Nor is our own end: a socket in here is set to be reset when it is closed, also by the kernel of a killed process.
- An event is looked up by descriptor in ``_ends``: a flow that ended earlier in a batch is not found by a later event
  of that batch. So no descriptor may be opened before all were looked up (``loop``). Closing a socket takes it out of
  the epoll set: no other process holds a copy of it.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

import outcome
import trio

from interceptor.kernel import sockets
from interceptor.kernel.splice import Pipe
from interceptor.proxy.endings import Ended, Ending, Side
from interceptor.proxy.loop import INTEREST, Loop
from interceptor.proxy.pair import MESSAGE, End, Pair

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.model.connection import Flow, RelayChoice
    from interceptor.proxy.loop import Leg
    from interceptor.proxy.turns import Events

WIDE: Final = (
    512 * 1024
)  # of one buffer where there is TLS: with 256 KiB a byte costs a tenth more of our CPU
LITTLE: Final = 32 * 1024  # less than this at once is no bulk
# A flow that lives so long has keepalive probes; most are over by then, and do not pay for setting the options.
YOUNG: Final = 30.0

_BROKEN: Final = select.EPOLLERR
_UNUSUAL: Final = select.EPOLLRDHUP | select.EPOLLPRI | select.EPOLLHUP | _BROKEN
_DOWNSTREAM: Final = Side.DOWNSTREAM  # looking a member of an enumeration up costs as much as a call
_UPSTREAM: Final = Side.UPSTREAM
_READ: Final = ~select.EPOLLOUT
_FIN: Final = select.EPOLLRDHUP | select.EPOLLPRI  # the former alone: what is not read yet, and then no more


class Hub(Loop):
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
        super().__init__(min(1.0, idle / 8, linger / 8), clock)
        self._relay = relay
        self._idle = idle
        self._linger = linger
        self._young = min(YOUNG, idle)
        self._ends: dict[int, End] = {}
        self._pairs: dict[Flow, Pair] = {}
        self._wide = memoryview(bytearray(WIDE))
        self._read: list[End] = []  # in this batch: to be written
        self._queue: deque[End] = deque()
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

    @property
    def _busy(self) -> bool:
        return bool(self._queue)

    def _serve(self, events: Events) -> Events:
        """Serve what is ready, then give each queued source one turn."""
        if not self._ends:
            return events
        queued = len(self._queue)
        ends = self._ends
        others = []
        for fd, event in events:
            end = ends.get(fd)
            if end is None:  # of no flow, or its flow ended earlier in this batch
                others.append((fd, event))
            elif event & _UNUSUAL or end.other.stalled:
                self._serve_unusual(end, event)
            elif event & _READ and end.pending is None and not (end.queued or end.eof):
                if end.full or end.bulk:
                    self._read_from(end)
                else:
                    self._read_message(end)
        self._write()
        for _ in range(queued):
            end = self._queue.popleft()
            end.queued = False
            if ends.get(end.fd) is end:
                self._turn(end)
        self._write()
        return others

    def _serve_unusual(self, end: End, event: int) -> None:
        """An end of stream, urgent data, a broken connection, or perhaps room for what the other side sent."""
        if event & _BROKEN:
            self._broken(end)
            return
        if event & _UNUSUAL:
            end.drain = True
            end.told = event & _FIN == select.EPOLLRDHUP and end.pair.plain
        if end.other.stalled:
            self._turn(end.other)
        if event & _READ and end.pending is None and not (end.queued or end.eof) and end.fd in self._ends:
            self._read_from(end)

    def _turn(self, end: End) -> None:
        """Pass on what is pending, then one buffer or one pipe."""
        if end.pending is not None:
            if not self._flush(end):
                return
            if end.eof or end.last:
                self._end_of_stream(end)
                return
        self._read_from(end)

    def _read_from(self, end: End) -> None:
        if end.bulk and not end.drain and (pipe := self.pipes.take()) is not None:
            self._splice(end, pipe)
        elif end.full or end.bulk:
            self._copy(end)
        else:
            self._read_message(end)

    def _read_message(self, end: End) -> None:
        """Read what there is up to a message's length, to be written at the end of the batch."""
        try:
            data = end.sock.recv(MESSAGE)
        except BlockingIOError:
            return
        except OSError as error:
            self._broken(end, error.errno or 0)
            return
        if not data:
            self._end_of_stream(end)
            return
        size = len(data)
        end.moved += size
        if size >= end.least:
            end.full, end.bulk = True, end.spliced
        elif end.told:
            end.last = True
        end.pair.active = self.now
        end.pending = data
        self._read.append(end)

    def _write(self) -> None:
        """Pass on what was read in this batch. After the last bytes the end is mostly there as well: it is not queued for."""
        if not self._read:
            return
        read, self._read = self._read, []
        for end in read:
            if end.pending is None or not self._flush(end):
                continue
            if end.last:
                self._end_of_stream(end)
            elif end.full:
                self._enqueue(end)
            elif end.drain and not end.queued:
                self._read_from(end)
        for end in self._read:  # more came
            self._enqueue(end)
        self._read.clear()

    def _splice(self, end: End, pipe: Pipe) -> None:
        """Move what fits in a pipe; how much is left in the socket is not known then."""
        try:
            size = pipe.take_from(end.fd)
        except OSError as error:
            self.pipes.give_back(pipe)
            if not isinstance(error, BlockingIOError):
                self._broken(end, error.errno or 0)
            return
        if not size:
            self.pipes.give_back(pipe)
            self._end_of_stream(end)
            return
        end.moved += size
        end.pair.active = self.now
        end.pair.flow.relay = "splice"
        end.bulk = size >= LITTLE or self._relay == "splice"
        end.pending = pipe
        if self._flush(end):
            self._enqueue(end)

    def _copy(self, end: End) -> None:
        """Pass on what is in the socket, by the large buffer, and keep what is not taken."""
        view = self.view if end.pair.plain else self._wide
        try:
            size = end.sock.recv_into(view)
        except BlockingIOError:
            return
        except OSError as error:
            self._broken(end, error.errno or 0)
            return
        if not size:
            self._end_of_stream(end)
            return
        end.moved += size
        end.full = size >= end.least
        end.pair.active = self.now
        if size >= LITTLE:
            self._turns.sleep_next()
        try:
            sent = end.other.sock.send(view[:size])
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._broken(end.other, error.errno or 0)
            return
        if sent < size:
            end.pending, end.stalled = memoryview(bytes(view[sent:size])), True
        if end.full:
            end.bulk = end.spliced
        if end.pending is None and (size == len(view) or end.drain):
            self._enqueue(end)

    def _enqueue(self, end: End) -> None:
        if not end.queued:
            end.queued = True
            self._queue.append(end)

    def _flush(self, end: End) -> bool:
        """Offer what is pending; whether all of it was taken."""
        try:
            self._offer(end)
        except BlockingIOError:
            end.stalled = True
            return False
        except OSError as error:
            self._broken(end.other, error.errno or 0)
            return False
        return True

    def _offer(self, end: End) -> None:
        """Pass on all that is pending, until the kernel refuses: then it tells when there is room. Raises what it says."""
        pending, sink = end.pending, end.other.sock
        if isinstance(pending, Pipe):
            while len(pending):
                pending.give_to(sink.fileno())
                end.pair.active = self.now
            self.pipes.give_back(pending)
        elif pending is not None:
            # A FIN that follows goes in the same packet; where one side is TLS ``last`` is never set.
            while (
                sent := sink.send(pending, socket.MSG_MORE) if end.last else sink.send(pending)  # type: ignore[call-arg]
            ) < len(pending):
                end.pending = pending = memoryview(pending)[sent:]
            end.pair.active = self.now
        end.pending = None
        end.stalled = False

    def _end_of_stream(self, end: End) -> None:
        """Pass the end on; the flow is over when both sides' was. To a plain socket the second one is its close."""
        end.eof = True
        pair, sink = end.pair, end.other.sock
        if pair.first_eof is None or not (pair.plain or isinstance(sink, socket.SocketType)):
            try:
                sink.shutdown(socket.SHUT_WR)
            except BlockingIOError:  # TLS has no room for its record: this is called again when there is
                end.pending, end.stalled = b"\0", True
                return
            except OSError as error:
                self._broken(end.other, error.errno or 0)
                return
        if pair.first_eof is not None:
            self._finish(pair, Ended(pair.first_eof, Ending.FIN))
            return
        pair.first_eof = end.side
        pair.active = self.now
        self._wheel.hasten(pair, self.now + self._linger)

    def _broken(self, end: End, number: int = 0) -> None:
        """A connection broke: pass on what it had sent, in order, then reset the other side."""
        other = end.other
        number = sockets.pending_error(end.sock) or number  # the cause, where the call only saw the effect
        end.last = False  # no FIN follows that would take along what waits for it
        with contextlib.suppress(OSError):
            self._offer(end)
            while not end.eof and (size := end.sock.recv_into(self.buffer)):
                end.moved += size
                other.sock.sendall(self.view[:size])  # non-blocking: ends at what is not taken
            if number == errno.EPIPE and not end.eof:  # the kernel's word for a RST that came after a FIN
                other.sock.shutdown(socket.SHUT_WR)
        self._finish(end.pair, Ended(end.side, Ending.RESET, number or errno.ECONNRESET))

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
