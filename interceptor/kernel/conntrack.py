"""Connection tracking: which connections a rule has redirected, and to which port."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.errors import KernelError
from interceptor.kernel import child, netlink
from interceptor.redirect.existing import Ends

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from interceptor.config.redirect import Mark
    from interceptor.redirect.rules import Family

    _Entry = Mapping[int, bytes]  # the attributes of one

_DST_NAT: Final = 1 << 5  # IPS_DST_NAT, include/uapi/linux/netfilter/nf_conntrack_common.h
_LIVE: Final = frozenset(range(1, 7))  # SYN_SENT to LAST_ACK, include/uapi/linux/netfilter/nf_conntrack_tcp.h
# include/uapi/linux/netfilter/nfnetlink_conntrack.h
_GET: Final = 1 << 8 | 1  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
_ORIGINAL, _REPLY, _STATUS, _PROTOCOL_INFO, _MARK, _MARK_MASK, _FILTER = 1, 2, 3, 4, 8, 21, 25
_IP, _PROTO = 1, 2  # in a tuple
_PROTO_NUM, _PROTO_SOURCE, _PROTO_DESTINATION = 1, 2, 3
_TCP, _TCP_STATE = 1, 1
_REPLY_FLAGS: Final = 2  # CTA_FILTER_REPLY_FLAGS
_ADDRESSES: Final[dict[Family, tuple[int, int]]] = {4: (1, 2), 6: (3, 4)}  # CTA_IP_V4_SRC and _DST, then V6
_FIXED: Final = 4  # struct nfgenmsg
_INET: Final[dict[Family, socket.AddressFamily]] = {4: socket.AF_INET, 6: socket.AF_INET6}


class Live(NamedTuple):
    """How many live connections are the proxy's: redirected, by port, and taken by TPROXY."""

    redirected: dict[int, int]
    taken: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.redirected.values()) + self.taken


def live(namespace: Path | None, ports: Collection[int], taken: Mark | None) -> Live:
    """The live connections that lead to these ports or carry this mark. KernelError: the kernel does not tell."""
    return child.call(namespace, _live, ports, taken)


def _live(ports: Collection[int], taken: Mark | None) -> Live:
    return Live(
        {port: sum(1 for family in _INET for _ in _redirected(family, port)) for port in ports},
        sum(1 for family in _INET for _ in _marked(family, taken)) if taken else 0,
    )


def redirected(ports: Collection[int], marks: Collection[Mark]) -> frozenset[Ends]:
    """Where the live connections that are redirected to these ports, or carry one of these marks, were meant to go.

    For a child in the namespace.
    """
    return frozenset(
        _ends(entry, family)
        for family in _INET
        for entries in (
            *(_redirected(family, port) for port in ports),
            *(_marked(family, mark) for mark in marks),
        )
        for entry in entries
    )


def forget(family: Family, ends: Ends) -> None:
    """Delete an entry, so that the next packet is taken for a new connection. For a child in the namespace."""
    from pyroute2 import NFCTSocket  # noqa: PLC0415 (heavy, and needed in this child only)
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415
    from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple  # noqa: PLC0415

    source, source_port, destination, port = ends
    entry = NFCTAttrTuple(
        family=_INET[family],
        saddr=source,
        daddr=destination,
        proto=socket.IPPROTO_TCP,
        sport=source_port,
        dport=port,
    )
    with NFCTSocket(nfgen_family=_INET[family]) as table:
        try:
            table.entry("del", tuple_orig=entry)
        except NetlinkError:
            return  # there is none: the next packet is new anyway


def _redirected(family: Family, port: int) -> Iterator[_Entry]:
    """The live entries whose replies come from a port of this host, by the kernel's own filter (Linux 5.8)."""
    protocol = netlink.attribute(_PROTO_NUM, bytes((socket.IPPROTO_TCP,)))
    source = netlink.attribute(_PROTO_SOURCE, port.to_bytes(2, "big"))
    reply = netlink.nested(_REPLY, netlink.nested(_PROTO, protocol + source))
    compared = struct.pack(
        "=I", 1 << 3 | 1 << 4
    )  # CTA_PROTO_NUM, CTA_PROTO_SRC_PORT: enum ctattr_filter's bits
    for entry in _dumped(family, reply + netlink.nested(_FILTER, netlink.attribute(_REPLY_FLAGS, compared))):
        # The port once more: kernels before 5.8 ignore the filter.
        answers = netlink.attributes(netlink.attributes(entry[_REPLY])[_PROTO])[_PROTO_SOURCE]
        if int.from_bytes(answers, "big") == port and int.from_bytes(entry[_STATUS], "big") & _DST_NAT:
            yield entry


def _marked(family: Family, mark: Mark) -> Iterator[_Entry]:
    """The live entries that carry a mark."""
    value, mask = (number.to_bytes(4, "big") for number in (mark.value, mark.mask))
    return _dumped(family, netlink.attribute(_MARK, value) + netlink.attribute(_MARK_MASK, mask))


def _dumped(family: Family, wanted: bytes) -> Iterator[_Entry]:
    """The live TCP entries that the kernel picks."""
    try:
        bodies = netlink.dump(netlink.NETFILTER, _GET, netlink.nfgenmsg(_INET[family]) + wanted)
    except OSError as error:
        raise KernelError(
            f"cannot list tracked connections ({error.strerror}); load conntrack's netlink with 'modprobe "
            "nf_conntrack_netlink', and run as root"
        ) from error
    for entry in (netlink.attributes(body[_FIXED:]) for body in bodies):
        protocol = netlink.attributes(entry.get(_PROTOCOL_INFO, b""))
        tcp = netlink.attributes(protocol.get(_TCP, b""))
        if int.from_bytes(tcp.get(_TCP_STATE, b""), "big") in _LIVE:
            yield entry


def _ends(entry: _Entry, family: Family) -> Ends:
    tuple_ = netlink.attributes(entry[_ORIGINAL])
    addresses, protocol = netlink.attributes(tuple_[_IP]), netlink.attributes(tuple_[_PROTO])
    source, destination = _ADDRESSES[family]
    return Ends(
        socket.inet_ntop(_INET[family], addresses[source]),
        int.from_bytes(protocol[_PROTO_SOURCE], "big"),
        socket.inet_ntop(_INET[family], addresses[destination]),
        int.from_bytes(protocol[_PROTO_DESTINATION], "big"),
    )
