"""The addresses of a name, and for how long they hold: the hosts file, then the name servers of resolv.conf.

As glibc's resolver: search domains, several name servers in order and again, TCP where UDP's answer was cut short. Unlike it
this keeps the TTL, also of an answer that says no, and begins with the name server that answered last. An answer is
believed only as far as it is one: to this query, about this name or what it is an alias of, with addresses that can be dialled.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final, NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rdtypes.ANY.CNAME
import dns.rdtypes.ANY.OPT
import dns.rdtypes.ANY.SOA
import dns.rdtypes.IN.A
import dns.rdtypes.IN.AAAA
import trio

from interceptor.config.addresses import BOTH
from interceptor.discovery.name_servers import ask_by_tcp, ask_by_udp, same_question
from interceptor.discovery.resolver import FILE_SECONDS, MAX_ADDRESSES, RETRY, Answer, UnresolvedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from interceptor.discovery.name_servers import Upstream
    from interceptor.model.address import SocketAddress

_TYPES: Final = {4: dns.rdatatype.A, 6: dns.rdatatype.AAAA}
_FAILED: Final = frozenset((dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTIMP, dns.rcode.FORMERR))


class _Found(NamedTuple):
    """What name servers say of one name and type: addresses, or that there are none."""

    addresses: tuple[str, ...]
    ttl: float
    said: str = "-"


class Lookups:
    """Looks names up."""

    def __init__(self, upstream: Callable[[], Upstream], hosts: Callable[[str], tuple[str, ...]]) -> None:
        self._upstream = upstream
        self._hosts = hosts
        self._last: SocketAddress | None = None  # the name server that answered last

    async def __call__(self, host: str, versions: frozenset[int] = BOTH) -> Answer:
        """Its addresses of these versions of IP. Raises UnresolvedError."""
        listed = tuple(each for each in self._hosts(host) if (6 if ":" in each else 4) in versions)
        if listed:
            return Answer(listed, FILE_SECONDS)
        upstream = self._upstream()
        if not upstream.servers:
            raise UnresolvedError("resolv.conf names no name server", RETRY)
        wait, said = RETRY, "-"
        for name in candidates(host, upstream):
            found = await self._each(name, versions, upstream)
            addresses = tuple(dict.fromkeys(each for one in found for each in one.addresses))
            if addresses:
                ttl = min(each.ttl for each in found if each.addresses)
                return Answer(addresses[:MAX_ADDRESSES], ttl)
            wait, said = min(each.ttl for each in found), found[0].said
        raise UnresolvedError(said, wait)

    async def _each(self, name: dns.name.Name, versions: frozenset[int], upstream: Upstream) -> list[_Found]:
        """What there is of each version. One that cannot be found out does not take the other away."""
        found: list[_Found] = []
        failures: list[UnresolvedError] = []

        async def one(kind: dns.rdatatype.RdataType) -> None:
            try:
                found.append(await self._ask(name, kind, upstream))
            except UnresolvedError as failure:
                failures.append(failure)

        async with trio.open_nursery() as nursery:
            for version in versions:
                nursery.start_soon(one, _TYPES[version])
        if failures and not any(each.addresses for each in found):
            raise failures[0]
        return found

    async def _ask(self, name: dns.name.Name, kind: dns.rdatatype.RdataType, upstream: Upstream) -> _Found:
        """What the first name server says that answers."""
        said = "-"
        servers = sorted(upstream.servers, key=lambda server: server != self._last)
        for server in servers * upstream.attempts:
            query = dns.message.make_query(name, kind)  # without EDNS, as glibc's
            said = f"the name server {server} did not answer in time"
            with trio.move_on_after(upstream.patience):
                try:
                    found = read(query, await _answer(server, query))
                except (EOFError, OSError, trio.BrokenResourceError):
                    said = f"the name server {server} cannot be reached"
                except UnresolvedError as failure:
                    said = f"the name server {server} {failure}"
                else:
                    self._last = server
                    return found
        raise UnresolvedError(said, RETRY)


async def _answer(server: SocketAddress, query: dns.message.Message) -> bytes:
    asked = query.to_wire()
    reply = await ask_by_udp(server, asked, same_question)
    return await ask_by_tcp(server, asked) if reply[2] & dns.flags.TC >> 8 else reply


def candidates(host: str, upstream: Upstream) -> Iterable[dns.name.Name]:
    """The names that a name may stand for, in the order of resolv.conf(5). Raises UnresolvedError for what is no name."""
    try:
        own = dns.name.from_text(host)
        if host.endswith("."):
            return (own,)
        searched = []
        for domain in upstream.search:
            try:
                searched.append(dns.name.from_text(f"{host}.{domain}"))
            except dns.exception.DNSException:
                continue  # too long together
    except (dns.exception.DNSException, UnicodeError) as error:
        raise UnresolvedError(str(error) or type(error).__name__, RETRY) from None
    few = host.count(".") < upstream.dots
    return (*searched, own) if few else (own, *searched)


def read(query: dns.message.Message, data: bytes) -> _Found:
    """What an answer says. Raises UnresolvedError where it says nothing that can be believed."""
    try:
        reply = dns.message.from_wire(data, ignore_trailing=True)
        if reply.rcode() in _FAILED:
            raise UnresolvedError(f"answered {dns.rcode.to_text(reply.rcode())}", RETRY)
        if not query.is_response(reply) or not isinstance(reply, dns.message.QueryMessage):
            raise UnresolvedError("answered something else", RETRY)
        chain = reply.resolve_chaining()
    except dns.exception.DNSException as error:
        raise UnresolvedError(f"answered what cannot be read: {type(error).__name__}", RETRY) from None
    if chain.answer is None:
        known = reply.rcode() != dns.rcode.NXDOMAIN
        # RFC 2308: for how long is in the SOA record; where there is none it is nobody's word.
        told = any(each.rdtype == dns.rdatatype.SOA for each in reply.authority)
        ttl = float(chain.minimum_ttl) if told else RETRY
        return _Found((), ttl, "the name has no address" if known else "there is no such name")
    addresses = tuple(str(each.address) for each in chain.answer if dialled(str(each.address)))
    return _Found(addresses, float(chain.minimum_ttl), "the name has no address that can be dialled")


def dialled(address: str) -> bool:
    """Whether an address can be a service's: not every one that may be written into a record."""
    parsed = ipaddress.ip_address(address)
    return not (parsed.is_unspecified or parsed.is_multicast or address == "255.255.255.255")
