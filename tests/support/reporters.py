"""Listeners that tell whoever connects which of them it reached, and connections described by plain data.

What a redirect rule did to a connection is seen from outside: who answered, and what SO_ORIGINAL_DST says there.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

from interceptor.kernel import child
from tests.support.in_child import served
from tests.support.netns import Namespace

SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h; IP6T_SO_ORIGINAL_DST has the same number
SO_MARK = 36  # asm-generic/socket.h
IP_TRANSPARENT = 19  # linux/in.h


class Attempt(NamedTuple):
    """A connection to make: where to, and as whom. Of UDP, a datagram to a resolver (tests.support.resolvers)."""

    host: str
    port: int
    uid: int = 1000
    gid: int = 1000
    mark: int = 0
    made_as: int | None = None  # the uid that makes the socket, when it is not the one that connects
    groups: tuple[int, ...] = ()  # supplementary ones
    protocol: Literal["tcp", "udp"] = "tcp"
    source_port: int = 0


class Answer(NamedTuple):
    """Which listener answered (or ``refused``, ``timeout``, ``unreachable``), and what it saw."""

    listener: str
    original: str = ""
    peer: str = ""


@contextmanager
def listening(where: Namespace, listeners: Mapping[str, Iterable[int]]) -> Iterator[None]:
    """Dual-stack listeners in a namespace, by name and ports, served by a child process until the end."""
    made = [
        (where.call(lambda name=name, port=port: _listener(name, port)), name)  # type: ignore[misc]  # defaults bind the loops' values
        for name, ports in listeners.items()
        for port in ports
    ]
    with served(made, _report):
        yield


def connect(where: Namespace, attempts: Sequence[Attempt]) -> list[Answer]:
    """Make connections from a namespace, one after the other."""
    return child.call(where.path, _connect_all, attempts)


def send_datagram(where: Namespace, host: str) -> str:
    """Send a UDP datagram to port 443 as an app and name the error that came back, or 'no answer'."""
    return child.call(where.path, _send_datagram, host)


def _send_datagram(host: str) -> str:
    os.setuid(1000)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.settimeout(5)
        try:
            datagrams.connect((host, 443))
            datagrams.send(b"x")
            datagrams.recv(1)
        except TimeoutError:
            return "no answer"
        except OSError as error:
            return type(error).__name__
    return "an answer"


def _listener(name: str, port: int) -> socket.socket:
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=256)
    if name == "ingress":  # as TPROXY wants it; it takes what is redirected as well
        listener.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
    listener.setblocking(False)
    return listener


def _report(listener: socket.socket, name: str) -> None:
    with contextlib.suppress(OSError):
        accepted, _ = listener.accept()
        with accepted:
            accepted.sendall(json.dumps(_seen(accepted, name)).encode())


def _seen(accepted: socket.socket, name: str) -> list[str]:
    peer = accepted.getpeername()[0]
    mapped = peer.startswith("::ffff:")
    try:
        if mapped:
            raw = accepted.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
            port, host = struct.unpack("!2xH4s8x", raw)
            original = f"{socket.inet_ntop(socket.AF_INET, host)}:{port}"
        else:
            raw = accepted.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
            port, host = struct.unpack("!2xH4x16s4x", raw)
            original = f"[{socket.inet_ntop(socket.AF_INET6, host)}]:{port}"
    except OSError:
        original = ""
    return [name, original, peer.removeprefix("::ffff:")]


def _connect_all(attempts: Sequence[Attempt]) -> list[Answer]:
    return [_connect(attempt) for attempt in attempts]


def _connect(attempt: Attempt) -> Answer:
    try:
        with _socket(attempt) as connection:
            connection.connect((attempt.host, attempt.port))
            if attempt.protocol == "udp":
                connection.send(b"who?")
                return Answer(connection.recv(64).decode())
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
    except (
        ConnectionRefusedError,
        ConnectionResetError,
        PermissionError,
    ):  # the last: our own rule refuses a datagram
        return Answer("refused")
    except TimeoutError:
        return Answer("timeout")
    except OSError:
        return Answer("unreachable")
    finally:
        os.seteuid(0)
        os.setegid(0)
    return Answer(*json.loads(answer)) if answer else Answer("refused")


def _socket(attempt: Attempt) -> socket.socket:
    """Made by the attempt's user, whose effective uid the caller is left with."""
    family = socket.AF_INET6 if ":" in attempt.host else socket.AF_INET
    kind = socket.SOCK_DGRAM if attempt.protocol == "udp" else socket.SOCK_STREAM
    os.setgroups(attempt.groups)
    os.setegid(attempt.gid)
    os.seteuid(attempt.uid if attempt.made_as is None else attempt.made_as)
    made = socket.socket(family, kind)
    os.seteuid(0)
    if attempt.mark:
        made.setsockopt(socket.SOL_SOCKET, SO_MARK, attempt.mark)
    if attempt.source_port:
        made.bind(("", attempt.source_port))
    made.settimeout(5)
    os.seteuid(attempt.uid)
    return made
