"""Tries what the gateway asks of the kernel, in throw-away namespaces: rules by installing them, sockets by their options.

Whole backends are tried at once, and one feature after the other only where the kernel refused: most kernels take all.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import socket
from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Final

from interceptor.config.redirect import Backend, Dns, Ipv6Policy, Mode, RedirectSettings
from interceptor.errors import InterceptorError, KernelError
from interceptor.kernel import child, probe_link, rules, sockets, splice, state_file
from interceptor.model.record import replace
from interceptor.redirect import kernel_features as feature

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from interceptor.redirect.kernel_features import Feature, Kernel

    Changes = Mapping[str, object]  # of settings

_PLAIN: Final = RedirectSettings(ipv6=Ipv6Policy.ON)
_NETWORKS: Final = (IPv4Network("192.0.2.0/25"), IPv4Network("198.51.100.0/24"))  # two that are not merged
# Each with what the plain rules do not have.
_RULES: Final[Mapping[Backend, Mapping[Feature, Changes]]] = {
    Backend.LEGACY: {
        feature.LEGACY_NAT: {},
        feature.LEGACY_TPROXY: {"mode": Mode.TPROXY},
        feature.LEGACY_ZONES: {"dns": Dns.CAPTURE},
        feature.LEGACY_GROUPS: {"proxy_gids": (1337,), "supplementary_groups": True},
    },
    Backend.NFT: {
        feature.NFT_NAT: {},
        feature.NFT_TPROXY: {"mode": Mode.TPROXY},
        feature.NFT_ZONES: {"dns": Dns.CAPTURE},
        feature.NFT_COUNTERS: {"exclude_egress_cidrs": _NETWORKS},
    },
}


def look() -> Kernel:
    """What this kernel has: tried where that is allowed, else judged by its version."""
    try:
        tried = _tried() if os.geteuid() == 0 else {}
    except KernelError:
        tried = {}
    return feature.judge(os.uname().release, tried)


def _tried() -> dict[Feature, str]:
    """What the kernel says to each feature, nothing where it works. Raises KernelError where trying is not allowed."""
    import pyroute2  # noqa: F401, PLC0415 (once here, and not again in each of the processes that need it)

    with probe_link.far_end() as pid:
        namespace = Path(f"/proc/{pid}/ns/net")
        with contextlib.suppress(InterceptorError):  # said below; here it only brings connection tracking
            rules.apply(_PLAIN, namespace)
        said = child.call(namespace, _sockets)
    for backend, changes in _RULES.items():
        said |= together_or_each(changes, functools.partial(_installed, backend))
    return said


def together_or_each(
    changes: Mapping[Feature, Changes], attempt: Callable[[Changes], str]
) -> dict[Feature, str]:
    """What is said to each feature: nothing when all of them work together, or else as each is tried by itself."""
    everything = {name: value for change in changes.values() for name, value in change.items()}
    if not attempt(everything):
        return dict.fromkeys(changes, "")
    return {each: attempt(change) for each, change in changes.items()}


def _installed(backend: Backend, changes: Changes) -> str:
    with probe_link.far_end() as pid:
        try:
            rules.apply(replace(_PLAIN, **changes), Path(f"/proc/{pid}/ns/net"), backend=backend)  # type: ignore[arg-type]  # its own fields
        except InterceptorError as error:
            return str(error)
    return ""


def _sockets() -> dict[Feature, str]:
    """In a child that is in a namespace with our rules."""
    said = {}
    for each, works in _SOCKETS.items():
        try:
            said[each] = "" if works() else "the kernel does not know it"
        except (OSError, InterceptorError) as error:
            said[each] = str(error)
    return said


def _original_dst() -> bool:
    with socket.socket(socket.AF_INET6) as sock:
        try:
            sock.getsockopt(socket.IPPROTO_IPV6, sockets.IP6T_SO_ORIGINAL_DST, 28)
        except OSError as error:
            return error.errno == errno.ENOENT  # it looked for the connection, which there is none of
    return True


def _transparent() -> bool:
    sockets.open_listener(0, transparent=True).close()
    return True


def _reuse_port() -> bool:
    for listener in sockets.open_listeners(0, 2):
        listener.close()
    return True


def _splice() -> bool:
    ours, theirs = socket.socketpair()
    pipe = splice.Pipe()
    with ours, theirs, contextlib.closing(pipe):
        theirs.send(b"x")
        return pipe.take_from(ours.fileno()) == 1


def _memfd() -> bool:
    os.close(os.memfd_create("interceptor"))
    return True


def _cookie() -> bool:
    return state_file.here().cookie is not None


def _tcp_info() -> bool:
    with socket.socket() as sock:
        return sockets.tells_acknowledged(sock)


_SOCKETS: Final[Mapping[Feature, Callable[[], bool]]] = {
    feature.ORIGINAL_DST: _original_dst,
    feature.TRANSPARENT: _transparent,
    feature.REUSEPORT: _reuse_port,
    feature.SPLICE: _splice,
    feature.MEMFD: _memfd,
    feature.COOKIE: _cookie,
    feature.TCP_INFO: _tcp_info,
}
