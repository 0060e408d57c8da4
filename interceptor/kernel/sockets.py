"""TCP sockets as the data plane needs them: listeners, original destinations, options, resets, descriptors."""

from __future__ import annotations

import contextlib
import errno
import resource
import socket
import struct
import sys
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast

from interceptor.errors import KernelError
from interceptor.model.address import OriginalDestination, PeerAddress, SocketAddress, from_sockaddr

if TYPE_CHECKING:
    from interceptor.model.address import UpstreamAddress

SO_ORIGINAL_DST: Final = 80  # include/uapi/linux/netfilter_ipv4.h
IP_TRANSPARENT: Final = 19  # include/uapi/linux/in.h
IPV6_TRANSPARENT: Final = 75  # include/uapi/linux/in6.h
IP6T_SO_ORIGINAL_DST: Final = 80  # include/uapi/linux/netfilter_ipv6/ip6_tables.h

# Connections wait here while the hub serves a batch, or while accept backs off for 0.1 s; at 10 000 new connections
# a second that is 1 000. A larger value costs nothing: the kernel caps it at net.core.somaxconn (4096 since 5.4).
BACKLOG: Final = 4096

# A vanished peer is noticed within 180 + 9 * 180 s: ztunnel's figures.
_PROBED: Final = (180, 180, 9)
_PROBES: Final = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
# Urgent data stays in the stream: the byte would otherwise be lost between the two sides.
_LEG_OPTIONS: Final = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_OOBINLINE, 1),
)
# The type below Python's own: without files over sockets and the counting of those, which every flow would pay for twice.
_Plain: Final = socket.SocketType
_BYTES_ACKED: Final = 120  # offset of tcpi_bytes_acked, before tcpi_bytes_received, in struct tcp_info: include/uapi/linux/tcp.h
_STREAM: Final = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_FINISH_ON_CLOSE: Final = struct.pack("ii", 0, 0)

_NAME: Final = 16  # TCP_CA_NAME_MAX: include/net/tcp.h

DESCRIPTORS_PER_FLOW: Final = 2
DESCRIPTOR_RESERVE: Final = 128  # listeners, log, admin and telemetry connections, name look-ups


class Stream(Protocol):
    """What a flow's leg is to whoever relays: a connected, non-blocking socket, or TLS over one."""

    def fileno(self) -> int: ...
    def recv_into(self, buffer: bytearray, /) -> int: ...
    def send(self, data: bytes | memoryview, /) -> int: ...
    def sendall(self, data: bytes | memoryview, /) -> None: ...
    def shutdown(self, how: int, /) -> None: ...
    def close(self) -> None: ...
    def setsockopt(self, level: int, option: int, value: int | bytes, /) -> None: ...
    def getsockopt(self, level: int, option: int, /) -> int: ...


def open_listener(port: int, *, transparent: bool = False) -> socket.socket:
    """Listen on every address of both families (IPv4 only where the kernel has no IPv6), without blocking.

    A transparent one accepts connections to any address and port that a TPROXY rule hands it.

    Accepted sockets inherit the options of a flow's leg, so that no connection pays for setting them. Raises
    KernelError with the remedy.
    """
    return open_listeners(port, 1, transparent=transparent)[0]


def open_listeners(
    port: int, number: int, *, transparent: bool = False, local: bool = False
) -> list[socket.socket]:
    """The same with so many queues on one port, among which the kernel shares new connections out by a secret hash.

    Local: only this host's own programs connect. What is accepted inherits that as well.

    The first is bound before it allows the others, so that a second proxy is told that the port is in use.
    """
    listeners = [_bound(port)]
    if number > 1:
        listeners[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        port = listeners[0].getsockname()[1]
        listeners += (_bound(port, shared=True) for _ in range(number - 1))
    for listener in listeners:
        if transparent:
            _make_transparent(listener)
        if local:
            stay_local(listener)
        for level, option, value in _LEG_OPTIONS:
            listener.setsockopt(level, option, value)
        keep_alive(listener)
        listener.listen(BACKLOG)
        listener.settimeout(0)
    return listeners


def accept(listener: socket.socket) -> tuple[socket.socket, PeerAddress]:
    """Take the next connection off the queue, which does not block, and who made it. Raises what the system call does."""
    descriptor, sockaddr = listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001 (what socket.accept calls, before it wraps the descriptor)
    family = socket.AF_INET if len(sockaddr) == 2 else socket.AF_INET6
    accepted = cast("socket.socket", _Plain(family, socket.SOCK_STREAM, 0, descriptor))
    accepted.settimeout(0)
    return accepted, PeerAddress(from_sockaddr(sockaddr))


def open_endpoint(address: SocketAddress) -> socket.socket:
    """Listen for HTTP on one address; ``::`` means every address of both families. Raises KernelError."""
    if address.host == "::":
        listener = _bound(address.port)
    else:
        try:
            listener = _bind(socket.AF_INET6 if address.is_v6 else socket.AF_INET, address.host, address.port)
        except OSError as error:
            raise _bind_error(address.port, error) from error
    listener.listen()
    listener.settimeout(0)
    return listener


def open_dns_listeners(port: int) -> list[socket.socket]:
    """Listen for name queries, by UDP and TCP, at the loopback addresses that the kernel has. Raises KernelError.

    Captured queries of this host's own arrive there; from elsewhere nobody can ask.
    """
    hosts = [(socket.AF_INET, "127.0.0.1"), *([(socket.AF_INET6, "::1")] if _has("::1") else [])]
    opened: list[socket.socket] = []
    try:
        for family, host in hosts:
            opened.append(_bind(family, host, port, kind=socket.SOCK_DGRAM))
            opened.append(_bind(family, host, port))
    except OSError as error:
        for sock in opened:
            sock.close()
        raise _bind_error(port, error) from error
    for sock in opened:
        if sock.type == socket.SOCK_STREAM:
            sock.listen()
        sock.settimeout(0)
    return opened


def _has(host: str) -> bool:
    """Whether an address is this host's; without IPv6 it has no ``::1``."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def _bound(port: int, *, shared: bool = False) -> socket.socket:
    """A stream socket bound to the port: dual-stack, or IPv4 where IPv6 is switched off."""
    try:
        return _bind(socket.AF_INET6, "::", port, shared=shared)
    except OSError as error:
        if error.errno not in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
            raise _bind_error(port, error) from error
    try:
        return _bind(socket.AF_INET, "0.0.0.0", port, shared=shared)  # noqa: S104 (REDIRECT rewrites to any local address)
    except OSError as error:
        raise _bind_error(port, error) from error


def _bind(
    family: socket.AddressFamily,
    host: str,
    port: int,
    *,
    shared: bool = False,
    kind: socket.SocketKind = socket.SOCK_STREAM,
) -> socket.socket:
    listener = socket.socket(family, kind)
    try:
        # For datagrams the option would let a second proxy have the same port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, kind == socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def _bind_error(port: int, error: OSError) -> KernelError:
    if error.errno == errno.EADDRINUSE:
        return KernelError(
            f"port {port} is in use by another program; 'ss -ltnp sport = :{port}' names it: "
            "stop it, or choose another port in the Sidecar document and in the rules"
        )
    if error.errno == errno.EACCES:
        return KernelError(
            f"port {port} may not be opened by this user; choose a port of 1024 or above, or grant CAP_NET_BIND_SERVICE"
        )
    return KernelError(f"cannot listen on port {port}: {error.strerror}")


def original_destination(accepted: socket.socket, peer: PeerAddress) -> OriginalDestination | None:
    """Where the peer meant to connect, or None where the kernel knows of no redirection of this connection.

    The peer's own family decides whom to ask: a v4-mapped one is in the IPv4 tables, whatever family our socket
    is of. Where conntrack is on, a connection that was never redirected yields its local address instead of None.
    """
    try:
        if ":" in peer.host:
            raw = accepted.getsockopt(socket.IPPROTO_IPV6, IP6T_SO_ORIGINAL_DST, 28)
        else:
            raw = accepted.getsockopt(socket.IPPROTO_IP, SO_ORIGINAL_DST, 16)
    except OSError as error:
        # ENOENT: no conntrack entry; ENOPROTOOPT and EOPNOTSUPP: no nat module for this family; ENOTCONN and
        # EINVAL: the connection is already gone.
        if error.errno in _NOT_REDIRECTED:
            return None
        raise
    return _destination(raw)


@lru_cache(maxsize=1024)  # mostly there are few of them
def _destination(raw: bytes) -> OriginalDestination:
    """What a struct sockaddr_in or sockaddr_in6 says."""
    if len(raw) == 16:
        _, port, packed = struct.unpack_from("=HH4s", raw)
        host, scope = socket.inet_ntop(socket.AF_INET, packed), 0
    else:
        _, port, _, packed, scope = struct.unpack("=HH4s16sI", raw)
        host = socket.inet_ntop(socket.AF_INET6, packed)
    return OriginalDestination(SocketAddress(host, socket.ntohs(port), scope))


_NOT_REDIRECTED: Final = frozenset(
    (errno.ENOENT, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.ENOTCONN, errno.EINVAL)
)


def local_address(sock: socket.socket) -> SocketAddress:
    """The address of our end."""
    return from_sockaddr(sock.getsockname())


def open_upstream(address: UpstreamAddress, source: SocketAddress | None = None) -> socket.socket:
    """A non-blocking socket of the right family with the options of a flow's leg, not yet connected.

    But for ``keep_alive``, which a flow that is soon over does without. With a source it will connect from that address
    and port, whosever they are; OSError EADDRINUSE when others do.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    upstream = cast("socket.socket", _Plain(family, _STREAM))
    for level, option, value in _LEG_OPTIONS:
        upstream.setsockopt(level, option, value)
    if source is not None and source.is_v6 == address.is_v6:
        try:
            _make_transparent(upstream)
            upstream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # with those that go elsewhere
            upstream.bind((source.host, source.port, 0, source.scope) if source.is_v6 else source[:2])
        except BaseException:
            upstream.close()
            raise
    return upstream


def stay_local(sock: socket.socket) -> None:
    """What is sent to this host's own programs is not to be paced, whatever the network is; before it connects or listens.

    BBR sends every 64 KiB by a timer of its own, of which each costs 35 - 40 us on a virtual machine. And there is nothing
    to learn of a network where there is none.
    """
    if _paces():
        with contextlib.suppress(OSError):  # not allowed here: it is slower then
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")  # in every kernel


@cache  # the system's choice, looked at once
def _paces() -> bool:
    with socket.socket() as probe:
        return probe.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _NAME).startswith(b"bbr")


def keep_alive(sock: Stream, *asked: int | None) -> None:
    """Have the kernel notice that the other end has vanished.

    ``asked``: the seconds of silence before the first probe and between two, and how many; None: as the kernel has it.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in zip(_PROBES, asked or _PROBED, strict=True):
        if value is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _make_transparent(sock: socket.socket) -> None:
    """Let a socket have addresses that are not this host's. Raises KernelError without the capability."""
    try:
        sock.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    except PermissionError as error:
        raise KernelError(
            "spec.ingress.mode TPROXY needs CAP_NET_ADMIN, which this process does not have: start the proxy as root (it "
            "keeps no other capability), grant it, or use REDIRECT"
        ) from error


def start_connect(upstream: socket.socket, address: UpstreamAddress) -> int:
    """Begin to connect; the errno: 0 done, EINPROGRESS or EALREADY under way, else why not.

    Asking a second time finds a connection to this machine done: its handshake ran inside the first call.
    """
    host, port, scope = address
    target = (host, port, 0, scope) if ":" in host else (host, port)
    number = upstream.connect_ex(target)
    return upstream.connect_ex(target) if number == errno.EINPROGRESS else number


def pending_error(sock: Stream) -> int:
    """Take the socket's pending errno; 0 when there is none."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def acknowledged(sock: socket.socket) -> tuple[int, int]:
    """How many bytes the other end's kernel has taken of ours, and ours of its, also after the connection broke.

    Its FIN counts as one byte.
    """
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED + 16)
    acked, received = struct.unpack_from("=QQ", info, _BYTES_ACKED)
    return acked - 1, received  # our SYN counted as one


def tells_acknowledged(sock: socket.socket) -> bool:
    """Whether this kernel knows what ``acknowledged`` asks it for (Linux 4.1)."""
    return len(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED + 16)) == _BYTES_ACKED + 16


def reset(sock: Stream) -> None:
    """Close with RST, so that the other end sees a failure and no orderly end."""
    with contextlib.suppress(OSError):  # already closed, or not connected: nothing to reset
        reset_on_close(sock)
    sock.close()


def reset_on_close(sock: Stream) -> None:
    """From here on a close is a RST, also the kernel's when the process is killed."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


def finish_on_close(sock: Stream) -> None:
    """The reverse: from here on a close is a FIN, and what was sent still arrives."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _FINISH_ON_CLOSE)


def finish(sock: Stream) -> None:
    """Close with FIN, after ``reset_on_close``: what was sent still arrives."""
    finish_on_close(sock)
    sock.close()


def flows_that_fit() -> int:
    """How many flows the descriptors suffice for that are free now."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(1, (soft - sum(1 for _ in Path("/proc/self/fd").iterdir())) // DESCRIPTORS_PER_FLOW)


def raise_descriptor_limit(connections: int) -> str | None:
    """Raise the soft limit on descriptors to the hard one; a sentence when ``connections`` flows do not fit in it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    needed = connections * DESCRIPTORS_PER_FLOW + DESCRIPTOR_RESERVE
    if hard == resource.RLIM_INFINITY or needed <= hard:
        return None
    return (
        f"spec.limits.connections is {connections}, which needs {needed} file descriptors, and this process may open "
        f"{hard}: raise RLIMIT_NOFILE (LimitNOFILE= in a systemd unit) or lower the limit to "
        f"{(hard - DESCRIPTOR_RESERVE) // DESCRIPTORS_PER_FLOW}"
    )
