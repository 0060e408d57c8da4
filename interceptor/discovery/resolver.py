"""Resolves the hosts of the registry, at start and whenever an answer's time is over, and publishes what changed.

An answer's addresses are the endpoints from then on. Those before stay the host's for a while: an app goes on using the
address it looked up a while ago, and a service with more addresses than fit one answer rotates them. A failed lookup
removes nothing.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias

import trio

from interceptor.config.addresses import BOTH, ip_address, is_ip_address
from interceptor.errors import PeerError
from interceptor.model.work import Work, done, steps
from interceptor.state.aside import in_turns, uncollected
from interceptor.state.snapshot import letting_go, seen_by, taking

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from interceptor.config.configuration import Configuration
    from interceptor.state.snapshot import Snapshot
    from interceptor.state.store import Store

SHORTEST: Final = 5.0  # seconds that any answer holds: Envoy's dns_min_refresh_rate
LONGEST: Final = 300.0  # a record with the TTL of a day may be changed before its time
FILE_SECONDS: Final = 30.0  # that the hosts file's answers hold, which have no TTL
RETRY: Final = 10.0  # seconds until a name server that failed is asked again
ROUND_TIMEOUT: Final = 10.0  # seconds; glibc's own patience with a silent name server is 2 tries of 5 s
FIRST_TIMEOUT: Final = 2.0  # seconds for the new hosts of a configuration that waits to be in force
GRACE: Final = 300.0  # seconds that an address stays the host's: as long as usual runtimes and pools keep one
MAX_ADDRESSES: Final = 256  # for one host, the ones seen last; far above any one DNS answer
MAX_LOOKUPS: Final = 32  # at a time: each takes two descriptors while it waits
LOCALHOST: Final = ("127.0.0.1", "::1")  # RFC 6761: the name is never asked of a name server

_log: Final = logging.getLogger(__name__)

_NONE: Final[frozenset[int]] = frozenset()

Known: TypeAlias = dict[str, float]  # an address -> when an answer last had it


class Answer(NamedTuple):
    """What a host resolves to, and for how many seconds."""

    addresses: tuple[str, ...]
    ttl: float


class Lookup(Protocol):
    """Who looks hosts up."""

    async def __call__(self, host: str, versions: frozenset[int]) -> Answer:
        """Its addresses of these versions of IP. Raises UnresolvedError."""


class UnresolvedError(PeerError):
    """A host could not be looked up, or has no addresses; and when it is worth asking again."""

    def __init__(self, reason: str, ttl: float) -> None:
        super().__init__(reason)
        self.ttl = ttl


def merge(known: Known, answer: Iterable[str], now: float) -> Known:
    """What is known of a host after one more answer: new addresses in, and those long gone from the answers out."""
    recent = {address: seen for address, seen in known.items() if now - seen <= GRACE}
    merged = {**recent, **dict.fromkeys(map(ip_address, answer), now)}
    return dict(sorted(merged.items(), key=lambda item: -item[1])[:MAX_ADDRESSES])


def former(known: Known) -> tuple[str, ...]:
    """The addresses that the last answer did not have any more."""
    last = max(known.values(), default=0.0)
    return tuple(address for address, seen in known.items() if seen < last)


def fixed_addresses(host: str) -> tuple[str, ...]:
    """The addresses of a host that needs no lookup; empty for one that does."""
    if is_ip_address(host):
        return (host,)
    return LOCALHOST if host == "localhost" or host.endswith(".localhost") else ()


def same(current: Snapshot, resolved: Mapping[str, Sequence[str]], gone: Mapping[str, Sequence[str]]) -> bool:
    """Whether a snapshot has these addresses, in whatever order they came."""
    return all(
        before == {host: tuple(sorted(found)) for host, found in now.items()}
        for before, now in ((current.resolved, resolved), (current.former, gone))
    )


def _hosts(configuration: Configuration) -> Work[dict[str, frozenset[int]]]:
    """The hosts of a configuration whose addresses decide, and the versions of IP that any document wants of each."""
    found: dict[str, frozenset[int]] = {}
    for some in steps((yield from seen_by(configuration, configuration.service_entries))):
        yield
        for entry in some:
            for host in entry.spec.names_to_resolve:
                found[host] = found.get(host, _NONE) | entry.spec.versions
    return found


class Resolver:
    """Keeps the store's snapshot up to date with the addresses of the hosts of its configuration."""

    def __init__(self, store: Store, lookup: Lookup) -> None:
        self._configuration = store.current.configuration
        self._store = store
        self._lookup = lookup
        self._fixed: dict[str, tuple[str, ...]] = {}
        self._known: dict[str, Known] = {}
        self._versions: dict[str, frozenset[int]] = {}  # of IP, that are asked for
        self._due: dict[str, float] = {}  # when each is looked up again
        self._failing: set[str] = set()
        self._publishing = trio.Lock()
        self._hosts = done(_hosts(self._configuration))
        self._know(self._hosts)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts that are looked up."""
        return tuple(self._known)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Resolve until cancelled; started once the first round is over, so that readiness can wait for it."""
        await self.round()
        task_status.started()
        while True:
            await trio.sleep(SHORTEST if self._known else ROUND_TIMEOUT)
            now = trio.current_time()
            if due := [host for host, at in self._due.items() if at <= now]:
                await self.round(due)

    async def round(self, hosts: Iterable[str] | None = None) -> None:
        """Look every host up once, or some, in bounded time, and publish a snapshot where addresses changed."""
        # Hosts that failed come last: a name server that is silent for some must not starve the others.
        await self._look_up(sorted(hosts or self._known, key=self._failing.__contains__), ROUND_TIMEOUT)
        await self._publish()

    async def adopt(self, configuration: Configuration) -> str:
        """Put a new configuration into force, with the addresses of its hosts; the version of its snapshot.

        What cannot be compiled raises, and the one before stays.
        """
        wanted = await in_turns(_hosts(configuration))
        new = self._know(wanted)
        try:
            await self._look_up(new, FIRST_TIMEOUT)
            version = await self._publish((configuration, wanted))
        finally:
            hosts = self._hosts
            self._known = {host: known for host, known in self._known.items() if host in hosts}
            self._fixed = {host: fixed for host, fixed in self._fixed.items() if host in hosts}
            self._versions = {host: hosts[host] for host in self._known}
            self._due = {host: at for host, at in self._due.items() if host in hosts}
            self._failing &= self._known.keys()
        return version

    def _know(self, wanted: Mapping[str, frozenset[int]]) -> list[str]:
        """The hosts of a configuration of which not all that it wants was asked before; it is from now on."""
        hosts = {host: now | self._versions.get(host, _NONE) for host, now in wanted.items()}
        new = [
            host
            for host, versions in hosts.items()
            if host not in self._fixed and versions != self._versions.get(host)
        ]
        self._fixed.update({host: fixed for host in new if (fixed := fixed_addresses(host))})
        asked = [host for host in new if host not in self._fixed]
        self._known.update({host: self._known.get(host, {}) for host in asked})
        self._versions.update({host: hosts[host] for host in asked})
        self._due.update(dict.fromkeys(asked, 0.0))
        return asked

    async def _look_up(self, hosts: Sequence[str], seconds: float) -> None:
        if not hosts:
            return
        waiting = deque(hosts)
        asked: set[str] = set()
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for _ in range(MAX_LOOKUPS):
                    nursery.start_soon(self._work, waiting, asked)
        for host in sorted(asked):
            self._failed(host, "the name server did not answer in time", RETRY)
        if waiting:
            _log.warning(
                "there was no time to look up %d hosts; they come first in the next round", len(waiting)
            )

    async def _publish(self, new: tuple[Configuration, dict[str, frozenset[int]]] | None = None) -> str:
        """Make a snapshot of the configuration, or of a new one with its hosts, the current one; its version."""
        async with self._publishing:
            configuration, hosts = new or (self._configuration, self._hosts)
            current = self._store.current
            resolved = {host: found for host in hosts if (found := self._addresses(host))}
            gone = {host: found for host in hosts if (found := former(self._known.get(host, {})))}
            if configuration is current.configuration and same(current, resolved, gone):
                return (
                    current.version
                )  # most answers are what was known: thousands of services are not compiled for them
            with uncollected(len(configuration.documents)):
                snapshot = await in_turns(taking(configuration, resolved, former=gone, before=current))
            self._configuration, self._hosts = configuration, hosts
            self._store.publish(snapshot)
            leaving = letting_go(current)
            del current
            await trio.lowlevel.checkpoint()  # others let go of it too
            await in_turns(leaving)
            return snapshot.version

    def _addresses(self, host: str) -> tuple[str, ...]:
        return self._fixed.get(host) or tuple(self._known.get(host, ()))

    async def _work(self, waiting: deque[str], asked: set[str]) -> None:
        """Look up one host after the other; those still ``asked`` at the end had no answer."""
        while waiting:
            host = waiting.popleft()
            asked.add(host)
            try:
                self._succeeded(host, await self._lookup(host, self._versions.get(host, BOTH)))
            except UnresolvedError as error:
                self._failed(host, str(error), error.ttl)
            asked.discard(host)

    def _succeeded(self, host: str, answer: Answer) -> None:
        if host not in self._known:  # the configuration that named it is gone
            return
        now = trio.current_time()
        self._known[host] = merge(self._known[host], answer.addresses, now)
        self._due[host] = now + min(max(answer.ttl, SHORTEST), LONGEST)
        if host in self._failing:
            self._failing.discard(host)
            _log.info("the host %s resolves again", host)

    def _failed(self, host: str, reason: str, ttl: float) -> None:
        """Say so once, not every round."""
        if host not in self._known:
            return
        self._due[host] = trio.current_time() + min(max(ttl, SHORTEST), LONGEST)
        if host in self._failing:
            return
        self._failing.add(host)
        kept = len(self._known[host])
        _log.warning(
            "the host %s cannot be resolved: %s; %s; check the name in its ServiceEntry and the name server",
            host,
            reason,
            f"its last {kept} addresses stay allowed"
            if kept
            else "it has no addresses, so none of it is known",
        )
