"""Socket addresses, and one type for each role so that they cannot be mixed up.

The roles are ``NewType``s: free at run time, refused by the type checker when swapped.
"""

from __future__ import annotations

from typing import NamedTuple, NewType

_V4_MAPPED = "::ffff:"


class SocketAddress(NamedTuple):
    """An IP address in text form and a TCP port, as the kernel reported or will be asked for.

    ``host`` is canonical and never v4-mapped; ``scope`` is the interface index of a link-local IPv6 address, else 0.
    """

    host: str
    port: int
    scope: int = 0

    @property
    def is_v6(self) -> bool:
        """Whether this is an IPv6 address (a v4-mapped one has been unmapped and is not)."""
        return ":" in self.host

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


PeerAddress = NewType("PeerAddress", SocketAddress)
OriginalDestination = NewType("OriginalDestination", SocketAddress)
UpstreamAddress = NewType("UpstreamAddress", SocketAddress)
LocalAddress = NewType("LocalAddress", SocketAddress)


def from_sockaddr(sockaddr: tuple[str, int] | tuple[str, int, int, int]) -> SocketAddress:
    """Turn what ``socket`` returns into an address: v4-mapped becomes plain IPv4, a ``%scope`` suffix a number."""
    host = sockaddr[0]
    if host.startswith(_V4_MAPPED) and "." in host:
        return SocketAddress(host[len(_V4_MAPPED) :], sockaddr[1])
    if len(sockaddr) == 4:
        return SocketAddress(host.partition("%")[0], sockaddr[1], sockaddr[3])
    return SocketAddress(host, sockaddr[1])
