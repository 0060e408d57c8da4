"""Composition root of the proxy: settings become services in one nursery; signals, drain, deadline.

Shutdown is one readable place, ``Gateway._drain``: readiness off, accepts go on for the drain delay, then no more;
flows may end by themselves until the drain deadline; what is left is reset. A second signal forces.
"""

from __future__ import annotations

import codecs
import gc
import logging
import os
import signal
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from interceptor.admin import app as admin
from interceptor.admin.server import serve
from interceptor.discovery.resolver import Resolver
from interceptor.errors import KernelError
from interceptor.kernel import netns, process, sockets, state_file
from interceptor.model.connection import Direction
from interceptor.proxy.server import Proxy
from interceptor.state import snapshot
from interceptor.state.store import Store
from interceptor.telemetry import logs
from interceptor.telemetry.access_log import AccessLog
from interceptor.telemetry.metrics import Metrics
from interceptor.telemetry.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from typing import Literal

    from interceptor.config.configuration import Configuration
    from interceptor.config.sidecar import Sidecar

logger: Final = logging.getLogger(__name__)

COLLECT_AFTER: Final = 10_000  # objects more than before; Python's 700 are one batch of new connections
READY: Final = b"READY=1\n"  # what the launcher waits for on the control socket


def run_proxy(
    configuration: Configuration,
    *,
    namespace: str | None,
    proxy_uid: int,
    log_format: Literal["text", "json"] | None,
    log_level: str,
    control_fd: int | None,
) -> None:
    """Run the proxy until it is told to stop. Raises KernelError before the first connection.

    Started as root it enters the namespace and binds its ports, then gives root up for good.
    """
    logs.setup(log_format or "text", log_level)
    place = None if namespace is None else netns.resolve(namespace)
    if place is not None:
        netns.enter(place)
    spec, root = configuration.sidecar.spec, os.geteuid() == 0
    state_file.check(
        ingress_port=spec.ingress.port,
        egress_port=spec.egress.port,
        uid=proxy_uid if root else os.geteuid(),
        gid=proxy_uid if root else os.getegid(),
    )
    bound = _bind(configuration.sidecar)
    # While files can still be read that belong to root alone, such as a checkout below /root: no import comes later.
    metrics = Metrics(configuration.sidecar)
    codecs.lookup("idna")
    if snapshot.policy_documents(configuration):
        from interceptor.state import explain  # noqa: F401, PLC0415 (a proxy without policies does without it)
    if root:
        # For the sockets that connect to the app by its peers' addresses, as long as the proxy runs.
        transparent = spec.ingress.mode == "TPROXY"
        process.become(process.Identity(proxy_uid, proxy_uid), keep_net_admin=transparent)
        if transparent:
            logger.info("spec.ingress.mode TPROXY: CAP_NET_ADMIN is kept, and no other capability")
    process.forbid_new_privileges()
    if warning := sockets.raise_descriptor_limit(spec.limits.connections):
        logger.warning(warning)
    control = None if control_fd is None else socket.socket(fileno=control_fd)
    trio.run(Gateway(configuration, bound, metrics, log_format or spec.accessLog.format, control).run)


@dataclass(frozen=True, slots=True)
class _Bound:
    """The sockets that listen, bound before root is given up."""

    ingress: socket.socket
    egress: socket.socket
    admin: socket.socket
    telemetry: socket.socket


def _bind(sidecar: Sidecar) -> _Bound:
    """Every listener, or a KernelError that names each one that could not be had."""
    spec = sidecar.spec
    wanted: tuple[Callable[[], socket.socket], ...] = (
        lambda: sockets.open_listener(spec.ingress.port, transparent=spec.ingress.mode == "TPROXY"),
        lambda: sockets.open_listener(spec.egress.port),
        lambda: sockets.open_endpoint(spec.admin.listen),
        lambda: sockets.open_endpoint(spec.telemetry.listen),
    )
    opened: list[socket.socket] = []
    problems: list[str] = []
    for each in wanted:
        try:
            opened.append(each())
        except KernelError as error:
            problems.append(str(error))
    if problems:
        for one in opened:
            one.close()
        raise KernelError("\n".join(problems))
    return _Bound(*opened)


class Gateway:
    """The services of one proxy, from start to drained."""

    def __init__(
        self,
        configuration: Configuration,
        bound: _Bound,
        metrics: Metrics,
        access_format: Literal["text", "json"],
        control: socket.socket | None,
    ) -> None:
        self._spec = configuration.sidecar.spec
        self._bound = bound
        self._control = control
        self._store = Store(snapshot.take(configuration))
        self._resolver = Resolver(self._store)
        self._metrics = metrics
        self._access_log = AccessLog(
            self._spec.accessLog.path, access_format, self._metrics.access_log_dropped
        )
        listeners = ((Direction.INGRESS, bound.ingress), (Direction.EGRESS, bound.egress))
        self._proxy = Proxy(
            configuration.sidecar,
            listeners,
            lambda: self._store.current,
            Recorder(self._metrics, self._access_log),
        )
        self._store.watch(self._reconsider)
        self._pending: str | None = "starting: the names in the registry are being resolved"
        self._app_is_gone = False
        self._stop = trio.Event()
        self._forced = trio.Event()

    async def run(self) -> None:
        """Serve until told to stop, then drain."""
        controls = admin.Controls(
            metrics=self._metrics,
            flows=self._proxy.connections,
            config_dump=self._config_dump,
            listeners=self._listeners,
            clusters=self._clusters,
            explain=self._explain,
            ready=lambda: self._pending,
            drain=self._stop.set,
            quit=self._quit,
            now=trio.current_time,
        )
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._obey, signals)
                if self._control is not None:
                    nursery.start_soon(self._watch_launcher, self._control)
                await nursery.start(self._access_log.run)
                await nursery.start(serve, admin.admin_app(controls), self._bound.admin)
                await nursery.start(
                    serve, admin.telemetry_app(self._metrics, lambda: self._pending), self._bound.telemetry
                )
                await nursery.start(self._resolver.run)
                nursery.start_soon(self._announce_versions)
                await nursery.start(self._proxy.serve)
                self._set_ready()
                await self._stop.wait()
                await self._drain()
                nursery.cancel_scope.cancel()

    def _set_ready(self) -> None:
        self._pending = None
        # What start-up made stays: the collector need not walk it again. Flows leave no cycles, so it may come seldom.
        gc.freeze()
        gc.set_threshold(COLLECT_AFTER)
        logger.info(
            "ready: ingress %d, egress %d (%s), admin %s, telemetry %s, uid %d",
            self._spec.ingress.port, self._spec.egress.port, self._spec.egress.policy,
            self._spec.admin.address, self._spec.telemetry.address, os.geteuid(),
        )  # fmt: skip
        if self._control is not None:
            self._control.send(READY)

    async def _drain(self) -> None:
        """Readiness off first; then the drain delay, the drain deadline, the end. A second signal skips what is left."""
        timeouts = self._spec.timeouts
        self._pending = "draining: the proxy was told to stop"
        logger.info("draining: %d live connections", self._proxy.active)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_after, self._forced, nursery.cancel_scope)
            if (
                not self._app_is_gone
            ):  # the delay is for what the app still opens, and for peers to look elsewhere
                await trio.sleep(timeouts.drainDelay)
            self._proxy.stop_accepting()
            with trio.move_on_after(timeouts.drain):
                await self._proxy.wait_drained()
            nursery.cancel_scope.cancel()
        if self._proxy.active:
            logger.warning("the drain deadline passed: %d connections are reset", self._proxy.active)
        self._proxy.abort_all("the proxy was stopped and the drain deadline passed")
        await self._proxy.wait_drained()

    def _quit(self) -> None:
        self._forced.set()
        self._stop.set()

    async def _obey(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if number == signal.SIGHUP:
                self._access_log.reopen()
            elif self._stop.is_set():
                self._forced.set()
            else:
                self._stop.set()

    async def _watch_launcher(self, control: socket.socket) -> None:
        """The launcher holds the other end of the control socket; its end of stream says that the app is gone."""
        control.settimeout(0)
        await trio.lowlevel.wait_readable(control)
        self._app_is_gone = True
        self._stop.set()

    async def _announce_versions(self) -> None:
        """Each configuration version that comes into force, in the metrics."""
        current = self._store.current
        while True:
            self._metrics.config_version(current.version)
            current = await self._store.wait_changed(current.version)

    def _reconsider(self, before: snapshot.Snapshot) -> None:
        """Open flows keep no permission that a new configuration takes; other addresses of a host take none."""
        current = self._store.current
        if current.configuration is before.configuration:
            return
        if lost := self._proxy.reconsider():
            logger.info("configuration %s: %d open connections lost permission", current.version, lost)

    def _config_dump(self) -> dict[str, object]:
        return self._store.current.dump()

    def _explain(self, given: Mapping[str, Sequence[str]]) -> Mapping[str, object]:
        from interceptor.state.explain import answer  # noqa: PLC0415 (costs nothing until somebody asks)

        return answer(self._store.current, given).as_mapping()

    def _clusters(self) -> list[dict[str, object]]:
        return self._store.current.registry.dump()

    def _listeners(self) -> list[dict[str, object]]:
        return [
            {"direction": name, "address": str(sockets.local_address(getattr(self._bound, name)))}
            for name in ("ingress", "egress", "admin", "telemetry")
        ]


async def _cancel_after(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
