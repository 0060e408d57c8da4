"""Who is asked for names: what resolv.conf and the hosts file say, and one query to one name server."""

from __future__ import annotations

import contextlib
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from interceptor.config.addresses import ip_address
from interceptor.model.address import SocketAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LARGEST: Final = 65_535
PORT: Final = 53
RESOLV_CONF: Final = Path("/etc/resolv.conf")
HOSTS: Final = Path("/etc/hosts")
# glibc's bounds and defaults (resolv.conf(5)), but for the patience with one server: 5 s there.
MOST_DOTS: Final = 15
PATIENCE: Final = 2.0
MOST_PATIENCE: Final = 30
ATTEMPTS: Final = 2
MOST_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True)
class Upstream:
    """Who is asked, and how: the search domains that a resolver appends, to names with fewer dots before the name itself."""

    servers: tuple[SocketAddress, ...]
    search: tuple[str, ...] = ()
    dots: int = 1
    patience: float = PATIENCE  # seconds for one name server
    attempts: int = ATTEMPTS  # at all of them


def read_resolv_conf(text: str) -> Upstream:
    """What resolv.conf says, as glibc reads it: three name servers at most, the last ``search`` or ``domain`` counts."""
    servers: list[SocketAddress] = []
    search: tuple[str, ...] = ()
    options: dict[str, int] = {}
    for line in text.splitlines():
        match line.split():
            case ["nameserver", address, *_]:
                try:
                    host = ip_address(address.partition("%")[0])
                except ValueError:
                    continue
                servers.append(SocketAddress(host, PORT))
            case ["search", *domains]:
                search = tuple(domain.lower().strip(".") for domain in domains)
            case ["domain", domain]:
                search = (domain.lower().strip("."),)
            case ["options", *given]:
                pairs = (each.partition(":") for each in given)
                options |= {name: int(value) for name, _, value in pairs if value.isdecimal()}
            case _:
                pass
    return Upstream(
        tuple(servers[:3]),
        tuple(domain for domain in search if domain),
        min(options.get("ndots", 1), MOST_DOTS),
        max(1.0, min(options.get("timeout", PATIENCE), MOST_PATIENCE)),
        max(1, min(options.get("attempts", ATTEMPTS), MOST_ATTEMPTS)),
    )


def read_hosts(text: str) -> dict[str, tuple[str, ...]]:
    """The addresses of each name of a hosts file, in its order."""
    found: dict[str, dict[str, None]] = {}
    for line in text.splitlines():
        given, *names = line.partition("#")[0].split() or [""]
        try:
            address = ip_address(given.partition("%")[0])
        except ValueError:
            continue
        for name in names:
            found.setdefault(name.lower().rstrip("."), {})[address] = None
    return {name: tuple(addresses) for name, addresses in found.items()}


class Followed:
    """A file that is read again when it changes; one that cannot be read changes nothing."""

    def __init__(self, path: Path, take: Callable[[str], None]) -> None:
        self._path = path
        self._take = take
        self._seen: tuple[int, int] | None = None

    def look(self) -> None:
        """Read it, where it has changed."""
        with contextlib.suppress(OSError):
            status = self._path.stat()
            seen = (status.st_mtime_ns, status.st_ino)
            if seen != self._seen:
                self._take(self._path.read_text(encoding="utf-8", errors="replace"))
                self._seen = seen


class NameServers:
    """Who is asked now: those of the document, else those of resolv.conf, which is read again when it changes."""

    def __init__(self, given: Sequence[str] = (), namespace: str | None = None) -> None:
        self._given = tuple(SocketAddress(host, PORT) for host in given)
        # As 'ip netns exec' has it for its commands.
        own = Path("/etc/netns", namespace or "", "resolv.conf")
        self._file = Followed(own if namespace and own.exists() else RESOLV_CONF, self._read)
        self._upstream = Upstream(self._given)

    def __call__(self) -> Upstream:
        """A resolv.conf that cannot be read changes nothing."""
        self._file.look()
        return self._upstream

    def _read(self, text: str) -> None:
        read = read_resolv_conf(text)
        servers = self._given or read.servers
        self._upstream = Upstream(servers, read.search, read.dots, read.patience, read.attempts)


class Hosts:
    """The hosts file, which is read again when it changes."""

    def __init__(self, namespace: str | None = None) -> None:
        own = Path("/etc/netns", namespace or "", "hosts")
        self._file = Followed(own if namespace and own.exists() else HOSTS, self._read)
        self._found: Mapping[str, tuple[str, ...]] = {}

    def __call__(self, name: str) -> tuple[str, ...]:
        """The addresses of a name; none where it is not there."""
        self._file.look()
        return self._found.get(name.lower().rstrip("."), ())

    def _read(self, text: str) -> None:
        self._found = read_hosts(text)


def same_id(query: bytes, reply: bytes) -> bool:
    """Whether an answer may be to this query, whatever both of them say."""
    return reply[:2] == query[:2]


def same_question(query: bytes, reply: bytes) -> bool:
    """Whether an answer is to this query of ours: its id, and its question where it repeats one."""
    if not same_id(query, reply) or len(reply) < 12 or not reply[2] & 0x80:
        return False
    if reply[4:6] == b"\0\0":  # an error about a query that was not understood
        return True
    end = query.find(b"\0", 12) + 5
    return reply[12:end].lower() == query[12:end].lower()


async def ask_by_udp(
    server: SocketAddress, query: bytes, answers: Callable[[bytes, bytes], bool] = same_id
) -> bytes:
    """From a port of its own, and only an answer to this query: what else comes in is dropped."""
    family = trio.socket.AF_INET6 if server.is_v6 else trio.socket.AF_INET
    with trio.socket.socket(family, trio.socket.SOCK_DGRAM) as sock:
        await sock.connect((server.host, server.port))
        await sock.send(query)
        while not answers(query, reply := await sock.recv(LARGEST)):
            pass
        return bytes(reply)


async def ask_by_tcp(server: SocketAddress, query: bytes) -> bytes:
    """On a connection of its own."""
    async with await trio.open_tcp_stream(server.host, server.port) as stream:
        await stream.send_all(struct.pack("!H", len(query)) + query)
        return await read_message(stream)


async def read_message(stream: trio.SocketStream) -> bytes:
    """One message with its length before it; EOFError where the stream ends."""
    length = struct.unpack("!H", await _read_exactly(stream, 2))[0]
    return await _read_exactly(stream, length)


async def _read_exactly(stream: trio.SocketStream, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = await stream.receive_some(size - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data)
