"""Waiting for a socket that no flow has: what a dial and a handshake need, by the hub or without one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

if TYPE_CHECKING:
    from interceptor.proxy.loop import Leg


class Waits(Protocol):
    """Who waits."""

    async def wait_readable(self, sock: Leg) -> None:
        """Until there is something to read, or an error."""

    async def wait_writable(self, sock: Leg) -> None:
        """Until there is room, or an error."""


class TrioWaits:
    """By trio's own epoll, where no hub runs."""

    async def wait_readable(self, sock: Leg) -> None:
        """Until there is something to read, or an error."""
        await trio.lowlevel.wait_readable(sock.fileno())

    async def wait_writable(self, sock: Leg) -> None:
        """Until there is room, or an error."""
        await trio.lowlevel.wait_writable(sock.fileno())
