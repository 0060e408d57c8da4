"""One iptables rule as the kernel's bytes: ``struct ipt_entry`` or ``ip6t_entry``, its matches and its target.

Foreign rules are walked by the sizes the kernel wrote, never decoded by an extension: an extension of another revision
would read past the rule. Two rules are the same when their normal forms are the same bytes.
"""

from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.model.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.redirect.rules import Family, Network


class _Shape(Record):
    """Where the fields of an entry are: linux/netfilter_ipv4/ip_tables.h and netfilter_ipv6/ip6_tables.h, 64 bit."""

    address: int  # the size of one: source, destination and the masks of both are what comes first
    in_interface: int
    protocol: int
    nfcache: int
    target_offset: int
    next_offset: int
    comefrom: int
    counters: int
    size: int


_SHAPES: Final[dict[Family, _Shape]] = {
    4: _Shape(4, 16, 80, 84, 88, 90, 92, 96, 112),
    6: _Shape(16, 64, 128, 136, 140, 142, 144, 152, 168),
}
_INTERFACE_SIZE: Final = 16  # IFNAMSIZ
_EXTENSION: Final = struct.Struct("=H29sB")  # xt_entry_match and xt_entry_target: size, name, revision
_PROTOCOLS: Final = {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp"}


class Counters(NamedTuple):
    """How often a rule was hit. In the nat table a packet is a connection."""

    packets: int
    bytes: int


def length(head: bytes, family: Family) -> int:
    """The size of a whole entry, from its first bytes."""
    return _short(head, _SHAPES[family].next_offset)


def head_size(family: Family) -> int:
    """How many bytes come before an entry's first match."""
    return _SHAPES[family].size


def normal(data: bytes, family: Family, target: str) -> bytes:
    """The entry without what changes by itself, its target by name: comparable, and what libiptc accepts.

    ``target`` is the name libiptc knows: a chain, RETURN, ACCEPT, ... or an extension's.
    """
    shape = _SHAPES[family]
    entry = bytearray(data)
    for start, size in ((shape.nfcache, 4), (shape.comefrom, 4), (shape.counters, 16)):
        entry[start : start + size] = bytes(size)
    for start, _size, name, revision in _extensions(data, family):
        _EXTENSION.pack_into(entry, start, _short(data, start), name, revision)
    start = _short(data, shape.target_offset)
    size, name, revision = _EXTENSION.unpack_from(data, start)
    _EXTENSION.pack_into(entry, start, size, target.encode(), revision)
    if (
        _text(name) != target or target == "RETURN"
    ):  # a standard target holds a verdict that depends on offsets
        entry[start + _EXTENSION.size :] = bytes(len(entry) - start - _EXTENSION.size)
    return bytes(entry)


def counters(data: bytes, family: Family) -> Counters:
    """The packet and byte counters of an entry."""
    return Counters(*struct.unpack_from("=QQ", data, _SHAPES[family].counters))


def target(data: bytes, family: Family) -> str:
    """The target of an entry in normal form."""
    _, name, _ = _EXTENSION.unpack_from(data, _short(data, _SHAPES[family].target_offset))
    return _text(name)


def comment(data: bytes, family: Family) -> str:
    """The comment of an entry; empty without one."""
    for start, size, name, _ in _extensions(data, family):
        if _text(name) == "comment":
            return _text(data[start + _EXTENSION.size : start + size])
    return ""


def readdressed(
    data: bytes, family: Family, source: Network | None, destination: Network | None, remark: str
) -> bytes:
    """An entry in normal form with other addresses, and another comment in the place of its own."""
    entry = bytearray(data)
    size = _SHAPES[family].address
    for place, network in enumerate((source, destination)):
        if network is not None:
            entry[place * size : (place + 1) * size] = network.network_address.packed
            entry[(place + 2) * size : (place + 3) * size] = network.netmask.packed
    for start, length_, name, _ in _extensions(data, family):
        if name == b"comment":
            room = length_ - _EXTENSION.size
            entry[start + _EXTENSION.size : start + length_] = remark.encode().ljust(room, b"\0")
    return bytes(entry)


def describe(data: bytes, family: Family) -> str:
    """An entry in normal form for a person: what it looks at and where it leads, in iptables' words."""
    shape = _SHAPES[family]
    words: list[str] = []
    names = shape.in_interface
    for option, start in (("-i", names), ("-o", names + _INTERFACE_SIZE)):
        interface = _text(data[start : start + _INTERFACE_SIZE])
        words += [option, interface] if interface else []
    protocol = _short(data, shape.protocol)
    words += ["-p", _PROTOCOLS.get(protocol, str(protocol))] if protocol else []
    for _, _, name, _ in _extensions(data, family):
        words += ["-m", _text(name)]
    remark = comment(data, family)
    words += ["--comment", f'"{remark}"'] if remark else []
    return " ".join([*words, "-j", target(data, family) or "(next rule)"])


def _extensions(data: bytes, family: Family) -> Iterator[tuple[int, int, bytes, int]]:
    """Start, size, name and revision of each match."""
    shape = _SHAPES[family]
    start, end = shape.size, _short(data, shape.target_offset)
    while start < end:
        size, name, revision = _EXTENSION.unpack_from(data, start)
        yield start, size, name.partition(b"\0")[0], revision
        start += size


def _short(data: bytes, start: int) -> int:
    return int.from_bytes(data[start : start + 2], sys.byteorder)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "replace")
