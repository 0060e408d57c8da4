"""The TCP sockets that listen in this namespace, as /proc/net/tcp shows them; needs no right."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.redirect.doctor import Listener

_LISTEN: Final = "0A"  # TCP_LISTEN, include/net/tcp_states.h
# ESTABLISHED, SYN_SENT, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT
_OPEN: Final = frozenset(("01", "02", "04", "05", "08"))


class _Line(NamedTuple):
    listener: Listener
    inode: int


def listeners() -> tuple[Listener, ...]:
    """Every socket that listens, of both families."""
    return tuple(line.listener for line in _lines())


def listening_inodes(ports: set[int]) -> set[int]:
    """The inodes of the sockets that listen on these ports: what /proc/PID/fd shows of them."""
    return {line.inode for line in _lines() if line.listener.port in ports}


def any_open() -> bool:
    """Whether there is an open connection at all. The list of sockets takes the kernel 10 ms, however short it is."""
    return _in_use() and any(fields[3] in _OPEN for _, fields in _sockets())


def _in_use() -> bool:
    """Whether there is a TCP socket in use: a connection, or a listener."""
    counts = [Path("/proc/net", name) for name in ("sockstat", "sockstat6")]
    lines = [line.split() for path in counts if path.exists() for line in path.read_text().splitlines()]
    return any(line[0] in {"TCP:", "TCP6:"} and line[2] != "0" for line in lines)


def _lines() -> Iterator[_Line]:
    from interceptor.redirect.doctor import Listener  # noqa: PLC0415 (any_open does without)

    for family, fields in _sockets():
        if fields[3] != _LISTEN:
            continue
        address, _, port = fields[1].partition(":")
        # Groups of 32 bits, each as this machine's number.
        words = [int(address[start : start + 8], 16) for start in range(0, len(address), 8)]
        packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
        found = Listener(int(port, 16), socket.inet_ntop(family, packed), int(fields[7]))
        yield _Line(found, int(fields[9]))


def _sockets() -> Iterator[tuple[int, list[str]]]:
    """Family and fields of every TCP socket."""
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        path = Path("/proc/net", name)
        if path.exists():  # not in a kernel without IPv6
            for line in path.read_text(encoding="utf-8").splitlines()[1:]:
                yield family, line.split()
