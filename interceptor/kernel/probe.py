"""Prove with real connections what the rules do to them: captured, or direct.

A throw-away namespace is joined to the probed one by a veth pair with documentation addresses (RFC 5737, RFC 3849), so
nothing beyond this machine is ever reached. Nobody listens at the ports that are tried: a direct connection is
therefore refused, and one that a running proxy captured is accepted. The proxy sees and logs these connections.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from interceptor.errors import KernelError
from interceptor.kernel import child, process
from interceptor.kernel.netns import CLONE_NEWNET
from interceptor.model.connection import Direction
from interceptor.redirect.probes import FAR, INTERFACE, NEAR

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from interceptor.redirect.probes import Probe
    from interceptor.redirect.rules import Family

_libc: Final = ctypes.CDLL(None, use_errno=True)

_PREFIX: Final = {4: 30, 6: 126}
_HOST_PREFIX: Final = {4: 32, 6: 128}
CONNECT_SECONDS: Final = 2.0  # over a veth pair an answer takes microseconds; a dropped packet never answers


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a probe: ``captured`` (taken by the proxy), ``direct`` (refused by the far end) or ``lost``."""

    probe: Probe
    result: str


def run(namespace: Path | None, probes: Sequence[Probe]) -> list[Outcome]:
    """Try every probe in a namespace (None: this one). Needs root. Leaves no trace, also when it fails.

    Raises KernelError when the kernel refuses the throw-away namespace.
    """
    return child.call(namespace, _run, probes)


def _run(probes: Sequence[Probe]) -> list[Outcome]:
    families = sorted({probe.family for probe in probes})
    elsewhere = sorted({probe.host for probe in probes} - {*NEAR.values(), *FAR.values()})
    with _far_end() as (pid, far), _joined(pid, families, elsewhere):
        _ask(far, "configure", *families, *elsewhere)
        outcomes = []
        for probe in probes:
            if probe.direction is Direction.EGRESS:
                result = child.call(None, _connect_as, probe.uid, probe.host, probe.port)
            else:
                result = _ask(far, "connect", probe.host, probe.port)
            outcomes.append(Outcome(probe, result))
        return outcomes


def _connect_as(uid: int, host: str, port: int) -> str:
    """Connect as another user: the owner match looks at who made the socket."""
    process.become(process.Identity(uid, uid))
    return _connect(host, port)


def _connect(host: str, port: int) -> str:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as sock:
        sock.settimeout(CONNECT_SECONDS)
        try:
            sock.connect((host, port))
        except ConnectionRefusedError:
            return "direct"
        except ConnectionResetError:
            return "captured"  # accepted, and then reset by the proxy: a closed port never gets that far
        except OSError:
            return "lost"
        with suppress(OSError):
            sock.recv(
                1
            )  # until the proxy, which finds nobody either, has closed it: no dial may outlive the link
        return "captured"


@contextmanager
def _far_end() -> Iterator[tuple[int, socket.socket]]:
    """A process in a namespace of its own that does what it is asked over a socket; it dies with us."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            _serve(theirs)
        finally:
            os._exit(0)
    theirs.close()
    try:
        if ours.recv(1) != b"R":
            raise KernelError("cannot make a network namespace to probe from: run as root (CAP_SYS_ADMIN)")
        yield pid, ours
    finally:
        ours.close()
        os.waitpid(pid, 0)


def _serve(control: socket.socket) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if _libc.unshare(CLONE_NEWNET) != 0:
        control.send(b"F")
        return
    control.send(b"R")
    while request := control.recv(4096):
        verb, *arguments = request.decode().split(" ")
        if verb == "configure":
            families = [int(word) for word in arguments if word in {"4", "6"}]
            _configure(FAR, families, [word for word in arguments if word not in {"4", "6"}])
            control.send(b"done")
        else:
            control.send(_connect(arguments[0], int(arguments[1])).encode())


def _ask(far: socket.socket, *words: str | int) -> str:
    far.send(" ".join(map(str, words)).encode())
    answer = far.recv(64).decode()
    if not answer:
        raise KernelError("the probe's far end died; run the command again")
    return answer


@contextmanager
def _joined(pid: int, families: Sequence[int], elsewhere: Sequence[str]) -> Iterator[None]:
    """A veth pair to the far end's namespace, with our end's addresses and a route to each other host."""
    from pyroute2 import IPRoute  # noqa: PLC0415 (heavy, and needed in this child only)
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415

    with IPRoute() as route:
        try:
            route.link("add", ifname=INTERFACE, kind="veth", peer={"ifname": INTERFACE, "net_ns_pid": pid})
        except NetlinkError as error:
            raise KernelError(
                f"cannot make the interface {INTERFACE}: {error}; run as root (CAP_NET_ADMIN)"
            ) from error
        try:
            _configure(NEAR, families, ())
            index = route.link_lookup(ifname=INTERFACE)[0]
            for host in elsewhere:
                route.route("add", dst=f"{host}/{_HOST_PREFIX[_family(host)]}", oif=index)
            yield
        finally:
            route.link("del", index=route.link_lookup(ifname=INTERFACE)[0])


def _configure(addresses: dict[Family, str], families: Sequence[int], elsewhere: Sequence[str]) -> None:
    """Give this end its addresses, usable at once, and bring it up."""
    from pyroute2 import IPRoute  # noqa: PLC0415 (heavy, and needed in this child only)

    nodad = 0x02  # IFA_F_NODAD, include/uapi/linux/if_addr.h
    wanted = [(host, _PREFIX[family]) for family, host in addresses.items() if family in families]
    wanted += [(host, _HOST_PREFIX[_family(host)]) for host in elsewhere]
    with IPRoute() as route:
        index = route.link_lookup(ifname=INTERFACE)[0]
        for host, length in wanted:
            extra = {"flags": nodad} if _family(host) == 6 else {}
            route.addr("add", index=index, address=host, prefixlen=length, **extra)
        route.link("set", index=index, state="up")


def _family(host: str) -> Family:
    return 6 if ":" in host else 4
