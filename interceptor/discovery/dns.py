"""The DNS listener: answers for the names of the registry, and passes every other query on as it is.

The rules bring the app's queries here (``sidecar-setup --dns capture``); they arrive at the loopback addresses, so nobody
outside can ask. The name servers asked are those of resolv.conf, or those that the document names: the proxy's own
queries are never captured. A query is passed on byte by byte, whatever it holds that we do not know.
"""

from __future__ import annotations

import contextlib
import logging
import struct
from typing import TYPE_CHECKING, Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype

# dnspython loads what makes a record when it meets the first one of a kind: too late where only root can read it.
import dns.rdtypes.ANY.CNAME
import dns.rdtypes.ANY.OPT
import dns.rdtypes.IN.A
import dns.rdtypes.IN.AAAA
import dns.rrset
import trio

from interceptor.discovery.name_servers import LARGEST, ask_by_tcp, ask_by_udp, read_message

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from interceptor.discovery.name_servers import Upstream
    from interceptor.routing.names import Names

_log: Final = logging.getLogger(__name__)

TTL: Final = 30  # seconds that an answer of ours may be kept: Istio's
QUERIES: Final = 512  # under way at once; each takes a descriptor. More are answered SERVFAIL at once
CONNECTIONS: Final = 64  # by TCP at once
PATIENCE: Final = 5.0  # seconds for one name server, glibc's own; then the next one
IDLE: Final = 10.0  # seconds of silence that a TCP connection may last (RFC 7766, 6.2.3: a few seconds)
_PLAIN_UDP: Final = 512  # what an answer may be without EDNS (RFC 1035)


def answer(query: bytes, names: Names, search: Sequence[str], *, by_udp: bool) -> bytes | None:
    """The answer to a query for a name of the registry; None where it is for somebody else.

    Raises dns.exception.DNSException for what is no query.
    """
    asked = dns.message.from_wire(query, ignore_trailing=True)
    if asked.opcode() != dns.opcode.QUERY or len(asked.question) != 1:
        return None
    [question] = asked.question
    if question.rdclass != dns.rdataclass.IN:
        return None
    found = names.find(question.name.to_text(omit_final_dot=True).lower(), search)
    if found is None:
        return None
    meant, known = found
    reply = dns.message.make_response(asked, recursion_available=True)
    owner = question.name
    name = dns.name.from_text(meant)
    if name != owner:  # RFC 1034, 3.6.2: the name asked for stands for the one meant
        reply.answer.append(dns.rrset.from_text(owner, TTL, "IN", "CNAME", name.to_text()))
        owner = name
    addresses = {dns.rdatatype.A: known.v4, dns.rdatatype.AAAA: known.v6}.get(question.rdtype, ())
    if addresses:
        reply.answer.append(dns.rrset.from_text(owner, TTL, "IN", question.rdtype, *addresses))
    most = max(asked.payload, _PLAIN_UDP) if by_udp else LARGEST
    try:
        return reply.to_wire(max_size=most)
    except dns.exception.TooBig:
        reply.answer.clear()
        reply.flags |= dns.flags.TC
        return reply.to_wire(max_size=most)


def failure(query: bytes) -> bytes | None:
    """SERVFAIL for a query that nobody answered; None for what is no query."""
    if len(query) < 12:
        return None
    flags = struct.unpack_from("!H", query, 2)[0]
    if flags & dns.flags.QR:
        return None
    # The header alone: the question may be what is wrong.
    reply = dns.flags.QR | dns.flags.RA | (flags & (dns.flags.RD | 0x7800)) | dns.rcode.SERVFAIL
    return query[:2] + struct.pack("!HHHHH", reply, 0, 0, 0, 0)


class DnsListener:
    """Answers on sockets that are already bound, until cancelled.

    ``count`` is told how each query ended: ``answered`` by us, ``forwarded``, or ``failed``.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        names: Callable[[], Names],
        upstream: Callable[[], Upstream],
        count: Callable[[str], None],
    ) -> None:
        opened = [trio.socket.from_stdlib_socket(sock) for sock in sockets]
        self._datagrams = [sock for sock in opened if sock.type == trio.socket.SOCK_DGRAM]
        self._streams = [trio.SocketListener(sock) for sock in opened if sock.type == trio.socket.SOCK_STREAM]
        self._names = names
        self._upstream = upstream
        self._count = count
        self._queries = trio.CapacityLimiter(QUERIES)
        self._connections = trio.CapacityLimiter(CONNECTIONS)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve, and close the sockets at the end; started once queries are answered."""
        async with contextlib.AsyncExitStack() as stack, trio.open_nursery() as nursery:
            for sock in self._datagrams:
                stack.enter_context(sock)
            for sock in self._datagrams:
                nursery.start_soon(self._serve_datagrams, sock, nursery)
            nursery.start_soon(trio.serve_listeners, self._serve_stream, self._streams)
            task_status.started()

    async def _serve_datagrams(self, sock: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        while True:
            try:
                query, client = await sock.recvfrom(LARGEST)
            except OSError:  # an ICMP error of an answer that nobody waited for
                continue
            if self._queries.available_tokens:
                self._queries.acquire_on_behalf_of_nowait(token := object())
                nursery.start_soon(self._serve_datagram, sock, query, client, token)
            elif (reply := failure(query)) is not None:
                self._count("failed")
                await _send(sock, reply, client)

    async def _serve_datagram(
        self, sock: trio.socket.SocketType, query: bytes, client: tuple[object, ...], token: object
    ) -> None:
        try:
            reply = await self._reply(query, by_udp=True)
            if reply is not None:
                await _send(sock, reply, client)
        finally:
            self._queries.release_on_behalf_of(token)

    async def _serve_stream(self, stream: trio.SocketStream) -> None:
        """One query after the other; a client that wants more of them at once opens more connections."""
        try:
            self._connections.acquire_nowait()
        except trio.WouldBlock:
            await stream.aclose()
            return
        try:
            async with stream:
                while True:
                    with trio.fail_after(IDLE):
                        query = await read_message(stream)
                    reply = await self._reply(query, by_udp=False)
                    if reply is None:
                        return
                    with trio.fail_after(IDLE):
                        await stream.send_all(struct.pack("!H", len(reply)) + reply)
        except (EOFError, OSError, trio.BrokenResourceError, trio.TooSlowError):
            return
        finally:
            self._connections.release()

    async def _reply(self, query: bytes, *, by_udp: bool) -> bytes | None:
        """The answer to one query, whoever gives it; None for what is no query."""
        upstream = self._upstream()
        try:
            reply = answer(query, self._names(), upstream.search, by_udp=by_udp)
        except dns.exception.DNSException:
            reply = None  # what we cannot read others may: it is passed on as it is
        if reply is not None:
            self._count("answered")
            return reply
        ask = ask_by_udp if by_udp else ask_by_tcp
        for server in upstream.servers if failure(query) is not None else ():
            with trio.move_on_after(PATIENCE):
                try:
                    reply = await ask(server, query)
                except (EOFError, OSError, trio.BrokenResourceError):
                    continue
                self._count("forwarded")
                return reply
        self._count("failed")
        return failure(query)


async def _send(sock: trio.socket.SocketType, reply: bytes, client: tuple[object, ...]) -> None:
    try:
        await sock.sendto(reply, client)
    except OSError as error:
        _log.debug("an answer to %s could not be sent: %s", client, error.strerror)
