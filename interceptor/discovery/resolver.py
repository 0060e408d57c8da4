"""Resolves the hosts of the registry, at start and again and again, and publishes what changed.

An answer adds addresses at once and removes them slowly: an app goes on using the address it looked up a while ago,
and a service with more addresses than fit one answer rotates them. A failed lookup removes nothing.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Final, TypeAlias

import trio

from interceptor.config.addresses import ip_address, is_ip_address
from interceptor.state.aside import take_aside
from interceptor.state.snapshot import visible_entries

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from interceptor.config.configuration import Configuration
    from interceptor.state.store import Store

    Lookup: TypeAlias = Callable[[str], Awaitable[Iterable[str]]]

INTERVAL: Final = (
    30.0  # seconds; usual TTLs of services that move are 30 s and 60 s, and getaddrinfo hides them
)
ROUND_TIMEOUT: Final = 10.0  # seconds; glibc's own patience with a silent name server is 2 tries of 5 s
FIRST_TIMEOUT: Final = 2.0  # seconds for the new hosts of a configuration that waits to be in force
GRACE_ROUNDS: Final = (
    10  # 5 minutes at the interval above: as long as usual runtimes and pools keep an address
)
MAX_ADDRESSES: Final = 256  # for one host, the ones seen last; far above any one DNS answer
MAX_LOOKUPS: Final = 8  # at a time: each occupies a thread while it waits
LOCALHOST: Final = ("127.0.0.1", "::1")  # RFC 6761: the name is never asked of a name server

_log: Final = logging.getLogger(__name__)

Known: TypeAlias = dict[str, int]  # an address -> how many answers ago it was last seen


async def system_lookup(host: str) -> list[str]:
    """Ask the system's resolver for both families. Raises OSError where there is no answer."""
    found = await trio.socket.getaddrinfo(host, None, type=trio.socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]


def merge(known: Known, answer: Iterable[str]) -> Known:
    """What is known of a host after one more answer: new addresses in, and those long gone from the answers out."""
    aged = {address: rounds + 1 for address, rounds in known.items() if rounds < GRACE_ROUNDS}
    merged = {**aged, **dict.fromkeys((ip_address(text.partition("%")[0]) for text in answer), 0)}
    return dict(sorted(merged.items(), key=lambda item: item[1])[:MAX_ADDRESSES])


def fixed_addresses(host: str) -> tuple[str, ...]:
    """The addresses of a host that needs no lookup; empty for one that does."""
    if is_ip_address(host):
        return (host,)
    return LOCALHOST if host == "localhost" or host.endswith(".localhost") else ()


def _hosts(configuration: Configuration) -> dict[str, None]:
    """The hosts of a configuration whose addresses decide."""
    entries = visible_entries(configuration)
    return dict.fromkeys(host for entry in entries for host in entry.spec.hosts_to_resolve)


class Resolver:
    """Keeps the store's snapshot up to date with the addresses of the hosts of its configuration."""

    def __init__(self, store: Store, lookup: Lookup = system_lookup) -> None:
        self._configuration = store.current.configuration
        self._store = store
        self._lookup = lookup
        self._fixed: dict[str, tuple[str, ...]] = {}
        self._known: dict[str, Known] = {}
        self._failing: set[str] = set()
        self._publishing = trio.Lock()
        self._know(self._configuration)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts that are looked up."""
        return tuple(self._known)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Resolve until cancelled; started once the first round is over, so that readiness can wait for it."""
        await self.round()
        task_status.started()
        while True:
            await trio.sleep(INTERVAL)
            if self._known:
                await self.round()

    async def round(self) -> None:
        """Look every host up once, in bounded time, and publish a snapshot where addresses changed."""
        # Hosts that failed come last: a name server that is silent for some must not starve the others.
        await self._look_up(sorted(self._known, key=self._failing.__contains__), ROUND_TIMEOUT)
        await self._publish()

    async def adopt(self, configuration: Configuration) -> str:
        """Put a new configuration into force, with the addresses of its hosts; the version of its snapshot.

        What cannot be compiled raises, and the one before stays.
        """
        new = self._know(configuration)
        try:
            await self._look_up(new, FIRST_TIMEOUT)
            version = await self._publish(configuration)
        finally:
            hosts = _hosts(self._configuration)
            self._known = {host: known for host, known in self._known.items() if host in hosts}
            self._fixed = {host: fixed for host, fixed in self._fixed.items() if host in hosts}
            self._failing &= self._known.keys()
        return version

    def _know(self, configuration: Configuration) -> list[str]:
        """The hosts of a configuration that were not known before; they are from now on."""
        new = [host for host in _hosts(configuration) if host not in self._fixed and host not in self._known]
        self._fixed.update({host: fixed for host in new if (fixed := fixed_addresses(host))})
        asked = [host for host in new if host not in self._fixed]
        self._known.update({host: {} for host in asked})
        return asked

    async def _look_up(self, hosts: Sequence[str], seconds: float) -> None:
        waiting = deque(hosts)
        asked: set[str] = set()
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for _ in range(MAX_LOOKUPS):
                    nursery.start_soon(self._work, waiting, asked)
        for host in sorted(asked):
            self._failed(host, "the name server did not answer in time")
        if waiting:
            _log.warning(
                "there was no time to look up %d hosts; they come first in the next round", len(waiting)
            )

    async def _publish(self, new: Configuration | None = None) -> str:
        """Make a snapshot of the configuration, or of a new one, the current one; its version."""
        async with self._publishing:
            configuration = new or self._configuration
            resolved = {host: found for host in _hosts(configuration) if (found := self._addresses(host))}
            snapshot = await take_aside(configuration, resolved, before=self._store.current)
            self._configuration = configuration
            self._store.publish(snapshot)
            return snapshot.version

    def _addresses(self, host: str) -> tuple[str, ...]:
        return self._fixed.get(host) or tuple(self._known.get(host, ()))

    async def _work(self, waiting: deque[str], asked: set[str]) -> None:
        """Look up one host after the other; those still ``asked`` at the end had no answer."""
        while waiting:
            host = waiting.popleft()
            asked.add(host)
            try:
                self._succeeded(host, await self._lookup(host))
            except (OSError, UnicodeError) as error:  # UnicodeError: a name that IDNA cannot encode
                self._failed(host, error.strerror or str(error) if isinstance(error, OSError) else str(error))
            asked.discard(host)

    def _succeeded(self, host: str, answer: Iterable[str]) -> None:
        if host not in self._known:  # the configuration that named it is gone
            return
        self._known[host] = merge(self._known[host], answer)
        if host in self._failing:
            self._failing.discard(host)
            _log.info("the host %s resolves again", host)

    def _failed(self, host: str, reason: str) -> None:
        """Say so once, not every round."""
        if host in self._failing or host not in self._known:
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
