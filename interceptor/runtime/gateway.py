"""The services of one proxy in one nursery: signals, drain, deadline.

Shutdown is one readable place, ``Gateway._drain``: readiness off, accepts go on for the drain delay, then no more;
flows may end by themselves until the drain deadline; what is left is reset. A second signal forces.
"""

from __future__ import annotations

import logging
import os
import random  # noqa: TID251 (this is where it is passed in)
import signal
import time
from typing import TYPE_CHECKING, Final, Protocol

import trio

from interceptor.admin import app as admin
from interceptor.admin.push import Door, PushEndpoint, by_name, by_token
from interceptor.admin.server import serve
from interceptor.discovery import pushed
from interceptor.discovery.live import Live, RefusedError, StaleError
from interceptor.discovery.resolver import Resolver
from interceptor.errors import KernelError
from interceptor.runtime import launcher
from interceptor.runtime.sources import xds_client
from interceptor.telemetry import plaintext

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

    from prometheus_client import Metric

    from interceptor.config.configuration import Configuration
    from interceptor.config.sidecar import Remote
    from interceptor.discovery.resolver import Lookup
    from interceptor.discovery.verdict import Start
    from interceptor.discovery.xds.client import Client
    from interceptor.runtime.binding import Bound
    from interceptor.runtime.certificates import Certificates
    from interceptor.state.health import Board
    from interceptor.state.store import Store
    from interceptor.telemetry.metrics import Metrics
    from interceptor.telemetry.plaintext import Peers


logger: Final = logging.getLogger(__name__)


class Serving(Protocol):
    """What serves connections: a worker in this process, or the supervisor of several."""

    @property
    def store(self) -> Store: ...

    @property
    def health(self) -> Board: ...

    @property
    def failure(self) -> str | None:
        """Why it ended by itself; None as long as it did not."""

    @property
    def pending(self) -> str | None:
        """Why it is not ready; None when it is."""

    @property
    def active(self) -> int:
        """How many flows are live."""

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None: ...

    async def connections(self) -> list[str]: ...

    async def clusters(self) -> list[dict[str, object]]: ...

    async def plaintext(self) -> Peers: ...

    async def collect(self) -> Iterable[Metric]: ...

    def processes(self) -> list[dict[str, object]]: ...

    def set_level(self, level: str) -> None: ...

    def reopen_log(self) -> None: ...

    def stop_accepting(self) -> None: ...

    async def wait_taken(self) -> None:
        """Wait until connections are served by what is in force."""

    async def wait_drained(self) -> None: ...

    def abort_all(self, reason: str) -> None: ...


class Beside(Protocol):
    """What runs as long as connections are served."""

    async def run(self, task_status: trio.TaskStatus[None]) -> None: ...


class Gateway:
    """The services of one proxy, from start to drained."""

    def __init__(  # noqa: PLR0913, PLR0917 (what a proxy is made of, each once)
        self,
        configuration: Configuration,
        bound: Bound,
        serving: Serving,
        control: socket.socket | None,
        certificates: Certificates,
        lookup: Lookup,
        beside: Sequence[Beside] = (),
    ) -> None:
        self._certificates = certificates
        self._spec = configuration.sidecar.spec
        self._beside = beside
        self._bound = bound
        self._serving = serving
        self._control = control
        self._resolver = Resolver(serving.store, lookup)
        self._pending: str | None = "starting: the names in the registry are being resolved"
        self._live: Live | None = None  # without files there is nothing to watch
        self._door: Door | None = None
        self._xds: Client | None = None
        self._app_is_gone = False
        self._stop = trio.Event()
        self._served = trio.Event()  # the last flow has ended, and its access log is written
        self._forced = trio.Event()

    def watch(self, start: Start, configuration: Configuration, metrics: Metrics) -> None:
        """Have changes of the configuration judged and put into force."""

        def outcome(accepted: bool) -> None:  # noqa: FBT001
            metrics.config_changed(accepted=accepted, at=time.time())  # noqa: TID251 (dashboards show it)

        outcome(True)  # noqa: FBT003 (the one that the proxy starts with)
        live = self._live = Live(start, configuration, self._adopt, outcome=outcome)
        asked = self._spec.discovery.push
        if asked.enabled:
            self._door = Door(
                etag=lambda: live.etag,
                shown=lambda: pushed.shown(live.pushed),
                types=pushed.TYPES,
                patch=pushed.PATCH,
                push=live.push,
                refused=RefusedError,
                stale=StaleError,
            )

        if self._spec.discovery.xds is not None:
            credentials = self._certificates.credentials
            assert credentials is not None  # a control plane may give some
            asked_xds = self._spec.discovery.xds
            self._xds = xds_client(configuration.sidecar, asked_xds, live, metrics, credentials)

    async def _adopt(self, configuration: Configuration) -> str:
        """Put an accepted configuration into force; raises ConfigError where this process cannot."""
        self._certificates.admit(configuration)
        version = await self._resolver.adopt(configuration)
        await self._serving.wait_taken()  # whoever is told of it may rely on it
        return version

    async def run(self) -> None:
        """Serve until told to stop, then drain."""
        token_file = self._spec.discovery.push.tokenFile
        endpoint = PushEndpoint(None if token_file is None else self._door, by_token(token_file or ""))
        controls = admin.Controls(
            collect=self._serving.collect,
            connections=self._serving.connections,
            config_dump=self._config_dump,
            listeners=self._listeners,
            clusters=self._clusters,
            certs=self._certificates.dump,
            explain=self._explain,
            readiness=self._readiness,
            ready=self._not_ready,
            drain=self._stop.set,
            quit=self._quit,
            set_level=self._serving.set_level,
            remark=self._remark,
            pushed=endpoint.answer,
        )
        telemetry = admin.telemetry_app(self._serving.collect, self._not_ready, self._remark)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._obey, signals)
                if self._control is not None:
                    nursery.start_soon(self._watch_launcher, self._control)
                await nursery.start(serve, admin.admin_app(controls), self._bound.admin, endpoint.wants)
                await nursery.start(serve, telemetry, self._bound.telemetry)
                if (remote := self._spec.discovery.push.remote) is not None:
                    await nursery.start(self._take_pushes, remote)
                await nursery.start(self._resolver.run)
                if self._live is not None:
                    nursery.start_soon(self._live.watch)
                await nursery.start(self._certificates.watch)
                if self._xds is not None:
                    await nursery.start(self._xds.run)
                nursery.start_soon(self._check_health)
                for service in self._beside:
                    await nursery.start(service.run)
                await nursery.start(self._serve)
                if self._serving.failure is None:
                    self._set_ready()
                    if self._control is not None:
                        nursery.start_soon(launcher.tell, self._control, self._certificates.trusted)
                    await self._stop.wait()
                    await self._drain()
                nursery.cancel_scope.cancel()
        if self._serving.failure is not None:
            raise KernelError(self._serving.failure)

    async def _take_pushes(self, asked: Remote, *, task_status: trio.TaskStatus[None]) -> None:
        """From other machines."""
        from interceptor.admin.remote import Greeter  # noqa: PLC0415 (loaded before root was given up)

        assert self._certificates.pusher is not None
        endpoint = PushEndpoint(self._door, by_name(asked.subjectAltNames))
        greet = Greeter(self._certificates.pusher, asked.subjectAltNames)
        app, (listener,) = admin.push_app(endpoint.answer), self._bound.push
        await serve(app, listener, endpoint.wants, greet, task_status=task_status)

    async def _check_health(self) -> None:
        """Check endpoints, once a configuration says that any are to be checked."""
        store = self._serving.store
        while (routing := store.current.routing) is None or not routing.clusters.are_checked:
            await store.wait_changed(store.current.version)
        from interceptor.proxy.health import Prober  # noqa: PLC0415 (for those who have such checks)
        from interceptor.proxy.waits import TrioWaits  # noqa: PLC0415 (as above)

        chance = random.Random()  # noqa: S311 (when a check is due is no secret)
        certificates = self._certificates
        transport, counts = certificates.transport(TrioWaits()), certificates.metrics.health()
        await Prober(store, self._serving.health, counts, chance, transport).run()

    async def _serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        await self._serving.run(task_status=task_status)
        self._served.set()
        self._quit()  # where nobody asked for the end there is nothing to wait for

    def _not_ready(self) -> str | None:
        if told := self._pending or self._serving.pending or self._certificates.pending:
            return told
        return None if self._xds is None else self._xds.pending

    def _remark(self) -> str | None:
        rejected = None if self._live is None else self._live.rejected
        remarks = (
            None if rejected is None else str(rejected),
            self._certificates.remark,
            self._xds.remark if self._xds else None,
        )
        return "; ".join(filter(None, remarks)) or None

    def _set_ready(self) -> None:
        self._pending = None
        logger.info(
            "ready: ingress %d, egress %d (%s), admin %s, telemetry %s, uid %d, workers %d",
            self._spec.ingress.port, self._spec.egress.port, self._spec.egress.policy,
            self._spec.admin.address, self._spec.telemetry.address, os.geteuid(),
            len(self._bound.ingress),
        )  # fmt: skip

    async def _drain(self) -> None:
        """Readiness off first; then the drain delay, the drain deadline, the end. A second signal skips what is left."""
        timeouts = self._spec.timeouts
        self._pending = "draining: the proxy was told to stop"
        serving = self._serving
        logger.info("draining: %d live connections", serving.active)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_after, self._forced, nursery.cancel_scope)
            if (
                not self._app_is_gone
            ):  # the delay is for what the app still opens, and for peers to look elsewhere
                await trio.sleep(timeouts.drainDelay)
            serving.stop_accepting()
            with trio.move_on_after(timeouts.drain):
                await serving.wait_drained()
            nursery.cancel_scope.cancel()
        if serving.active:
            logger.warning("the drain deadline passed: %d connections are reset", serving.active)
        serving.abort_all("the proxy was stopped and the drain deadline passed")
        await self._served.wait()

    def _quit(self) -> None:
        self._forced.set()
        self._stop.set()

    async def _obey(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if number == signal.SIGHUP:
                self._serving.reopen_log()
                if self._live is not None:
                    self._live.hurry()
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

    def _config_dump(self) -> dict[str, object]:
        live = {} if self._live is None else self._live.dump()
        xds = {} if self._xds is None else {"xds": self._xds.dump()}
        return {**self._serving.store.current.dump(), **live, **xds, "workers": self._serving.processes()}

    def _explain(self, given: Mapping[str, Sequence[str]]) -> Mapping[str, object]:
        from interceptor.state.explain import answer  # noqa: PLC0415 (costs nothing until somebody asks)

        return answer(self._serving.store.current, given, self._serving.health.current).as_mapping()

    async def _readiness(self) -> list[dict[str, object]]:
        return plaintext.report(await self._serving.plaintext())

    async def _clusters(self) -> list[dict[str, object]]:
        """What the registry knows; of what is used the state of the endpoints too, by worker."""
        used: dict[object, list[dict[str, object]]] = {}
        for state in await self._serving.clusters():
            used.setdefault(state.pop("name"), []).append(state)
        known = self._serving.store.current.registry.dump()
        unhealthy = {
            f"outbound|{port}||{host}": {str(address): why for address, why in found.items()}
            for (host, port), found in self._serving.health.current.items()
        }
        for each in known:
            each["unhealthy"] = unhealthy.get(str(each["name"]), {})
            each["workers"] = used.pop(each["name"], [])
        return [*known, *({"name": name, "workers": states} for name, states in used.items())]

    def _listeners(self) -> list[dict[str, object]]:
        pids = {name: [each["pid"] for each in self._serving.processes()] for name in ("ingress", "egress")}
        return [
            {"direction": name, "address": address, "pids": pids.get(name, [os.getpid()])}
            for name, address in self._bound.addresses.items()
        ]


async def _cancel_after(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
