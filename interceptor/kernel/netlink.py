"""Netlink dumps in plain bytes, for what ``apply`` asks each time: pyroute2 takes longer to load than all of an apply.

Speaks with the namespace of the calling process.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NETFILTER: Final = 12  # NETLINK_NETFILTER, include/uapi/linux/netlink.h
ROUTE: Final = 0  # NETLINK_ROUTE
SOCK_DIAG: Final = 4  # NETLINK_SOCK_DIAG

_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE: Final = struct.Struct("=HH")  # nlattr: length, type
_ERROR, _DONE = 2, 3  # NLMSG_ERROR, NLMSG_DONE
_DUMP: Final = 0x301  # NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH
_INTERRUPTED: Final = 0x10  # NLM_F_DUMP_INTR
_NESTED: Final = 0x8000  # NLA_F_NESTED
_KIND: Final = 0x3FFF  # NLA_TYPE_MASK
_BUFFER: Final = 1 << 17  # the kernel fills at most 32 KiB at once
_NFT_GETTABLE: Final = 10 << 8 | 1  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETTABLE
_TABLE_NAME: Final = 1  # NFTA_TABLE_NAME


def dump(protocol: int, kind: int, request: bytes) -> list[bytes]:
    """The bodies of all answers. OSError: what the kernel says, or EAGAIN where it kept changing meanwhile."""
    for _ in range(3):
        found, whole = _dump(protocol, kind, request)
        if whole:
            return found
    raise BlockingIOError("the kernel's tables change too quickly to be listed")


def _dump(protocol: int, kind: int, request: bytes) -> tuple[list[bytes], bool]:
    bodies: list[bytes] = []
    whole = True
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as netlink:
        netlink.bind((0, 0))
        netlink.send(_HEADER.pack(_HEADER.size + len(request), kind, _DUMP, 1, 0) + request)
        while True:
            data = netlink.recv(_BUFFER)
            start = 0
            while start < len(data):
                length, answer, flags, _, _ = _HEADER.unpack_from(data, start)
                body = data[start + _HEADER.size : start + length]
                whole = whole and not flags & _INTERRUPTED
                if answer in {_ERROR, _DONE}:
                    number = -int.from_bytes(body[:4], "little", signed=True) if body else 0
                    if number:
                        raise OSError(number, os.strerror(number))
                    return bodies, whole
                bodies.append(body)
                start += _aligned(length)


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute of a request."""
    return (_ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value).ljust(
        _aligned(_ATTRIBUTE.size + len(value)), b"\0"
    )


def nested(kind: int, inner: bytes) -> bytes:
    """One that holds others."""
    return attribute(_NESTED | kind, inner)


def attributes(data: bytes) -> Mapping[int, bytes]:
    """The attributes in a body, after its fixed part, or in another attribute."""
    return dict(_attributes(data))


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    start = 0
    while start + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        yield kind & _KIND, data[start + _ATTRIBUTE.size : start + length]
        start += max(_aligned(length), _ATTRIBUTE.size)


def _aligned(length: int) -> int:
    return length + 3 & ~3


def nfgenmsg(family: int) -> bytes:
    """The fixed part of a request to netfilter: struct nfgenmsg."""
    return struct.pack("=BBH", family, 0, 0)


def nftables() -> frozenset[tuple[int, str]]:
    """The tables of nftables, each with the number of its family. OSError: none can be had, or not for us to see."""
    return frozenset(
        (body[0], attributes(body[4:])[_TABLE_NAME].rstrip(b"\0").decode("utf-8", "replace"))
        for body in dump(NETFILTER, _NFT_GETTABLE, nfgenmsg(socket.AF_UNSPEC))
    )
