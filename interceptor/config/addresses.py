"""Addresses as operators write them, made canonical; what is wrong with one is said in a sentence (ValueError)."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

from interceptor.model.address import SocketAddress

if TYPE_CHECKING:
    from collections.abc import Sequence

DnsLookupFamily = Literal["ALL", "AUTO", "V4_ONLY", "V6_ONLY", "V4_PREFERRED"]  # Envoy's words
BOTH: Final = frozenset({4, 6})  # versions of IP

_CANONICAL_V4: Final = re.compile(
    r"(?:(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])(?:\.(?!$)|$)){4}", re.ASCII
)
_LABEL: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")


def ip_address(text: str) -> str:
    """An IP address in canonical form; a v4-mapped one as the plain IPv4 address that connections are seen with."""
    if _CANONICAL_V4.fullmatch(text):  # as nearly all of 50 000 endpoints are
        return text
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"'{text}' is not an IP address; write it like 10.0.0.1 or fd00::1") from None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            raise ValueError(f"'{text}' has a scope; write the address without the part from '%' on")
        return str(address.ipv4_mapped or address)
    return str(address)


def ip_address_or_network(text: str) -> str:
    """An address, or a CIDR with its host bits cleared, in canonical form."""
    if "/" not in text:
        return ip_address(text)
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"'{text}' is not a CIDR; write it like 10.0.0.0/8 or fd00::/8") from None
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return f"{mapped}/{network.prefixlen - 96}"
    return str(network)


def socket_address(text: str) -> SocketAddress:
    """``127.0.0.1:15000`` or ``[::1]:15000``: an IP address to listen on and a port."""
    match = re.fullmatch(r"(?:\[([^\[\]]*)\]|([^\[\]:]*)):([0-9]{1,5})", text)
    if match is None:
        raise ValueError(
            f"'{text}' is not an address with a port; write it like 127.0.0.1:15000 or [::1]:15000"
        )
    bracketed, bare, port = match.groups()
    host = ip_address(bare if bracketed is None else bracketed)
    if not 1 <= int(port) <= 65535:
        raise ValueError(f"'{text}' has the port {int(port)}; a port is a number from 1 to 65535")
    return SocketAddress(host, int(port))


def is_loopback(host: str) -> bool:
    """Whether an IP address never leaves the machine: 127.0.0.0/8 or ::1."""
    return ipaddress.ip_address(host).is_loopback


def is_ip_address(text: str) -> bool:
    """Whether a host is an IP address and not a name."""
    # Asked of thousands of names, which mostly end in a letter.
    return (text[-1:].isdigit() or ":" in text) and _reads_as_address(text)


@lru_cache(maxsize=1024)  # asked about the same few hosts with every request
def _reads_as_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def host_name(text: str) -> str:
    """A host of a service, in lower case: a name, ``*.`` and a name, or an IP address."""
    if is_ip_address(text):
        return ip_address(text)
    name = text.lower().removesuffix(".")
    if name == "*":
        raise ValueError(
            "'*' would name every host; name hosts, or allow all with spec.egress.policy: ALLOW_ANY"
        )
    labels = name.removeprefix("*.").split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"'{text}' is not a host name; write it like api.example.com or *.example.com")
    return name


def of_family(family: DnsLookupFamily, addresses: Sequence[str]) -> Sequence[str]:
    """Those of a host's addresses that are its endpoints, as Envoy chooses: AUTO prefers IPv6."""
    if family == "ALL":
        return addresses
    v6 = family in {"AUTO", "V6_ONLY"}
    wanted = [address for address in addresses if (":" in address) is v6]
    return wanted if wanted or family.endswith("_ONLY") else addresses
