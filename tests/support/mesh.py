"""What tests of mutual TLS on the path have in common: a gateway's transport, a peer that presents anything, an app."""

from __future__ import annotations

import socket
import ssl
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from interceptor.model.address import SocketAddress
from interceptor.model.forwarding import Forwarding
from interceptor.model.identity import CertificateFiles
from interceptor.policy.peer_authentication import Mode
from interceptor.policy.policies import compiled
from interceptor.proxy.hub import Hub
from interceptor.proxy.transport import Transport
from interceptor.routing.security import UpstreamTls
from interceptor.tls.authority import Pair
from interceptor.tls.rotation import Keeper
from tests.support.documents import configuration
from tests.support.flows import FixedView, Running, listening
from tests.support.identities import Root, contexts, write

ISTIO = ("istio",)


def view(address: SocketAddress, mode: Mode = Mode.PERMISSIVE, tls: UpstreamTls | None = None) -> FixedView:
    head = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: mode}\n"
    policies = compiled(configuration(f"{head}spec: {{mtls: {{mode: {mode.value}}}}}\n"))
    return FixedView((address,), policies=policies, tls=tls)


class Gateways:
    """Makes the transport of a proxy whose identity is in a directory."""

    def __init__(
        self, directory: Path, pair: Pair, *roots: Root, timeout: float = 10, aliases: tuple[str, ...] = ()
    ) -> None:
        self.files = write(directory, pair, *roots)
        self.now = time.time()
        self.keeper = Keeper(self.files, trust_domain="cluster.local", wall_clock=lambda: self.now)
        self.others: dict[CertificateFiles, Keeper] = {}
        self.timeout = timeout
        self.forwarding = Forwarding()
        self.trusted = dict.fromkeys(("cluster.local", *aliases), "cluster.local")

    def __call__(self, hub: Hub) -> Transport:
        return Transport(self.keeper, self.others, self.trusted, hub, self.timeout, self.forwarding)


def client(directory: Path, pair: Pair | None, root: Root, alpn: tuple[str, ...] = ISTIO) -> ssl.SSLContext:
    """A peer's context, which verifies nothing: what it presents is what is tested."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.load_verify_locations(cadata=root.pair.certificate.decode())
    made.set_alpn_protocols(list(alpn))
    if pair is not None:
        files = write(directory, pair, root, name="client")
        assert files.certificate
        made.load_cert_chain(files.certificate, files.private_key)
    return made


def wrap(context: ssl.SSLContext, sock: socket.socket, **options: Any) -> ssl.SSLSocket:
    """As ``wrap_socket``, which forgets to close the socket of a connection that was reset before it began."""
    try:
        return context.wrap_socket(sock, **options)
    except OSError as error:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if isinstance(made := frame.f_locals.get("self"), ssl.SSLSocket):
                made.close()
        raise


async def shake(running: Running, context: ssl.SSLContext, name: str | None = None) -> ssl.SSLSocket:
    raw = running.connect()
    return await trio.to_thread.run_sync(
        lambda: wrap(context, raw, server_hostname=name, suppress_ragged_eofs=False)
    )


async def ask(peer: socket.socket, data: bytes = b"question") -> bytes:
    def work() -> bytes:
        peer.sendall(data)
        return peer.recv(1000)

    return await trio.to_thread.run_sync(work)


@asynccontextmanager
async def echo() -> AsyncIterator[SocketAddress]:
    """An app that says back what it hears, in upper case."""
    server, address = listening()
    server.setblocking(False)
    stream = trio.SocketListener(trio.socket.from_stdlib_socket(server))

    async def serve(connection: trio.SocketStream) -> None:
        try:
            async for data in connection:
                await connection.send_all(data.upper())
        except trio.BrokenResourceError:
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [stream])
        yield address
        nursery.cancel_scope.cancel()


class Server:
    """An upstream that takes TLS and answers one line, in a thread; it notes who called."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.listener, self.address = listening()
        self.context = context
        self.peers: list[tuple[str | None, bool | None, str | None]] = []
        self.names: list[str] = []
        context.sni_callback = lambda _sock, name, _context: self.names.append(name)

    def serve(self) -> None:
        accepted, _ = self.listener.accept()
        try:
            with wrap(self.context, accepted, server_side=True) as tls:
                certificate = tls.getpeercert() or {}
                names = certificate.get("subjectAltName", ())
                self.peers.append((str(names), tls.session_reused, tls.selected_alpn_protocol()))
                while data := tls.recv(1000):
                    tls.sendall(data.upper())
                tls.unwrap()  # OpenSSL forgets the session otherwise
        except OSError:
            pass


def server(directory: Path, pair: Pair, root: Root, *, asks: bool = True) -> Server:
    made = contexts(directory, pair, root, trust_domain=None).server(())
    if not asks:
        made.verify_mode = ssl.CERT_NONE
    made.set_alpn_protocols(["h2", "http/1.1"])
    return Server(made)


async def call(running: Running, upstream: Server) -> bytes:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, upstream.serve)
        with running.connect() as app:
            app.sendall(b"question")
            try:
                return await trio.to_thread.run_sync(app.recv, 1000)
            except ConnectionResetError:
                return b"reset"
