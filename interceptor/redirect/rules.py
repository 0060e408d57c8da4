"""The ruleset: every rule we install, typed, with the reason it is there. Every rendering and driver reads this.

Tables hold our chains, a chain holds rules, and one jump in a built-in chain leads to each chain. What a rule says of a
packet is a ``Match`` (all its fields must hold; None and empty hold always) and what becomes of the packet is a verdict.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.config.redirect import Mark, PortRange

Family = Literal[4, 6]
Network = IPv4Network | IPv6Network

FAMILIES: Final[tuple[Family, ...]] = (4, 6)
CHAIN_PREFIX: Final = "INTERCEPTOR_"
INGRESS_CHAIN: Final = CHAIN_PREFIX + "INGRESS"
EGRESS_CHAIN: Final = CHAIN_PREFIX + "EGRESS"
_TAG: Final = "interceptor:v1"


class Table(Enum):
    """A netfilter table."""

    NAT = "nat"
    FILTER = "filter"


class Hook(Enum):
    """A built-in chain."""

    PREROUTING = "PREROUTING"
    INPUT = "INPUT"
    OUTPUT = "OUTPUT"


class Protocol(Enum):
    """A transport protocol, by iptables' name."""

    TCP = "tcp"
    UDP = "udp"
    ICMPV6 = "ipv6-icmp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """What a packet must be."""

    protocol: Protocol | None = None
    in_interface: str | None = None
    out_interface: str | None = None
    source: Network | None = None
    destination: Network | None = None
    ports: tuple[PortRange, ...] = ()  # destination ports
    uid: int | None = None  # of the socket's creator
    gid: int | None = None
    mark: Mark | None = None
    local_destination: bool = False  # one of this host's own addresses
    new: bool = False  # the first packet of a connection

    @property
    def family(self) -> Family | None:
        """The one family an address ties this to, if any."""
        network = self.source or self.destination
        return None if network is None else 4 if network.version == 4 else 6


@dataclass(frozen=True, slots=True)
class Return:
    """Leave our chain: the packet goes on as if we were not there."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """Hand the connection to a local port."""

    port: int


@dataclass(frozen=True, slots=True)
class Jump:
    """Go on in another chain of ours."""

    chain: str


@dataclass(frozen=True, slots=True)
class Reject:
    """Refuse, and say so to the sender: ``tcp-reset`` or an ICMP type by iptables' name."""

    answer: str


Verdict = Return | Redirect | Jump | Reject


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; ``flag`` made it (``always``: no flag changes it) and ``because`` says what for."""

    id: str
    match: Match
    verdict: Verdict
    flag: str
    because: str

    def applies_to(self, family: Family) -> bool:
        """Whether this rule can match packets of a family, and so is installed for it."""
        return self.match.family in {None, family}


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of ours, and the jump that brings packets to it."""

    table: Table
    name: str
    hook: Hook
    jump: Rule
    rules: tuple[Rule, ...]
    families: tuple[Family, ...]

    def rules_for(self, family: Family) -> tuple[Rule, ...]:
        """The rules installed for one family, in order."""
        return tuple(rule for rule in self.rules if rule.applies_to(family))


@dataclass(frozen=True, slots=True)
class Ruleset:
    """All our chains in all tables; ``hash`` stands for the settings they come from."""

    hash: str
    chains: tuple[Chain, ...]

    def tables(self) -> Iterator[tuple[Family, Table]]:
        """The tables there is something of ours in, in the order they are written."""
        for family in FAMILIES:
            for table in Table:
                if self.chains_in(family, table):
                    yield family, table

    def chains_in(self, family: Family, table: Table) -> tuple[Chain, ...]:
        """Our chains in one table of one family."""
        return tuple(chain for chain in self.chains if chain.table is table and family in chain.families)

    def comment(self, rule: Rule) -> str:
        """What the kernel keeps with a rule: enough for status and remove to need no flags."""
        return f"{_TAG}:{self.hash}:{rule.id}"


class Tag(NamedTuple):
    """What a comment of ours says."""

    hash: str
    rule: str


def read_comment(comment: str) -> Tag | None:
    """The tag in a rule's comment; None for a foreign rule."""
    prefix, _, rest = comment.partition(f"{_TAG}:")
    settings, colon, rule = rest.partition(":")
    return Tag(settings, rule) if not prefix and colon else None
