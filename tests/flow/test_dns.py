"""The DNS listener with real sockets: it answers, passes on, times out, and is not stopped by anybody."""

from __future__ import annotations

import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import dns.asyncquery
import dns.message
import dns.rcode
import dns.rrset
import pytest
import trio

from interceptor.discovery import dns as module
from interceptor.discovery.dns import DnsListener
from interceptor.discovery.name_servers import Upstream, read_message
from interceptor.model.address import SocketAddress, from_sockaddr
from interceptor.routing.names import Names
from tests.support.both_sockets import both
from tests.support.documents import service_entry
from tests.support.until import until

NAMES = Names(
    [service_entry("{hosts: [api.example.com], ports: [{number: 80, name: http}], addresses: [10.0.0.1]}")]
)


def bound(kind: socket.SocketKind) -> socket.socket:
    sock = socket.socket(socket.AF_INET, kind)
    sock.bind(("127.0.0.1", 0))
    if kind is socket.SOCK_STREAM:
        sock.listen()
    return sock


@dataclass
class NameServer:
    """The real one, of which the listener asks: it answers by UDP and TCP with what it is told to."""

    sockets: tuple[socket.socket, socket.socket] = field(default_factory=both)  # of UDP and TCP
    asked: list[bytes] = field(default_factory=list)
    silent: bool = False
    forge: bool = False  # answers with another id before the right one

    @property
    def address(self) -> SocketAddress:
        return from_sockaddr(self.sockets[0].getsockname())

    def answer(self, query: bytes) -> bytes:
        self.asked.append(query)
        reply = dns.message.make_response(dns.message.from_wire(query))
        reply.answer.append(dns.rrset.from_text(reply.question[0].name, 60, "IN", "A", "192.0.2.1"))
        return reply.to_wire()

    async def run(self) -> None:
        with trio.socket.from_stdlib_socket(self.sockets[0]) as sock:
            while True:
                query, client = await sock.recvfrom(65_535)
                if self.silent:
                    self.asked.append(query)
                    continue
                reply = self.answer(query)
                if self.forge:
                    await sock.sendto(bytes((reply[0] ^ 1, *reply[1:])), client)
                await sock.sendto(reply, client)

    async def run_stream(self) -> None:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self.sockets[1]))
        await trio.serve_listeners(self._serve, [listener])

    async def _serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            query = await read_message(stream)
            reply = self.answer(query)
            await stream.send_all(struct.pack("!H", len(reply)) + reply)


@dataclass
class Bed:
    udp: SocketAddress
    tcp: SocketAddress
    server: NameServer
    ended: Counter[str]

    async def ask(self, name: str) -> dns.message.Message:
        query = dns.message.make_query(name, "A")
        return await dns.asyncquery.udp(query, self.udp.host, port=self.udp.port, timeout=10)

    async def ask_by_tcp(self, name: str) -> dns.message.Message:
        query = dns.message.make_query(name, "A")
        return await dns.asyncquery.tcp(query, self.tcp.host, port=self.tcp.port, timeout=10)


@asynccontextmanager
async def listening(*, before: tuple[SocketAddress, ...] = ()) -> AsyncIterator[Bed]:
    server, ended = NameServer(), Counter[str]()
    udp, tcp = bound(socket.SOCK_DGRAM), bound(socket.SOCK_STREAM)
    tcp.setblocking(False)
    upstream = Upstream((*before, server.address))

    def count(result: str) -> None:
        ended[result] += 1

    listener = DnsListener([udp, tcp], lambda: NAMES, lambda: upstream, count)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        nursery.start_soon(server.run_stream)
        await nursery.start(listener.run)
        yield Bed(from_sockaddr(udp.getsockname()), from_sockaddr(tcp.getsockname()), server, ended)
        nursery.cancel_scope.cancel()


def addresses(message: dns.message.Message) -> list[str]:
    return [str(item) for rrset in message.answer for item in rrset]


@pytest.mark.parametrize("way", [Bed.ask, Bed.ask_by_tcp], ids=["udp", "tcp"])
async def test_ours_are_answered_and_the_rest_passed_on(
    way: Callable[[Bed, str], Awaitable[dns.message.Message]],
) -> None:
    async with listening() as bed:
        assert addresses(await way(bed, "api.example.com")) == ["10.0.0.1"]
        assert not bed.server.asked
        assert addresses(await way(bed, "www.example.com")) == ["192.0.2.1"]
        assert bed.ended == {"answered": 1, "forwarded": 1}


async def test_only_an_answer_to_the_query_counts() -> None:
    async with listening() as bed:
        bed.server.forge = True
        assert addresses(await bed.ask("www.example.com")) == ["192.0.2.1"]


async def test_a_silent_server_is_followed_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    silent, refusing = bound(socket.SOCK_DGRAM), bound(socket.SOCK_DGRAM)
    gone = from_sockaddr(refusing.getsockname())
    refusing.close()
    async with listening(before=(from_sockaddr(silent.getsockname()), gone)) as bed:
        assert addresses(await bed.ask("www.example.com")) == ["192.0.2.1"]
        bed.server.silent = True
        assert (await bed.ask("www.example.com")).rcode() == dns.rcode.SERVFAIL
        assert bed.ended == {"forwarded": 1, "failed": 1}
    silent.close()


async def test_garbage_gets_nothing_and_ends_nothing() -> None:
    async with listening() as bed:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for data in (b"", b"x", b"\xff" * 600):
                client.sendto(data, (bed.udp.host, bed.udp.port))
        with socket.create_connection((bed.tcp.host, bed.tcp.port)) as client:
            client.sendall(b"\0\1x")
            await until(lambda: bed.ended["failed"] == 4)
            assert client.recv(1) == b""
        assert addresses(await bed.ask("api.example.com")) == ["10.0.0.1"]


async def test_more_queries_than_there_is_room_for_fail_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUERIES", 1)
    async with listening() as bed:
        bed.server.silent = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bed.ask, "first.example.com")
            await until(lambda: len(bed.server.asked) == 1)
            assert (await bed.ask("second.example.com")).rcode() == dns.rcode.SERVFAIL
            nursery.cancel_scope.cancel()


async def test_more_connections_than_there_is_room_for_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECTIONS", 1)
    async with listening() as bed, await trio.open_tcp_stream(bed.tcp.host, bed.tcp.port) as first:
        query = dns.message.make_query("api.example.com", "A").to_wire()
        await first.send_all(struct.pack("!H", len(query)) + query)
        assert await read_message(first)
        async with await trio.open_tcp_stream(bed.tcp.host, bed.tcp.port) as second:
            with trio.fail_after(5):
                assert await second.receive_some(1) == b""
        await first.send_all(struct.pack("!H", len(query)) + query)
        assert await read_message(first)


async def test_a_silent_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE", 0.1)
    async with listening() as bed, await trio.open_tcp_stream(bed.tcp.host, bed.tcp.port) as stream:
        with trio.fail_after(10):
            assert await stream.receive_some(1) == b""
