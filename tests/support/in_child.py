"""Sockets that a child process serves for a test, one at a time, until the test is over."""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def served(
    sockets: Sequence[tuple[socket.socket, str]], answer: Callable[[socket.socket, str], None]
) -> Iterator[None]:
    """Call ``answer`` with a socket that can be read and its name, in a child process that has them all to itself."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        try:
            _serve(reader, sockets, answer)
        finally:
            os._exit(0)
    os.close(reader)
    for each, _ in sockets:
        each.close()
    try:
        yield
    finally:
        os.close(writer)
        os.waitpid(pid, 0)


def _serve(
    until: int,
    sockets: Sequence[tuple[socket.socket, str]],
    answer: Callable[[socket.socket, str], None],
) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(until, selectors.EVENT_READ)
        for named in sockets:
            selector.register(named[0], selectors.EVENT_READ, named)
        while True:
            for key, _ in selector.select():
                if key.fd == until:
                    return
                answer(*key.data)
