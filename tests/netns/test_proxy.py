"""The proxy behind real redirect rules: original destinations, real peers, loops, as the uid it runs under."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from interceptor.errors import KernelError
from interceptor.kernel import child
from interceptor.kernel.process import Identity, become
from interceptor.kernel.sockets import open_listener
from interceptor.model.address import from_sockaddr
from tests.support.flows import reset
from tests.support.netns import Namespace, Topology, topology
from tests.support.proxies import ProxyProcess

pytestmark = [pytest.mark.netns, pytest.mark.slow]

PROXY_UID = 1337


@contextmanager
def proxied(bed: Topology, **given: object) -> Iterator[ProxyProcess]:
    """Redirect rules in the app's namespace, both families, and the proxy behind them."""
    for tool in ("iptables-legacy", "ip6tables-legacy"):
        for rule in (
            ["PREROUTING", "-p", "tcp", "-j", "REDIRECT", "--to-ports", "15006"],
            f"OUTPUT -m owner --uid-owner {PROXY_UID} -j RETURN".split(),
            ["OUTPUT", "-o", "lo", "-j", "RETURN"],
            ["OUTPUT", "-p", "tcp", "-j", "REDIRECT", "--to-ports", "15001"],
        ):
            # Nobody redirects the proxy's own listeners: a direct connection to them has to reach them.
            own = ["!", "--dport", "15001:15006"] if rule[0] == "PREROUTING" else []
            at = rule.index("-j")
            bed.app.run(tool, "-w", "-t", "nat", "-A", *rule[:at], *own, *rule[at:])
    proxy = start(bed.app, **given)
    with proxy:
        yield proxy


def start(where: Namespace, **given: object) -> ProxyProcess:
    """The proxy in a namespace, as its own uid."""
    given.setdefault("listeners", {"ingress": 15006, "egress": 15001})
    return ProxyProcess({**given, "uid": PROXY_UID}, where.command)


def serve(where: Namespace, host: str, port: int) -> socket.socket:
    """A listener in a namespace."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return where.call(lambda: socket.create_server((host, port), family=family))


def connect(where: Namespace, host: str, port: int) -> socket.socket:
    """A connection out of a namespace."""
    return where.call(lambda: socket.create_connection((host, port), timeout=10))


def connect_and_wait(where: Namespace, host: str, port: int) -> bytes:
    """Connect and wait for what the other side does; a RST may come within either."""
    with connect(where, host, port) as client:
        return client.recv(1)


def exchange(client: socket.socket, server: socket.socket) -> tuple[str, int]:
    """One message each way and an orderly end; who the server saw."""
    with server, client:
        client.sendall(b"question")
        accepted, seen = server.accept()
        with accepted:
            assert accepted.recv(100) == b"question"
            accepted.sendall(b"an answer")
            assert client.recv(100) == b"an answer"
            client.shutdown(socket.SHUT_WR)
            assert accepted.recv(100) == b""
        assert client.recv(100) == b""
    return seen[0], seen[1]


@pytest.mark.parametrize("family", [4, 6])
def test_ingress_knows_where_the_peer_wanted_to_go_and_who_it_is(family: int) -> None:
    with topology() as bed, proxied(bed) as proxy:
        address = bed.app.address(family)
        server = serve(bed.app, address, 8080)
        client = connect(bed.peer, address, 8080)
        source = client.getsockname()[:2]
        exchange(client, server)
        flow = proxy.record()
    assert flow["direction"] == "ingress"
    assert flow["peer"] == [*source, 0]
    assert flow["original_dst"] == [address, 8080, 0]
    assert flow["upstream"] == [address, 8080, 0]
    assert flow["flag"] == "-"
    assert (flow["bytes_received"], flow["bytes_sent"]) == (8, 9)


@pytest.mark.parametrize("family", [4, 6])
def test_egress_knows_where_the_app_wanted_to_go(family: int) -> None:
    with topology() as bed, proxied(bed) as proxy:
        address = bed.peer.address(family)
        server = serve(bed.peer, address, 9090)
        seen = exchange(connect(bed.app, address, 9090), server)
        flow = proxy.record()
    assert flow["direction"] == "egress"
    assert flow["original_dst"] == flow["upstream"] == [address, 9090, 0]
    assert seen[0] == bed.app.address(family)
    assert flow["upstream_local"] == [*seen, 0]


def test_a_v4_mapped_socket_of_the_app_is_seen_as_ipv4() -> None:
    with topology() as bed, proxied(bed) as proxy:
        server = serve(bed.peer, bed.peer.v4, 9090)
        exchange(connect_v4_mapped(bed.app, bed.peer.v4, 9090), server)
        flow = proxy.record()
    assert flow["original_dst"] == [bed.peer.v4, 9090, 0]
    assert flow["peer"][0] == bed.app.v4  # type: ignore[index]  # JSON


def connect_v4_mapped(where: Namespace, host: str, port: int) -> socket.socket:
    def connect() -> socket.socket:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        sock.settimeout(10)
        sock.connect((f"::ffff:{host}", port))
        return sock

    return where.call(connect)


@pytest.mark.parametrize("port", [15001, 15006])
@pytest.mark.parametrize("family", [4, 6])
def test_a_connection_straight_to_a_listener_is_closed_and_recorded(family: int, port: int) -> None:
    with topology() as bed, proxied(bed) as proxy:
        with pytest.raises(ConnectionResetError):
            connect_and_wait(bed.peer, bed.app.address(family), port)
        flow = proxy.record()
    assert (flow["denied"], flow["flag"]) == ("loop", "NR")
    assert flow["bytes_received"] == flow["bytes_sent"] == 0


def test_without_conntrack_a_connection_straight_to_a_listener_is_refused_too() -> None:
    with topology() as bed:
        with start(bed.app) as proxy:
            with pytest.raises(ConnectionResetError):
                connect_and_wait(bed.peer, bed.app.v4, 15006)
            flow = proxy.record()
    assert (flow["denied"], flow["flag"], flow["original_dst"]) == ("loop", "NR", None)


def test_a_black_holed_upstream_times_out_and_the_app_is_reset() -> None:
    with topology() as bed, proxied(bed, limits={"connect": 0.3}) as proxy:
        bed.peer.run("iptables-legacy", "-w", "-A", "INPUT", "-p", "tcp", "--dport", "9090", "-j", "DROP")
        with pytest.raises(ConnectionResetError):
            connect_and_wait(bed.app, bed.peer.v4, 9090)
        flow = proxy.record()
    assert flow["flag"] == "UF"
    assert "did not answer" in str(flow["details"])


def test_an_unreachable_upstream_is_named_and_the_app_is_reset() -> None:
    with topology() as bed, proxied(bed) as proxy:
        bed.app.run("ip", "route", "add", "unreachable", "198.51.100.0/24", "metric", "1")
        bed.app.run("ip", "route", "add", "198.51.100.7/32", "via", bed.peer.v4)
        bed.peer.run("ip", "route", "add", "unreachable", "198.51.100.7/32")
        bed.peer.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        with pytest.raises(ConnectionResetError):
            connect_and_wait(bed.app, "198.51.100.7", 80)
        flow = proxy.record()
    assert flow["flag"] == "UF"
    assert "unreachable" in str(flow["details"])


def test_a_peer_that_resets_at_once_leaves_a_record_and_the_proxy_serving() -> None:
    with topology() as bed, proxied(bed) as proxy:
        server = serve(bed.app, bed.app.v4, 8080)
        for _ in range(20):
            reset(connect(bed.peer, bed.app.v4, 8080))
        assert {proxy.record()["flag"] for _ in range(20)} == {"DC"}
        server.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:  # who was gone before the proxy looked was never brought to the app
                server.accept()[0].close()
        server.settimeout(10)
        exchange(connect(bed.peer, bed.app.v4, 8080), server)
        assert proxy.record()["flag"] == "-"


def test_a_listener_opens_where_ipv6_is_switched_off() -> None:
    with topology() as bed:
        bed.app.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
        with bed.app.call(lambda: open_listener(15006)) as listener, connect(bed.peer, bed.app.v4, 15006):
            listener.settimeout(10)
            accepted, sockaddr = listener.accept()
            accepted.close()
            assert from_sockaddr(sockaddr).host == bed.peer.v4


def test_a_privileged_port_is_refused_with_the_remedy() -> None:
    with topology() as bed:
        with pytest.raises(KernelError) as refused:
            child.call(bed.app.path, open_as_the_proxy, 80)
        assert "port 80 may not be opened by this user; choose a port of 1024 or above" in str(refused.value)


def open_as_the_proxy(port: int) -> None:
    become(Identity(PROXY_UID, PROXY_UID))
    open_listener(port).close()


LOSS = """
add table inet loss
add chain inet loss lose { type filter hook prerouting priority raw; }
add rule inet loss lose iifname != lo numgen inc mod 100 == 0 counter drop
"""


def send(sock: socket.socket, blocks: list[bytes]) -> None:
    for block in blocks:
        sock.sendall(block)


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        data = sock.recv(size - len(received))
        assert data, f"ended after {len(received)} bytes"
        received += data
    return bytes(received)


@pytest.mark.parametrize("choice", ["auto", "copy"])
def test_every_byte_arrives_where_packets_are_lost(choice: str) -> None:
    """One packet in a hundred, on the way in and on the way out, for both legs of the peer's connection."""
    blocks = [os.urandom(1 << 20) for _ in range(24)]
    with (
        topology() as bed,
        proxied(bed, limits={"relay": choice}),
        serve(bed.app, bed.app.v4, 8080) as server,
    ):
        for where in (bed.app, bed.peer):
            where.run("nft", LOSS)
        with connect(bed.peer, bed.app.v4, 8080) as peer, server.accept()[0] as app:
            for source, sink in ((peer, app), (app, peer)):
                sender = threading.Thread(target=send, args=(source, blocks))
                sender.start()
                for block in blocks:
                    assert receive_exactly(sink, len(block)) == block
                sender.join(10)
        for where in (bed.app, bed.peer):
            assert "counter packets 0 " not in where.run("nft", "list chain inet loss lose").stdout
