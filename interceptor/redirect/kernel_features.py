"""What the gateway asks of the kernel, and since which version kernels have it: the table that ``doctor`` shows.

A version says what to expect; distributions build kernels without features and carry newer ones back, so what was tried
counts. The versions are those of the first release that holds the change named in the kernel's own history.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

Version = tuple[int, ...]
Has = Literal["works", "refused", "expected", "too old"]

_RELEASE: Final = re.compile(r"\d+(\.\d+)*")


class Feature(NamedTuple):
    """Something a kernel has or has not, and what cannot be had without."""

    name: str
    since: Version
    without: str


class Row(NamedTuple):
    """A feature on one kernel: tried, or else judged by the version; ``said`` is how the kernel refused."""

    feature: Feature
    has: Has
    said: str = ""


LEGACY_NAT: Final = Feature("iptables-legacy: REDIRECT of IPv4 and IPv6", (3, 7), "--backend legacy")
LEGACY_TPROXY: Final = Feature("iptables-legacy: TPROXY", (2, 6, 37), "--mode tproxy --backend legacy")
LEGACY_ZONES: Final = Feature("iptables-legacy: CT --zone-orig", (4, 3), "--dns capture --backend legacy")
LEGACY_GROUPS: Final = Feature("iptables-legacy: owner --suppl-groups", (5, 3), "--supplementary-groups")
NFT_NAT: Final = Feature("nftables: redirect in an inet table", (5, 2), "--backend nft")
NFT_TPROXY: Final = Feature("nftables: tproxy", (4, 19), "--mode tproxy --backend nft")
NFT_ZONES: Final = Feature("nftables: ct original zone set", (4, 11), "--dns capture --backend nft")
NFT_COUNTERS: Final = Feature(
    "nftables: counters in a set's elements", (5, 7), "several CIDRs with --backend nft"
)
ORIGINAL_DST: Final = Feature("SO_ORIGINAL_DST of IPv6 connections", (3, 7), "the proxy for redirected IPv6")
TRANSPARENT: Final = Feature("IP_TRANSPARENT, IPV6_TRANSPARENT", (2, 6, 37), "spec.ingress.mode TPROXY")
REUSEPORT: Final = Feature("SO_REUSEPORT", (3, 9), "more than one of spec.workers")
SPLICE: Final = Feature("splice through a pipe of 1 MiB", (2, 6, 35), "spec.relay splice")
MEMFD: Final = Feature("memfd_create", (3, 17), "certificates, and more than one of spec.workers")
COOKIE: Final = Feature(
    "SO_NETNS_COOKIE", (5, 14), "the proxy's check that a state file is not of an earlier namespace"
)
TCP_INFO: Final = Feature(
    "TCP_INFO: bytes acknowledged", (4, 1), "sending a request again after a kept connection broke"
)
FILTER: Final = Feature(
    "conntrack lists what is asked for", (5, 8), "speed of status and --drain beside many connections"
)

FEATURES: Final = (
    LEGACY_NAT, LEGACY_TPROXY, LEGACY_ZONES, LEGACY_GROUPS, NFT_NAT, NFT_TPROXY, NFT_ZONES, NFT_COUNTERS,
    ORIGINAL_DST, TRANSPARENT, REUSEPORT, SPLICE, MEMFD, COOKIE, TCP_INFO, FILTER,
)  # fmt: skip


class Kernel(NamedTuple):
    """A kernel by its release, with every feature."""

    release: str
    rows: tuple[Row, ...]


def judge(release: str, tried: Mapping[Feature, str]) -> Kernel:
    """The table of one kernel; ``tried`` is what it said to each feature, nothing where that works."""
    version = _version(release)
    return Kernel(release, tuple(_row(feature, version, tried.get(feature)) for feature in FEATURES))


def version_text(version: Version) -> str:
    """A version as people write it."""
    return ".".join(map(str, version))


def _row(feature: Feature, version: Version, said: str | None) -> Row:
    if said is None:
        return Row(feature, "expected" if version >= feature.since else "too old")
    return Row(feature, "refused" if said else "works", said)


def _version(release: str) -> Version:
    """The numbers that a release such as ``6.1.0-56-amd64`` begins with."""
    found = _RELEASE.match(release)
    return tuple(map(int, found[0].split("."))) if found else ()
