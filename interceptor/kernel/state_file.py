"""The state file: left by ``apply`` in the runtime directory, checked by the proxy when it starts, gone with the rules.

It helps where it can be had: that it cannot be written, or is not there, is no failure.
"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from interceptor.errors import ConfigError
from interceptor.kernel import child
from interceptor.redirect import state_file

if TYPE_CHECKING:
    from interceptor.config.redirect import RedirectSettings

DIRECTORY: Final = Path("/run/interceptor")
_SO_NETNS_COOKIE: Final = 71  # include/uapi/asm-generic/socket.h, Linux 5.14
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


def write(settings: RedirectSettings, place: state_file.Place, backend: str) -> str:
    """Tell the proxy what was installed; a sentence when the file could not be written, else nothing."""
    told = state_file.state(settings, place, backend)
    path = _path(told.place)
    temporary = path.with_suffix(".new")
    try:
        DIRECTORY.mkdir(mode=0o755, exist_ok=True)
        temporary.write_text(state_file.write(told), encoding="utf-8")
        temporary.chmod(0o644)  # the proxy reads it as its own user
        temporary.replace(path)
    except OSError as error:
        return (
            f"the state file {path} cannot be written ({error.strerror}), so 'interceptor proxy' will not check that it "
            "fits the rules; make /run writable if it should"
        )
    return ""


def delete(namespace: Path | None) -> None:
    """Forget what was installed."""
    with contextlib.suppress(OSError):  # there was none, or /run is read-only: the cookie tells a stale one
        _path(child.call(namespace, here)).unlink()
    with contextlib.suppress(OSError):  # not empty: there are rules in other namespaces
        DIRECTORY.rmdir()


def check(
    *, mode: str, ingress_port: int, egress_port: int, dns_port: int | None, uid: int, gid: int
) -> None:
    """Raise ConfigError when the rules in this very namespace do not fit the proxy that is about to start."""
    place = here()
    try:
        told = state_file.read(_path(place).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return
    if told is None or told.place != place:
        return
    problems = tuple(
        told.mismatches(
            mode=mode, ingress_port=ingress_port, egress_port=egress_port, dns_port=dns_port, uid=uid, gid=gid
        )
    )
    if problems:
        raise ConfigError(*problems)


def here() -> state_file.Place:
    """The namespace of this process."""
    with socket.socket() as probe:
        try:
            cookie = int.from_bytes(probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), "little")
        except OSError:  # ENOPROTOOPT: an older kernel
            cookie = None
    return state_file.Place(
        Path("/proc/self/ns/net").stat().st_ino, cookie, _BOOT.read_text(encoding="utf-8").strip()
    )


def _path(place: state_file.Place) -> Path:
    return DIRECTORY / f"{place.inode}.json"
