"""A worker: the proxy, its access log, its metrics and its snapshot, in the main process or in one of several."""

from __future__ import annotations

import gc
import logging
import os
import random  # noqa: TID251 (this is where it is passed in)
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from interceptor.admin import connections
from interceptor.proxy.server import Proxy
from interceptor.state import snapshot
from interceptor.state.health import Board
from interceptor.state.store import Store
from interceptor.telemetry import logs
from interceptor.telemetry.recorder import Recorder

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from prometheus_client import Metric

    from interceptor.config.configuration import Configuration
    from interceptor.config.rate_limit import RateLimit
    from interceptor.middleware.build import Stack, StoreOf
    from interceptor.model.connection import Direction
    from interceptor.proxy.share import Share
    from interceptor.proxy.transport import Credentials
    from interceptor.telemetry.access_log import AccessLog
    from interceptor.telemetry.metrics import Metrics
    from interceptor.telemetry.plaintext import Peers

_log: Final = logging.getLogger(__name__)

COLLECT_AFTER: Final = 10_000  # objects more than before; Python's 700 are one batch of new connections


def stack(
    configuration: Configuration,
    metrics: Metrics,
    limits: Callable[[], Sequence[RateLimit]],
    store: StoreOf | None = None,
) -> Stack | None:
    """The middleware of a configuration; ConfigError where a file or a module of it cannot be used.

    ``limits`` are the RateLimit documents in force; ``store`` makes a rate limit's, where several workers share it.
    """
    items = configuration.sidecar.spec.middleware
    if not items:
        return None
    from interceptor.middleware.build import Means, build  # noqa: PLC0415 (for those who have any)

    chance = random.Random().random  # noqa: S311 (which requests get a fault is no secret; a test gives its own)
    means = Means(time.monotonic, chance, metrics.middleware(), time.time, limits=limits)  # noqa: TID251 (tokens live by the wall clock)
    return build(items, means if store is None else replace(means, store=store))


class Worker:
    """Serves connections by the current snapshot of its store, until it is drained."""

    failure: str | None = None  # a worker that fails takes its process with it
    pending: str | None = None
    set_level = staticmethod(logs.set_level)

    def __init__(  # noqa: PLR0913, PLR0917 (what a worker is given, once)
        self,
        configuration: Configuration,
        listeners: Sequence[tuple[Direction, socket.socket]],
        metrics: Metrics,
        access_log: AccessLog,
        share: Share | None = None,
        credentials: Credentials | None = None,
        store: StoreOf | None = None,
    ) -> None:
        self.credentials = credentials
        self.store = Store(snapshot.take(configuration))
        self._metrics = metrics
        self._access_log = access_log
        self._proxy = Proxy(
            configuration.sidecar,
            listeners,
            lambda: self.store.current,
            Recorder(metrics, access_log),
            share=share,
            transport=None if credentials is None else credentials.transport,
            middleware=stack(
                configuration, metrics, lambda: self.store.current.configuration.rate_limits, store
            ),
        )
        self.store.watch(self._reconsider)
        self.health = Board()
        self.health.watch(self._proxy.judge)
        self.reopen_log = access_log.reopen
        self.stop_accepting = self._proxy.stop_accepting
        self.wait_drained = self._proxy.wait_drained
        self.abort_all = self._proxy.abort_all

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until the last flow has ended after ``stop_accepting``; the access log is complete then."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._access_log.run)
            nursery.start_soon(announce_versions, self.store, self._metrics)
            await nursery.start(self._proxy.serve)
            settle()
            task_status.started()
            await self._proxy.wait_drained()
            nursery.cancel_scope.cancel()

    async def wait_taken(self) -> None:
        """What is in force is what it serves by."""

    @property
    def active(self) -> int:
        """How many flows are live."""
        return self._proxy.active

    async def connections(self) -> list[str]:
        """The live flows, each as JSON."""
        return await connections.rows(self._proxy.connections(), trio.current_time(), os.getpid())

    async def clusters(self) -> list[dict[str, object]]:
        """The clusters that are used, with the health of their endpoints and what is under way."""
        return [{"name": name, "pid": os.getpid(), **state} for name, state in self._proxy.clusters().items()]

    async def plaintext(self) -> Peers:
        """Which peers did without mutual TLS."""
        return self._metrics.plaintext()

    async def collect(self) -> list[Metric]:
        """Every series, as of now."""
        self._proxy.count()
        families: list[Metric] = []
        for family in self._metrics.collect():  # some 5 us a sample: the data path gets its turns
            families.append(family)
            await trio.lowlevel.checkpoint()
        return families

    def _reconsider(self, before: snapshot.Snapshot) -> None:
        """Open flows keep no permission that a new configuration takes; other addresses of a host take none."""
        self._proxy.follow()
        current = self.store.current
        if current.configuration is before.configuration:
            return
        if lost := self._proxy.reconsider():
            _log.info("configuration %s: %d open connections lost permission", current.version, lost)

    def processes(self) -> list[dict[str, object]]:
        """Which processes serve: this one."""
        return [{"pid": os.getpid(), "version": self.store.current.version, "ready": True}]


async def announce_versions(store: Store, metrics: Metrics) -> None:
    """Each configuration version that comes into force, in the metrics."""
    current = store.current
    while True:
        metrics.config_version(current.version)
        current = await store.wait_changed(current.version)


def settle() -> None:
    """What start-up made stays: the collector need not walk it again. Flows leave no cycles, so it may come seldom."""
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)
