"""Connection tracking: which connections a rule has redirected, and to which port."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from interceptor.errors import KernelError
from interceptor.kernel import child
from interceptor.redirect.existing import Ends

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from interceptor.config.redirect import Mark
    from interceptor.redirect.rules import Family

_DST_NAT: Final = 1 << 5  # IPS_DST_NAT, include/uapi/linux/netfilter/nf_conntrack_common.h
_LIVE: Final = frozenset(range(1, 7))  # SYN_SENT to LAST_ACK, include/uapi/linux/netfilter/nf_conntrack_tcp.h
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
        _ends(entry.get_attr("CTA_TUPLE_ORIG"), family)
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


def _redirected(family: Family, port: int) -> Iterator[Any]:
    """The live entries whose replies come from a port of this host, by the kernel's own filter (Linux 5.8)."""
    from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple  # noqa: PLC0415 (heavy, as below)

    wanted = NFCTAttrTuple(family=_INET[family], proto=socket.IPPROTO_TCP, sport=port)
    for entry in _dumped(family, tuple_reply=wanted):
        # The port once more: kernels before 5.8 ignore the filter.
        answers = entry.get_attr("CTA_TUPLE_REPLY").get_attr("CTA_TUPLE_PROTO").get_attr("CTA_PROTO_SRC_PORT")
        if answers == port and entry.get_attr("CTA_STATUS") & _DST_NAT:
            yield entry


def _marked(family: Family, mark: Mark) -> Iterator[Any]:
    """The live entries that carry a mark."""
    return _dumped(family, mark=mark.value, mark_mask=mark.mask)


def _dumped(family: Family, **wanted: Any) -> Iterator[Any]:
    """The live TCP entries that the kernel picks."""
    from pyroute2 import NFCTSocket  # noqa: PLC0415 (heavy, and needed in this child only)
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415

    try:
        with NFCTSocket(nfgen_family=_INET[family]) as table:
            entries = list(table.dump(**wanted))
    except (NetlinkError, OSError) as error:
        raise KernelError(
            f"cannot list tracked connections ({error}); load conntrack's netlink with 'modprobe nf_conntrack_netlink', "
            "and run as root"
        ) from error
    for entry in entries:
        protocol = entry.get_attr("CTA_PROTOINFO")
        tcp = protocol and protocol.get_attr("CTA_PROTOINFO_TCP")
        if tcp and tcp.get_attr("CTA_PROTOINFO_TCP_STATE") in _LIVE:
            yield entry


def _ends(entry: Any, family: Family) -> Ends:
    addresses, protocol = entry.get_attr("CTA_TUPLE_IP"), entry.get_attr("CTA_TUPLE_PROTO")
    return Ends(
        addresses.get_attr(f"CTA_IP_V{family}_SRC"),
        protocol.get_attr("CTA_PROTO_SRC_PORT"),
        addresses.get_attr(f"CTA_IP_V{family}_DST"),
        protocol.get_attr("CTA_PROTO_DST_PORT"),
    )
