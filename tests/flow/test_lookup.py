"""Lookups at name servers that a test speaks for: silent, lying, cut short, refusing, with hundreds of addresses."""

from __future__ import annotations

import logging
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
import trio

from interceptor.discovery.lookup import Lookups
from interceptor.discovery.name_servers import Upstream, read_message
from interceptor.discovery.resolver import FILE_SECONDS, MAX_ADDRESSES, Answer, Resolver, UnresolvedError
from interceptor.model.address import OriginalDestination, SocketAddress
from interceptor.state.snapshot import take
from interceptor.state.store import Store
from tests.support.both_sockets import both
from tests.support.documents import configuration
from tests.support.routed import document

Zone = dict[tuple[str, str], list[str]]
LARGE = [f"10.1.{number // 250}.{number % 250 + 1}" for number in range(500)]


@dataclass
class Server:
    """Answers from a zone: a name and a type, or a name that is not there."""

    zone: Zone = field(default_factory=dict)
    ttl: int = 60
    silent: bool = False
    rcode: dns.rcode.Rcode = dns.rcode.NOERROR
    before: Callable[[dns.message.Message], list[bytes]] = lambda _: []  # datagrams ahead of the answer
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # by which protocol, name, type
    address: SocketAddress = field(default_factory=lambda: SocketAddress("127.0.0.1", 0))

    def answer(self, query: dns.message.Message, by: str) -> dns.message.Message:
        [question] = query.question
        name, kind = str(question.name), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((by, name, kind))
        made = dns.message.make_response(query)
        made.set_rcode(self.rcode)
        found = self.zone.get((name, kind), [])
        if not any(known == name for known, _ in self.zone) and self.rcode == dns.rcode.NOERROR:
            made.set_rcode(dns.rcode.NXDOMAIN)
        if found:
            made.answer.append(dns.rrset.from_text(name, self.ttl, "IN", kind, *found))
        return made

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        datagram, listener = both()
        datagrams = trio.socket.from_stdlib_socket(datagram)
        listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listener))]
        self.address = SocketAddress(*datagram.getsockname())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, self._stream, listeners)
            task_status.started()
            with datagrams:
                while True:
                    await self._datagram(datagrams)

    async def _datagram(self, datagrams: trio.socket.SocketType) -> None:
        data, client = await datagrams.recvfrom(4096)
        query = dns.message.from_wire(data)
        for forged in self.before(query):
            await datagrams.sendto(forged, client)
        made = self.answer(query, "udp")
        if self.silent:
            return
        wire = made.to_wire(max_size=65535)
        if len(wire) > 512:
            made.answer.clear()
            made.flags |= dns.flags.TC
            wire = made.to_wire()
        await datagrams.sendto(wire, client)

    async def _stream(self, stream: trio.SocketStream) -> None:
        async with stream:
            made = self.answer(dns.message.from_wire(await read_message(stream)), "tcp").to_wire()
            await stream.send_all(struct.pack("!H", len(made)) + made)


@asynccontextmanager
async def serving(*servers: Server) -> AsyncIterator[trio.Nursery]:
    async with trio.open_nursery() as nursery:
        for server in servers:
            await nursery.start(server.run)
        yield nursery
        nursery.cancel_scope.cancel()


def lookups(
    *servers: Server,
    search: tuple[str, ...] = (),
    dots: int = 1,
    hosts: dict[str, str] | None = None,
    patience: float = 10.0,  # short only where one is silent: a busy machine's answers take their time
) -> Lookups:
    upstream = Upstream(tuple(each.address for each in servers), search, dots, patience, attempts=2)
    listed = hosts or {}
    return Lookups(lambda: upstream, lambda name: (listed[name],) if name in listed else ())


async def test_both_families_and_the_shorter_time() -> None:
    server = Server(
        {("a.example.", "A"): ["10.0.0.1", "10.0.0.2"], ("a.example.", "AAAA"): ["fd00::1"]}, ttl=7
    )
    async with serving(server):
        found = await lookups(server)("a.example")
        assert sorted(found.addresses) == ["10.0.0.1", "10.0.0.2", "fd00::1"]
        assert found.ttl == 7
        with pytest.raises(UnresolvedError, match="there is no such name"):
            await lookups(server)("b.example")


async def test_five_hundred_addresses_come_by_tcp_and_are_bounded() -> None:
    server = Server({("a.example.", "A"): LARGE})
    async with serving(server):
        found = await lookups(server)("a.example")
    assert len(found.addresses) == MAX_ADDRESSES
    assert ("tcp", "a.example.", "A") in server.asked


async def test_the_hosts_file_comes_first() -> None:
    server = Server({("db.", "A"): ["10.0.0.1"]})
    async with serving(server):
        assert await lookups(server, hosts={"db": "10.9.9.9"})("db") == Answer(("10.9.9.9",), FILE_SECONDS)
    assert server.asked == []


async def test_search_domains_are_tried_in_order() -> None:
    server = Server({("db.svc.", "A"): ["10.0.0.1"], ("db.", "A"): ["10.6.6.6"]})
    async with serving(server):
        found = await lookups(server, search=("a.svc", "svc"))("db")
    assert found.addresses == ("10.0.0.1",)
    assert {name for _, name, _ in server.asked} == {"db.a.svc.", "db.svc."}


async def test_no_other_name_stands_in_for_one_whose_server_fails() -> None:
    server = Server({("db.", "A"): ["10.6.6.6"]}, rcode=dns.rcode.SERVFAIL)
    async with serving(server):
        with pytest.raises(UnresolvedError, match="answered SERVFAIL"):
            await lookups(server, search=("svc",))("db")
    assert {name for _, name, _ in server.asked} == {"db.svc."}


async def test_another_name_server_is_asked_and_remembered() -> None:
    zone: Zone = {("a.example.", "A"): ["10.0.0.1"]}
    silent, refusing, good = Server(zone, silent=True), Server(zone, rcode=dns.rcode.REFUSED), Server(zone)
    async with serving(silent, refusing, good):
        made = lookups(silent, refusing, good, patience=0.2)
        assert (await made("a.example")).addresses == ("10.0.0.1",)
        before = len(silent.asked)
        assert (await made("a.example")).addresses == ("10.0.0.1",)
        assert len(silent.asked) == before, "who answered last is asked first"
        good.silent = True
        with pytest.raises(UnresolvedError):
            await made("a.example")


async def test_nobody_answers_and_nobody_is_there() -> None:
    silent = Server({}, silent=True)
    async with serving(silent):
        with pytest.raises(UnresolvedError, match="did not answer in time"):
            await lookups(silent, patience=0.2)("a.example")
    with pytest.raises(UnresolvedError, match="cannot be reached"):
        await lookups(silent, patience=0.2)("a.example")
    with pytest.raises(UnresolvedError, match="names no name server"):
        await lookups()("a.example")


def forged(query: dns.message.Message) -> list[bytes]:
    """What somebody who does not see the query would send: another id, another question; and what is no answer at all."""
    lie = dns.message.make_response(query)
    lie.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", "10.6.6.6"))
    lie.id = query.id ^ 1
    other = dns.message.make_response(dns.message.make_query("other.example.", "A", id=query.id))
    other.answer.append(dns.rrset.from_text("other.example.", 60, "IN", "A", "10.6.6.6"))
    return [lie.to_wire(), other.to_wire(), b"", query.to_wire(), b"x" * 600]


async def test_lies_are_not_believed() -> None:
    server = Server({("a.example.", "A"): ["10.0.0.1"]}, before=forged)
    async with serving(server):
        assert (await lookups(server)("a.example")).addresses == ("10.0.0.1",)


async def test_one_family_that_fails_does_not_take_the_other_away() -> None:
    def cut(query: dns.message.Message) -> list[bytes]:
        if query.question[0].rdtype != dns.rdatatype.AAAA:
            return []
        made = dns.message.make_response(query)
        made.set_rcode(dns.rcode.SERVFAIL)
        return [made.to_wire()]

    server = Server({("a.example.", "A"): ["10.0.0.1"]}, before=cut)
    async with serving(server):
        assert (await lookups(server)("a.example")).addresses == ("10.0.0.1",)


async def test_endpoints_follow_the_answers_and_a_failure_changes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    entry = document(
        "ServiceEntry",
        "hosts: [a.example]\nports: [{number: 80, name: http, protocol: HTTP}]\nresolution: DNS",
    )
    rule = document("DestinationRule", "host: a.example\ntrafficPolicy: {loadBalancer: {simple: RANDOM}}")
    server = Server({("a.example.", "A"): ["10.0.0.1", "10.0.0.2"]})
    store = Store(take(configuration(entry, rule)))

    def endpoints() -> list[str]:
        assert store.current.routing is not None
        cluster = store.current.routing.clusters.find("a.example", 80, None, 80)
        assert cluster is not None
        return [each.address.host for each in cluster.endpoints]

    async with serving(server):
        resolver = Resolver(store, lookups(server, patience=0.2))
        await resolver.round()
        assert endpoints() == ["10.0.0.1", "10.0.0.2"]
        server.zone = {("a.example.", "A"): ["10.0.0.2", "10.0.0.3"]}
        await resolver.round()
        assert endpoints() == ["10.0.0.2", "10.0.0.3"], "an address that left gets nothing new"
        assert store.current.resolved == {"a.example": ("10.0.0.1", "10.0.0.2", "10.0.0.3")}, (
            "and stays allowed for who looked it up before"
        )
        before = store.current
        server.silent = True
        await resolver.round()
        server.silent, server.zone = False, {}
        await resolver.round()
        server.zone = {("a.example.", "A"): ["0.0.0.0"]}
        await resolver.round()
        assert store.current is before
    assert caplog.text.count("cannot be resolved") == 1


@pytest.mark.parametrize(("family", "asked", "endpoint"), [("V4_ONLY", ["A"], "10.0.0.1"), ("V6_ONLY", ["AAAA"], "fd00::1"), ("AUTO", ["A", "AAAA"], "fd00::1"), ("V4_PREFERRED", ["A", "AAAA"], "10.0.0.1")])  # fmt: skip
async def test_a_version_that_no_document_wants_is_not_asked_for(
    family: str, asked: list[str], endpoint: str
) -> None:
    entry = document(
        "ServiceEntry",
        f"hosts: [a.example]\nports: [{{number: 80, name: http, protocol: HTTP}}]\nresolution: DNS\ndnsLookupFamily: {family}",
    )
    rule = document("DestinationRule", "host: a.example\ntrafficPolicy: {loadBalancer: {simple: RANDOM}}")
    server = Server({("a.example.", "A"): ["10.0.0.1"], ("a.example.", "AAAA"): ["fd00::1"]})
    store = Store(take(configuration(entry, rule)))
    async with serving(server):
        await Resolver(store, lookups(server)).round()
    assert sorted(kind for _, _, kind in server.asked) == asked
    assert store.current.routing is not None
    cluster = store.current.routing.clusters.find("a.example", 80, None, 80)
    assert cluster is not None
    assert [each.address.host for each in cluster.endpoints] == [endpoint]


async def test_the_hosts_file_answers_for_the_versions_that_it_has() -> None:
    server = Server({("a.example.", "AAAA"): ["fd00::1"]})
    async with serving(server):
        made = lookups(server, hosts={"a.example": "10.0.0.1"})
        assert (await made("a.example", frozenset({4}))).addresses == ("10.0.0.1",)
        assert (await made("a.example", frozenset({6}))).addresses == ("fd00::1",)


async def test_names_are_endpoints_of_one_service() -> None:
    entry = document(
        "ServiceEntry",
        """
        hosts: [db.example]
        ports: [{number: 80, name: http, protocol: HTTP}]
        resolution: DNS
        dnsLookupFamily: V4_ONLY
        endpoints: [{address: a.example}, {address: b.example, ports: {http: 8080}, weight: 2}, {address: 10.0.0.9}]
        """,
    )
    server = Server({("a.example.", "A"): ["10.0.0.1", "10.0.0.2"], ("b.example.", "A"): ["10.0.0.3"]})
    store = Store(take(configuration(entry)))
    async with serving(server):
        resolver = Resolver(store, lookups(server))
        await resolver.round()
        assert resolver.hosts == ("a.example", "b.example")
        of = store.current
        assert of.routing is not None
        cluster = of.routing.clusters.find("db.example", 80, None, 80)
        assert cluster is not None
        found = {(str(each.address), each.weight) for each in cluster.endpoints}
        assert found == {("10.0.0.1:80", 1), ("10.0.0.2:80", 1), ("10.0.0.3:8080", 2), ("10.0.0.9:80", 1)}
        dialled = of.egress(OriginalDestination(SocketAddress("10.0.0.3", 80)))
        assert dialled.service == "db.example"
        assert [str(each) for each in dialled.upstreams] == [
            "10.0.0.1:80",
            "10.0.0.2:80",
            "10.0.0.3:8080",
            "10.0.0.9:80",
        ]
        server.zone.pop(("a.example.", "A"))
        server.zone["a.example.", "A"] = ["10.0.0.2"]
        await resolver.round()
        assert store.current.routing is not None
        cluster = store.current.routing.clusters.find("db.example", 80, None, 80)
        assert cluster is not None
        assert "10.0.0.1" not in {each.address.host for each in cluster.endpoints}, "it gets nothing new"
        assert (
            store.current.egress(OriginalDestination(SocketAddress("10.0.0.1", 80))).service == "db.example"
        )
