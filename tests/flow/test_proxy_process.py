"""The proxy as a process: bulk, slow readers, thousands of flows, no descriptors left."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import cast

import pytest

from tests.support.flows import listening, reset
from tests.support.proxies import ProxyProcess

pytestmark = pytest.mark.slow

MB = 1 << 20
BLOCK = os.urandom(MB + 7)  # no multiple of any buffer


@pytest.fixture
def server() -> Iterator[socket.socket]:
    made, _ = listening(backlog=4096)
    made.settimeout(20)
    with made:
        yield made


def proxy_to(server: socket.socket, **given: object) -> ProxyProcess:
    return ProxyProcess({"listeners": {"ingress": 0}, "upstreams": [server.getsockname()], **given})


def connect(proxy: ProxyProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.ports["ingress"]), timeout=20)


def together(*works: Callable[[], object]) -> list[object]:
    """Do each in a thread of its own; their results."""
    results: list[object] = [None] * len(works)

    def run(at: int) -> None:
        results[at] = works[at]()

    threads = [threading.Thread(target=run, args=(at,)) for at in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return results


def pour(sock: socket.socket, size: int) -> str:
    """Send so many bytes, then finish; their digest."""
    digest = hashlib.sha256()
    while size:
        data = BLOCK[:size]
        sock.sendall(data)
        digest.update(data)
        size -= len(data)
    sock.shutdown(socket.SHUT_WR)
    return digest.hexdigest()


def drink(sock: socket.socket) -> str:
    """The digest of what arrives up to the end."""
    digest = hashlib.sha256()
    while data := sock.recv(MB):
        digest.update(data)
    return digest.hexdigest()


def test_100_mb_each_way_at_once_arrive_byte_for_byte(server: socket.socket) -> None:
    size = 100 * MB
    with proxy_to(server) as proxy:
        with connect(proxy) as peer, server.accept()[0] as app:
            app.settimeout(20)
            sent_up, sent_down, got_up, got_down = together(
                lambda: pour(peer, size), lambda: pour(app, size), lambda: drink(app), lambda: drink(peer)
            )
        assert (got_up, got_down) == (sent_up, sent_down)
        flow = proxy.record()
        assert (flow["bytes_received"], flow["bytes_sent"], flow["flag"]) == (size, size, "-")


@pytest.mark.parametrize("upwards", [True, False])
def test_a_slow_reader_stalls_the_sender_and_memory_stays_bounded(
    server: socket.socket, upwards: bool
) -> None:
    with proxy_to(server) as proxy:
        with connect(proxy) as peer, server.accept()[0] as app:
            source, sink = (peer, app) if upwards else (app, peer)
            before = proxy.resident()
            source.setblocking(False)
            taken = 0
            digest = hashlib.sha256()
            # Stalled: a second during which the kernel takes nothing more.
            while select.select([], [source], [], 1.0)[1]:
                sent = source.send(BLOCK)
                digest.update(BLOCK[:sent])
                taken += sent
                assert taken < 64 * MB, "the sender was never stalled"
            assert proxy.resident() - before < 4 * MB
            source.shutdown(socket.SHUT_WR)
            sink.settimeout(20)
            assert drink(sink) == digest.hexdigest()
            sink.shutdown(socket.SHUT_WR)
        flow = proxy.record()
        assert {flow["bytes_received"], flow["bytes_sent"]} == {taken, 0}


def test_thousands_of_flows_leave_no_descriptor_behind(server: socket.socket) -> None:
    with proxy_to(server) as proxy:
        before = proxy.descriptors()
        for number in range(2000):
            peer = connect(proxy)
            app, _ = server.accept()
            peer.sendall(b"x")
            assert app.recv(1) == b"x"
            first, second = (peer, app) if number % 2 else (app, peer)
            if number % 3:
                first.close()
            else:
                reset(first)
            second.close()
        for _ in range(2000):
            proxy.record()
        assert proxy.descriptors() == before
        assert proxy.stop() == {"accept_errors": [], "faults": 0}


def test_out_of_descriptors_the_proxy_waits_and_recovers(server: socket.socket) -> None:
    with proxy_to(server, nofile=64) as proxy:
        peers = [connect(proxy) for _ in range(100)]  # the kernel's queue takes those the proxy cannot
        for _ in range(20):  # what the proxy can hold of them at least
            server.accept()[0].close()
        for peer in peers:
            reset(peer)
        flows = [proxy.record() for _ in range(100)]
        failed = [flow for flow in flows if flow["flag"] == "LR"]
        # A connection that was accepted with the last descriptor cannot be dialled.
        assert all("RLIMIT_NOFILE" in str(flow["details"]) for flow in failed)
        while select.select([server], [], [], 0)[0]:
            server.accept()[0].close()
        with connect(proxy) as peer, server.accept()[0] as app:
            peer.sendall(b"again")
            assert app.recv(10) == b"again"
        counted = proxy.stop()
        assert counted["faults"] == 0
        # Whether accept itself fails or a dial depends on whether the number of descriptors is odd.
        errors = cast("list[int]", counted["accept_errors"])
        assert set(errors) <= {errno.EMFILE}
        assert errors or failed
        told = [line for line in proxy.log() if line.startswith("cannot accept ingress connections")]
        assert len(told) <= 1, "once for the whole episode"


def test_5000_idle_connections_are_held_and_ended(server: socket.socket) -> None:
    number = 5000
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard >= 2 * number + 200, "raise RLIMIT_NOFILE for this test"
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with proxy_to(server, limits={"connections": number + 1}) as proxy, ExitStack() as stack:
        before = proxy.resident()
        ends = []
        for _ in range(number):
            peer = stack.enter_context(connect(proxy))
            ends.append((peer, stack.enter_context(server.accept()[0])))
        per_flow = (proxy.resident() - before) / number
        assert per_flow < 12_000, f"{per_flow:.0f} bytes a flow"
        for peer, app in ends[:: number // 50]:
            peer.sendall(b"awake")
            assert app.recv(10) == b"awake"
        for peer, app in ends:
            peer.close()
            app.close()
        assert {proxy.record()["flag"] for _ in range(number)} == {"-"}


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_body_that_ends_with_its_connection_is_not_ended_by_a_kill(
    server: socket.socket, version: bytes
) -> None:
    """HTTP/1.0 without a length: an orderly end would make half an answer a whole one."""
    with proxy_to(server) as proxy, connect(proxy) as client:
        client.sendall(b"GET / HTTP/" + version + b"\r\nHost: app\r\n\r\n")
        app, _ = server.accept()
        with app:
            app.recv(65536)
            app.sendall(b"HTTP/1.0 200 OK\r\n\r\nhalf")
            got = b""
            while not got.endswith(b"half"):
                got += client.recv(65536)
            assert b"ength" not in got
            proxy.process.kill()
            with pytest.raises(ConnectionResetError):
                client.recv(65536)
