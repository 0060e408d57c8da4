"""What a connection and a request say of themselves, in the words of policies; parsed when it is first asked for."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

from interceptor.model.http import get_all
from interceptor.policy.match import Address

if TYPE_CHECKING:
    from collections.abc import Mapping

    from interceptor.model.address import SocketAddress
    from interceptor.model.http import Headers, RequestHead
    from interceptor.model.identity import SpiffeId

_PORT: Final = re.compile(r":[0-9]*\Z")


class ConnectionFacts:
    """One connection: who opened it, where it goes, and whom mutual TLS proved the opener to be."""

    __slots__ = ("_addresses", "account", "destination", "namespace", "peer", "port", "principal", "sni")

    def __init__(
        self,
        peer: SocketAddress,
        destination: SocketAddress,
        identity: SpiffeId | None = None,
        sni: str = "",
    ) -> None:
        self.peer = peer
        self.destination = destination
        self.port = str(destination.port)
        self.sni = sni
        # Empty is absent: a peer without a certificate has no principal.
        self.principal = self.namespace = self.account = ""
        if identity is not None:
            self.principal = identity.principal
            self.namespace = identity.namespace
            self.account = f"{identity.namespace}/{identity.service_account}"
        self._addresses: dict[str, Address] = {}

    def address(self, host: str) -> Address:
        """A host of this connection as a number; parsed once."""
        found = self._addresses.get(host)
        if found is None:
            found = self._addresses[host] = Address.of(host)
        return found


class RequestFacts:
    """One request: its head, whose path is in its one form (see ``paths``), and the claims of its token."""

    __slots__ = ("_headers", "claims", "hosts", "method", "path", "principal", "remote")

    def __init__(
        self, head: RequestHead, *, remote: str = "", claims: Mapping[str, object] | None = None
    ) -> None:
        self.method = head.method.decode("latin-1")
        self.path = head.path.partition(b"?")[0].decode("latin-1")
        self.hosts = hosts(head.authority.decode("latin-1"))
        self.remote = remote  # of the client behind trusted proxies; empty: the connection's peer
        self.claims: Mapping[str, object] = claims or {}
        self.principal = f"{claims['iss']}/{claims['sub']}" if claims and "sub" in claims else ""
        self._headers: Headers = head.headers

    def keep(self) -> RequestFacts:
        """These, whatever is done to the head from here on."""
        self._headers = self._headers.copy()
        return self

    def header(self, name: bytes) -> tuple[str, ...]:
        """A header's value, several of them joined as one (RFC 9110, 5.3); none where it is absent."""
        values = get_all(self._headers, name)
        return (b",".join(values).decode("latin-1"),) if values else ()


def hosts(authority: str) -> tuple[str, ...]:
    """The names that an authority goes by: in lower case, as it is, without its port, without a last dot."""
    full = authority.lower()
    bare = _PORT.sub("", full) if "]" not in full or full.rpartition(":")[0].endswith("]") else full
    return tuple(dict.fromkeys((full, bare, bare.removesuffix("."))))


def remote_address(headers: Headers, peer: str, trusted_proxies: int) -> str:
    """The client behind trusted proxies: the one to the left of theirs in X-Forwarded-For, else the peer.

    A sidecar leaves the header to the proxies before it (Envoy's ``use_remote_address: false``), so without any trusted
    proxies it is the last address.
    """
    listed = b",".join(get_all(headers, b"x-forwarded-for")).decode("latin-1").split(",")
    if len(listed) <= trusted_proxies:
        return peer
    text = listed[-1 - trusted_proxies].strip()
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return peer
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
