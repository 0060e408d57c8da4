"""The socket between ``interceptor run`` and its proxy: whom the proxy believes, and that it is ready.

The end of either side says that it is gone. A message is a word; what does not fit into one comes in sealed memory beside
it, so no message is ever half there, and whoever sends cannot change what is read.
"""

from __future__ import annotations

import fcntl
import os
import socket
from typing import Final, NamedTuple

READY: Final = b"READY"
TRUST: Final = b"TRUST"
LARGEST: Final = 8 << 20  # bytes of a bundle; one of all public authorities has 220 KB

_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Told(NamedTuple):
    """What the other side said; no word is its end, or that nothing it says can be made sense of."""

    word: bytes
    bundle: bytes = b""


def pair() -> tuple[socket.socket, socket.socket]:
    """Both ends."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def tell_ready(control: socket.socket) -> None:
    """The app may be started."""
    control.send(READY)


def tell_trust(control: socket.socket, bundle: bytes) -> None:
    """Whom the app is to believe as well. Raises BlockingIOError where the socket is non-blocking and full."""
    descriptor = os.memfd_create("trust", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(bundle)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        socket.send_fds(control, [TRUST], [descriptor])
    finally:
        os.close(descriptor)


def receive(control: socket.socket) -> Told:
    """The next thing that is said."""
    word, descriptors, _, _ = socket.recv_fds(control, 64, 1)
    try:
        if word != TRUST:
            return Told(word)
        bundle = _sealed(descriptors[0]) if descriptors else None
        return Told(b"") if bundle is None else Told(word, bundle)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _sealed(descriptor: int) -> bytes | None:
    """What is in the memory, where nothing can change any more; None where it is anything else."""
    try:
        sealed = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    except OSError:  # a file
        return None
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, size, 0) if sealed and size <= LARGEST else None
