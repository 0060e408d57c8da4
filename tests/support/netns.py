"""Network namespaces for tests: an app's namespace and a peer's, joined by a veth pair.

Runs only inside scripts/test-netns, which gives the whole test run a network namespace and a /run of its own, so
nothing here can reach or leave anything on the machine.
"""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from interceptor.kernel.netns import call_inside

T = TypeVar("T")
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Namespace:
    """A named network namespace with loopback up and, in a topology, one address of each family on eth0."""

    name: str
    v4: str = ""
    v6: str = ""

    @property
    def path(self) -> Path:
        return Path("/run/netns", self.name)

    def address(self, family: int) -> str:
        return self.v4 if family == 4 else self.v6

    def command(
        self, *argv: str, uid: int | None = None, gid: int | None = None, ours: bool = False
    ) -> list[str]:
        """The argument vector that runs ``argv`` in here, as another user if asked.

        What is ours can be started by any user also where only root may read the checkout.
        """
        who = (
            []
            if uid is None
            else ["setpriv", f"--reuid={uid}", f"--regid={uid if gid is None else gid}", "--clear-groups"]
        )
        if ours and who:
            who += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
        return ["ip", "netns", "exec", self.name, *who, *argv]

    def run(
        self, *argv: str, uid: int | None = None, check: bool = True, timeout: float = 30
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in here to its end and return it with its text output."""
        return subprocess.run(
            self.command(*argv, uid=uid), check=check, capture_output=True, text=True, timeout=timeout
        )

    def popen(self, *argv: str, uid: int | None = None, **options: object) -> subprocess.Popen[str]:
        """Start a command in here; the caller ends it."""
        return subprocess.Popen(self.command(*argv, uid=uid), text=True, **options)  # type: ignore[call-overload, no-any-return]  # Popen's own overloads

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in here, in a throw-away thread: for making sockets."""
        return call_inside(self.path, function)

    def ruleset(self) -> str:
        """Everything nftables holds in here, with counters and handles: iptables-nft's tables too, not legacy's."""
        return self.run("nft", "-a", "list", "ruleset").stdout

    def save(self, family: int = 4, backend: str = "legacy") -> str:
        """The kernel's rules with counters and without the date lines, for byte-equal comparison."""
        tool = "iptables" if family == 4 else "ip6tables"
        text = self.run(f"{tool}-{backend}-save", "-c").stdout
        return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))


@contextmanager
def namespace(prefix: str = "icp") -> Iterator[Namespace]:
    """An empty namespace with loopback up."""
    made = Namespace(f"{prefix}{next(_numbers)}")
    _ip("netns", "add", made.name)
    try:
        _ip("-n", made.name, "link", "set", "lo", "up")
        yield made
    finally:
        _ip("netns", "del", made.name)


@dataclass(frozen=True)
class Topology:
    """``app`` and ``peer``, one link apart; each is the other's default route."""

    app: Namespace
    peer: Namespace


@contextmanager
def topology() -> Iterator[Topology]:
    """Two joined namespaces: app 10.9.0.2 fd09::2, peer 10.9.0.1 fd09::1; both families, no DAD."""
    with namespace("app") as app, namespace("peer") as peer:
        ends = ((app, "10.9.0.2", "fd09::2"), (peer, "10.9.0.1", "fd09::1"))
        _ip(
            "link",
            "add",
            "eth0",
            "netns",
            app.name,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            peer.name,
        )
        for end, v4, v6 in ends:
            _ip("-n", end.name, "addr", "add", f"{v4}/24", "dev", "eth0")
            _ip("-n", end.name, "addr", "add", f"{v6}/64", "dev", "eth0", "nodad")
            _ip("-n", end.name, "link", "set", "eth0", "up")
        for (end, _, _), (_, v4, v6) in zip(ends, reversed(ends), strict=True):
            _ip("-n", end.name, "route", "add", "default", "via", v4)
            _ip("-n", end.name, "-6", "route", "add", "default", "via", v6)
        yield Topology(
            Namespace(app.name, "10.9.0.2", "fd09::2"), Namespace(peer.name, "10.9.0.1", "fd09::1")
        )


BRIDGE = {4: "172.18.0.1", 6: "fd18::1"}  # the app's end of the link to its guest
GUEST = {4: "172.18.0.2", 6: "fd18::2"}


@contextmanager
def guest_of(bed: Topology) -> Iterator[Namespace]:
    """A container behind the app's vnet0, whose packets the app's namespace forwards."""
    with namespace("guest") as made:
        bed.app.run("ip", "link", "add", "vnet0", "type", "veth", "peer", "name", "eth0", "netns", made.name)
        for family, length, flags in ((4, 24, ()), (6, 64, ("nodad",))):
            for where, device, host in ((bed.app, "vnet0", BRIDGE), (made, "eth0", GUEST)):
                where.run("ip", "addr", "add", f"{host[family]}/{length}", "dev", device, *flags)
                where.run("ip", "link", "set", device, "up")
            made.run("ip", f"-{family}", "route", "add", "default", "via", BRIDGE[family])
            network = "172.18.0.0/24" if family == 4 else "fd18::/64"
            bed.peer.run("ip", "route", "add", network, "via", bed.app.address(family))
        bed.app.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        yield made


def links(where: Namespace) -> Sequence[str]:
    """The names of the interfaces in a namespace."""
    listed = json.loads(where.run("ip", "-json", "link").stdout)
    return [link["ifname"] for link in listed]


def _ip(*argv: str) -> None:
    subprocess.run(["ip", *argv], check=True, capture_output=True, text=True)
