"""A proxy whose app's requests are routed by documents, to upstreams that a test speaks for, on loopback."""

from __future__ import annotations

import socket
import textwrap
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field

import trio

from interceptor.config.plain import plain
from interceptor.config.sidecar import Sidecar
from interceptor.middleware.build import Stack
from interceptor.model.address import OriginalDestination, SocketAddress
from interceptor.model.connection import Direction
from interceptor.policy.policies import Policies
from interceptor.routing.destinations import Decision
from interceptor.routing.table import Routing
from interceptor.state.snapshot import Snapshot, take
from tests.support.documents import configuration
from tests.support.flows import running_proxy
from tests.support.http_flows import SECONDS, Bed, Wire

HEAD = "apiVersion: networking.istio.io/v1\n"
VIRTUAL = "198.51.100.1"  # what the app dials
# Nobody may reach the service called bank.
DENY_BANK = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no}
spec:
  action: DENY
  targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: bank}]
  rules: [{}]
"""


def document(kind: str, spec: str, name: str = "shop") -> str:
    """A document with a spec in block style."""
    body = textwrap.indent(textwrap.dedent(spec).strip("\n"), "  ")
    return f"{HEAD}kind: {kind}\nmetadata: {{name: {name}}}\nspec:\n{body}\n"


def shop(
    port: int,
    *versions: tuple[str, str],
    host: str = "shop.example",
    address: str = VIRTUAL,
    protocol: str = "HTTP",
) -> str:
    """A service with a virtual address, and endpoints: address and version."""
    endpoints = ", ".join(f"{{address: {at}, labels: {{version: {version}}}}}" for at, version in versions)
    return document(
        "ServiceEntry",
        f"""
        hosts: [{host}]
        addresses: [{address}]
        ports: [{{number: {port}, name: {protocol.lower()}, protocol: {protocol}}}]
        resolution: STATIC
        endpoints: [{endpoints}]
        """,
        host.partition(".")[0],
    )


def snapshot_of(documents: Sequence[str]) -> Snapshot:
    """What the running proxy would make of documents."""
    return take(plain(configuration(*documents)))


class Switch:
    """A view of whatever snapshot is current."""

    def __init__(self, current: Snapshot) -> None:
        self.current = current

    @property
    def policies(self) -> Policies | None:
        return self.current.policies

    @property
    def routing(self) -> Routing | None:
        return self.current.routing

    def ingress(self, destination: OriginalDestination) -> Decision:
        return self.current.ingress(destination)

    def egress(self, destination: OriginalDestination) -> Decision:
        return self.current.egress(destination)


@dataclass
class RoutedBed(Bed):
    """The same with several upstreams at one port."""

    servers: dict[str, socket.socket] = field(default_factory=dict)
    port: int = 0
    change: Callable[..., None] = lambda: None  # to other endpoints: address and version of each

    async def at(self, host: str) -> Wire:
        """The next connection that reaches the upstream at an address."""
        server = self.servers[host]
        server.setblocking(False)
        with trio.fail_after(SECONDS):
            while True:
                try:
                    sock, _ = server.accept()
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(server)
                    continue
                sock.setblocking(False)
                return self._wire(sock)

    async def any(self) -> tuple[str, Wire]:
        """The next connection that reaches any of them."""
        with trio.fail_after(SECONDS):
            while True:
                for host, server in self.servers.items():
                    server.setblocking(False)
                    try:
                        sock, _ = server.accept()
                    except BlockingIOError:
                        continue
                    sock.setblocking(False)
                    return host, self._wire(sock)
                await trio.sleep(0.002)


def _listening(hosts: Sequence[str]) -> tuple[int, dict[str, socket.socket]]:
    """Listeners at the same port of several addresses."""
    while True:
        first = socket.create_server((hosts[0], 0))
        port = first.getsockname()[1]
        with ExitStack() as stack:
            servers = {hosts[0]: stack.enter_context(first)}
            try:
                for host in hosts[1:]:
                    servers[host] = stack.enter_context(socket.create_server((host, port)))
            except OSError:
                continue
            stack.pop_all()
            return port, servers


@asynccontextmanager
async def routed_bed(
    *specs: tuple[str, str],
    versions: Sequence[tuple[str, str]] = (("127.0.0.2", "v1"), ("127.0.0.3", "v2")),
    dialled: str = VIRTUAL,
    given: Sidecar | None = None,
    others: Sequence[tuple[str, str]] = (),
    sidecar: Sequence[str] = (),
    protocol: str = "HTTP",
    middleware: Stack | None = None,
) -> AsyncIterator[RoutedBed]:
    """``specs``: kind and spec of documents; ``others``: hosts and addresses of services with one endpoint, 127.0.0.4."""
    port, servers = _listening(("127.0.0.2", "127.0.0.3", "127.0.0.4"))
    documents = [
        shop(port, *versions, protocol=protocol),
        *sidecar,
        *(
            document(kind, spec.replace("PORT", str(port)), f"d{number}")
            for number, (kind, spec) in enumerate(specs)
        ),
    ]
    documents += [
        shop(port, ("127.0.0.4", "v1"), host=host, address=address, protocol=protocol)
        for host, address in others
    ]
    view = Switch(snapshot_of(documents))
    async with running_proxy(
        view,
        given,
        original=lambda _sock, _peer: OriginalDestination(SocketAddress(dialled, port)),
        direction=Direction.EGRESS,
        middleware=middleware,
    ) as running:

        def change(*others: tuple[str, str], more: Sequence[str] = ()) -> None:
            view.current = snapshot_of([shop(port, *others, protocol=protocol), *documents[1:], *more])
            running.proxy.follow()

        bed = RoutedBed(running, servers["127.0.0.2"], servers=servers, port=port, change=change)
        try:
            yield bed
        finally:
            for wire in bed.wires:
                wire.close()
            for server in servers.values():
                server.close()
    assert bed.records.faults == 0
