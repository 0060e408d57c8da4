"""The settings of the redirect rules: what the flags of ``sidecar-setup`` mean, wherever they were given.

A flag's text comes from a YAML file (redirect_file), the environment or the command line; redirect_flags turns all of
it into settings. Equal meanings give equal settings, and so an equal hash. Plain dataclasses: ``sidecar-setup plan``
must start in an instant.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.model.ports import ADMIN_PORT, DNS_PORT, EGRESS_PORT, INGRESS_PORT, TELEMETRY_PORT
from interceptor.model.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from hashlib import sha256
    from ipaddress import IPv4Network, IPv6Network
else:
    try:
        from _sha256 import sha256  # Python 3.11's own: hashlib loads OpenSSL for it, 4 ms
    except ImportError:
        from hashlib import sha256

PROXY_UID: Final = 1337  # Istio's, which is why operators know it
DEFAULT_WAIT: Final = 30.0  # seconds for the xtables lock, as istio-iptables has it
ENVIRONMENT_PREFIX: Final = "SIDECAR_SETUP_"


class Ipv6Policy(Enum):
    """What ``--ipv6`` asks for."""

    AUTO = "auto"
    ON = "on"
    BLOCK = "block"
    OFF = "off"


class Mode(Enum):
    """What ``--mode`` asks for: how ingress is brought to the proxy. Egress is always redirected."""

    REDIRECT = "redirect"
    TPROXY = "tproxy"


class Dns(Enum):
    """What ``--dns`` asks for."""

    OFF = "off"
    CAPTURE = "capture"


class Quic(Enum):
    """What ``--quic`` asks for."""

    ALLOW = "allow"
    BLOCK = "block"


class Backend(Enum):
    """Which rules of the kernel ours are: iptables' legacy tables, or a table of nftables."""

    LEGACY = "legacy"
    NFT = "nft"


class PortRange(NamedTuple):
    """Ports from ``first`` to ``last``, both included."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


class Mark(NamedTuple):
    """A packet mark as ``iptables -m mark`` compares it: ``packet & mask == value``."""

    value: int
    mask: int = 0xFFFF_FFFF

    def __str__(self) -> str:
        return hex(self.value) if self.mask == 0xFFFF_FFFF else f"{self.value:#x}/{self.mask:#x}"


class UserPorts(NamedTuple):
    """Ports of one user."""

    uid: int
    ports: tuple[PortRange, ...]


class RedirectSettings(Record, kw_only=True):
    """Everything that decides which rules there are. Tuples are sorted and merged.

    An empty include means: no restriction. With both egress includes empty everything is captured; otherwise what
    either of them names. Exclude always wins.
    """

    proxy_uids: tuple[int, ...] = (PROXY_UID,)
    proxy_gids: tuple[int, ...] = ()
    proxy_mark: Mark | None = None
    mode: Mode = Mode.REDIRECT
    ingress_port: int = INGRESS_PORT
    egress_port: int = EGRESS_PORT
    dns_port: int = DNS_PORT
    other_own_ports: tuple[int, ...] = (ADMIN_PORT, TELEMETRY_PORT)
    include_ingress_ports: tuple[PortRange, ...] = ()
    exclude_ingress_ports: tuple[PortRange, ...] = ()
    include_egress_ports: tuple[PortRange, ...] = ()
    exclude_egress_ports: tuple[PortRange, ...] = ()
    exclude_egress_ports_for_uids: tuple[UserPorts, ...] = ()
    include_egress_cidrs: tuple[IPv4Network | IPv6Network, ...] = ()
    exclude_egress_cidrs: tuple[IPv4Network | IPv6Network, ...] = ()
    exclude_ingress_cidrs: tuple[IPv4Network | IPv6Network, ...] = ()
    exclude_uids: tuple[int, ...] = ()
    exclude_gids: tuple[int, ...] = ()
    supplementary_groups: bool = False
    exclude_interfaces: tuple[str, ...] = ()
    virtual_interfaces: tuple[str, ...] = ()
    ipv6: Ipv6Policy = Ipv6Policy.AUTO
    dns: Dns = Dns.OFF
    strict: bool = False
    quic: Quic = Quic.ALLOW

    @property
    def own_ports(self) -> tuple[PortRange, ...]:
        """The proxy's ports, which are never captured on ingress."""
        ports = {self.ingress_port, self.egress_port, self.dns_port, *self.other_own_ports}
        return merge_ranges([PortRange(port, port) for port in ports])

    @property
    def hash(self) -> str:
        """Twelve hex digits that stand for these settings in every rule's comment."""
        return sha256(repr(self).encode()).hexdigest()[:12]


class Invocation(Record):
    """What one call of ``sidecar-setup`` was asked: which rules, where, by which backend, and how long to wait for the lock."""

    settings: RedirectSettings
    netns: str | None = None
    wait: float = DEFAULT_WAIT
    backend: Backend | None = None  # None: auto


class Given(Record):
    """A flag's text, and where the operator wrote it: ``--wait``, ``SIDECAR_SETUP_WAIT``, ``rules.yaml:3: wait``."""

    text: str
    where: str


class Source(Record):
    """All flags given in one place, and what was wrong before their texts were even looked at."""

    given: Mapping[str, Given]
    problems: tuple[str, ...] = ()


class Names(Record):
    """How user and group names become numbers; None for a name nobody has."""

    uid: Callable[[str], int | None]
    gid: Callable[[str], int | None]


class Flag(Record):
    """A shared flag: its name without dashes, its placeholder and its help.

    A switch is written ``--name`` or ``--no-name`` on the command line, and as yes or no elsewhere.
    """

    name: str
    metavar: str
    help: str
    switch: bool = False

    @property
    def variable(self) -> str:
        """The environment variable that gives this flag."""
        return ENVIRONMENT_PREFIX + self.name.upper().replace("-", "_")


FLAGS: Final = (
    Flag("netns", "NAME|PATH|PID", "Work in this network namespace instead of the current one."),
    Flag(
        "backend",
        "auto|legacy|nft",
        "Which rules of the kernel to use. Default auto: where nat rules are already.",
    ),
    Flag("proxy-uid", "U", "Never capture what this user opens: the proxy. Repeatable. Default 1337."),
    Flag("proxy-gid", "G", "Never capture what this group opens: the proxy. Repeatable."),
    Flag("proxy-mark", "MARK[/MASK]", "Never capture what carries this packet mark: the proxy."),
    Flag(
        "mode",
        "redirect|tproxy",
        "How ingress is captured; tproxy keeps the client's address. Default redirect.",
    ),
    Flag("ingress-port", "PORT", f"The proxy's ingress listener. Default {INGRESS_PORT}."),
    Flag("egress-port", "PORT", f"The proxy's egress listener. Default {EGRESS_PORT}."),
    Flag("include-ingress-ports", "PORTS", "Capture only these app ports. Default '*', all."),
    Flag(
        "exclude-ingress-ports",
        "PORTS",
        "Do not capture these app ports, such as health ports: 22,8000-8100.",
    ),
    Flag("include-egress-ports", "PORTS", "Capture connections to these ports, wherever they go."),
    Flag("exclude-egress-ports", "PORTS", "Do not capture connections to these ports."),
    Flag(
        "exclude-egress-ports-for-uids",
        "PORT:UID,...",
        "Do not capture what these users open to these ports: 443:envoy,8000-8100:1000.",
    ),
    Flag("include-egress-cidrs", "CIDRS", "Capture connections to these addresses. Default '*', all."),
    Flag("exclude-egress-cidrs", "CIDRS", "Do not capture connections to these addresses."),
    Flag("exclude-ingress-cidrs", "CIDRS", "Do not capture connections from these addresses."),
    Flag("exclude-uids", "UIDS", "Do not capture what these users open."),
    Flag("exclude-gids", "GIDS", "Do not capture what these groups open."),
    Flag(
        "supplementary-groups",
        "",
        "Let --proxy-gid and --exclude-gids count a process's supplementary groups too. Default no.",
        switch=True,
    ),
    Flag("exclude-interfaces", "NAMES", "Do not capture on these interfaces; 'eth+' means all eth..."),
    Flag(
        "virtual-interfaces",
        "NAMES",
        "What arrives here for other hosts counts as egress: bridges of containers and virtual machines.",
    ),
    Flag("ipv6", "auto|on|block|off", "Capture IPv6, refuse it, or leave it alone. Default auto."),
    Flag(
        "dns", "off|capture", "Capture name queries, UDP and TCP port 53, whatever is included. Default off."
    ),
    Flag("dns-port", "PORT", f"Where the proxy answers name queries. Default {DNS_PORT}."),
    Flag(
        "strict",
        "",
        "Refuse what bypasses capture, and connections from outside straight to the proxy. Default no.",
        switch=True,
    ),
    Flag("quic", "allow|block", "Refuse QUIC (UDP port 443) where TCP would be captured. Default allow."),
    Flag("wait", "SECONDS", f"How long to wait for the xtables lock. Default {DEFAULT_WAIT:g}."),
)
FLAG_NAMES: Final = frozenset(flag.name for flag in FLAGS)


def from_command_line(values: Mapping[str, Sequence[str]]) -> Source:
    """The flags of the command line; a repeated one is a list."""
    return Source({name: Given(",".join(texts), f"--{name}") for name, texts in values.items()})


def from_environment(environ: Mapping[str, str], ignore: frozenset[str] = frozenset()) -> Source:
    """The flags given as ``SIDECAR_SETUP_<FLAG>``; one that names no flag is a problem, not a comment."""
    known = {flag.variable: flag.name for flag in FLAGS}
    ours = {
        variable: text
        for variable, text in environ.items()
        if variable.startswith(ENVIRONMENT_PREFIX) and variable not in ignore
    }
    return Source(
        {known[variable]: Given(text, variable) for variable, text in ours.items() if variable in known},
        tuple(
            f"{variable}: there is no such flag; 'sidecar-setup plan --help' lists them"
            for variable in sorted(ours.keys() - known.keys())
        ),
    )


def merge_ranges(ranges: Sequence[PortRange]) -> tuple[PortRange, ...]:
    """Sort, and join what overlaps or touches."""
    merged: list[PortRange] = []
    for port_range in sorted(ranges):
        if merged and port_range.first <= merged[-1].last + 1:
            merged[-1] = PortRange(merged[-1].first, max(merged[-1].last, port_range.last))
        else:
            merged.append(port_range)
    return tuple(merged)
