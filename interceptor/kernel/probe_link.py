"""A link to nowhere: a veth pair from the probed namespace to a throw-away one, gone without a trace afterwards.

Nothing beyond this machine is ever reached, and no live traffic changes its way: an address that is not the link's own
is led there for the probed port alone, by a policy rule.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from interceptor.errors import KernelError
from interceptor.kernel import child
from interceptor.kernel.netns import CLONE_NEWNET
from interceptor.model.connection import Direction
from interceptor.redirect.probes import FAR, INTERFACE, NEAR

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from interceptor.redirect.probes import Probe
    from interceptor.redirect.rules import Family

_libc: Final = ctypes.CDLL(None, use_errno=True)

_PREFIX: Final = {4: 30, 6: 126}
_FAR_INTERFACE: Final = "icp-probe-far"  # where both ends are in one namespace
_TABLE: Final = 15099  # of routes: ours for the moment of the probe
_PREFERENCE: Final = 15  # before the main table's 32766, after the local one's 0
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1  # include/uapi/linux/sockios.h, if.h
_NODAD: Final = 0x02  # IFA_F_NODAD, include/uapi/linux/if_addr.h: usable at once


@contextmanager
def far_end() -> Iterator[int]:
    """The id of a process in a network namespace of its own with loopback up, which ends with us.

    Raises KernelError where that is not allowed.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            if _libc.unshare(CLONE_NEWNET) == 0:
                _loopback_up()
                theirs.send(b"R")
                theirs.recv(1)
        finally:
            os._exit(0)
    theirs.close()
    try:
        if ours.recv(1) != b"R":
            raise KernelError("cannot make a network namespace to probe from: run as root (CAP_SYS_ADMIN)")
        yield pid
    finally:
        ours.close()
        os.waitpid(pid, 0)


def _loopback_up() -> None:
    """Without it the kernel takes no IPv6 route that leads to lo, as TPROXY needs one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))  # struct ifreq


@contextmanager
def joined(far: int | None, probes: Sequence[Probe]) -> Iterator[None]:
    """The link, with all addresses and routes that the probes need; ``far`` is a process there, None: nobody is.

    Raises KernelError when the kernel refuses.
    """
    from pyroute2 import IPRoute  # noqa: PLC0415 (heavy, and needed in this child only)
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415

    families = {probe.family for probe in probes}
    peer: dict[str, str | int] = (
        {"ifname": _FAR_INTERFACE} if far is None else {"ifname": INTERFACE, "net_ns_pid": far}
    )
    with IPRoute() as route:
        try:
            route.link("add", ifname=INTERFACE, kind="veth", peer=peer)
        except NetlinkError as error:
            raise KernelError(
                f"cannot make the interface {INTERFACE}: {error}; run as root (CAP_NET_ADMIN)"
            ) from error
        rules: list[dict[str, object]] = []
        try:
            _configure(route, INTERFACE, {family: [NEAR[family]] for family in families})
            if far is None:
                _configure(route, _FAR_INTERFACE, {})
            else:
                child.call(Path(f"/proc/{far}/ns/net"), _configure_far, _addresses(probes))
            for rule in _detours(route, probes):
                route.rule("add", **rule)
                rules.append(rule)
            yield
        finally:
            for rule in rules:
                route.rule("del", **rule)
            route.link("del", index=route.link_lookup(ifname=INTERFACE)[0])


def _addresses(probes: Sequence[Probe]) -> dict[Family, list[str]]:
    """What the far end must be: every address that a probe goes to or comes from."""
    return {
        family: sorted(
            {FAR[family]}
            | {
                probe.host if probe.direction is Direction.EGRESS else probe.source
                for probe in probes
                if probe.family == family and not probe.inside
            }
        )
        for family in {probe.family for probe in probes}
    }


def _configure_far(addresses: Mapping[Family, Sequence[str]]) -> None:
    """In the far end's namespace."""
    from pyroute2 import IPRoute  # noqa: PLC0415 (heavy, and needed in this child only)

    with IPRoute() as route:
        _configure(route, INTERFACE, addresses)


def _configure(route: Any, interface: str, addresses: Mapping[Family, Sequence[str]]) -> None:
    """Give one end its addresses, usable at once, and bring it up."""
    index = route.link_lookup(ifname=interface)[0]
    for family, hosts in addresses.items():
        for host in hosts:
            linked = host in {NEAR[family], FAR[family]}
            length = _PREFIX[family] if linked else 32 if family == 4 else 128
            flags = {"flags": _NODAD} if family == 6 else {}
            route.addr("add", index=index, address=host, prefixlen=length, **flags)
    route.link("set", index=index, state="up")


def _detours(route: Any, probes: Sequence[Probe]) -> Iterator[dict[str, object]]:
    """Policy rules that lead each foreign address over the link, for the probed port only."""
    index = route.link_lookup(ifname=INTERFACE)[0]
    led: set[tuple[str, str, int]] = set()
    for probe in probes:
        inet = socket.AF_INET if probe.family == 4 else socket.AF_INET6
        out = probe.direction is Direction.EGRESS
        key = (probe.host if out else probe.source, "dport_range" if out else "sport_range", probe.port)
        if probe.inside or key in led or key[0] == FAR[probe.family]:
            continue
        led.add(key)
        route.route("replace", family=inet, dst="default", oif=index, table=_TABLE)
        yield {
            "family": inet,
            "dst": key[0],
            "dst_len": 32 if probe.family == 4 else 128,
            "ip_proto": socket.IPPROTO_TCP,
            key[1]: f"{probe.port}:{probe.port}",
            "table": _TABLE,
            "priority": _PREFERENCE,
        }
