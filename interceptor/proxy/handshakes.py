"""TLS handshakes as the events of a socket drive them, without a task: a peer's that calls, and ours with an upstream.

A task that waits three times for its socket cost a third of what a handshake costs. Imported only where TLS is configured.
"""

from __future__ import annotations

import errno
import select
from typing import TYPE_CHECKING, Final, TypeAlias

import outcome

from interceptor.errors import PeerError
from interceptor.kernel import sockets
from interceptor.protocol.detect import OPAQUE
from interceptor.proxy import sniff
from interceptor.proxy.endings import DialError, HandshakeError
from interceptor.proxy.shaking import go_on, no_tls, too_slow

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from interceptor.proxy.sniff import Found
    from interceptor.proxy.transport import Begun, Transport
    from interceptor.proxy.underway import Way
    from interceptor.proxy.upstream import Dial
    from interceptor.routing.security import UpstreamTls
    from interceptor.tls.stream import TlsStream

Proved: TypeAlias = (
    "Callable[[outcome.Outcome[TlsStream | Found]], None]"  # what came was no TLS, or who is known
)
Called: TypeAlias = "Callable[[outcome.Outcome[TlsStream]], None]"

_BROKEN: Final = select.EPOLLERR | select.EPOLLHUP
_ENDING: Final = ~(select.EPOLLOUT | select.EPOLLIN)


class _Step:
    """One socket on its way: events are gathered in a batch, and it goes on when all of the batch were looked up.

    So a descriptor that it closes or opens is not taken for one of that batch's (see ``loop``).
    """

    def __init__(self, way: Way, sock: socket.socket) -> None:
        self._way = way
        self._hub = way.hub
        self._flow = way.flow
        self._sock = sock
        self._event = 0
        self.drain = False
        self.slot = 0  # of the timer wheel

    def _set_out(self) -> None:
        self._way.underway.add(self)
        self._hub.watch(self._sock, self)
        self._hub.schedule(self, self._hub.clock() + self._way.timeout)

    def _leave(self) -> None:
        """The socket is somebody else's from here."""
        self._hub.release(self._sock.fileno())
        self._hub.unschedule(self)
        self._way.underway.discard(self)

    def handle(self, event: int) -> None:
        """Note it."""
        if not self._event and self._hub.senders is not None:
            self._hub.senders.append(self)
        self._event |= event

    def send_due(self) -> None:
        """Go on."""
        event, self._event = self._event, 0
        if self._hub.watches(self._sock.fileno(), self):  # it may have been ended in this batch
            self._go_on(event)

    def _go_on(self, event: int) -> None:
        raise NotImplementedError

    def check_time(self, now: float) -> None:
        """It did not go on."""
        raise NotImplementedError

    def fail(self, error: Exception) -> None:
        """A fault of ours."""
        raise NotImplementedError

    def abort(self) -> None:
        """The proxy ends."""
        self._leave()
        self._way.aborted()


class Meeting(_Step):
    """A peer that must prove who it is: nothing else is let in, and nothing is dialled before it did."""

    def __init__(self, way: Way, sock: socket.socket, transport: Transport, proved: Proved) -> None:
        """``proved`` is called once, and must not raise."""
        super().__init__(way, sock)
        self._transport = transport
        self._proved = proved
        self._begun: Begun | None = None
        self._set_out()

    def _go_on(self, event: int) -> None:
        try:
            if self._begun is None and not self._heard(event):
                return
            if self._begun is None or not go_on(self._begun.stream, "the peer"):
                return
            self._transport.admit(self._flow, self._begun)
        except PeerError as error:
            self._end(outcome.Error(error))
        else:
            self._end(outcome.Value(self._begun.stream))

    def _heard(self, event: int) -> bool:
        """Look for a ClientHello; whether there is one. What is none decides the matter too. Raises PeerError."""
        # A broken connection is not looked at: its error is for who passes it on.
        detected = OPAQUE if event & _BROKEN else sniff.look(self._sock)
        if detected is None and not event & _ENDING:
            return False
        detected = detected or OPAQUE
        if detected.hello is None:
            self._end(outcome.Value(sniff.Found(detected, detected.kind)))
            return False
        self._flow.server_name = detected.hello.server_name
        self._begun = self._transport.begin_accept(self._sock)
        self._hub.unschedule(self)
        self._hub.schedule(self, self._hub.now + self._transport.timeout)
        return True

    def _end(self, result: outcome.Outcome[TlsStream | Found]) -> None:
        self._leave()
        self._proved(result)

    def check_time(self, now: float) -> None:  # noqa: ARG002 (the timer wheel's)
        """It did not go on."""
        if self._begun is None:
            self._end(outcome.Value(sniff.Found(OPAQUE, "timeout")))
        else:
            self._end(outcome.Error(too_slow("the peer")))

    def fail(self, error: Exception) -> None:
        """A fault of ours."""
        self._end(outcome.Error(error))


class Calling(_Step):
    """An upstream that is dialled, and then spoken to by TLS."""

    def __init__(
        self,
        way: Way,
        dial: Dial,
        call: tuple[Transport, UpstreamTls],
        accepted: Callable[[], None],
        called: Called,
    ) -> None:
        """``accepted`` is called when the upstream took the connection, then ``called``, neither of which may raise."""
        super().__init__(way, dial.sock)
        self._dial = dial
        self._transport, self._tls = call
        self._accepted = accepted
        self._called = called
        self._begun: Begun | None = None
        self._set_out()

    def _go_on(self, event: int) -> None:
        try:
            if self._begun is None and event & (select.EPOLLOUT | _BROKEN):
                self._shake()
            if self._begun is None or not go_on(self._begun.stream, "the upstream"):
                return
            self._transport.believe(self._flow, self._begun, self._tls)
        except HandshakeError as error:
            self._refuse(error)
        except DialError as error:
            self._end(outcome.Error(error))
        else:
            self._end(outcome.Value(self._begun.stream))

    def _shake(self) -> None:
        """The connection is there, or will never be. Raises DialError and HandshakeError."""
        address = self._dial.address
        number = self._dial.errno and sockets.pending_error(self._sock)
        if number:
            raise DialError(address, number)
        self._accepted()
        self._begun = self._transport.begin_connect(self._sock, address, self._tls, "tcp")
        self._hub.unschedule(self)
        self._hub.schedule(self, self._hub.now + self._transport.timeout)

    def _refuse(self, error: HandshakeError) -> None:
        self._end(outcome.Error(no_tls(self._dial.address, self._tls, error)))

    def _end(self, result: outcome.Outcome[TlsStream]) -> None:
        self._leave()
        if isinstance(result, outcome.Error):
            sockets.reset(self._sock)
        self._called(result)

    def check_time(self, now: float) -> None:  # noqa: ARG002 (the timer wheel's)
        """It did not go on."""
        if self._begun is None:
            self._end(outcome.Error(DialError(self._dial.address, errno.ETIMEDOUT)))
        else:
            self._refuse(too_slow("the upstream"))

    def fail(self, error: Exception) -> None:
        """A fault of ours."""
        self._end(outcome.Error(error))

    def abort(self) -> None:
        """The proxy ends."""
        super().abort()
        sockets.reset(self._sock)
