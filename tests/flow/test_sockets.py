"""Sockets as the kernel gives them: inherited options, both families, errors as sentences."""

from __future__ import annotations

import contextlib
import errno
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from interceptor.errors import KernelError
from interceptor.kernel import sockets
from interceptor.model.address import PeerAddress, SocketAddress, UpstreamAddress, from_sockaddr
from interceptor.proxy import upstream
from tests.support.flows import listening


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with sockets.open_listener(0) as made:
        yield made


LEG = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.SOL_SOCKET, socket.SO_OOBINLINE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 180),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 180),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 9),
]


def test_an_accepted_socket_inherits_the_options_of_a_leg(listener: socket.socket) -> None:
    with socket.create_connection(("127.0.0.1", listener.getsockname()[1])):
        accepted, _ = listener.accept()
        with accepted:
            assert [(level, name, accepted.getsockopt(level, name)) for level, name, _ in LEG] == LEG


def test_an_upstream_socket_has_the_options_of_a_leg_once_its_flow_is_kept() -> None:
    for host in ("127.0.0.1", "::1"):
        with contextlib.closing(sockets.open_upstream(UpstreamAddress(SocketAddress(host, 80)))) as upstream:
            assert upstream.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0
            sockets.keep_alive(upstream)
            assert [(level, name, upstream.getsockopt(level, name)) for level, name, _ in LEG] == LEG
            assert not upstream.getblocking()


def test_what_is_asked_of_keepalive_is_set_and_the_rest_left_to_the_kernel() -> None:
    names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    with contextlib.closing(sockets.open_upstream(UpstreamAddress(SocketAddress("::1", 80)))) as upstream:
        _, usual, _ = (upstream.getsockopt(socket.IPPROTO_TCP, name) for name in names)
        sockets.keep_alive(upstream, 7, None, 3)
        assert [upstream.getsockopt(socket.IPPROTO_TCP, name) for name in names] == [7, usual, 3]
        assert upstream.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


def congestion(sock: socket.socket) -> bytes:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")


def usual_congestion() -> bytes:
    return Path("/proc/sys/net/ipv4/tcp_congestion_control").read_bytes().strip()


def test_the_systems_congestion_control_is_looked_at() -> None:
    sockets._paces.cache_clear()
    assert sockets._paces() == usual_congestion().startswith(b"bbr")


@pytest.mark.parametrize("paces", [True, False])
@pytest.mark.parametrize("local", [True, False])
def test_only_what_is_local_is_not_paced(paces: bool, local: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_paces", lambda: paces)
    expected = b"reno" if paces and local else usual_congestion()
    listener = sockets.open_listeners(0, 1, local=local)[0]
    address = UpstreamAddress(SocketAddress("127.0.0.1", listener.getsockname()[1]))
    begun = upstream.begin(address, local=local)
    with listener, contextlib.closing(begun.sock):
        assert begun.errno == 0
        assert congestion(begun.sock) == expected
        accepted, _ = listener.accept()
        with accepted:
            assert congestion(accepted) == expected


def test_where_another_congestion_control_is_not_allowed_the_usual_one_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Strict(socket.socket):
        def setsockopt(self, *_: object) -> None:
            raise PermissionError

    monkeypatch.setattr(sockets, "_paces", lambda: True)
    with Strict() as sock:
        sockets.stay_local(sock)
        assert congestion(sock) == usual_congestion()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_one_listener_takes_both_families_and_knows_the_peer(listener: socket.socket, host: str) -> None:
    with socket.create_connection((host, listener.getsockname()[1])) as peer:
        accepted, sockaddr = listener.accept()
        with accepted:
            assert from_sockaddr(sockaddr) == (host, peer.getsockname()[1], 0)
            assert sockets.local_address(accepted)[:2] == peer.getpeername()[:2]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_connection_that_nobody_redirected_has_no_other_destination(
    listener: socket.socket, host: str
) -> None:
    with socket.create_connection((host, listener.getsockname()[1])):
        accepted, sockaddr = listener.accept()
        with accepted:
            found = sockets.original_destination(accepted, PeerAddress(from_sockaddr(sockaddr)))
            assert found in {None, sockets.local_address(accepted)}


def test_a_failure_of_the_question_itself_is_not_taken_for_an_answer() -> None:
    closed = socket.socket()
    closed.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        sockets.original_destination(closed, PeerAddress(SocketAddress("10.0.0.1", 1)))


def test_a_port_in_use_is_named_with_the_remedy(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    with pytest.raises(KernelError, match=rf"port {port} is in use by another program; 'ss -ltnp"):
        sockets.open_listener(port)


def test_several_queues_share_one_port_and_nobody_else_has_it() -> None:
    queues = sockets.open_listeners(0, 3)
    port = queues[0].getsockname()[1]
    assert {queue.getsockname()[1] for queue in queues} == {port}
    for number in (1, 3):
        with pytest.raises(KernelError, match=f"port {port} is in use by another program"):
            sockets.open_listeners(port, number)
    peers = [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]
    taken = [0, 0, 0]
    for at, queue in enumerate(queues):
        with contextlib.suppress(BlockingIOError):
            while True:
                queue.accept()[0].close()
                taken[at] += 1
    assert sum(taken) == 60
    assert all(taken)
    for sock in (*queues, *peers):
        sock.close()


def test_a_port_in_use_for_ipv4_only_is_named_too() -> None:
    other, address = listening()
    with other, pytest.raises(KernelError, match="is in use by another program"):
        sockets.open_listener(address.port)


def test_a_connection_to_this_machine_is_there_at_once() -> None:
    other, address = listening()
    with other, contextlib.closing(sockets.open_upstream(UpstreamAddress(address))) as upstream:
        assert sockets.start_connect(upstream, UpstreamAddress(address)) == 0
        assert upstream.getpeername() == address[:2]


def test_a_refusal_by_this_machine_is_there_at_once() -> None:
    other, address = listening()
    other.close()
    with contextlib.closing(sockets.open_upstream(UpstreamAddress(address))) as upstream:
        assert sockets.start_connect(upstream, UpstreamAddress(address)) == errno.ECONNREFUSED


def test_a_reset_is_seen_as_one_and_may_be_asked_for_twice() -> None:
    other, address = listening()
    with other, socket.create_connection(address[:2]) as peer:
        accepted, _ = other.accept()
        sockets.reset(accepted)
        sockets.reset(accepted)
        with pytest.raises(ConnectionResetError):
            peer.recv(1)


@pytest.fixture
def _same_limits() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("_same_limits")
def test_the_soft_limit_on_descriptors_is_raised_and_a_want_is_a_sentence() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    assert sockets.raise_descriptor_limit(10) is None
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    fits = (hard - sockets.DESCRIPTOR_RESERVE) // sockets.DESCRIPTORS_PER_FLOW
    assert sockets.raise_descriptor_limit(fits) is None
    told = sockets.raise_descriptor_limit(fits + 1)
    assert told is not None
    assert f"lower the limit to {fits}" in told


def test_name_queries_are_heard_on_loopback_by_both_protocols() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    opened = sockets.open_dns_listeners(port)
    try:
        found = {(sock.type, sock.getsockname()[0]) for sock in opened}
        assert {(socket.SOCK_DGRAM, "127.0.0.1"), (socket.SOCK_STREAM, "127.0.0.1")} <= found
        assert {host for _, host in found} <= {"127.0.0.1", "::1"}
        with pytest.raises(KernelError, match=str(port)):
            sockets.open_dns_listeners(port)
    finally:
        for sock in opened:
            sock.close()
