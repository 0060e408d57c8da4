"""The hub: one edge-triggered epoll set that relays the bytes of all flows.

A single trio task serves every ready socket in one synchronous batch, so a message costs its system calls and little
more. While messages come it waits for the next one in its own epoll, not in trio's: a turn of trio's loop would cost
more than the message. Only after a silence, or when other tasks can run, trio has the thread. A flow's own task hands
both sockets over and is parked until the flow ends; from then on the sockets belong to the hub, which closes them.
Accepts and dials wait in the same set.

What keeps it right:

- An edge tells once, so a socket is read until the kernel has no more. A read shorter than the buffer is such an end,
  except after a FIN or urgent data was announced: then only a read of nothing is (``drain``).
- What the sink did not take stays pending and its source is not read again until it did: exact backpressure, and a
  flow never holds more than one buffer for each direction. So at an end of stream nothing is ever pending.
- A flow begins as copy. A source that fills the buffer is bulk: its next turns go by splice through a pipe, which costs
  half as much for a byte and more for a message; a small piece, a FIN or urgent data makes it copy again. A pipe
  belongs to a source only while its sink has not taken all: mostly one serves every flow. Without a pipe it is copied.
- A turn is one buffer, or one pipe. A source that filled it goes to the run queue and has its next turn after the other events
  of a fresh poll: a bulk flow delays a small one by one buffer, never by its length.
- A TLS stream (``interceptor.tls.stream``) is read and written like a socket, and never spliced. Its end of stream is a
  record, for which the kernel may have no room: then a byte that is never sent stands in ``pending`` for it.
- A RST is never turned into an orderly end: the other side is reset too, after what had arrived before was passed on.
  Nor is our own end: a socket in here is set to be reset when it is closed, also by the kernel of a killed process.
- An event is looked up by descriptor in ``_ends``: a flow that ended earlier in a batch is not found by a later event
  of that batch. Closing a socket takes it out of the epoll set: no other process holds a copy of it.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import outcome
import trio

from interceptor.kernel import sockets
from interceptor.kernel.splice import Pipe, Pipes
from interceptor.proxy.endings import Ended, Ending, Side
from interceptor.proxy.pair import End, Pair

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.model.connection import Flow, RelayChoice
    from interceptor.tls.stream import TlsStream

BUFFER: Final = 256 * 1024  # 64 KiB costs a fifth more for a byte, 1 MiB saves nothing
LITTLE: Final = 32 * 1024  # a splice of less than this ends a bulk
BATCH: Final = 256  # events taken from the kernel at once
# How long the hub may keep the thread from trio, and how long a silence it waits for the next message by itself: the
# resolution of epoll_wait, and more than the time in which a lone client asks again.
STRETCH: Final = 0.001

_INTEREST: Final = (
    select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLPRI | select.EPOLLET
)  # EPOLLPRI: urgent data makes reads short
_DRAIN: Final = select.EPOLLRDHUP | select.EPOLLPRI | select.EPOLLHUP


Leg: TypeAlias = "socket.socket | TlsStream"  # one side of a flow, connected and non-blocking


class Machine(Protocol):
    """A protocol that is driven by the events of a socket."""

    drain: bool  # read until nothing comes: a short read proves nothing

    def handle(self, event: int) -> None:
        """Something happened at the socket: epoll's events. Which of them are old news has to be found out."""

    def fail(self, error: Exception) -> None:
        """It raised this, which is a fault of ours."""


class Timed(Protocol):
    """What looks at the time now and then."""

    slot: int  # of the timer wheel

    def check_time(self, now: float) -> None:
        """Its time has come: it schedules itself again, or not."""


class Hub:
    """Relays bytes between pairs of connected, non-blocking sockets."""

    def __init__(
        self,
        *,
        idle: float,
        linger: float,
        relay: RelayChoice = "auto",
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._relay = relay
        self._pipes = Pipes()
        self._idle = idle
        self._linger = linger
        self._clock = clock
        self._now = 0.0
        self._epoll = select.epoll()
        self._ends: dict[int, End] = {}
        self._waiting: dict[int, trio.lowlevel.Task] = {}
        self._machines: dict[int, Machine] = {}
        self._woke_task = False  # in this stretch: trio has something to run
        self._queue: deque[End] = deque()
        self._buffer = bytearray(BUFFER)
        self._view = memoryview(self._buffer)
        # One coarse timer wheel: a timeout is noticed late by at most a second or an eighth of itself.
        self._tick = min(1.0, idle / 8, linger / 8)
        self._wheel: dict[int, set[Pair | Timed]] = {}
        self._cursor = 0

    async def relay(
        self, flow: Flow, downstream: Leg, upstream: Leg, early: tuple[bytes, bytes] = (b"", b"")
    ) -> Ended:
        """Relay until the flow ends, then close both sockets; cancelled, both are reset.

        The flow's byte counts are right from then on; before, ``count`` brings them up to date. ``early`` is what was
        already read from the peer and from the upstream; the former is counted.
        """
        ends = End(Side.DOWNSTREAM, downstream), End(Side.UPSTREAM, upstream)
        pair = Pair(flow, *ends, trio.lowlevel.current_task())
        pair.active = self._clock()
        tls = not (isinstance(downstream, socket.socket) and isinstance(upstream, socket.socket))
        flow.relay = "tls" if tls else "splice" if self._relay == "splice" else "copy"
        self.schedule(pair, pair.active + self._idle)
        ends[0].moved, ends[1].moved = flow.bytes_received, flow.bytes_sent + len(early[1])
        for end, data in zip(ends, early, strict=True):
            sockets.reset_on_close(end.sock)
            end.pending = memoryview(data) if data else None
            end.spliced = not tls and self._relay != "copy"
            end.bulk = not tls and self._relay == "splice"
            self._ends[end.fd] = end
            self._epoll.register(end.fd, _INTEREST)  # what already arrived is an event at once
            if not isinstance(end.sock, socket.socket):
                end.sock.reader = end
                self._enqueue(end)  # what came with the handshake is no event

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._remove(pair)
            downstream.close()
            upstream.close()
            return trio.lowlevel.Abort.SUCCEEDED

        ended: Ended = await trio.lowlevel.wait_task_rescheduled(abort)
        return ended

    def count(self) -> None:
        """Bring the byte counts of all live flows up to date."""
        for end in self._ends.values():
            if end.side is Side.DOWNSTREAM:
                end.pair.count()

    def end_denied(self) -> None:
        """Reset the flows that are denied by now."""
        for end in tuple(self._ends.values()):
            if end.side is Side.DOWNSTREAM and end.pair.flow.denied is not None:
                self._finish(end.pair, Ended(Side.NEITHER, Ending.DENIED))

    # For machines: protocols that are driven by events, in the hub's own task.

    @property
    def now(self) -> float:
        """When the events that are being served were taken from the kernel."""
        return self._now

    @property
    def buffer(self) -> bytearray:
        """What is received here has to be taken out of it within the same call."""
        return self._buffer

    @property
    def view(self) -> memoryview:
        """The buffer's."""
        return self._view

    def watch(self, sock: Leg, machine: Machine) -> None:
        """Tell a machine every event of a socket from now on; what is there already is an event at once."""
        fd = sock.fileno()
        if not isinstance(sock, socket.socket):
            sock.reader = machine
            machine.drain = True  # what came with the handshake is no event
        if fd in self._machines:
            self._epoll.modify(fd, _INTEREST)
        else:
            self._epoll.register(fd, _INTEREST)
        self._machines[fd] = machine

    def watches(self, fd: int, machine: Machine) -> bool:
        """Whether the machine has this descriptor's events."""
        return self._machines.get(fd) is machine

    def again(self, fd: int) -> None:
        """Tell the machine once more what is the case, after the others had their turn."""
        if fd in self._machines:
            self._epoll.modify(fd, _INTEREST)

    def forget(self, fd: int) -> None:
        """The socket is closed next, which takes it out of the epoll set."""
        del self._machines[fd]

    def release(self, fd: int) -> None:
        """The socket is somebody else's from here."""
        del self._machines[fd]
        self._epoll.unregister(fd)

    def wake(self, task: trio.lowlevel.Task, result: outcome.Outcome[object]) -> None:
        """Let a parked task go on."""
        trio.lowlevel.reschedule(task, result)
        self._woke_task = True

    def schedule(self, timed: Pair | Timed, due: float) -> None:
        """Call it when the time has come, late by at most a tick."""
        timed.slot = int(due / self._tick) + 1
        self._wheel.setdefault(timed.slot, set()).add(timed)

    def unschedule(self, timed: Pair | Timed) -> None:
        """Call it no more, where it was to be called."""
        slot = self._wheel.get(timed.slot)
        if slot is not None:
            slot.discard(timed)
            if not slot:
                del self._wheel[timed.slot]

    def _tell(self, fd: int, event: int) -> None:
        """An event that is not of a relayed flow: a machine's, a waiting task's, or of what ended in this batch."""
        machine = self._machines.get(fd)
        if machine is not None:
            try:
                machine.handle(event)
            except Exception as error:  # noqa: BLE001 (a fault in one machine must end no other: it passes it on)
                machine.fail(error)
        elif fd in self._waiting:
            self._epoll.unregister(fd)
            self._wake(self._waiting.pop(fd), None)

    async def wait_readable(self, sock: socket.socket) -> None:
        """As trio's, for a socket that no flow has yet, and without a turn of trio's own epoll."""
        await self._wait(sock.fileno(), select.EPOLLIN)

    async def wait_writable(self, sock: socket.socket) -> None:
        """The same for a dial."""
        await self._wait(sock.fileno(), select.EPOLLOUT)

    async def _wait(self, fd: int, event: int) -> None:
        self._waiting[fd] = trio.lowlevel.current_task()
        self._epoll.register(fd, event)

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            del self._waiting[fd]
            self._epoll.unregister(fd)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    async def run(self) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_time)
            while True:
                if self._stretch():
                    await trio.lowlevel.checkpoint()
                else:
                    await trio.lowlevel.wait_readable(self._epoll)

    def close(self) -> None:
        """Close the epoll set, once the last flow has left it."""
        assert not self._ends
        self._pipes.close()
        self._epoll.close()

    def _stretch(self) -> bool:
        """Serve until trio has something to run or a stretch is over; whether there is more to do at once.

        Where a task was woken trio must wait for what comes next: it may run this one first, before the woken task,
        and then nothing tells that there is one.
        """
        alone = not trio.lowlevel.current_statistics().tasks_runnable
        self._woke_task = False
        until = self._clock() + STRETCH
        while True:
            served = self._round(STRETCH if alone and not self._queue else 0)
            if not served:
                return False
            if self._woke_task:
                return bool(self._queue)
            if self._now >= until:
                return True

    def _round(self, timeout: float) -> int:
        """Serve what is ready, waiting so long for it, then give each queued source one turn; how many turns that was."""
        queued = len(self._queue)
        events = self._epoll.poll(timeout, BATCH)
        self._now = self._clock()
        ends = self._ends
        for fd, event in events:
            end = ends.get(fd)
            if end is None:
                self._tell(fd, event)
                continue
            if event & select.EPOLLERR:
                self._broken(end)
                continue
            if event & _DRAIN:
                end.drain = True
            if end.other.pending is not None:  # room for what the other side sent, perhaps
                self._turn(end.other)
            if event & ~select.EPOLLOUT and not (end.eof or end.queued or end.pending) and fd in ends:
                self._turn(end)
        for _ in range(queued):
            end = self._queue.popleft()
            end.queued = False
            if ends.get(end.fd) is end:
                self._turn(end)
        return len(events) + queued

    def _turn(self, end: End) -> None:
        """Pass on what is pending, then one buffer or one pipe."""
        if end.pending is not None:
            if not self._flush(end):
                return
            if end.eof:
                self._end_of_stream(end)
                return
        pipe = self._pipes.take() if end.bulk and not end.drain else None
        try:
            size = end.sock.recv_into(self._buffer) if pipe is None else pipe.take_from(end.fd)
        except BlockingIOError:
            if pipe is not None:
                self._pipes.give_back(pipe)
            return
        except OSError as error:
            if pipe is not None:
                self._pipes.give_back(pipe)
            self._broken(end, error.errno or 0)
            return
        end.moved += size
        end.pair.active = self._now
        if pipe is not None:
            self._spliced(end, pipe, size)
        elif size:
            self._copied(end, size)
        else:
            self._end_of_stream(end)

    def _spliced(self, end: End, pipe: Pipe, size: int) -> None:
        """Pass on what is in the pipe; how much is left in the socket is not known."""
        if not size:
            self._pipes.give_back(pipe)
            self._end_of_stream(end)
            return
        end.pair.flow.relay = "splice"
        end.bulk = size >= LITTLE or self._relay == "splice"
        end.pending = pipe
        if self._flush(end):
            self._enqueue(end)

    def _copied(self, end: End, size: int) -> None:
        """Pass on what is in the buffer, and keep what is not taken."""
        try:
            sent = end.other.sock.send(self._view[:size])
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._broken(end.other, error.errno or 0)
            return
        if sent < size:
            end.pending = memoryview(bytes(self._view[sent:size]))
        if size == BUFFER:
            end.bulk = end.spliced
        if end.pending is None and (size == BUFFER or end.drain):
            self._enqueue(end)

    def _enqueue(self, end: End) -> None:
        end.queued = True
        self._queue.append(end)

    def _flush(self, end: End) -> bool:
        """Offer what is pending; whether all of it was taken."""
        pending = end.pending
        assert pending is not None
        sink = end.other.sock
        try:
            while len(pending):  # until the kernel refuses: then it tells when there is room
                if isinstance(pending, Pipe):
                    pending.give_to(sink.fileno())
                else:
                    end.pending = pending = pending[sink.send(pending) :]
                end.pair.active = self._now
        except BlockingIOError:
            return False
        except OSError as error:
            self._broken(end.other, error.errno or 0)
            return False
        if isinstance(pending, Pipe):
            self._pipes.give_back(pending)
        end.pending = None
        return True

    def _end_of_stream(self, end: End) -> None:
        """Pass the end on; the flow is over when both sides' was. To a plain socket the second one is its close."""
        end.eof = True
        pair, sink = end.pair, end.other.sock
        if pair.first_eof is None or not isinstance(sink, socket.socket):
            try:
                sink.shutdown(socket.SHUT_WR)
            except BlockingIOError:  # TLS has no room for its record: this is called again when there is
                end.pending = memoryview(b"\0")
                return
            except OSError as error:
                self._broken(end.other, error.errno or 0)
                return
        if pair.first_eof is not None:
            self._finish(pair, Ended(pair.first_eof, Ending.FIN))
            return
        pair.first_eof = end.side
        pair.active = self._now
        self.unschedule(pair)
        self.schedule(pair, self._now + self._linger)

    def _broken(self, end: End, number: int = 0) -> None:
        """A connection broke: pass on what it still holds, in order, then reset the other side."""
        other = end.other
        number = sockets.pending_error(end.sock) or number  # the cause, where the call only saw the effect
        if not end.eof and end.pending is None:
            with contextlib.suppress(OSError):
                while size := end.sock.recv_into(self._buffer):
                    end.moved += size
                    other.sock.sendall(self._view[:size])  # non-blocking: ends at what is not taken
                if number == errno.EPIPE:  # the kernel's word for a RST that came after a FIN
                    other.sock.shutdown(socket.SHUT_WR)
        self._finish(end.pair, Ended(end.side, Ending.RESET, number or errno.ECONNRESET))

    def _finish(self, pair: Pair, ended: Ended) -> None:
        """Close both sockets and wake the flow's task with the result."""
        self._remove(pair)
        for end in (pair.downstream, pair.upstream):
            if ended.how is Ending.FIN:
                sockets.finish(end.sock)
            else:
                end.sock.close()
        self._wake(pair.task, ended)

    def _wake(self, task: trio.lowlevel.Task, value: Ended | None) -> None:
        self.wake(task, outcome.Value(value))

    def _remove(self, pair: Pair) -> None:
        """Forget a flow, whose sockets are closed next."""
        pair.count()
        self.unschedule(pair)
        for end in (pair.downstream, pair.upstream):
            if isinstance(end.pending, Pipe):
                end.pending.close()
            if not isinstance(end.sock, socket.socket):
                end.sock.reader = None
            del self._ends[end.fd]
            del end.other, end.pair  # cycles, which would wait for the collector

    async def _watch_time(self) -> None:
        """End flows that were silent for too long; activity is looked at only when a flow's slot comes up."""
        self._cursor = int(self._clock() / self._tick)
        while True:
            await trio.sleep(self._tick)
            now = self._clock()
            reached = int(now / self._tick)
            for slot in range(self._cursor + 1, reached + 1):
                for timed in tuple(self._wheel.get(slot, ())):
                    if isinstance(timed, Pair):
                        self._check_silence(timed, now)
                    else:
                        timed.check_time(now)
            self._cursor = reached

    def _check_silence(self, pair: Pair, now: float) -> None:
        half_closed = pair.first_eof is not None
        due = pair.active + (self._linger if half_closed else self._idle)
        if due > now:
            self.unschedule(pair)
            self.schedule(pair, due)
            return
        how = Ending.LINGER if half_closed else Ending.IDLE
        self._finish(pair, Ended(pair.first_eof or Side.NEITHER, how))
