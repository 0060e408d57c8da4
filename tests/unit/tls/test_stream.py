"""Two TLS streams over a real loopback connection: small and large reads, and every way that one ends."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from interceptor.kernel.openssl import AnySession
from interceptor.tls import stream
from interceptor.tls.contexts import Contexts
from interceptor.tls.stream import TlsStream
from tests.support.flows import reset, tcp_pair
from tests.support.identities import WEB, Root, contexts
from tests.support.relayed import pattern

BUFFER = 256 * 1024


class Noting:
    """A reader that notes that it is to read on."""

    drain = False


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    root = Root()
    return contexts(tmp_path_factory.mktemp("mesh"), root.issue(WEB), root)


class Streams:
    """Both ends of one connection, after the handshake."""

    def __init__(self, made: Contexts, session: AnySession | None = None) -> None:
        near, far = tcp_pair()
        for each in (near, far):
            each.setblocking(False)
        self.client = TlsStream(near, made.client(()), server_side=False, session=session)
        self.server = TlsStream(far, made.server(()), server_side=True)
        waiting = {self.client, self.server}
        while waiting:
            waiting -= {each for each in waiting if each.handshake()}
        self.server.reader = self.reader = Noting()
        self.buffer = bytearray(BUFFER)

    def read(self) -> bytes:
        """One read of the server's, when there is something to read."""
        if not self.reader.drain:
            assert select.select([self.server], [], [], 20)[0]
        self.reader.drain = False
        return bytes(self.buffer[: self.server.recv_into(self.buffer)])

    def transfer(self, message: bytes) -> bytes:
        """Send all of it from client to server; what arrived."""
        rest, arrived = memoryview(message), bytearray()
        while len(arrived) < len(message):
            with contextlib.suppress(BlockingIOError):
                rest = rest[self.client.send(rest) :] if rest else rest
            try:
                arrived += self.read()
            except BlockingIOError:
                assert not self.reader.drain
        return bytes(arrived)


@pytest.fixture
def streams(mesh: Contexts) -> Iterator[Streams]:
    made = Streams(mesh)
    yield made
    made.client.sock.close()
    made.server.sock.close()


def test_what_is_known_after_a_handshake(streams: Streams) -> None:
    assert (streams.client.version, streams.client.alpn, streams.client.resumed) == ("TLSv1.3", None, False)
    assert streams.client.certificate() == streams.server.certificate()  # both have the same one here
    assert not streams.client.holds


def test_every_byte_arrives_whatever_the_sizes(streams: Streams) -> None:
    for size in (1, 2_000_000, 1, 16_384, 70_000, 0, 16_383, 300_001):
        assert streams.transfer(pattern(size, size)) == pattern(size, size)


def test_an_orderly_end_is_read_again_and_again(streams: Streams) -> None:
    streams.client.shutdown(socket.SHUT_WR)
    assert streams.read() == b""
    assert streams.reader.drain
    assert streams.read() == b"", "as a socket does"
    streams.server.send(b"the other half is open")
    streams.server.shutdown(socket.SHUT_WR)
    buffer = bytearray(100)
    assert select.select([streams.client], [], [], 20)[0]
    assert bytes(buffer[: streams.client.recv_into(buffer)]) == b"the other half is open"
    assert streams.client.recv_into(buffer) == 0


def test_what_is_here_survives_our_own_end(streams: Streams) -> None:
    """OpenSSL holds records that nobody has asked for; asked to shut down it would take them for an error."""
    message = pattern(150_000, 9)
    assert streams.client.send(message) == len(message)
    small = bytearray(10)
    assert select.select([streams.server], [], [], 20)[0]
    assert streams.server.recv_into(small) == 10
    streams.server.shutdown(socket.SHUT_WR)
    arrived = bytearray(small)
    while len(arrived) < len(message):
        arrived += streams.read()
    assert arrived == message
    assert streams.client.recv_into(streams.buffer) == 0


def test_an_end_that_came_with_bytes_is_kept_with_them_over_our_own_end(streams: Streams) -> None:
    streams.client.send(b"last words")
    streams.client.shutdown(socket.SHUT_WR)
    small = bytearray(4)
    assert select.select([streams.server], [], [], 20)[0]
    assert streams.server.recv_into(small) == 4
    streams.server.shutdown(socket.SHUT_WR)
    assert streams.read() == b" words"
    assert streams.read() == b""


def test_a_reset_is_a_reset(streams: Streams) -> None:
    reset(streams.client.sock)
    assert select.select([streams.server], [], [], 20)[0]
    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            streams.server.recv_into(streams.buffer)


def test_a_cut_is_no_orderly_end(streams: Streams) -> None:
    streams.client.sock.shutdown(socket.SHUT_WR)  # the TCP connection's, without a word of TLS
    assert select.select([streams.server], [], [], 20)[0]
    for _ in range(2):
        with pytest.raises(OSError) as caught:
            streams.server.recv_into(streams.buffer)
        assert caught.value.errno == errno.EPROTO


def test_damage_behind_good_records(streams: Streams) -> None:
    streams.client.send(b"good")
    streams.client.sock.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
    assert streams.read() == b"good"
    with pytest.raises(OSError) as caught:
        streams.read()
    assert caught.value.errno == errno.EPROTO


def test_what_was_peeked_at_is_read_again(streams: Streams) -> None:
    streams.client.send(b"look twice")
    assert select.select([streams.server], [], [], 20)[0]
    assert streams.server.recv(100, socket.MSG_PEEK) == b"look twice"
    assert streams.server.recv(4, socket.MSG_PEEK) == b"look"
    assert streams.server.recv(100) == b"look twice"
    with pytest.raises(BlockingIOError):
        streams.server.recv(100)


def test_it_has_the_face_of_a_socket(streams: Streams) -> None:
    streams.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    assert streams.client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    assert streams.client.fileno() == streams.client.sock.fileno()
    streams.client.sendall(b"all of it")
    assert streams.read() == b"all of it"
    with pytest.raises(BlockingIOError):
        streams.client.sendall(bytes(50_000_000))


def test_a_peer_that_asks_for_ever_more_and_reads_nothing_is_given_up(streams: Streams) -> None:
    with contextlib.suppress(BlockingIOError):
        while streams.server.send(bytes(1 << 20)):
            pass
    streams.server._outgoing.write(bytes(stream.MOST_HELD))  # as answers to requests for new keys
    with pytest.raises(OSError) as caught:
        streams.server._offer()
    assert caught.value.errno == errno.ENOBUFS


def test_who_is_no_peer_of_ours_gets_an_alert(mesh: Contexts, tmp_path: Path) -> None:
    other = Root("elsewhere.test")
    stranger = contexts(tmp_path, other.issue(WEB), other)
    near, far = tcp_pair()
    for each in (near, far):
        each.setblocking(False)
    client = TlsStream(near, stranger.client(()), server_side=False)
    server = TlsStream(far, mesh.server(()), server_side=True)
    assert not client.handshake()
    assert select.select([far], [], [], 20)[0]
    assert not server.handshake()
    assert select.select([near], [], [], 20)[0]
    with pytest.raises(ssl.SSLCertVerificationError):
        client.handshake()
    assert select.select([far], [], [], 20)[0]
    with pytest.raises(ssl.SSLError, match="ALERT"):
        server.handshake()
    near.close()
    far.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_connection_that_was_only_closed_can_be_resumed(mesh: Contexts, version: ssl.TLSVersion) -> None:
    mesh.client(()).maximum_version = version
    first = Streams(mesh)
    told: list[bool] = []
    first.client.on_ticket = lambda: told.append(True)
    first.server.send(b"the ticket is before it")
    read = 0
    while read < 2:
        try:
            assert first.client.recv(100, socket.MSG_PEEK)
            read += 1
        except BlockingIOError:  # the ticket may come alone, before the rest
            assert select.select([first.client], [], [], 20)[0]
    assert told == [True], "once"
    first.server.close()
    again = Streams(mesh, first.client.session)
    assert again.client.resumed
    assert again.server.resumed
    mesh.client(()).maximum_version = ssl.TLSVersion.TLSv1_3
    for each in (first.client, again.client, again.server):
        each.close()
