"""A client's HTTP/2 connection and one to its upstream: a bridge between two sockets, in the hub's own task.

The upstream's connection is the client's alone, so that GOAWAY, windows and limits mean to the client what the upstream
meant. Neither side is read while the other one, or it itself, does not take what comes of it.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

import outcome
import trio

from interceptor.kernel import sockets
from interceptor.model.connection import Direction, ResponseFlag
from interceptor.protocol.http2.bridge import Bridge
from interceptor.protocol.http2.writer import MARK
from interceptor.proxy.endings import DialError
from interceptor.proxy.http import replies
from interceptor.proxy.http.http2_requests import Requests
from interceptor.proxy.http.side import Gathering, Side, room

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from interceptor.model.http import LocalReply
    from interceptor.proxy.http.client import Dialled
    from interceptor.proxy.http.roles import Judge
    from interceptor.proxy.http.serve import Service
    from interceptor.proxy.loop import Leg

LINGER: Final = 5.0  # seconds for a client to read what it was told last: nginx's figure
TICK: Final = 1.0  # seconds between two looks at the time, or an eighth of the shortest timeout


async def serve(
    service: Service,
    downstream: Leg,
    dialled: Dialled | None,
    dial: Callable[[], Awaitable[Dialled]],
    early: bytes = b"",
) -> None:
    """Serve a connection to its end, and close it; cancelled, it is reset. The upstream is dialled where it was not.

    Where requests may go elsewhere it is dialled for the first one that does not. What is early was read already.
    """
    session = Session(service, downstream, early)
    try:
        if dialled is None:
            with session.dialling:
                await session.wait_wanted()
                dialled = await _dialled(session, dial)
        if dialled is not None:
            session.connect(dialled)
        await session.wait()
    except trio.Cancelled:
        session.abort(ResponseFlag.LOCAL_RESET, "the proxy was stopped")
        raise


async def _dialled(session: Session, dial: Callable[[], Awaitable[Dialled]]) -> Dialled | None:
    try:
        return await dial()
    except DialError as failure:
        session.refuse(replies.of_dial(failure))
        return None


class Session(Gathering):
    """The two sides, and when they end."""

    __slots__ = (
        "_active", "_bridge", "_busy", "_down", "_head_at", "_linger_at", "_moved", "_over", "_requests", "_result",
        "_service", "_task", "_tick", "_up", "dialling", "slot",
    )  # fmt: skip

    def __init__(self, service: Service, downstream: Leg, early: bytes = b"") -> None:
        every = service.all
        self._service = service
        super().__init__(every.hub)
        self._requests = Requests(service, self._act, self.settle)
        now = every.clock()
        self._bridge = self._requests.bridge = Bridge(self._requests, now)
        self.dialling = trio.CancelScope()
        self.slot = 0  # of the timer wheel
        timeouts = (every.head_timeout, every.idle_timeout, every.request_timeout or every.idle_timeout)
        self._tick = min(TICK, min(timeouts) / 8)
        self._task: trio.lowlevel.Task | None = None
        self._result: outcome.Outcome[None] = outcome.Value(None)
        self._over = False
        self._busy = False
        self._up: Side | None = None
        self._active = now
        self._moved = 0
        self._head_at: float | None = None  # since when the client has been amid a head
        self._linger_at: float | None = None  # since when we only wait for the client to read
        self._down = Side(
            self._hub, downstream, self._bridge.downstream.writer, self._receive_downstream, self
        )
        every.live.add(self)
        if service.flow.direction is Direction.INGRESS:
            every.expiring.add(self, service.flow.proved_until)
        self._hub.schedule(self, now + self._tick)
        if service.multiplexed and not (every.router is not None and every.router.active(service.flow)):
            self._requests.wanted.set()
        if early:
            self._down.moved += len(early)
            self._receive_downstream(early, now)
        self.settle()

    async def wait(self) -> None:
        """Wait for the end."""
        if self._over:
            return self._result.unwrap()
        self._task = trio.lowlevel.current_task()

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        return None

    async def wait_wanted(self) -> None:
        """Wait until a request is for the connection's own upstream."""
        await self._requests.wanted.wait()

    def connect(self, dialled: Dialled) -> None:
        """There is an upstream."""
        if self._over:
            sockets.reset(dialled.sock)
            return
        self._requests.dialled = dialled
        bridge = self._bridge
        self._up = Side(self._hub, dialled.sock, bridge.upstream.writer, bridge.receive_upstream, self)
        self._act(bridge.connected)

    def refuse(self, local: LocalReply) -> None:
        """There is none."""
        self._act(lambda: self._bridge.lost_upstream(local))

    # What the sides call

    def may_read(self, side: Side) -> bool:
        """Neither the other side nor it itself has much to send. Its own share may be larger: it could be told least."""
        other = self._up if side is self._down else self._down
        return self._linger_at is not None or (room(other) and room(side, 2 * MARK))

    def end_of_stream(self, side: Side) -> None:
        """A connection of HTTP/2 is never half open."""
        if side is not self._down:
            self._lose_upstream()
        elif self._linger_at is not None or not self._bridge.downstream.streams:
            self._lose_requests(ResponseFlag.NONE, "-")
            self._close()
        else:
            self._lose_downstream("the client ended the connection in the middle of a request")

    def broken(self, side: Side) -> None:
        """A socket is no more."""
        if side is not self._down:
            self._lose_upstream()
        else:
            self._lose_downstream("the client reset the connection")

    @property
    def _backlog(self) -> int:
        return self._down.backlog + (0 if self._up is None else self._up.backlog)

    def _settle(self) -> None:
        """Send what there is to be sent, read on where that was waited for, and see whether it is the end."""
        if self._busy or not self._flush():
            return
        for side in (self._down, self._up):
            if side is not None and side.unread and self.may_read(side):
                side.unread = False
                self._hub.again(side.fd)
        if self._linger_at is None and self._bridge.ended and not self._down.backlog:
            self._finish()

    def _flush(self) -> bool:
        """Send to both sides; whether there are any left.

        The upstream first: that it is gone has to be told to the client. What the client takes opens windows of the
        upstream, which has to be told in turn.
        """
        down = self._down
        while not self._over:
            if (up := self._up) is not None and up.due:
                up.flush()
            if down.due:
                down.flush()
            if self._up is None or not self._up.due:
                break
        return not self._over

    def fail(self, error: Exception) -> None:
        """A fault of ours: the flow's task raises it."""
        self._result = outcome.Error(error)
        self.abort(ResponseFlag.LOCAL_RESET, "a fault of the proxy")

    # What the hub and the server call

    def check_time(self, now: float) -> None:
        """End what takes too long."""
        every = self._service.all
        self._hub.unschedule(self)
        if self._linger_at is not None:
            if now - self._linger_at >= LINGER:
                self._close()
                return
        elif self._late(now):
            self._bridge.drain()
            self._lose_downstream("the client took too long", ResponseFlag.IDLE_TIMEOUT)
            return
        elif every.request_timeout is not None:
            self._act(lambda: self._requests.check_time(now))
        self._hub.schedule(self, now + self._tick)

    def _late(self, now: float) -> bool:
        """Whether nothing moved for too long, or the client is amid a head for too long."""
        every = self._service.all
        moved = self._down.moved + self._down.sent
        if moved != self._moved:
            self._moved, self._active = moved, now
        if not self._bridge.downstream.within_head:
            self._head_at = None
        elif self._head_at is None:
            self._head_at = now
        elif now - self._head_at >= every.head_timeout:
            return True
        return now - self._active >= every.idle_timeout

    def end_denied(self) -> None:
        """The flow may have lost permission while it is open."""
        flow = self._service.flow
        if flow.denied is not None:
            self.abort(flow.flag, flow.details)

    def reconsider(self, judge: Judge) -> int:
        """End the requests that are refused by now, each on its stream."""
        ended = 0

        def end() -> None:
            nonlocal ended
            ended = self._requests.reconsider(judge)

        self._act(end)
        return ended

    def drain_now(self) -> None:
        """No further stream is taken."""
        self._act(self._bridge.drain)

    def abort(self, flag: ResponseFlag, details: str) -> None:
        """End both sides here and now."""
        if not self._over:
            self._lose_requests(flag, details)
            self._close(reset=True)

    # Inside

    def _receive_downstream(self, data: bytes, now: float) -> None:
        """Take what the client sent; what comes of it is sent at the end of the turn."""
        self._busy = True
        try:
            self._bridge.receive_downstream(data, now)
            self._requests.pass_on()
        finally:
            self._busy = False

    def _act(self, action: Callable[[], None]) -> None:
        """Do something with the bridge, from a task or amid a turn of the hub, then what comes of it."""
        if self._busy or self._over:
            action()
            return
        self._busy = True
        try:
            action()
        finally:
            self._busy = False
        self.settle()

    def _lose_upstream(self) -> None:
        up, self._up = self._up, None
        if up is not None:
            self._hub.forget(up.fd)
            up.sock.close()
            self._bridge.lost_upstream(replies.CLOSED)

    def _lose_downstream(self, details: str, flag: ResponseFlag = ResponseFlag.DOWNSTREAM_RESET) -> None:
        if self._over:
            return
        flow = self._service.flow
        flow.flag, flow.details = flag, details
        self._lose_requests(flag, details)
        self._close(reset=True)

    def _lose_requests(self, flag: ResponseFlag, details: str) -> None:
        """The client is no more, and is closed next: nothing is sent to it whatever comes of this."""
        self._busy = True
        self._bridge.lost_downstream(flag, details)

    def _finish(self) -> None:
        """Nothing more is to be said: let the client read what it was told, and close."""
        self._leave_upstream()
        try:
            self._down.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._close()
            return
        self._linger_at = self._hub.now
        self._hub.again(self._down.fd)

    def _leave_upstream(self) -> None:
        """Say to the upstream what there is to be said, and close."""
        up = self._up
        if up is not None:
            up.flush()
        up, self._up = self._up, None  # flushing may have found that it was gone
        if up is not None:
            self._hub.forget(up.fd)
            if up.backlog:
                sockets.reset(up.sock)
            else:
                up.sock.close()

    def _close(self, *, reset: bool = False) -> None:
        self._over = True
        self._leave_upstream()
        flow = self._service.flow
        flow.bytes_received, flow.bytes_sent = self._down.moved, self._down.sent
        self._hub.unschedule(self)
        self._service.all.live.discard(self)
        self._service.all.expiring.discard(self)
        self._hub.forget(self._down.fd)
        if reset:
            sockets.reset(self._down.sock)
        else:
            self._down.sock.close()
        self.dialling.cancel()
        task, self._task = self._task, None
        if task is not None:
            self._hub.wake(task, self._result)
