"""The open TCP connections of a namespace, by the kernel's socket diagnostics: which there are, and ending them."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from interceptor.kernel import child, conntrack, netlink
from interceptor.kernel.listeners import listeners
from interceptor.model.address import from_sockaddr
from interceptor.redirect.existing import Ends, Established, bypassing
from interceptor.redirect.rules import MarkConnection

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from interceptor.config.redirect import Mark
    from interceptor.redirect.rules import Family, Ruleset

# ESTABLISHED, SYN_SENT, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT: include/net/tcp_states.h
_OPEN: Final = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 8
_BY_FAMILY: Final = 20  # SOCK_DIAG_BY_FAMILY, include/uapi/linux/sock_diag.h
# struct inet_diag_msg: family, ports in network byte order, addresses, cookie, uid, inode: include/uapi/linux/inet_diag.h
_DIAG: Final = struct.Struct("=Bxxx2s2s16s16sxxxx8s12xII")
_MARK: Final = 15  # INET_DIAG_MARK
_GET_ADDRESSES: Final = 22  # RTM_GETADDR, include/uapi/linux/rtnetlink.h
_ADDRESS, _LOCAL = 1, 2  # IFA_ADDRESS, IFA_LOCAL, include/uapi/linux/if_addr.h
_MAPPED: Final = "::ffff:"


def existing(
    namespace: Path | None, ruleset: Ruleset, ports: Collection[int], *, reset: bool
) -> tuple[tuple[Established, ...], int | None]:
    """The connections that bypass the rules because they are older; with ``reset``, how many were ended."""
    return child.call(namespace, _existing, ruleset, ports, reset)


def _existing(
    ruleset: Ruleset,
    ports: Collection[int],
    reset: bool,  # noqa: FBT001 (child.call)
) -> tuple[tuple[Established, ...], int | None]:
    def look() -> tuple[Established, ...]:
        return bypassing(
            ruleset,
            _connections(by_group=_asks_for_groups(ruleset)),
            conntrack.redirected(ports, _marks(ruleset)),
        )

    found = look()
    if not reset:
        return found, None
    for each in found:
        _destroy(each)
    known = {each.cookie for each in found}
    stubborn = [each for each in look() if each.cookie in known]
    for each in stubborn:  # a kernel without CONFIG_INET_DIAG_DESTROY
        conntrack.forget(each.family, each.ends)
    return found, len(found) - len(stubborn)


def _marks(ruleset: Ruleset) -> set[Mark]:
    """Of the connections that TPROXY brings to the proxy, and of the proxy's to the app by its clients' addresses."""
    verdicts = (rule.verdict for chain in ruleset.chains for rule in chain.rules)
    return {verdict.mark for verdict in verdicts if isinstance(verdict, MarkConnection)}


def _asks_for_groups(ruleset: Ruleset) -> bool:
    return any(rule.match.gid is not None for chain in ruleset.chains for rule in chain.rules)


def _connections(*, by_group: bool) -> Iterator[Established]:
    """Every open connection, as its first packet looked. Groups are looked up only where a rule asks for them."""
    owned = dict(_addresses())
    served = {listener.port for listener in listeners()}
    groups = _groups() if by_group else {}
    for inet in (socket.AF_INET, socket.AF_INET6):
        request = struct.pack(
            "=BBxxI48x", inet, socket.IPPROTO_TCP, _OPEN
        )  # struct inet_diag_req_v2, any socket
        for body in netlink.dump(netlink.SOCK_DIAG, _BY_FAMILY, request):
            yield _established(body, owned, served, groups)


def _addresses() -> Iterator[tuple[str, str]]:
    """Every address of this namespace, with its interface."""
    names = dict(socket.if_nameindex())
    for body in netlink.dump(netlink.ROUTE, _GET_ADDRESSES, bytes(8)):
        family, index = struct.unpack_from("=BxxxI", body)  # struct ifaddrmsg
        found = netlink.attributes(body[8:])
        address = found.get(_LOCAL) or found.get(_ADDRESS)
        if address and family in {socket.AF_INET, socket.AF_INET6}:
            yield socket.inet_ntop(family, address), names.get(index, "")


def _established(
    body: bytes, owned: dict[str, str], served: Collection[int], groups: dict[int, int]
) -> Established:
    family, source_port, port, source, destination, cookie, uid, inode = _DIAG.unpack_from(body)
    size = 4 if family == socket.AF_INET else 16
    local = from_sockaddr((socket.inet_ntop(family, source[:size]), int.from_bytes(source_port, "big")))
    remote = from_sockaddr((socket.inet_ntop(family, destination[:size]), int.from_bytes(port, "big")))
    accepted = local.port in served
    inside = remote.host in owned or remote.host.startswith("127.")
    first, last = (remote, local) if accepted else (local, remote)
    return Established(
        family=6 if local.is_v6 else 4,
        ends=Ends(first.host, first.port, last.host, last.port),
        accepted=accepted,
        interface="lo" if inside else owned.get(local.host, ""),
        uid=uid,
        gid=groups.get(inode),
        mark=int.from_bytes(netlink.attributes(body[_DIAG.size :]).get(_MARK, b""), sys.byteorder),
        cookie=int.from_bytes(cookie, sys.byteorder),
    )


def _groups() -> dict[int, int]:
    """The gid of the process that holds each socket, by the socket's inode."""
    groups: dict[int, int] = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it ended meanwhile
            lines = (process / "status").read_text(encoding="utf-8", errors="replace").splitlines()
            gid = next(int(line.split()[4]) for line in lines if line.startswith("Gid:"))  # the filesystem's
            for descriptor in (process / "fd").iterdir():
                target = str(descriptor.readlink())
                if target.startswith("socket:["):
                    groups[int(target[8:-1])] = gid
    return groups


def _destroy(each: Established) -> None:
    """Abort a connection: its program sees ECONNABORTED, its peer a reset. What is left of it the caller finds out."""
    from pyroute2 import DiagSocket  # noqa: PLC0415 (heavy, and needed in this child only)
    from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST  # noqa: PLC0415
    from pyroute2.netlink.diag import SOCK_DESTROY, inet_diag_req  # noqa: PLC0415

    source, source_port, destination, port = each.ends
    ends = (
        ((destination, port), (source, source_port))
        if each.accepted
        else ((source, source_port), (destination, port))
    )
    for inet in _possible(each.family):
        request = inet_diag_req()
        request["sdiag_family"] = inet
        request["sdiag_protocol"] = socket.IPPROTO_TCP
        request["idiag_cookie"] = each.cookie
        for (host, number), where in zip(ends, ("src", "dst"), strict=True):
            mapped = f"{_MAPPED}{host}" if inet == socket.AF_INET6 and each.family == 4 else host
            request[f"idiag_{where}"] = struct.unpack(">4I", socket.inet_pton(inet, mapped).ljust(16, b"\0"))
            request["idiag_sport" if where == "src" else "idiag_dport"] = number
        with DiagSocket() as diagnostics:
            diagnostics.bind()
            list(diagnostics.nlm_request(request, SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK))


def _possible(family: Family) -> tuple[socket.AddressFamily, ...]:
    """An IPv4 connection may be a dual-stack socket's."""
    return (socket.AF_INET, socket.AF_INET6) if family == 4 else (socket.AF_INET6,)
