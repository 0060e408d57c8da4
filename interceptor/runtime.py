"""Composition root of the proxy: settings become services in one nursery; signals, drain, deadline.

Shutdown is one readable place, ``Gateway._drain``: readiness off, accepts go on for the drain delay, then no more;
flows may end by themselves until the drain deadline; what is left is reset. A second signal forces.
"""

from __future__ import annotations

import codecs
import logging
import os
import random  # noqa: TID251 (this is where it is passed in)
import signal
import socket
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import TYPE_CHECKING, Final, Protocol

import trio

from interceptor.admin import app as admin
from interceptor.admin.push import Door, PushEndpoint, by_name, by_token
from interceptor.admin.server import serve
from interceptor.discovery import pushed
from interceptor.discovery.asking import hold_modules
from interceptor.discovery.live import Live, RefusedError, StaleError
from interceptor.discovery.name_servers import Hosts, NameServers
from interceptor.discovery.resolver import Resolver
from interceptor.errors import ConfigError, KernelError
from interceptor.kernel import netns, process, sockets, state_file
from interceptor.model.connection import Direction
from interceptor.state import snapshot
from interceptor.telemetry import logs, plaintext
from interceptor.telemetry.access_log import AccessLog
from interceptor.telemetry.metrics import Metrics
from interceptor.workers.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
    from typing import Literal

    from prometheus_client import Metric

    from interceptor.config.configuration import Configuration
    from interceptor.config.sidecar import Dns, Remote, Sidecar
    from interceptor.config.xds import Xds
    from interceptor.discovery.dns import DnsListener
    from interceptor.discovery.resolver import Answer, Lookup
    from interceptor.discovery.verdict import Start
    from interceptor.discovery.xds.client import Client
    from interceptor.proxy.transport import Credentials, Transport
    from interceptor.proxy.waits import Waits
    from interceptor.state.health import Board
    from interceptor.state.store import Store
    from interceptor.telemetry.plaintext import Peers
    from interceptor.tls.rotation import Keeper
    from interceptor.tls.spiffe import Agent

logger: Final = logging.getLogger(__name__)

FIRST_SVID: Final = 3.0  # seconds; an agent that is there answers within milliseconds
READY: Final = b"READY=1\n"  # what the launcher waits for on the control socket


def run_proxy(  # noqa: PLR0913 (what the command line gives, each by its name)
    configuration: Configuration,
    *,
    start: Start | None = None,
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
        mode=spec.ingress.mode.lower(),
        ingress_port=spec.ingress.port,
        egress_port=spec.egress.port,
        dns_port=None if spec.dns is None else spec.dns.port,
        uid=proxy_uid if root else os.geteuid(),
        gid=proxy_uid if root else os.getegid(),
    )
    workers = process.processors() if spec.workers == "auto" else spec.workers
    bound = _bind(configuration.sidecar, workers)
    metrics = Metrics(configuration.sidecar)
    _preload(configuration, workers)
    read_credentials = _reader_of_credentials(configuration)
    if root:
        _preload_what_only_root_reads(process.Identity(proxy_uid, proxy_uid))
        # For the sockets that connect to the app by its peers' addresses, as long as the proxy runs.
        transparent = spec.ingress.mode == "TPROXY"
        process.become(process.Identity(proxy_uid, proxy_uid), keep_net_admin=transparent)
        if transparent:
            logger.info("spec.ingress.mode TPROXY: CAP_NET_ADMIN is kept, and no other capability")
    process.forbid_new_privileges()
    if warning := sockets.raise_descriptor_limit(spec.limits.connections):
        logger.warning(warning)
    control = None if control_fd is None else socket.socket(fileno=control_fd)
    access_log = AccessLog(
        spec.accessLog.path, log_format or spec.accessLog.format, metrics.access_log_dropped
    )
    # Read as who will read them again: a certificate that only root can read could not be rotated.
    credentials = read_credentials()
    pusher = None if spec.discovery.push.remote is None else _pusher(spec.discovery.push.remote, credentials)
    if workers == 1:
        serving: Serving = Worker(
            configuration, bound.listeners(0), metrics, access_log, credentials=credentials
        )
    else:
        serving = _supervise(configuration, bound, metrics, access_log, control, credentials)
    certificates = Certificates(credentials, metrics, pusher)
    beside = () if spec.dns is None else (_dns_listener(spec.dns, namespace, bound, serving.store, metrics),)
    gateway = Gateway(
        configuration, bound, serving, control, certificates, _lookup(spec.dns, namespace), beside
    )
    if start is not None:
        gateway.watch(start, configuration, metrics)
    trio.run(gateway.run)


def _preload(configuration: Configuration, workers: int) -> None:
    """Import what the configuration needs now, so that its worker need not."""
    spec = configuration.sidecar.spec
    codecs.lookup("idna")
    if snapshot.policy_documents(configuration):
        from interceptor.state import explain  # noqa: F401, PLC0415 (a proxy without policies does without it)
    if spec.middleware:
        from interceptor.middleware import build  # noqa: PLC0415 (as above)
        from interceptor.proxy.http import filters  # noqa: F401, PLC0415

        build.preload(spec.middleware)
    if workers > 1:
        from interceptor.workers import supervisor  # noqa: F401, PLC0415 (one worker needs none)
    if spec.discovery.push.remote is not None:
        from interceptor.admin import remote  # noqa: F401, PLC0415 (ssl and cryptography are 15 MB)
    if spec.dns is not None:
        from interceptor.discovery import dns  # noqa: F401, PLC0415 (4 MB that only who answers names needs)
    if any(host for entry in configuration.service_entries for host in entry.spec.hosts_to_resolve):
        from interceptor.discovery import lookup  # noqa: F401, PLC0415 (as above)
    _preload_grpc(configuration.sidecar)


def _preload_grpc(sidecar: Sidecar) -> None:
    """What needs an extra of this package, or a ConfigError that names it."""
    tls, xds = sidecar.spec.tls, sidecar.spec.discovery.xds
    place, extra = "spec.tls.workloadApi", "spiffe"
    try:
        if tls is not None and tls.workloadApi is not None:
            from interceptor.tls import spiffe  # noqa: F401, PLC0415 (14 MB: gRPC)
        place, extra = "spec.discovery.xds", "xds"
        if xds is not None:
            from interceptor.discovery.xds import client  # noqa: F401, PLC0415 (25 MB: gRPC and Envoy's messages)
    except ImportError as error:
        raise ConfigError(
            f"{place} needs a package that is not installed ({error.name}); install interceptor[{extra}]"
        ) from error


def _preload_what_only_root_reads(later: process.Identity) -> None:
    """Import what some connection may need and only root can read, as in a checkout below /root."""
    import interceptor  # noqa: PLC0415 (the package itself, to see where it is)

    if process.could_read(later, Path(interceptor.__file__)) and process.could_read(
        later, Path(trio.__file__)
    ):
        return
    for package in map(import_module, _LATE):
        for module in walk_packages(package.__path__, f"{package.__name__}."):
            import_module(module.name)
    for library in _LATE_LIBRARIES:
        import_module(library)
    hold_modules()


# What some connection or request may be the first to need.
_LATE: Final = tuple(
    f"interceptor.{name}"
    for name in ("admin", "config", "middleware", "policy", "protocol", "proxy", "routing", "state", "tls")
)
_LATE_LIBRARIES: Final = ("jwt", "re2", "interceptor.discovery.lookup")


def _reader_of_credentials(configuration: Configuration) -> Callable[[], Credentials | None]:
    """What reads the certificates that a configuration names; without any, TLS costs no memory."""
    spec = configuration.sidecar.spec
    if spec.tls is None and spec.discovery.xds is None and not configuration.destination_rules:
        return lambda: None
    from interceptor.proxy import transport  # noqa: PLC0415 (ssl and cryptography are 15 MB)

    return lambda: transport.Credentials(configuration, time.time)  # noqa: TID251 (certificates live by the wall clock)


def _pusher(asked: Remote, credentials: Credentials | None) -> Keeper:
    """The certificates that pushes from other machines are taken with: of their own, or the workload's."""
    from interceptor.tls.rotation import Keeper  # noqa: PLC0415 (as above)

    if asked.tls is not None:
        return Keeper(asked.tls.files, trust_domain=None, wall_clock=time.time)  # noqa: TID251 (as above)
    assert credentials is not None
    assert credentials.workload is not None  # the Sidecar was refused without
    return credentials.workload


@dataclass(frozen=True, slots=True)
class Certificates:
    """What the main process does about them: it shows and measures them; without workers it takes new versions too."""

    credentials: Credentials | None
    metrics: Metrics
    pusher: Keeper | None = None  # whose certificates pushes from other machines are taken with

    @property
    def keepers(self) -> tuple[Keeper, ...]:
        """All of them, each once."""
        named = () if self.credentials is None else self.credentials.keepers
        return named if self.pusher is None or self.pusher in named else (*named, self.pusher)

    async def watch(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled, where there are any; a SPIFFE agent's are waited for at first, though not for long."""
        if self.credentials is None and self.pusher is None:
            task_status.started()
            return
        from interceptor.tls import rotation  # noqa: PLC0415 (loaded where there are certificates)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(rotation.watch, lambda: self.keepers, self.metrics.certificate_expiry)
            if self.credentials is not None and (agent := self.credentials.agent) is not None:
                assert self.credentials.workload is not None
                nursery.start_soon(agent.follow, self.credentials.workload, self.metrics.workload_api())
                with trio.move_on_after(FIRST_SVID):
                    await agent.given.wait()
            task_status.started()

    @property
    def _agent(self) -> Agent | None:
        return None if self.credentials is None else self.credentials.agent

    @property
    def pending(self) -> str | None:
        """Why the workload has no identity though it should."""
        if self._agent is not None:
            return self._agent.pending
        return None if self.credentials is None else self.credentials.pending

    @property
    def remark(self) -> str | None:
        """What is wrong though it has one."""
        return None if self._agent is None else self._agent.remark

    def admit(self, configuration: Configuration) -> None:
        """Read the certificates that a new configuration names. Raises ConfigError where one cannot be used."""
        if self.credentials is not None:
            self.credentials.admit(configuration)
            return
        for rule in configuration.destination_rules:
            settings = (rule.spec.trafficPolicy.tls, *rule.port_tls.values())
            if any(tls is not None and tls.mode in {"SIMPLE", "MUTUAL"} for tls in settings):
                raise ConfigError(
                    f"DestinationRule {rule.full_name} names TLS settings, and the proxy began without any TLS; restart it, "
                    "or take the change back"
                )

    def transport(self, waits: Waits) -> Transport | None:
        """What connections of the main process's own speak TLS by."""
        return None if self.credentials is None else self.credentials.transport(waits)

    def dump(self) -> list[dict[str, object]]:
        """For ``/certs``."""
        return [each.dump() for each in self.keepers]


def _lookup(asked: Dns | None, namespace: str | None) -> Lookup:
    """What asks for the addresses of the registry's names; loaded where there is one, for it is 4 MB."""
    servers = NameServers(() if asked is None else asked.nameservers, namespace)
    hosts = Hosts(namespace)
    made: list[Lookup] = []

    async def lookup(host: str) -> Answer:
        if not made:
            from interceptor.discovery.lookup import Lookups  # noqa: PLC0415 (as above)

            made.append(Lookups(servers, hosts))
        return await made[0](host)

    return lookup


def _dns_listener(
    asked: Dns, namespace: str | None, bound: _Bound, store: Store, metrics: Metrics
) -> DnsListener:
    """What answers name queries."""
    from interceptor.discovery.dns import DnsListener  # noqa: PLC0415 (loaded before root was given up)

    servers = NameServers(asked.nameservers, namespace)
    return DnsListener(bound.dns, lambda: store.current.names, servers, metrics.name_query)


def _xds_client(
    sidecar: Sidecar, asked: Xds, live: Live, metrics: Metrics, credentials: Credentials
) -> Client:
    """What follows the control planes."""
    from interceptor.discovery.xds.client import Client  # noqa: PLC0415 (loaded before root was given up)
    from interceptor.discovery.xds.status import node  # noqa: PLC0415 (as above)
    from interceptor.discovery.xds.translate import Translator  # noqa: PLC0415 (as above)
    from interceptor.tls import secrets  # noqa: PLC0415 (as above)

    spec, names = sidecar.spec, None if sidecar.spec.tls is None else sidecar.spec.tls.sds

    def check(name: str, files: Mapping[str, bytes]) -> str | None:
        own = names is not None and name in {names.certificate, names.trustBundle}
        return secrets.check(files, spec.trustDomain if own else None)

    translator = Translator(
        sidecar.metadata.namespace,
        spec.timeouts.connect,
        None if names is None else (names.certificate, names.trustBundle),
        any(item.use == "rateLimitDocuments" for item in spec.middleware),
        sidecar.metadata.labels,
        check,
    )
    return Client(asked, node(sidecar, asked), translator, live.supply, metrics.xds(), credentials.give)


def _supervise(
    configuration: Configuration,
    bound: _Bound,
    metrics: Metrics,
    access_log: AccessLog,
    control: socket.socket | None,
    credentials: Credentials | None,
) -> Serving:
    """Several workers as processes; this one, which serves no connections, then needs no capability."""
    from interceptor.workers.supervisor import Supervisor  # noqa: PLC0415 (as above)

    forget = (bound.admin, bound.telemetry, *bound.dns, *bound.push, *(() if control is None else (control,)))
    listeners = [bound.listeners(worker) for worker in range(len(bound.ingress))]
    supervisor = Supervisor(configuration, listeners, metrics, access_log, forget, credentials)
    if os.geteuid() != 0:
        process.give_up_capabilities()
    return supervisor


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


@dataclass(frozen=True, slots=True)
class _Bound:
    """The sockets that listen, bound before root is given up."""

    ingress: list[socket.socket]  # by worker, as the next
    egress: list[socket.socket]
    admin: socket.socket
    telemetry: socket.socket
    dns: list[socket.socket]  # none where no name query is answered
    push: list[socket.socket]  # none where nothing is pushed from other machines
    addresses: Mapping[str, str]

    def listeners(self, worker: int) -> tuple[tuple[Direction, socket.socket], ...]:
        """What a worker accepts on."""
        return (Direction.INGRESS, self.ingress[worker]), (Direction.EGRESS, self.egress[worker])


def _bind(sidecar: Sidecar, workers: int) -> _Bound:
    """Every listener, or a KernelError that names each one that could not be had."""
    spec = sidecar.spec
    transparent = spec.ingress.mode == "TPROXY"
    wanted: dict[str, Callable[[], list[socket.socket]]] = {
        "ingress": lambda: sockets.open_listeners(spec.ingress.port, workers, transparent=transparent),
        "egress": lambda: sockets.open_listeners(spec.egress.port, workers),
        "admin": lambda: [sockets.open_endpoint(spec.admin.listen)],
        "telemetry": lambda: [sockets.open_endpoint(spec.telemetry.listen)],
    }
    if (dns := spec.dns) is not None:
        wanted["dns"] = lambda: sockets.open_dns_listeners(dns.port)
    if (remote := spec.discovery.push.remote) is not None:
        wanted["push"] = lambda: [sockets.open_endpoint(remote.listen)]
    opened: dict[str, list[socket.socket]] = {}
    problems: list[str] = []
    for name, bind in wanted.items():
        try:
            opened[name] = bind()
        except KernelError as error:
            problems.append(str(error))
    if problems:
        for made in opened.values():
            for one in made:
                one.close()
        raise KernelError("\n".join(problems))
    addresses = {name: str(sockets.local_address(made[0])) for name, made in opened.items()}
    return _Bound(
        *(opened["ingress"], opened["egress"], opened["admin"][0], opened["telemetry"][0]),
        opened.get("dns", []),
        opened.get("push", []),
        addresses,
    )


class Gateway:
    """The services of one proxy, from start to drained."""

    def __init__(  # noqa: PLR0913, PLR0917 (what a proxy is made of, each once)
        self,
        configuration: Configuration,
        bound: _Bound,
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
            self._xds = _xds_client(configuration.sidecar, asked_xds, live, metrics, credentials)

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
                if self._xds is not None:
                    await nursery.start(self._xds.run)
                await nursery.start(self._certificates.watch)
                nursery.start_soon(self._check_health)
                for service in self._beside:
                    await nursery.start(service.run)
                await nursery.start(self._serve)
                if self._serving.failure is None:
                    self._set_ready()
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
        while not store.current.configuration.sidecar.spec.healthChecks:
            await store.wait_changed(store.current.version)
        from interceptor.proxy.health import Prober  # noqa: PLC0415 (for those who have such checks)
        from interceptor.proxy.waits import TrioWaits  # noqa: PLC0415

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
        if self._control is not None:
            self._control.send(READY)

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
