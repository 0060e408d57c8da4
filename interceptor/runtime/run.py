"""A proxy from its settings: its services are made, and root is given up between binding and serving."""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING, Final

import trio

from interceptor.kernel import netns, process, sockets, state_file
from interceptor.runtime.binding import Bound, bind
from interceptor.runtime.certificates import Certificates, pusher_of, reader_of_credentials
from interceptor.runtime.gateway import Gateway, Serving
from interceptor.runtime.preload import preload, preload_what_only_root_reads
from interceptor.runtime.sources import dns_listener, lookup_of
from interceptor.telemetry import logs
from interceptor.telemetry.access_log import AccessLog
from interceptor.telemetry.metrics import Metrics
from interceptor.workers.worker import Worker

if TYPE_CHECKING:
    from typing import Literal

    from interceptor.config.configuration import Configuration
    from interceptor.discovery.verdict import Start
    from interceptor.proxy.transport import Credentials


logger: Final = logging.getLogger(__name__)


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
    bound = bind(configuration.sidecar, workers)
    metrics = Metrics(configuration.sidecar)
    preload(configuration, workers)
    read_credentials = reader_of_credentials(configuration)
    if root:
        preload_what_only_root_reads(process.Identity(proxy_uid, proxy_uid))
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
    pusher = (
        None if spec.discovery.push.remote is None else pusher_of(spec.discovery.push.remote, credentials)
    )
    if workers == 1:
        serving: Serving = Worker(
            configuration, bound.listeners(0), metrics, access_log, credentials=credentials
        )
    else:
        serving = _supervise(configuration, bound, metrics, access_log, control, credentials)
    certificates = Certificates(credentials, metrics, pusher)
    beside = () if spec.dns is None else (dns_listener(spec.dns, namespace, bound, serving.store, metrics),)
    gateway = Gateway(
        configuration, bound, serving, control, certificates, lookup_of(spec.dns, namespace), beside
    )
    if start is not None:
        gateway.watch(start, configuration, metrics)
    trio.run(gateway.run)


def _supervise(
    configuration: Configuration,
    bound: Bound,
    metrics: Metrics,
    access_log: AccessLog,
    control: socket.socket | None,
    credentials: Credentials | None,
) -> Serving:
    """Several workers as processes; this one, which serves no connections, then needs no capability."""
    from interceptor.workers.supervisor import Supervisor  # noqa: PLC0415 (one worker needs none)

    forget = (bound.admin, bound.telemetry, *bound.dns, *bound.push, *(() if control is None else (control,)))
    listeners = [bound.listeners(worker) for worker in range(len(bound.ingress))]
    supervisor = Supervisor(configuration, listeners, metrics, access_log, forget, credentials)
    if os.geteuid() != 0:
        process.give_up_capabilities()
    return supervisor
