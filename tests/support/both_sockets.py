"""Sockets of UDP and TCP at one free port, as a name server has them."""

from __future__ import annotations

import socket


def both() -> tuple[socket.socket, socket.socket]:
    """A datagram socket and a listener, neither of them blocking."""
    while True:
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind(("127.0.0.1", 0))
        try:
            listener = socket.create_server(datagrams.getsockname())
        except OSError:  # somebody's connection has the port
            datagrams.close()
            continue
        datagrams.setblocking(False)
        listener.setblocking(False)
        return datagrams, listener
