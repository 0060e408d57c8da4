"""A TLS stream with the face of a non-blocking socket, so that the hub relays it like any other.

Records are decrypted and encrypted in memory, and the descriptor is read and written in large pieces. OpenSSL on the
descriptor itself takes two reads for each record and one more to learn that there is none: measured over loopback, a
message there and back cost 43 - 48 us of CPU that way and 27 - 29 us this way; bulk cost the same.

What the hub relies on, and what is therefore kept:

- A read shorter than the buffer has left nothing behind, here or in the kernel, unless it set the reader's ``drain``. So
  does one that filled it and left something here: of that no event of the socket will tell.
- A write says how many bytes it took. Where the kernel did not take a record, the last byte counts as not taken until it
  did: the hub offers it again when there is room, it is not encrypted twice, and nothing waits here without the hub's
  knowledge.
- An end of stream is a close_notify. A connection that ends without one may have been cut off by anybody: that is an
  error (EPROTO), and the other side is reset.
- ``close`` sends nothing. Only ``shutdown`` says that all was said.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
from typing import TYPE_CHECKING, Final, Protocol, cast

from interceptor.kernel import openssl

if TYPE_CHECKING:
    from collections.abc import Callable

RAW: Final = 512 * 1024  # read from the kernel at once; one buffer serves every stream, in one thread
PIECE: Final = 256 * 1024  # encrypted before the kernel is asked to take it; what it leaves is held
MOST_HELD: Final = 2 * PIECE  # a peer that asks for new keys and never reads must not fill our memory

_raw: Final = bytearray(RAW)
_raw_view: Final = memoryview(_raw)


def _protocol_error(error: ssl.SSLError) -> OSError:
    return OSError(errno.EPROTO, error.reason or "TLS failed")


class Reader(Protocol):
    """Who reads a stream."""

    drain: bool  # set: read until nothing comes, a short read was not the last one


class TlsStream:
    """One TLS connection over a non-blocking socket, which belongs to it."""

    __slots__ = (
        "__weakref__", "_closing", "_connection", "_ended", "_failure", "_held", "_incoming", "_outgoing", "_owed", "_plain",
        "_read", "_tls", "_waits", "on_ticket", "reader", "sock",
    )  # fmt: skip

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_name: str | None = None,
        session: openssl.AnySession | None = None,
    ) -> None:
        self.sock = sock
        self.reader: Reader | None = None
        self.on_ticket: Callable[[], None] | None = None  # called once, after the first read
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._connection = openssl.Connection(
            context,
            (self._incoming, self._outgoing),
            server_side=server_side,
            server_name=server_name,
            session=session,
        )
        self._tls = self._connection.tls
        # typeshed has only the form without a buffer, which returns bytes
        self._read = cast("Callable[[int, memoryview], int]", self._tls.read)
        self._held = memoryview(b"")  # records that the kernel did not take
        self._owed = 0  # 1: the last byte that was encrypted counts as not taken
        self._plain = memoryview(b"")  # decrypted before a shutdown, and not read yet
        self._failure: OSError | None = None  # what a read met after it had something to return
        self._waits = server_side  # in the handshake: OpenSSL has to be given something first
        self._ended = False  # the peer's close_notify was read
        self._closing = False  # ours was made

    # The handshake

    def handshake(self) -> bool:
        """Go on with the handshake; whether it is done. False: call again when the socket can be read.

        Raises ssl.SSLError, after the alert for the peer was sent as far as the kernel takes it, and OSError.
        """
        while True:
            if self._waits and not self._incoming.pending and not self._take(RAW):
                return False
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._waits = True
                self._offer()
            except ssl.SSLError:
                self._offer()
                raise
            else:
                self._offer()
                return True

    @property
    def holds(self) -> bool:
        """Whether there are records that the kernel did not take: the socket has to be waited for."""
        return bool(self._held)

    def certificate(self) -> bytes | None:
        """What the peer presented, in DER."""
        return self._tls.getpeercert(binary_form=True)

    def chain(self) -> list[bytes]:
        """The peer's certificate and those it was verified by, up to the root, in DER; none where a session was resumed."""
        return openssl.verified_chain(self._tls)

    def authority(self) -> bytes | None:
        """The root that the peer's certificate was verified by, in DER; None where a session was resumed."""
        return openssl.verified_root(self._tls)

    @property
    def session(self) -> openssl.AnySession | None:
        """To resume; of TLS 1.3 it has a ticket only after the first read."""
        return self._connection.session

    @property
    def alpn(self) -> str | None:
        """What both sides speak inside."""
        return self._tls.selected_alpn_protocol()

    @property
    def resumed(self) -> bool:
        """Whether the handshake was an abbreviated one."""
        return bool(self._tls.session_reused)

    @property
    def version(self) -> str | None:
        """TLSv1.2 or TLSv1.3."""
        return self._tls.version()

    # The face of a socket

    def recv_into(self, buffer: bytearray | memoryview) -> int:
        """Decrypt into the buffer; 0 at the end of the stream. Raises BlockingIOError, or OSError EPROTO."""
        view = memoryview(buffer)
        room, filled = len(view), 0
        if self._plain:
            filled = min(room, len(self._plain))
            view[:filled] = self._plain[:filled]
            self._plain = self._plain[filled:]
        if self._failure is not None:
            if filled:
                return filled
            raise self._failure
        more = True
        while True:
            filled = self._decrypt(view, filled)
            if self._stopped or filled == room or not more:
                break
            size = self._take_or_fail(filled)
            if not size:
                break
            more = size == RAW
        if not filled and not self._ended:
            raise BlockingIOError
        if filled == room and (self._plain or self._incoming.pending or self._tls.pending()):
            self._again()  # what is left here is no event of the socket's
        if self.on_ticket is not None:  # TLS 1.3 sends it behind the handshake
            tell, self.on_ticket = self.on_ticket, None
            tell()
        return filled

    def recv(self, size: int, flags: int = 0) -> bytes:
        """As a socket's; with MSG_PEEK what is returned is returned again by the next read."""
        buffer = bytearray(size)
        received = bytes(buffer[: self.recv_into(buffer)])
        if flags & socket.MSG_PEEK and received:
            self._plain = memoryview(received + bytes(self._plain))
        return received

    @property
    def _stopped(self) -> bool:
        return self._ended or self._failure is not None

    def _decrypt(self, view: memoryview, filled: int) -> int:
        """Fill the buffer with what is here; how full it is then. What came before a bad record counts."""
        incoming, tls, room = self._incoming, self._tls, len(view)
        try:
            while filled < room and (incoming.pending or incoming.eof or tls.pending()):
                size = self._read(room - filled, view[filled:])
                if not size:
                    self._end()
                    break
                filled += size
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # in place of 0 where we have finished as well
            self._end()
        except ssl.SSLError as error:
            self._offer()  # the alert
            self._failure = _protocol_error(error)
            if not filled:
                raise self._failure from None
            self._again()
        if self._outgoing.pending:  # an answer to a request for new keys
            self._offer()
        return filled

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """Encrypt and send as much as the kernel takes. Raises BlockingIOError where it takes nothing."""
        if self._held and not self._offer():
            raise BlockingIOError
        view = memoryview(data)
        at, self._owed = self._owed, 0
        while at < len(view):
            end = min(len(view), at + PIECE)
            try:
                while at < end:
                    at += self._tls.write(view[at:end])
            except ssl.SSLError as error:
                raise _protocol_error(error) from None
            if not self._offer():
                self._owed = 1
                return at - 1
        return at

    def sendall(self, data: bytes | bytearray | memoryview) -> None:
        """As a non-blocking socket's: BlockingIOError where not all of it was taken."""
        if self.send(data) < len(data):
            raise BlockingIOError

    def shutdown(self, _how: int) -> None:
        """Say that all was said, then end the sending half. BlockingIOError: offer one byte, of any value, when there is room.

        Such a byte is not sent, but what is held is; then call again.
        """
        if not self._closing:
            self._keep_plain()
            self._closing = True
            try:
                self._tls.unwrap()
            except (
                ssl.SSLWantReadError,
                ssl.SSLSyscallError,
            ):  # the peer has not said so yet, which is its own business
                pass
            except ssl.SSLError as error:
                raise _protocol_error(error) from None
        if not self._offer():
            self._owed = 1
            raise BlockingIOError
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket, and say nothing."""
        if self._tls.server_side and not self._closing:
            # What OpenSSL would say stays here. It is to believe that it did: it forgets the session otherwise, and
            # since TLS 1.1 a connection that was cut off may be resumed.
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
        self.sock.close()

    def fileno(self) -> int:
        return self.sock.fileno()

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        self.sock.setsockopt(level, option, value)

    def getsockopt(self, level: int, option: int) -> int:
        return self.sock.getsockopt(level, option)

    # Between OpenSSL and the kernel

    def _take(self, most: int) -> int:
        """Bring what the kernel has to OpenSSL; how much that was, 0 where it has nothing. An end is told to OpenSSL."""
        try:
            size = self.sock.recv_into(_raw, most)
        except BlockingIOError:
            return 0
        if not size:
            self._incoming.write_eof()
            return 1
        self._incoming.write(_raw_view[:size])
        return size

    def _take_or_fail(self, filled: int) -> int:
        """The same in a read: a broken connection is the next read's matter where this one has something."""
        try:
            return self._take(RAW)
        except OSError as error:
            self._failure = error
            if not filled:
                raise
            self._again()
            return 0

    def _offer(self) -> bool:
        """Bring what OpenSSL has made to the kernel; whether all of it was taken."""
        if self._outgoing.pending:
            made = self._outgoing.read()
            if len(self._held) + len(made) > MOST_HELD:
                raise OSError(errno.ENOBUFS, "the peer reads nothing and asks for ever more")
            self._held = memoryview(bytes(self._held) + made) if self._held else memoryview(made)
        try:
            while self._held:
                self._held = self._held[self.sock.send(self._held) :]
        except BlockingIOError:
            return False
        return True

    def _keep_plain(self) -> None:
        """Decrypt all that is here: OpenSSL, asked to shut down, would take it for an error."""
        kept = bytearray(self._plain)
        try:
            while self._incoming.pending or self._tls.pending():
                data = self._tls.read(RAW)
                if not data:
                    self._end()
                    break
                kept += data
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            raise _protocol_error(error) from None
        if kept:
            self._plain = memoryview(bytes(kept))
            self._again()

    def _end(self) -> None:
        self._ended = True
        self._again()

    def _again(self) -> None:
        if self.reader is not None:
            self.reader.drain = True
