"""Resolvers that answer every datagram with their name, and queries by anyone from any port."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from interceptor.kernel import child
from tests.support.in_child import served
from tests.support.netns import Namespace


class Query(NamedTuple):
    """A datagram to send from a connected socket, so that only an answer from ``host`` and ``port`` counts."""

    host: str
    uid: int = 1000
    source_port: int = 0
    port: int = 53


@contextmanager
def resolving(where: Namespace, resolvers: Mapping[tuple[str, int], str]) -> Iterator[None]:
    """UDP servers in a namespace, by address and port, in a child process until the end."""
    made = [
        (where.call(lambda place=place: _bound(*place)), name)  # type: ignore[misc]  # a default binds the loop's value
        for place, name in resolvers.items()
    ]
    with served(made, _reply):
        yield


def ask(where: Namespace, *queries: Query) -> list[str]:
    """Make queries, one after the other: each one's answer, or the name of the error."""
    return child.call(where.path, _ask_all, queries)


def ask_at_once(where: Namespace, *hosts: str) -> dict[str, str]:
    """Send from one unconnected socket to several resolvers, as musl does: who answered, by address."""
    return child.call(where.path, _ask_at_once, hosts)


def _ask_all(queries: tuple[Query, ...]) -> list[str]:
    return [_ask(query) for query in queries]


def _ask(query: Query) -> str:
    family = _family(query.host)
    os.seteuid(query.uid)
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as datagrams:
            datagrams.settimeout(2)
            datagrams.bind(("", query.source_port))
            datagrams.connect((query.host, query.port))
            datagrams.send(b"name?")
            return datagrams.recv(64).decode()
    except OSError as error:
        return type(error).__name__
    finally:
        os.seteuid(0)


def _ask_at_once(hosts: tuple[str, ...]) -> dict[str, str]:
    os.setuid(1000)
    answers: dict[str, str] = {}
    with socket.socket(_family(hosts[0]), socket.SOCK_DGRAM) as datagrams:
        datagrams.settimeout(2)
        for host in hosts:
            datagrams.sendto(b"name?", (host, 53))
        for _ in hosts:
            answer, sender = datagrams.recvfrom(64)
            answers[sender[0]] = answer.decode()
    return answers


def _bound(host: str, port: int) -> socket.socket:
    made = socket.socket(_family(host), socket.SOCK_DGRAM)
    made.bind((host, port))
    return made


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _reply(server: socket.socket, name: str) -> None:
    _, sender = server.recvfrom(512)
    server.sendto(name.encode(), sender)
