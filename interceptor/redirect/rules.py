"""The ruleset: every rule we install, typed, with the reason it is there. Every rendering and driver reads this.

Tables hold our chains, a chain holds rules, and one jump in a built-in chain leads to each chain. What a rule says of a
packet is a ``Match`` (all its fields must hold; None and empty hold always) and what becomes of the packet is a verdict:
most end the packet's way through the chain, a label (``Label``) only notes something and the next rule follows.
"""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Final, Literal

from interceptor.model.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.config.redirect import Mark, PortRange

Family = Literal[4, 6]
Network = IPv4Network | IPv6Network

FAMILIES: Final[tuple[Family, ...]] = (4, 6)
CHAIN_PREFIX: Final = "INTERCEPTOR_"
INGRESS_CHAIN: Final = CHAIN_PREFIX + "INGRESS"
EGRESS_CHAIN: Final = CHAIN_PREFIX + "EGRESS"
FORWARD_CHAIN: Final = CHAIN_PREFIX + "FORWARD"
DETOUR_NUMBER: Final = 15006  # of our routing table and the preference of the rule that leads to it
DETOUR_PROTOCOL: Final = (
    150  # marks both as ours; no routing daemon's (linux/rtnetlink.h, iproute2's rt_protos)
)
_TAG: Final = "interceptor:v1"


class Table(Enum):
    """A netfilter table, in the order in which they are written: what prepares comes first, what refuses last."""

    RAW = "raw"
    MANGLE = "mangle"
    NAT = "nat"
    FILTER = "filter"


class Hook(Enum):
    """A built-in chain."""

    PREROUTING = "PREROUTING"
    INPUT = "INPUT"
    FORWARD = "FORWARD"
    OUTPUT = "OUTPUT"


class Protocol(Enum):
    """A transport protocol, by iptables' name."""

    TCP = "tcp"
    UDP = "udp"
    ICMPV6 = "ipv6-icmp"


class Match(Record, kw_only=True):
    """What a packet must be."""

    protocol: Protocol | None = None
    in_interface: str | None = None
    out_interface: str | None = None
    source: Network | None = None
    destination: Network | None = None
    ports: tuple[PortRange, ...] = ()  # destination ports
    uid: int | None = None  # of the socket's creator
    gid: int | None = None
    supplementary: bool = False  # the gid may also be one of the creator's supplementary groups
    mark: Mark | None = None
    connection_mark: Mark | None = None
    local_destination: bool = False  # one of this host's own addresses
    remote_destination: bool = False  # none of them
    remote_source: bool = False  # the source is none of them
    new: bool = False  # the first packet of a connection
    syn: bool = False  # the first segment of a TCP connection
    reply: bool = False  # goes against the direction in which its connection was opened
    rewritten: bool = False  # a nat rule changed the connection's destination

    @property
    def family(self) -> Family | None:
        """The one family an address ties this to, if any."""
        network = self.source or self.destination
        return None if network is None else 4 if network.version == 4 else 6


class Return(Record):
    """Leave our chain: the packet goes on as if we were not there."""


class Redirect(Record):
    """Hand the connection to a local port."""

    port: int


class Tproxy(Record):
    """Hand the packet to a transparent listener at a local port; its addresses stay as they are."""

    port: int


class Jump(Record):
    """Go on in another chain of ours."""

    chain: str


class Answer(Enum):
    """What the sender of a refused packet hears."""

    RESET = "tcp-reset"
    UNREACHABLE = "port-unreachable"  # by ICMP of the packet's family


class Reject(Record):
    """Refuse, and say so to the sender."""

    answer: Answer


class MarkPacket(Record):
    """Set the bits of the packet's mark that the mask covers."""

    mark: Mark


class MarkConnection(Record):
    """Set the bits of the connection's mark that the mask covers."""

    mark: Mark


class Zone(Record):
    """Look the packet's connection up in a conntrack zone of its own, in the direction in which it is opened."""

    number: int


Label = MarkPacket | MarkConnection | Zone
Verdict = Return | Redirect | Tproxy | Jump | Reject | Label


class Rule(Record):
    """One rule; ``flag`` made it (``always``: no flag changes it) and ``because`` says what for."""

    id: str
    match: Match
    verdict: Verdict
    flag: str
    because: str

    def applies_to(self, family: Family) -> bool:
        """Whether this rule can match packets of a family, and so is installed for it."""
        return self.match.family in {None, family}


class Chain(Record):
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


class Detour(Record):
    """Policy routing: a packet that carries the mark is delivered on this host, whatever its destination.

    A rule of preference ``DETOUR_NUMBER`` leads to the routing table of that number.
    """

    mark: Mark
    families: tuple[Family, ...]


class Ruleset(Record):
    """All our chains in all tables; ``hash`` stands for the settings they come from."""

    hash: str
    chains: tuple[Chain, ...]
    detour: Detour | None = None

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


class Tag(Record):
    """What a comment of ours says."""

    hash: str
    rule: str


def read_comment(comment: str) -> Tag | None:
    """The tag in a rule's comment; None for a foreign rule."""
    prefix, _, rest = comment.partition(f"{_TAG}:")
    settings, colon, rule = rest.partition(":")
    return Tag(settings, rule) if not prefix and colon else None
