"""What stands in the way of the rules and the proxy, and what to do about each: facts in, findings out."""

from __future__ import annotations

import itertools
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from interceptor.config.redirect import Ipv6Policy, PortRange
from interceptor.model.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from interceptor.config.redirect import RedirectSettings

Severity = Literal["problem", "warning", "remark"]

NEEDED: Final = "CAP_NET_ADMIN"
FOR_LEGACY: Final = "CAP_NET_RAW"
USEFUL: Final = {  # capability -> what for
    "CAP_SYS_ADMIN": "for --netns, and for verify to try every path",
    "CAP_SETUID": "for verify to connect as other users",
}
DESCRIPTORS: Final = 2 * 8192 + 128  # two for each of the default spec.limits.connections, and a reserve
FEW_PORTS: Final = 4096  # every flow takes an ephemeral port for its upstream side
NEARLY_FULL: Final = 0.9  # of the conntrack table
MESH_CHAINS: Final = ("ISTIO_", "KUMA_MESH_", "PROXY_INIT_", "sshuttle-")
PORT_RANGE: Final = "net.ipv4.ip_local_port_range"
RESERVED_PORTS: Final = "net.ipv4.ip_local_reserved_ports"
FORWARD: Final = "net.ipv4.ip_forward"
BRIDGED: Final = "net.bridge.bridge-nf-call-iptables"
TRACKED: Final = "net.netfilter.nf_conntrack_count"
TRACKED_MAX: Final = "net.netfilter.nf_conntrack_max"
SYSCTLS: Final = (PORT_RANGE, RESERVED_PORTS, FORWARD, BRIDGED, TRACKED, TRACKED_MAX)


class Finding(NamedTuple):
    """Something an operator should know, and what to do about it."""

    severity: Severity
    what: str
    remedy: str


class Listener(NamedTuple):
    """A TCP socket that listens: where, and who opened it."""

    port: int
    host: str
    uid: int


class Process(NamedTuple):
    """A running program."""

    pid: int
    name: str
    uid: int


class ForeignRule(NamedTuple):
    """A rule of another program that redirects; ``removal`` is the command that deletes it."""

    where: str  # 'nft ip nat', 'legacy IPv4 nat OUTPUT'
    text: str
    removal: str


class Facts(Record, kw_only=True):
    """What was seen. None: it could not be looked at, and ``unseen`` says why."""

    capabilities: frozenset[str]
    trial: str | None  # what the kernel said to the rules in a throw-away namespace; '' is yes
    lock: str  # why the xtables lock cannot be had; '' when it can
    unmapped: Sequence[int]  # proxy ids that this user namespace does not have
    installed: Sequence[str] | None  # what is wrong with what is installed, as status says
    foreign: Sequence[ForeignRule]
    listeners: Sequence[Listener]
    strangers: Sequence[Process]  # programs that run as a proxy uid and are not the proxy
    sysctls: Mapping[str, str]
    nameservers: Sequence[str]
    interfaces: Sequence[str]
    descriptors: int  # the hard limit
    unseen: Sequence[str]


def diagnose(facts: Facts, settings: RedirectSettings) -> tuple[Finding, ...]:
    """Everything there is to say, the worst first."""
    found = itertools.chain(
        _rights(facts),
        _kernel(facts),
        _installed(facts),
        _foreign(facts),
        _proxy(facts, settings),
        _strangers(facts),
        _ports(facts, settings),
        _host(facts),
    )
    order: tuple[Severity, ...] = ("problem", "warning", "remark")
    return tuple(sorted(found, key=lambda finding: order.index(finding.severity)))


def _rights(facts: Facts) -> Iterator[Finding]:
    if NEEDED not in facts.capabilities:
        yield Finding(
            "problem",
            f"this process lacks {NEEDED}, without which no rule can be read or changed",
            "run the command with sudo, or give the container capabilities.add: [NET_ADMIN]",
        )
    if FOR_LEGACY not in facts.capabilities:
        yield Finding(
            "warning",
            f"this process lacks {FOR_LEGACY}, without which the iptables libraries do not work",
            "give --backend nft, or the container capabilities.add: [NET_ADMIN, NET_RAW]",
        )
    for name, reason in USEFUL.items():
        if name not in facts.capabilities:
            yield Finding(
                "remark",
                f"this process lacks {name}, which is wanted {reason}",
                "run as root where you need that",
            )
    for number in facts.unmapped:
        yield Finding(
            "problem",
            f"id {number} does not exist in this user namespace, so the kernel refuses a rule that names it",
            "map it (subuid, --uidmap), or give another --proxy-uid",
        )


def _kernel(facts: Facts) -> Iterator[Finding]:
    if facts.lock:
        yield Finding(
            "problem",
            f"the xtables lock cannot be had: {facts.lock}",
            "make /run writable, or set XTABLES_LOCKFILE to a file that is",
        )
    if facts.trial:
        yield Finding(
            "problem",
            f"the rules cannot be installed in a throw-away namespace: {facts.trial}",
            "do what this sentence says, then run doctor again",
        )
    if TRACKED_MAX not in facts.sysctls:
        yield Finding(
            "warning",
            "the kernel has no connection tracking yet, without which nothing is redirected",
            "modprobe nf_conntrack, if the first apply does not load it",
        )
    else:
        used, room = int(facts.sysctls.get(TRACKED, "0")), int(facts.sysctls[TRACKED_MAX])
        if used > room * NEARLY_FULL:
            yield Finding(
                "problem",
                f"connection tracking holds {used} of at most {room} connections; new ones are dropped when it is full",
                f"sysctl -w {TRACKED_MAX}={room * 4} (in the host's namespace)",
            )


def _installed(facts: Facts) -> Iterator[Finding]:
    for sentence in facts.installed or ():
        what, _, remedy = sentence.rpartition(": run ")
        if what:
            yield Finding("problem", what, f"run {remedy}")
        else:
            yield Finding("warning", sentence, "if it decides about the same connections, delete or move it")


def _foreign(facts: Facts) -> Iterator[Finding]:
    for rule in facts.foreign:
        mesh = any(name in f"{rule.where} {rule.text}" for name in MESH_CHAINS)
        yield Finding(
            "problem" if mesh else "warning",
            f"{rule.where} has {'the rules of another mesh' if mesh else 'a redirect of another program'}: {rule.text}",
            f"remove it with the program that made it, or by '{rule.removal}'",
        )


def _proxy(facts: Facts, settings: RedirectSettings) -> Iterator[Finding]:
    for name, port in (("ingress", settings.ingress_port), ("egress", settings.egress_port)):
        found = [listener for listener in facts.listeners if listener.port == port]
        if not found:
            yield Finding(
                "warning",
                f"nobody listens on {name} port {port}: what is captured is refused",
                "start the proxy: 'interceptor proxy'",
            )
            continue
        hosts = {listener.host for listener in found}
        addresses = [ip_address(host) for host in hosts]
        families = (4, 6) if settings.ipv6 in {Ipv6Policy.AUTO, Ipv6Policy.ON} else (4,)
        deaf = [
            f"IPv{family}"
            for family in families
            if not any(_receives(address, family, name) for address in addresses)
        ]
        if deaf:
            wants = "every address" if name == "ingress" else "every address or loopback"
            yield Finding(
                "problem",
                f"the {name} listener on port {port} is bound to {', '.join(sorted(hosts))}, where no redirected "
                f"{' or '.join(deaf)} connection arrives",
                f"make the proxy listen on {wants}: bind [::]:{port}",
            )
        yield from _exempt(found, name, settings)


def _receives(address: IPv4Address | IPv6Address, family: int, name: str) -> bool:
    """REDIRECT leads to loopback on the way out, and to the address of the interface on the way in."""
    if address.is_unspecified:
        return address.version in {6, family}  # [::] takes IPv4 as well, unless it was told not to
    return name == "egress" and address.version == family and address.is_loopback


def _exempt(found: Sequence[Listener], name: str, settings: RedirectSettings) -> Iterator[Finding]:
    """The proxy must run as one of the ids that the rules leave alone, or else be known by its gid or mark."""
    for uid in sorted({listener.uid for listener in found} - {0, *settings.proxy_uids}):
        if not settings.proxy_gids and settings.proxy_mark is None:
            yield Finding(
                "problem",
                f"the {name} listener belongs to uid {uid}, which is captured like the app: "
                "the proxy's own connections come back to it",
                f"run the proxy as uid {settings.proxy_uids[0]}, or give --proxy-uid {uid}",
            )


def _strangers(facts: Facts) -> Iterator[Finding]:
    for pid, name, uid in facts.strangers:
        yield Finding(
            "problem",
            f"process {pid} ({name}) runs as uid {uid} and is not the proxy: its connections bypass the proxy",
            "run it as another user, or give the proxy a uid of its own with --proxy-uid",
        )


def _ports(facts: Facts, settings: RedirectSettings) -> Iterator[Finding]:
    if PORT_RANGE not in facts.sysctls:
        return
    ephemeral = PortRange(*map(int, facts.sysctls[PORT_RANGE].split()))
    if ephemeral.last - ephemeral.first < FEW_PORTS:
        yield Finding(
            "warning",
            f"there are {ephemeral.last - ephemeral.first + 1} ephemeral ports, and every flow takes one more",
            f"sysctl -w {PORT_RANGE}='32768 60999'",
        )
    reserved = [
        PortRange(int(first), int(last or first))
        for first, _, last in (
            part.partition("-") for part in facts.sysctls.get(RESERVED_PORTS, "").split(",") if part
        )
    ]
    own = [port for each in settings.own_ports for port in range(each.first, each.last + 1)]
    free = [
        port
        for port in own
        if ephemeral.first <= port <= ephemeral.last
        and not any(each.first <= port <= each.last for each in reserved)
    ]
    if free:
        wanted = ",".join(map(str, [*reserved, *free]))
        yield Finding(
            "warning",
            f"the proxy's ports {', '.join(map(str, free))} are ephemeral ports here: any outgoing connection may take one",
            f"sysctl -w {RESERVED_PORTS}={wanted}",
        )


def _host(facts: Facts) -> Iterator[Finding]:
    if facts.descriptors < DESCRIPTORS:
        yield Finding(
            "warning",
            f"a process may open {facts.descriptors} descriptors, and the proxy wants {DESCRIPTORS} by default",
            f"ulimit -Hn {DESCRIPTORS} (LimitNOFILE= in a systemd unit), or lower spec.limits.connections",
        )
    if facts.sysctls.get(FORWARD) == "1":
        bridges = [
            name for name in facts.interfaces if name.startswith(("docker", "br-", "virbr", "cni", "podman"))
        ]
        through = f" ({', '.join(bridges)})" if bridges else ""
        yield Finding(
            "remark",
            f"this namespace forwards packets{through}: what only passes through is not captured",
            "put the rules into the container's own namespace: --netns PID",
        )
    if facts.sysctls.get(BRIDGED) == "1":
        yield Finding(
            "remark",
            "packets between bridged containers pass the rules here (bridge-nf-call-iptables)",
            f"nothing, unless a bridged address is one of this host's; sysctl -w {BRIDGED}=0 ends it",
        )
    if "127.0.0.11" in facts.nameservers:
        yield Finding(
            "remark",
            "names are resolved by Docker at 127.0.0.11, which is loopback and stays direct",
            "nothing; its rules in the nat table must stay",
        )
