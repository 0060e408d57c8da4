"""How relayed bytes move: what one batch of events does to the sockets of flows.

It serves every ready socket in one synchronous batch, so a message costs its system calls and little more.

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
from typing import TYPE_CHECKING, Final

from interceptor.kernel import sockets
from interceptor.kernel.splice import Pipe
from interceptor.proxy.endings import Ended, Ending
from interceptor.proxy.loop import Loop
from interceptor.proxy.pair import MESSAGE, End

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.model.connection import RelayChoice
    from interceptor.proxy.pair import Pair
    from interceptor.proxy.turns import Events

# Of one buffer where there is TLS: with 256 KiB a byte costs a tenth more of our CPU.
WIDE: Final = 512 * 1024
LITTLE: Final = 32 * 1024  # less than this at once is no bulk

_BROKEN: Final = select.EPOLLERR
_UNUSUAL: Final = select.EPOLLRDHUP | select.EPOLLPRI | select.EPOLLHUP | _BROKEN
_READ: Final = ~select.EPOLLOUT
_FIN: Final = select.EPOLLRDHUP | select.EPOLLPRI  # the former alone: what is not read yet, and then no more


class Relay(Loop):
    """Moves bytes between the ends of flows; who begins and ends them is the hub."""

    def __init__(self, tick: float, clock: Callable[[], float], choice: RelayChoice, linger: float) -> None:
        super().__init__(tick, clock)
        self._relay = choice
        self._linger = linger
        self._ends: dict[int, End] = {}
        self._wide = memoryview(bytearray(WIDE))
        self._read: list[End] = []  # in this batch: to be written
        self._queue: deque[End] = deque()

    def _finish(self, pair: Pair, ended: Ended) -> None:
        """Forget the flow, close both sockets and tell the result."""
        raise NotImplementedError

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
            elif end.full and end.least:  # a TLS stream tells by drain
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
        """Pass on what is in the socket, by the large buffer."""
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
        if size < LITTLE and not end.pair.plain:  # a message: to be written at the end of the batch
            end.pending = bytes(view[:size])
            self._read.append(end)
        else:
            self._pass_on(end, view, size)

    def _pass_on(self, end: End, view: memoryview, size: int) -> None:
        """Send what is in the large buffer, and keep what is not taken."""
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
