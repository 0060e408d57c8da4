"""Connections of HTTP/2 to upstreams, each for the requests of many clients: one request, one stream (a branch).

To an exchange a branch is what an HTTP/1 connection is (see ``client``). The windows of all streams fit into that of
the connection, so a client that does not take its answer holds up nobody else. The upstream is trusted no more than a client:
what it breaks costs it the stream or the connection.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from interceptor.model.connection import ResponseFlag
from interceptor.protocol.http1 import CHUNKED
from interceptor.protocol.http2 import answers, heads, replies as answers_of_ours
from interceptor.protocol.http2.codes import (
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    StreamError,
    error_name,
)
from interceptor.protocol.http2.leg import Leg, Limits
from interceptor.protocol.http2.writer import MARK
from interceptor.protocol.translation import to_http2
from interceptor.proxy.endings import DialError
from interceptor.proxy.http import dialling, replies
from interceptor.proxy.http.branch import Branch
from interceptor.proxy.http.pool import Bounded, expiry, patience, worn
from interceptor.proxy.http.side import Gathering, Side, room
from interceptor.routing.retry import Failure

if TYPE_CHECKING:
    from collections.abc import Collection

    from interceptor.model.address import UpstreamAddress
    from interceptor.model.http import LocalReply, RequestHead
    from interceptor.protocol.http2.hpack import Block
    from interceptor.protocol.http2.stream import Stream
    from interceptor.proxy.http.client import Dialled
    from interceptor.proxy.http.roles import Rider
    from interceptor.proxy.http.serve import Service, Serving

STREAMS: Final = 100  # of one connection: what the RFC advises an upstream to take at the least
WINDOW: Final = 256 * 1024
LIMITS: Final = Limits(window=WINDOW, connection_window=STREAMS * WINDOW)
TRIES: Final = 64  # of a request that others took the places from that it had waited for


def send(rider: Rider, service: Service) -> None:
    """Bring a request to its upstream: at once where a connection has room for it, else when there is one."""
    trunks = service.all.trunks
    if not isinstance(trunks, Trunks):
        trunks = service.all.trunks = Trunks(service.all)
    trunk = trunks.ready(service.key)
    if trunk is not None:
        rider.ride(trunk)
    else:
        rider.spawn(partial(_wait, rider, service, trunks))


async def _wait(rider: Rider, service: Service, trunks: Trunks) -> None:
    try:
        trunk = await trunks.reach(rider, service)
    except DialError as failure:
        rider.not_dialled(failure)
        return
    await trio.lowlevel.checkpoint_if_cancelled()
    rider.ride(trunk)
    rider.catch_up()


class _Dialling:
    """A connection that is being made, for all who ask for one."""

    def __init__(self) -> None:
        self.over = trio.Event()
        self.failure: Exception | None = None


class Trunks:
    """Every connection, by what it may be used for."""

    def __init__(self, serving: Serving) -> None:
        self._all = serving
        self._trunks: dict[object, list[Trunk]] = {}
        self._dialling: dict[object, _Dialling] = {}
        self._due = math.inf  # when it looks for what has rested for too long
        self.slot = 0  # of the hub's timer wheel

    def ready(self, key: object) -> Trunk | None:
        """A connection with room for one more stream."""
        return next((trunk for trunk in self._trunks.get(key, ()) if trunk.has_room), None)

    async def reach(self, rider: Rider, service: Service) -> Trunk:
        """The same; one is made where there is none. Raises DialError."""
        for _ in range(TRIES):
            trunk = self.ready(service.key)
            if trunk is not None:
                return trunk
            dialling = self._dialling.get(service.key)
            if dialling is None:
                dialling = self._dialling[service.key] = _Dialling()
                self._all.spawn(partial(self._dial, rider, service, dialling))
            await dialling.over.wait()
            if dialling.failure is not None:
                raise dialling.failure
        return await self._made(service, rider.connect_timeout)

    async def _dial(self, rider: Rider, service: Service, dialling: _Dialling) -> None:
        """Make a connection, whoever of those who wait goes away meanwhile."""
        try:
            await self._made(service, rider.connect_timeout)
        except Exception as failure:  # noqa: BLE001 (raised to each who waits)
            dialling.failure = failure
        finally:
            del self._dialling[service.key]
            dialling.over.set()

    async def _made(self, service: Service, timeout: float) -> Trunk:
        dialled = await dialling.dial(service, timeout, "http2")
        trunk = Trunk(self._all, self, service.key, dialled)
        self._trunks.setdefault(service.key, []).append(trunk)
        return trunk

    def rests(self, key: object) -> None:
        """A connection has nothing to do."""
        self._look_at(self._all.hub.now + patience(key, self._all.pool.timeout))

    def _look_at(self, due: float) -> None:
        """Be called then, if that is not done before."""
        if due < self._due:
            self._all.hub.unschedule(self)
            self._due = due
            self._all.hub.schedule(self, due)

    def drop(self, trunk: Trunk) -> None:
        """It takes no more."""
        trunks = self._trunks.get(trunk.key, [])
        if trunk in trunks:
            trunks.remove(trunk)
            if not trunks:
                del self._trunks[trunk.key]

    def check_time(self, now: float) -> None:
        """Close what has rested for too long."""
        self._all.hub.unschedule(self)
        self._due = math.inf
        resting = [trunk for trunks in self._trunks.values() for trunk in trunks if trunk.idle]
        for trunk in resting:
            due = min(trunk.idle_since + patience(trunk.key, self._all.pool.timeout), trunk.expires)
            if now >= due:
                trunk.close()
            else:
                self._look_at(due)

    def leave(self, gone: Collection[UpstreamAddress]) -> None:
        """Some addresses are endpoints no more: their connections take nothing new, and end with what they carry."""
        for trunk in [each for trunks in self._trunks.values() for each in trunks if each.address in gone]:
            trunk.retire()

    def close(self) -> None:
        """Close all of them."""
        for trunk in [trunk for trunks in self._trunks.values() for trunk in trunks]:
            trunk.close()


class Trunk(Gathering):
    """One connection."""

    def __init__(self, serving: Serving, home: Trunks, key: object, dialled: Dialled) -> None:
        super().__init__(serving.hub)
        self._home = home
        self.key = key
        self.address, self.local = dialled.address, dialled.local
        self.identity = dialled.identity
        self.idle_since = self._hub.now
        self.expires = min(expiry(key, self._hub.now), dialled.until)
        asked = key.reuse.streams if isinstance(key, Bounded) else None
        self._streams = min(asked or STREAMS, STREAMS)
        self._carried = 0  # requests
        self.over = False
        self._busy = False
        self._branches: dict[int, Branch] = {}
        self._touched: dict[Branch, None] = {}  # that something came for in this turn
        self.leg = Leg(server=False, events=self, limits=LIMITS, now=self._hub.now)
        self._side = Side(self._hub, dialled.sock, self.leg.writer, self._receive, self)
        self.leg.start()
        home.rests(key)

    @property
    def has_room(self) -> bool:
        """Whether it takes one more request."""
        if self._hub.now >= self.expires:
            return False
        return not self.over and len(self._branches) < self._streams and self.leg.can_open

    @property
    def idle(self) -> bool:
        """Whether it has nothing to do."""
        return not self._branches

    # What exchanges and their branches call

    def open(self, rider: Rider, head: RequestHead, body: int) -> Branch:
        """A stream for a request, with its head."""
        stream = self.leg.new_stream()
        branch = Branch(self.leg, self.settle, rider, stream, head.method)
        stream.pending_end = not body
        number = self.leg.next
        self._branches[number] = branch
        self.leg.open(stream, heads.request_fields(to_http2(head)))
        self._carried += 1
        if worn(self.key, self._carried):
            self.retire()
        return branch

    @property
    def _backlog(self) -> int:
        return self._side.backlog

    def _settle(self) -> None:
        """Send what there is to be sent, and read on where that was waited for."""
        if self._busy or self.over:
            return
        side = self._side
        side.flush()
        if self.leg.dead is not None:
            details = f"the upstream broke HTTP/2: {self.leg.dead}"
            self._lose(answers_of_ours.unavailable(ResponseFlag.UPSTREAM_PROTOCOL, details))
        elif self.leg.leaving and not self._branches:
            self.close()
        elif side.unread and self.may_read(side):
            side.unread = False
            self._hub.again(side.fd)

    def retire(self) -> None:
        """Take nothing new, and end with what it carries."""
        self.leg.leaving = True
        self._home.drop(self)
        if not self._branches:
            self.close()

    def close(self) -> None:
        """End it; what it carries is lost."""
        if self.over:
            return
        if self._branches:
            self._lose(replies.CLOSED)
            return
        if self.leg.dead is None:
            self.leg.writer.goaway(0, NO_ERROR, b"")
            self._side.flush()
        if not self.over:
            self._end()

    # What the hub and the socket call

    def may_read(self, side: Side) -> bool:
        """What comes is bounded by windows; what it makes us say, by reading no more."""
        return room(side, 2 * MARK)

    def end_of_stream(self, _side: Side) -> None:
        """The upstream closed."""
        self._lose(replies.CLOSED)

    def broken(self, _side: Side) -> None:
        """The connection is no more."""
        self._lose(replies.CLOSED)

    def fail(self, _error: Exception) -> None:
        """A fault of ours, which the hub has logged."""
        self._busy = False
        self._lose(replies.FAULT)

    def _receive(self, data: bytes, now: float) -> None:
        self._busy = True
        try:
            self.leg.receive(data, now)
            touched, self._touched = self._touched, {}
            for branch in touched:
                branch.pass_on()
        finally:
            self._busy = False

    def _end(self) -> None:
        self.over = True
        self._home.drop(self)
        self._hub.forget(self._side.fd)
        self._side.sock.close()

    def _lose(self, local: LocalReply) -> None:
        if self.over:
            return
        self._end()
        for branch in list(self._branches.values()):
            branch.lose(local, Failure.RESET)
        self._branches.clear()

    # What the leg tells

    def headers(self, stream: Stream, block: Block, *, end: bool) -> None:
        """A head or trailers."""
        branch = self._branches[stream.id]
        self._touched[branch] = None
        if branch.answered:
            answers.check_trailers(stream, fits=block.fits, end=end)
            branch.finish(heads.trailers(block.fields))
            return
        head, length = answers.read(stream, block, branch.method, end=end)
        if head.status < 200:
            branch.rider.informational(head)
            return
        branch.answered = True
        head = head.copy()
        head.reason = replies.reason(head.status)
        branch.rider.respond(head, 0 if end else CHUNKED if length is None else length)
        if end:
            branch.finish([])  # of no effect where the request is tried again instead

    def data(self, stream: Stream, data: bytes, *, end: bool) -> None:
        """Some of a body."""
        branch = self._branches[stream.id]
        if not branch.answered:
            raise StreamError(PROTOCOL_ERROR, "a response that begins with its body")
        self._touched[branch] = None
        branch.take(data, self._hub.now)
        if end:
            branch.finish([])

    def reset(self, stream: Stream, code: int, *, complete: bool) -> None:
        """The upstream does not go on with a request."""
        branch = self._branches[stream.id]
        if not complete:
            refused = code == REFUSED_STREAM and not branch.answered
            details = f"the upstream reset the stream with {error_name(code)}"
            reply = answers_of_ours.unavailable(ResponseFlag.UPSTREAM_RESET, details)
            branch.lose(reply, Failure.REFUSED_STREAM if refused else Failure.RESET, code)

    def faulted(self, stream: Stream, fault: StreamError) -> None:
        """Its answer cannot be passed on."""
        self._branches[stream.id].lose(answers_of_ours.bad_gateway(str(fault)), Failure.RESET)

    def settings(self) -> None:
        """Its settings changed."""

    def goaway(self, last: int, code: int, _debug: bytes) -> None:
        """It serves no streams after the last one, and promises not to have looked at those."""
        self.leg.leaving = True
        self._home.drop(self)
        details = f"the upstream was closing its connection with {error_name(code)}"
        reply = answers_of_ours.unavailable(ResponseFlag.UPSTREAM_RESET, details)
        for number, branch in list(self._branches.items()):
            if number > last:
                self.leg.writer.remember(number)
                self.leg.writer.forget(branch.stream)
                branch.lose(reply, Failure.REFUSED_STREAM)

    def left(self, stream: Stream) -> None:
        """A stream is over."""
        self._branches.pop(stream.id, None)
        if not self._branches:
            self.idle_since = self._hub.now
            self._home.rests(self.key)
