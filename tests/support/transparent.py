"""What a proxy has to do in TPROXY mode and no more: accept at the original destination, dial the app as the client."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
from collections.abc import Iterator

from interceptor.kernel import netns
from interceptor.model.address import from_sockaddr
from tests.support.netns import Namespace

PROXY_UID = 1337
OPTIONS = {
    socket.AF_INET: (socket.SOL_IP, 19),  # IP_TRANSPARENT, linux/in.h
    socket.AF_INET6: (socket.IPPROTO_IPV6, 75),  # IPV6_TRANSPARENT, linux/in6.h
}


@contextlib.contextmanager
def transparent_proxy(where: Namespace, port: int = 15006) -> Iterator[None]:
    """Serve in a namespace until the end.

    A caller hears what the app answered (see reporters), with "tproxy:" before the listener's name, and as original
    destination the address at which the proxy accepted.
    """
    reader, writer = os.pipe()
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.close(ready)
        try:
            netns.enter(where.path)
            _serve(reader, _listener(port), told)
        finally:
            os._exit(0)
    os.close(reader)
    os.close(told)
    try:
        with os.fdopen(ready, "rb") as signal:
            assert signal.read(1) == b"R"
        yield
    finally:
        os.close(writer)
        os.waitpid(pid, 0)


def _serve(until: int, listener: socket.socket, told: int) -> None:
    os.write(told, b"R")
    with selectors.DefaultSelector() as selector:
        selector.register(until, selectors.EVENT_READ)
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd == until:
                    return
                accepted, peer = listener.accept()
                with accepted, contextlib.suppress(OSError):
                    client, app = from_sockaddr(peer), from_sockaddr(accepted.getsockname())
                    with _dial(client.host, app.host, app.port) as upstream:
                        name, _original, seen = json.loads(_read(upstream))
                    accepted.sendall(json.dumps([f"tproxy:{name}", str(app), seen]).encode())


def _read(upstream: socket.socket) -> bytes:
    return b"".join(iter(lambda: upstream.recv(4096), b""))


def _dial(client: str, app: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in client else socket.AF_INET
    upstream = _socket(family)
    upstream.settimeout(5)
    upstream.bind((client, 0))
    upstream.connect((app, port))
    return upstream


def _listener(port: int) -> socket.socket:
    made = _socket(socket.AF_INET6)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    made.setsockopt(*OPTIONS[socket.AF_INET], 1)
    made.bind(("::", port))
    made.listen(64)
    return made


def _socket(family: socket.AddressFamily) -> socket.socket:
    """A transparent socket of the proxy's: the option needs a capability, the owner match looks at who made it."""
    os.seteuid(PROXY_UID)
    try:
        made = socket.socket(family, socket.SOCK_STREAM)
    finally:
        os.seteuid(0)
    made.setsockopt(*OPTIONS[family], 1)
    return made
