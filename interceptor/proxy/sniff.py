"""What a flow carries, where no document says it: the first bytes of client and server race.

A client that speaks first is understood before anything is dialled; while it is silent the upstream is dialled, so that
a protocol where the server speaks first works without being declared and without delay. Bytes are only looked at
(MSG_PEEK) at each edge, never taken: whoever serves the flow finds all of them.
"""

from __future__ import annotations

import select
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import outcome
import trio

from interceptor.kernel import sockets
from interceptor.protocol.detect import HTTP1, HTTP2, MAX_BYTES, OPAQUE, Detected, detect, is_http2_server
from interceptor.proxy.endings import DialError, GoneError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from interceptor.model.connection import Flow, ProtocolName
    from interceptor.proxy.http.client import Dialled
    from interceptor.proxy.http.roles import Judge
    from interceptor.proxy.http.serve import Serving
    from interceptor.proxy.loop import Leg

# How long a client may wait with its request when its upstream could not be reached, to be told so by HTTP: one that
# speaks first does so within a round trip, and any other is reset that much later.
GRACE: Final = 0.2
GREETING: Final = 9  # bytes of an HTTP/2 frame's head

_BROKEN: Final = select.EPOLLERR | select.EPOLLHUP

Result: TypeAlias = Literal["http1", "http2", "tls", "opaque", "timeout"]


@dataclass(frozen=True, slots=True)
class Found:
    """What a flow carries, and the upstream where it was dialled meanwhile."""

    detected: Detected
    result: Result
    dialled: Dialled | None = None


DECLARED: Final[dict[ProtocolName, Found]] = {
    "http": Found(HTTP1, "http1"),
    "http2": Found(HTTP2, "http2"),
    "grpc": Found(HTTP2, "http2"),
    "tls": Found(OPAQUE, "opaque"),
    "tcp": Found(OPAQUE, "opaque"),
}


async def find_out(
    flow: Flow,
    downstream: Leg,
    dial: Callable[[], Awaitable[Dialled]] | None,
    serving: Serving,
    timeout: float,
) -> Found:
    """Wait until it is known, or the flow is denied. Raises DialError for a client that speaks no HTTP, and GoneError.

    The timeout is for the rest of what a client has begun to say. While nobody says anything there is nothing to decide.
    Without a ``dial`` nothing is dialled: policies would let through HTTP alone, and its client has that time to begin.
    """
    hub = serving.hub
    detected = look(downstream)
    if detected is not None:
        return Found(detected, detected.kind)
    if dial is None:
        return await Race(flow, downstream, None, serving, timeout).run()
    try:
        dialled = await dial()
    except DialError:
        with trio.move_on_after(min(GRACE, timeout)):
            await hub.wait_readable(downstream)
        detected = look(downstream)
        if detected is HTTP1 or detected is HTTP2:
            return Found(detected, detected.kind)
        raise
    if flow.denied is not None:  # while it was dialled
        return Found(OPAQUE, "opaque", dialled)
    return await Race(flow, downstream, dialled, serving, timeout).run()


def look(downstream: Leg) -> Detected | None:
    """What the bytes that have arrived say; an end is for the relay to find. Raises GoneError."""
    try:
        data = downstream.recv(MAX_BYTES, socket.MSG_PEEK)
    except BlockingIOError:
        return None
    except OSError as error:
        raise GoneError(error.errno or 0) from error
    return detect(data) if data else OPAQUE


class Race:
    """Waits for the first bytes of either side; without an upstream for the client's, and not for ever."""

    def __init__(
        self,
        flow: Flow,
        downstream: Leg,
        dialled: Dialled | None,
        serving: Serving,
        timeout: float,
    ) -> None:
        self._flow = flow
        self._downstream = downstream
        self._dialled = dialled
        self._hub = serving.hub
        self._live = serving.live
        self._timeout = timeout
        self._task: trio.lowlevel.Task | None = None
        self._begun = False
        self.drain = False
        self.slot = 0  # of the timer wheel

    async def run(self) -> Found:
        """The sockets are nobody's again at the end; cancelled, the upstream's is closed."""
        self._task = trio.lowlevel.current_task()
        self._live.add(self)
        self._hub.watch(self._downstream, self)
        if self._dialled is None:
            self.begin()
        else:
            self._hub.watch(self._dialled.sock, _Upstream(self, self._dialled.sock))

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        try:
            found: Found = await trio.lowlevel.wait_task_rescheduled(abort)
        except BaseException:
            self._leave()
            if self._dialled is not None:
                sockets.reset(self._dialled.sock)
            raise
        self._leave()
        return found

    def _leave(self) -> None:
        self._live.discard(self)
        self._hub.unschedule(self)
        self._hub.release(self._downstream.fileno())
        if self._dialled is not None:
            self._hub.release(self._dialled.sock.fileno())

    def handle(self, event: int) -> None:
        """The client said something, or nothing more."""
        if self._task is None or not event & ~select.EPOLLOUT:
            return
        # A broken connection is not looked at: that would take its error from the relay, which passes it on.
        detected = OPAQUE if event & _BROKEN else look(self._downstream)
        if detected is None and event & ~(select.EPOLLOUT | select.EPOLLIN):
            detected = OPAQUE  # it ends, or is urgent: no request comes of that
        if detected is not None:
            self.decide(detected, detected.kind)
        elif not self._begun:
            self.begin()

    def begin(self) -> None:
        """The client has something to say, which it may not put off for ever."""
        self._begun = True
        self._hub.unschedule(self)
        self._hub.schedule(self, trio.current_time() + self._timeout)

    def end_denied(self) -> None:
        """The flow may have lost permission meanwhile."""
        if self._flow.denied is not None:
            self.decide(OPAQUE, "opaque")

    def reconsider(self, judge: Judge) -> int:  # noqa: ARG002 (there is no request yet)
        """It will be decided by the policies of its time."""
        return 0

    def drain_now(self) -> None:
        """Whatever it carries is not idle: its client may speak at any time, as before there was detection."""

    def check_time(self, _now: float) -> None:
        """The client did not go on."""
        self.decide(OPAQUE, "timeout")

    def decide(self, detected: Detected, result: Result) -> None:
        """End the race."""
        task, self._task = self._task, None
        if task is not None:
            self._hub.wake(task, outcome.Value(Found(detected, result, self._dialled)))

    def fail(self, error: Exception) -> None:
        """A fault of ours: the flow's task raises it."""
        task, self._task = self._task, None
        if task is not None:
            self._hub.wake(task, outcome.Error(error))


class _Upstream:
    """The other side of a race: nearly whatever happens there decides it."""

    def __init__(self, race: Race, sock: Leg) -> None:
        self._race = race
        self._sock = sock
        self.drain = False

    def handle(self, event: int) -> None:
        if not event & ~select.EPOLLOUT or not self._spoke():
            return
        if not event & ~(select.EPOLLOUT | select.EPOLLIN) and self._greets_http2():
            self._race.begin()
        else:
            self._race.decide(OPAQUE, "opaque")

    def _greets_http2(self) -> bool:
        """A server of HTTP/2 may speak first, and its client speaks all the same: gRPC's does."""
        try:
            return is_http2_server(self._sock.recv(GREETING, socket.MSG_PEEK))
        except OSError:  # for the relay to find
            return False

    def _spoke(self) -> bool:
        """Records of TLS itself, such as a ticket, are no word of the upstream's."""
        if isinstance(self._sock, socket.SocketType):
            return True
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:  # for the relay to find
            pass
        return True

    def fail(self, error: Exception) -> None:
        self._race.fail(error)
