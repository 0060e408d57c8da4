"""The loop under the hub: one epoll set for everything that waits in the proxy, and who is told what.

Relayed flows come first (``Hub`` serves them), then the machines: protocols driven by the events of a socket; then the
listeners. So no descriptor is opened while events of the same batch are still looked up by it.
"""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import outcome
import trio

from interceptor.kernel.splice import Pipes
from interceptor.proxy.turns import Turns
from interceptor.proxy.wheel import Wheel

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.proxy.turns import Events
    from interceptor.proxy.wheel import Timed
    from interceptor.tls.stream import TlsStream

BUFFER: Final = 256 * 1024  # 64 KiB costs a fifth more for a byte, 1 MiB saves nothing

INTEREST: Final = (
    select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLPRI | select.EPOLLET
)  # EPOLLPRI: urgent data makes reads short

Leg: TypeAlias = "socket.socket | TlsStream"  # one side of a flow, connected and non-blocking


class Machine(Protocol):
    """A protocol that is driven by the events of a socket."""

    drain: bool  # read until nothing comes: a short read proves nothing

    def handle(self, event: int) -> None:
        """Something happened at the socket: epoll's events. Which of them are old news has to be found out."""

    def fail(self, error: Exception) -> None:
        """It raised this, which is a fault of ours."""


class Sender(Protocol):
    """What has something to send at the end of a batch."""

    def send_due(self) -> None:
        """The batch is over."""

    def fail(self, error: Exception) -> None:
        """It raised this, which is a fault of ours."""


class Loop:
    """Waits for descriptors, and tells what is ready."""

    def __init__(self, tick: float, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.now = 0.0  # when the events that are being served were taken from the kernel
        self._epoll = select.epoll()
        self._turns = Turns(self._epoll, clock)
        self._machines: dict[int, Machine] = {}
        self.senders: list[Sender] | None = None  # while a batch of machines' events is served
        self._calls: dict[int, Callable[[], object]] = {}  # of listeners and waiting tasks
        self.buffer = bytearray(BUFFER)  # what is received has to be taken out within the same call
        self.view = memoryview(self.buffer)
        self.pipes = Pipes()
        self._wheel = Wheel(tick)

    def use_clock(self, clock: Callable[[], float]) -> None:
        """Read the time by a faster way to the same clock."""
        self.clock = self._turns.clock = clock

    # What machines use

    def watch(self, sock: Leg, machine: Machine) -> None:
        """Tell a machine every event of a socket from now on; what is there already is an event at once."""
        fd = sock.fileno()
        if not isinstance(sock, socket.SocketType):
            sock.reader = machine
            machine.drain = True  # what came with the handshake is no event
        if fd in self._machines:
            self._epoll.modify(fd, INTEREST)
        else:
            self._epoll.register(fd, INTEREST)
        self._machines[fd] = machine

    def watches(self, fd: int, machine: Machine) -> bool:
        """Whether the machine has this descriptor's events."""
        return self._machines.get(fd) is machine

    def again(self, fd: int) -> None:
        """Tell the machine once more what is the case, after the others had their turn."""
        if fd in self._machines:
            self._epoll.modify(fd, INTEREST)

    def forget(self, fd: int) -> None:
        """The socket is closed next, which takes it out of the epoll set."""
        del self._machines[fd]

    def release(self, fd: int) -> None:
        """The socket is somebody else's from here."""
        del self._machines[fd]
        self._epoll.unregister(fd)

    def schedule(self, timed: Timed, due: float) -> None:
        """Call it when the time has come, late by at most a tick."""
        self._wheel.add(timed, due)

    def unschedule(self, timed: Timed) -> None:
        """Call it no more, where it was to be called."""
        self._wheel.remove(timed)

    # What tasks and listeners use

    @staticmethod
    def wake(task: trio.lowlevel.Task, result: outcome.Outcome[object]) -> None:
        """Let a parked task go on."""
        trio.lowlevel.reschedule(task, result)

    def accept_on(self, sock: socket.socket, call: Callable[[], object]) -> None:
        """Call a function, which must not raise, whenever a listener has connections."""
        self._calls[sock.fileno()] = call
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def accept_no_more(self, sock: socket.socket) -> None:
        """Leave a listener alone."""
        del self._calls[sock.fileno()]
        self._epoll.unregister(sock.fileno())

    async def wait_readable(self, sock: Leg) -> None:
        """As trio's, for a socket that no flow has yet, and without a turn of trio's own epoll."""
        await self._wait(sock.fileno(), select.EPOLLIN)

    async def wait_writable(self, sock: Leg) -> None:
        """The same for a dial."""
        await self._wait(sock.fileno(), select.EPOLLOUT)

    async def _wait(self, fd: int, event: int) -> None:
        task = trio.lowlevel.current_task()

        def forget() -> None:
            del self._calls[fd]
            self._epoll.unregister(fd)

        def wake() -> None:
            forget()
            trio.lowlevel.reschedule(task, outcome.Value(None))

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            forget()
            return trio.lowlevel.Abort.SUCCEEDED

        self._calls[fd] = wake
        self._epoll.register(fd, event)
        await trio.lowlevel.wait_task_rescheduled(abort)

    # The loop

    async def run(self) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_time)
            with self._turns.watched():
                while True:
                    await trio.lowlevel.wait_readable(self._epoll)
                    with self._turns.outermost() as inner:
                        self._calls[inner] = self._turns.ask
                        await self._serve_while_bytes_move()

    async def _serve_while_bytes_move(self) -> None:
        turns = self._turns
        while True:
            events = turns.wait(busy=self._busy)
            if events or self._busy:
                self.now = turns.now
                self._tell(self._serve(events))
            elif not turns.of_trio:
                return
            if turns.of_trio:
                await turns.give()

    @property
    def _busy(self) -> bool:
        """Whether there is more to serve, without an event."""
        raise NotImplementedError

    def _serve(self, events: Events) -> Events:
        """Serve the relayed flows; the events that were not theirs."""
        raise NotImplementedError

    def _tell(self, events: Events) -> None:
        """Events of machines, waiting tasks and listeners, and of what ended in this batch."""
        called = []
        machines = self._machines
        senders: list[Sender] = []
        self.senders = senders
        for fd, event in events:
            machine = machines.get(fd)
            if machine is None:
                called.append(fd)
                continue
            try:
                machine.handle(event)
            except Exception as error:  # noqa: BLE001 (a fault in one machine must end no other: it passes it on)
                machine.fail(error)
        # All is read before it is written: who waits is woken once for several messages.
        for sender in senders:
            try:
                sender.send_due()
            except Exception as error:  # noqa: BLE001 (as above)
                sender.fail(error)
        self.senders = None
        for fd in called:
            if call := self._calls.get(fd):
                call()

    async def _watch_time(self) -> None:
        """Look at what is scheduled when its time has come."""
        tick = self._wheel.tick
        self._wheel.turn(now := self.clock())
        while True:
            # Until the next slot is reached: a whole tick from anywhere would make what is due late by two.
            await trio.sleep(tick - now % tick)
            now = self.clock()
            for timed in self._wheel.turn(now):
                timed.check_time(now)

    def close(self) -> None:
        """Close the epoll set, once the last socket has left it."""
        self.pipes.close()
        self._epoll.close()
