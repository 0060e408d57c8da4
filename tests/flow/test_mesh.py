"""Mutual TLS on the path: who comes in, what goes out, and what is done about everything else."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from interceptor.model.address import SocketAddress
from interceptor.model.connection import Direction, ResponseFlag
from interceptor.model.forwarding import ForwardingMode
from interceptor.model.http import LocalReply
from interceptor.model.identity import CertificateFiles, SpiffeId
from interceptor.policy.peer_authentication import Mode
from interceptor.routing.security import UpstreamTls
from interceptor.tls.authority import Pair
from interceptor.tls.rotation import Keeper
from tests.support.documents import SIDECAR, configuration
from tests.support.flows import FixedView, Running, listening, running_proxy, settings
from tests.support.identities import DB, HOUR, WEB, Root, write
from tests.support.mesh import Gateways, Server, ask, call, client, echo, server, shake, view, wrap


@pytest.fixture(scope="module")
def root() -> Root:
    return Root()


@pytest.mark.parametrize("mode", [Mode.PERMISSIVE, Mode.STRICT])
async def test_a_peer_of_the_mesh_is_who_its_certificate_says(tmp_path: Path, root: Root, mode: Mode) -> None:
    gateway = Gateways(tmp_path, root.issue(DB), root)
    async with echo() as app, running_proxy(view(app, mode), transport=gateway) as running:
        with await shake(running, client(tmp_path, root.issue(WEB), root), "outbound_.80_._.db") as peer:
            assert await ask(peer) == b"QUESTION"
            assert await ask(peer) == b"QUESTION"
        (flow,) = await running.records.wait_closed()
    assert (flow.peer_identity, flow.security, flow.relay) == (WEB, "mutual_tls", "tls")
    assert flow.server_name == "outbound_.80_._.db"
    assert (flow.bytes_received, flow.bytes_sent) == (16, 16)


async def test_http_inside_is_served_as_http(tmp_path: Path, root: Root) -> None:
    gateway = Gateways(tmp_path, root.issue(DB), root)
    server, address = listening()
    async with running_proxy(view(address, Mode.STRICT), transport=gateway) as running:
        context = client(tmp_path, root.issue(WEB), root, ("istio-http/1.1", "istio", "http/1.1"))
        with server, await shake(running, context) as peer:
            assert peer.selected_alpn_protocol() == "http/1.1"
            peer.sendall(b"GET /a HTTP/1.1\r\nHost: db\r\n\r\n")
            app, _ = await trio.to_thread.run_sync(server.accept)
            assert (await trio.to_thread.run_sync(app.recv, 1000)).startswith(b"GET /a HTTP/1.1\r\n")
            app.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            assert (await trio.to_thread.run_sync(peer.recv, 1000)).endswith(b"ok")
            app.close()
        (flow,) = await running.records.wait_closed()
    assert (flow.relay, flow.peer_identity) == ("http", WEB)


async def test_pipelined_requests_that_we_answer_are_all_answered(tmp_path: Path, root: Root) -> None:
    """More of them than have one turn: what was decrypted already is no event of the socket's."""
    gateway = Gateways(tmp_path, root.issue(DB), root)
    server, address = listening()
    async with running_proxy(view(address, Mode.STRICT), transport=gateway) as running:
        serving = running.proxy._services.http
        serving.authorize = lambda _flow, _head: LocalReply(403, ResponseFlag.DENY, "denied", b"no\n")
        context = client(tmp_path, root.issue(WEB), root, ("istio-http/1.1", "istio", "http/1.1"))
        with server, await shake(running, context) as peer:

            def talk() -> int:
                peer.sendall(b"GET / HTTP/1.1\r\nHost: db\r\n\r\n" * 100)
                peer.settimeout(5)
                got = b""
                while got.count(b"no\n") < 100 and (more := peer.recv(65536)):
                    got += more
                return got.count(b"HTTP/1.1 403 Forbidden\r\n")

            assert await trio.to_thread.run_sync(talk) == 100


@pytest.mark.parametrize("looked_at", [True, False], ids=["policies", "nothing looks"])
async def test_the_app_is_told_what_its_peer_presented_behind_what_that_one_says(
    tmp_path: Path, root: Root, looked_at: bool
) -> None:
    gateway = Gateways(tmp_path, root.issue(DB), root)
    server, address = listening()
    pair = root.issue(WEB)
    digest = x509.load_pem_x509_certificate(pair.certificate).fingerprint(hashes.SHA256()).hex()
    ours = f'By={DB};Hash={digest};Subject="";URI={WEB}'
    said = 'By=spiffe://cluster.local/ns/shop/sa/web;Subject="CN=a,b";URI=spiffe://cluster.local/ns/a/sa/b'
    fixed = view(address, Mode.STRICT) if looked_at else FixedView((address,))
    async with running_proxy(fixed, transport=gateway) as running:
        context = client(tmp_path, pair, root, ("istio-http/1.1", "istio", "http/1.1"))
        with server, await shake(running, context) as peer:
            peer.sendall(b"GET / HTTP/1.1\r\nHost: db\r\n\r\n")
            app, _ = await trio.to_thread.run_sync(server.accept)
            for expected, sent in ((ours, ""), (f"{said},{ours}", said), (f"{said},{said},{ours}", "twice")):
                if sent:
                    line = f"X-Forwarded-Client-Cert: {said}\r\n".encode() * (1 + (sent == "twice"))
                    peer.sendall(b"GET / HTTP/1.1\r\nHost: db\r\n%b\r\n" % line)
                head = await trio.to_thread.run_sync(app.recv, 4000)
                lines = [each for each in head.decode().split("\r\n") if "client-cert" in each.lower()]
                assert lines == [f"x-forwarded-client-cert: {expected}"]
                app.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                assert (await trio.to_thread.run_sync(peer.recv, 1000)).endswith(b"ok")
            app.close()


SAID = "By=spiffe://a/ns/b/sa/c;URI=spiffe://a/ns/b/sa/d"


@pytest.mark.parametrize(
    ("mode", "proved", "unproved"),
    [
        ("SANITIZE", [], []),
        ("FORWARD_ONLY", [SAID], []),
        ("APPEND_FORWARD", [f"{SAID},OURS"], []),
        ("SANITIZE_SET", ["OURS"], []),
        ("ALWAYS_FORWARD_ONLY", [SAID], [SAID]),
    ],
)
async def test_what_the_app_hears_of_certificates_is_as_its_sidecar_asks(
    tmp_path: Path, root: Root, mode: ForwardingMode, proved: list[str], unproved: list[str]
) -> None:
    gateway = Gateways(tmp_path, root.issue(DB), root)
    asked = f"{SIDECAR}spec: {{proxyHeaders: {{forwardedClientCert: {mode}, setCurrentClientCertDetails: {{subject: false}}}}}}"
    sidecar = configuration(asked).sidecar
    gateway.forwarding = sidecar.spec.proxyHeaders.forwarding
    server, address = listening()
    pair = root.issue(WEB, dns_names=("web.shop",))
    digest = x509.load_pem_x509_certificate(pair.certificate).fingerprint(hashes.SHA256()).hex()
    ours = f"By={DB};Hash={digest};URI={WEB};DNS=web.shop"
    context = client(tmp_path, pair, root, ("istio-http/1.1", "istio", "http/1.1"))
    async with running_proxy(view(address), sidecar, transport=gateway) as running:
        with server, await shake(running, context) as mesh, running.connect() as plain:
            for peer, expected in ((mesh, proved), (plain, unproved)):
                peer.sendall(
                    f"GET / HTTP/1.1\r\nHost: db\r\nX-Forwarded-Client-Cert: {SAID}\r\n\r\n".encode()
                )
                app, _ = await trio.to_thread.run_sync(server.accept)
                with app:
                    head = (await trio.to_thread.run_sync(app.recv, 4000)).decode()
                lines = [each for each in head.split("\r\n") if "client-cert" in each.lower()]
                assert lines == [
                    f"x-forwarded-client-cert: {each.replace('OURS', ours)}" for each in expected
                ]


@pytest.mark.parametrize(
    "name", ["X-Forwarded-Client-Cert", "X_Forwarded_Client_Cert", "x-forwarded_client-cert"]
)
async def test_from_a_peer_that_proved_nothing_the_app_hears_nothing_of_certificates(
    tmp_path: Path, root: Root, name: str
) -> None:
    """However it is written: an app behind WSGI reads all of them as one."""
    gateway = Gateways(tmp_path, root.issue(DB), root)
    server, address = listening()
    async with running_proxy(view(address), transport=gateway) as running:
        with server, running.connect() as peer:
            peer.sendall(f"GET / HTTP/1.1\r\nHost: db\r\n{name}: URI=spiffe://a/ns/b/sa/c\r\n\r\n".encode())
            app, _ = await trio.to_thread.run_sync(server.accept)
            assert b"spiffe" not in (await trio.to_thread.run_sync(app.recv, 4000)).lower()
            app.close()


async def test_plaintext_passes_where_it_may_and_a_server_may_speak_first(tmp_path: Path, root: Root) -> None:
    gateway = Gateways(tmp_path, root.issue(DB), root)
    server, address = listening()
    async with running_proxy(view(address), transport=gateway) as running:
        with server, running.connect() as peer:
            app, _ = await trio.to_thread.run_sync(server.accept)
            app.sendall(b"220 hello")
            assert await trio.to_thread.run_sync(peer.recv, 100) == b"220 hello"
            app.close()
        (flow,) = await running.records.wait_closed()
    assert (flow.security, flow.peer_identity) == ("none", None)


@pytest.mark.parametrize("mode", [Mode.PERMISSIVE, Mode.DISABLE])
async def test_the_apps_own_tls_passes_through_untouched(tmp_path: Path, root: Root, mode: Mode) -> None:
    gateway = Gateways(tmp_path, root.issue(DB), root)
    server, address = listening()
    hello = bytearray()
    async with running_proxy(view(address, mode), transport=gateway) as running:
        context = client(tmp_path, None, root, ("h2",))
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        with pytest.raises(ssl.SSLWantReadError):
            context.wrap_bio(incoming, outgoing, server_hostname="own.example").do_handshake()
        sent = outgoing.read()
        with server, running.connect() as peer:
            peer.sendall(sent)
            app, _ = await trio.to_thread.run_sync(server.accept)
            while len(hello) < len(sent):
                hello += await trio.to_thread.run_sync(app.recv, 65536)
            app.close()
        (flow,) = await running.records.wait_closed()
    assert hello == sent
    assert flow.security == "none"


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05junk!", b"\x00" * 50, b"\x80\x2e\x01\x00\x02"]
)
async def test_plaintext_to_a_strict_port_is_closed_without_a_byte(
    tmp_path: Path, root: Root, said: bytes
) -> None:
    gateway = Gateways(tmp_path, root.issue(DB), root)
    async with echo() as app, running_proxy(view(app, Mode.STRICT), transport=gateway) as running:
        with running.connect() as peer:
            peer.sendall(said)
            with pytest.raises(ConnectionResetError):
                await trio.to_thread.run_sync(peer.recv, 1)
        (flow,) = await running.records.wait_closed()
    assert (flow.flag, flow.denied, flow.bytes_sent) == (ResponseFlag.NO_ROUTE, "plaintext", 0)
    assert "STRICT" in flow.details


Make = Callable[[Root], Pair | None]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda _: None, "handshake"),
        (lambda root: root.odd(ends=-60), "certificate"),
        (lambda root: root.odd(begins=600), "certificate"),
        (lambda root: root.odd(self_signed=True), "certificate"),
        (lambda _: Root().issue(), "certificate"),
        (lambda root: root.odd(purposes=(ExtendedKeyUsageOID.SERVER_AUTH,)), "certificate"),
        (lambda root: root.odd(uris=()), "no_san"),
        (lambda root: root.odd(uris=(str(WEB), str(DB))), "two_sans"),
        (lambda root: root.odd(uris=("spiffe://other/ns/a/sa/b",)), "trust_domain"),
        (lambda root: root.odd(uris=("spiffe://cluster.local/web",)), "san"),
        (lambda root: chain(root, 1), "certificate"),
        (lambda root: chain(root, 300), "handshake"),
    ],
    ids=[
        *(
            "none",
            "expired",
            "not yet valid",
            "self-signed",
            "another root",
            "usage",
            "no san",
            "two sans",
            "trust domain",
        ),
        *("san", "longer than the root allows", "endless chain"),
    ],
)
async def test_a_peer_that_proves_nothing_gets_nothing(
    tmp_path: Path, root: Root, make: Make, reason: str
) -> None:
    gateway = Gateways(tmp_path, root.issue(DB), root)
    async with echo() as app, running_proxy(view(app, Mode.STRICT), transport=gateway) as running:
        with pytest.raises((OSError, ssl.SSLError)):
            with await shake(running, client(tmp_path, make(root), root)) as peer:
                await ask(peer)
        (flow,) = await running.records.wait_closed()
    assert flow.denied == reason
    assert (flow.bytes_sent, flow.upstream, flow.peer_identity) == (0, None, None)


def chain(root: Root, length: int) -> Pair:
    """A leaf below authorities that the root's path length forbids."""
    above, certificates = root.pair, b""
    for _ in range(length):
        above = root.odd(uris=(), purposes=(), is_authority=True, issuer=above)
        certificates = above.certificate + certificates
    leaf = root.odd(issuer=above)
    return Pair(leaf.certificate + certificates, leaf.key)


async def test_a_peer_of_an_alias_is_written_as_of_the_primary(tmp_path: Path, root: Root) -> None:
    gateway = Gateways(tmp_path, root.issue(DB), root, aliases=("old.local",))
    async with echo() as app, running_proxy(view(app, Mode.STRICT), transport=gateway) as running:
        pair = root.issue(SpiffeId("old.local", "shop", "web"))
        with await shake(running, client(tmp_path, pair, root)) as peer:
            assert await ask(peer) == b"QUESTION"
        (flow,) = await running.records.wait_closed()
    assert flow.peer_identity == WEB


async def test_a_revoked_peer_gets_nothing(tmp_path: Path, root: Root) -> None:
    pair = root.issue(WEB)
    (tmp_path / "crl.pem").write_bytes(root.revocation_list(pair))
    gateway = Gateways(tmp_path, root.issue(DB), root)
    gateway.keeper = Keeper(
        gateway.files._replace(revocation_list=str(tmp_path / "crl.pem")),
        trust_domain="cluster.local",
        wall_clock=time.time,
    )
    async with echo() as app, running_proxy(view(app, Mode.STRICT), transport=gateway) as running:
        with pytest.raises(OSError):
            with await shake(running, client(tmp_path, pair, root)) as peer:
                await ask(peer)
        (flow,) = await running.records.wait_closed()
    assert (flow.denied, flow.flag) == ("revoked", ResponseFlag.DENY)


async def test_after_our_own_certificate_expired_nobody_is_let_in(tmp_path: Path, root: Root) -> None:
    gateway = Gateways(tmp_path, root.issue(DB), root)
    gateway.now += 7200
    async with echo() as app, running_proxy(view(app, Mode.STRICT), transport=gateway) as running:
        with pytest.raises(OSError):
            with await shake(running, client(tmp_path, root.issue(WEB), root)):
                pass
        (flow,) = await running.records.wait_closed()
    assert flow.denied == "own_certificate"
    assert "expired" in flow.details


@pytest.mark.parametrize("sent", ["nothing", "half a hello", "a hello and then nothing"])
async def test_a_slow_handshake_ends_in_time_and_holds_up_nobody(
    tmp_path: Path, root: Root, sent: str
) -> None:
    gateway = Gateways(tmp_path, root.issue(DB), root, timeout=0.3)
    context = client(tmp_path, root.issue(WEB), root)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing).do_handshake()
    hello = outgoing.read()
    given = settings()
    given.spec.timeouts.__dict__["handshake"] = 0.3
    async with echo() as app, running_proxy(view(app, Mode.STRICT), given, transport=gateway) as running:
        with running.connect() as slow:
            slow.sendall(
                {"nothing": b"", "half a hello": hello[:50], "a hello and then nothing": hello}[sent]
            )
            with await shake(running, context) as peer:
                assert await ask(peer) == b"QUESTION"
            flows = await running.records.wait_closed(2)
    late = next(flow for flow in flows if flow.denied)
    assert late.denied == ("handshake" if sent.endswith("then nothing") else "plaintext")


async def test_a_hello_in_single_bytes_is_understood(tmp_path: Path, root: Root) -> None:
    gateway = Gateways(tmp_path, root.issue(DB), root)
    context = client(tmp_path, root.issue(WEB), root)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="a")
    async with echo() as app, running_proxy(view(app), transport=gateway) as running:
        with running.connect() as peer:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            done = False
            while not done:
                try:
                    tls.do_handshake()
                    tls.write(b"question")
                    done = True
                except ssl.SSLWantReadError:
                    pass
                for byte in outgoing.read():
                    peer.sendall(bytes([byte]))
                    await trio.lowlevel.checkpoint()
                if not done:
                    incoming.write(await trio.to_thread.run_sync(peer.recv, 65536))
            answer = b""
            while not answer:
                incoming.write(await trio.to_thread.run_sync(peer.recv, 65536))
                with suppress(ssl.SSLWantReadError):
                    answer = tls.read()
            assert answer == b"QUESTION"


async def test_a_new_pair_is_used_at_once_and_who_is_in_stays_in(tmp_path: Path, root: Root) -> None:
    gateway = Gateways(tmp_path, root.issue(DB), root)
    context = client(tmp_path, root.issue(WEB), root)
    async with echo() as app, running_proxy(view(app, Mode.STRICT), transport=gateway) as running:
        with await shake(running, context) as before:
            first = before.getpeercert(binary_form=True)
            half = running.connect()  # in the middle of its handshake while the pair changes
            write(tmp_path, root.issue(DB), root)
            assert gateway.keeper.reload()
            during = await trio.to_thread.run_sync(lambda: wrap(context, half))
            with during, await shake(running, context) as after:
                assert after.getpeercert(binary_form=True) != first
                for peer in (before, during, after):
                    assert await ask(peer) == b"QUESTION"


MESH = UpstreamTls("DestinationRule a/b", "mesh", None, "outbound_.80_._.db.shop", (str(DB),))


@asynccontextmanager
async def egress(gateway: Gateways, upstream: Server, tls: UpstreamTls) -> AsyncIterator[Running]:
    fixed = FixedView((upstream.address,), tls=tls, protocol="tcp")
    async with running_proxy(fixed, transport=gateway, direction=Direction.EGRESS) as running:
        with upstream.listener:
            yield running


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_an_upstream_of_the_mesh_is_called_by_mutual_tls_and_resumed(
    tmp_path: Path, root: Root, version: ssl.TLSVersion
) -> None:
    """In TLS 1.2 by the session's id: our servers give no ticket there."""
    gateway = Gateways(tmp_path / "web", root.issue(WEB), root)
    upstream = server(tmp_path / "db", root.issue(DB), root)
    upstream.context.maximum_version = version
    async with egress(gateway, upstream, MESH) as running:
        for _ in range(2):
            assert await call(running, upstream) == b"QUESTION"
        flows = await running.records.wait_closed(2)
    assert upstream.names == ["outbound_.80_._.db.shop"] * 2
    assert [str(WEB) in str(names) for names, _, _ in upstream.peers] == [True, True]
    assert [reused for _, reused, _ in upstream.peers] == [False, True]
    assert [(flow.upstream_identity, flow.security, flow.relay) for flow in flows] == [
        (DB, "mutual_tls", "tls")
    ] * 2


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda root: root.issue(WEB), "none of the expected subjectAltNames"),
        (lambda root: root.odd(uris=(str(DB),), ends=-60), "certificate has expired"),
        (lambda root: root.odd(uris=(str(DB),), self_signed=True), "does not stand against the trust bundle"),
        (lambda root: root.odd(uris=(str(DB), str(WEB))), "exactly one"),
        (lambda root: root.odd(uris=("spiffe://other/ns/shop/sa/db",)), "trust domain 'other'"),
        (
            lambda root: root.odd(uris=(str(DB),), purposes=(ExtendedKeyUsageOID.CLIENT_AUTH,)),
            "unsuitable certificate purpose",
        ),
    ],
)
async def test_an_upstream_that_is_not_who_we_called_gets_nothing(
    tmp_path: Path, root: Root, make: Callable[[Root], Pair], found: str
) -> None:
    gateway = Gateways(tmp_path / "web", root.issue(WEB), root)
    (tmp_path / "db").mkdir()
    pair = make(root)
    files = write(tmp_path / "db", pair, root)
    assert files.certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.private_key)
    upstream = Server(context)
    async with egress(gateway, upstream, MESH) as running:
        assert await call(running, upstream) == b"reset"
        (flow,) = await running.records.wait_closed()
    assert flow.flag is ResponseFlag.UPSTREAM_FAILURE
    assert found in flow.details
    assert "DestinationRule a/b" in flow.details


async def test_outside_the_mesh_the_name_is_compared(tmp_path: Path, root: Root) -> None:
    gateway = Gateways(tmp_path / "web", root.issue(WEB), root)
    files = CertificateFiles(None, None, gateway.files.trust_bundle)
    gateway.others[files] = Keeper(files, trust_domain=None, wall_clock=time.time)
    results = []
    for name in ("db.example", "other.example"):
        upstream = server(tmp_path / "db", root.odd(uris=(), dns_names=("db.example",)), root, asks=False)
        tls = UpstreamTls("DestinationRule a/b", "simple", files, name)
        async with egress(gateway, upstream, tls) as running:
            results.append(await call(running, upstream))
            (flow,) = await running.records.wait_closed()
            assert name == "db.example" or "Hostname mismatch" in flow.details
            assert name != "db.example" or flow.security == "tls"
    assert results == [b"QUESTION", b"reset"]


async def test_an_upstream_that_speaks_no_tls_is_a_failure_with_a_reason(tmp_path: Path, root: Root) -> None:
    gateway = Gateways(tmp_path / "web", root.issue(WEB), root)
    async with echo() as app:
        fixed = FixedView((app,), tls=MESH, protocol="tcp")
        async with running_proxy(fixed, transport=gateway, direction=Direction.EGRESS) as running:
            with running.connect() as peer, pytest.raises(ConnectionResetError):
                await trio.to_thread.run_sync(peer.recv, 1)
            (flow,) = await running.records.wait_closed()
    assert flow.flag is ResponseFlag.UPSTREAM_FAILURE
    assert "the TLS handshake with the upstream failed: unexpected message" in flow.details


async def test_without_certificates_an_upstream_that_needs_them_is_not_called_in_the_clear() -> None:
    async with echo() as app:
        fixed = FixedView((app,), tls=MESH, protocol="tcp")
        async with running_proxy(fixed, direction=Direction.EGRESS) as running:
            with running.connect() as peer, pytest.raises(ConnectionResetError):
                await trio.to_thread.run_sync(peer.recv, 1)
            (flow,) = await running.records.wait_closed()
    assert "started without" in flow.details


async def test_two_gateways_with_an_app_on_each_side(tmp_path: Path, root: Root) -> None:
    web, db = (
        Gateways(tmp_path / "web", root.issue(WEB), root),
        Gateways(tmp_path / "db", root.issue(DB), root),
    )
    async with echo() as app, running_proxy(view(app, Mode.STRICT), transport=db) as inner:
        fixed = FixedView((SocketAddress("127.0.0.1", inner.address.port),), tls=MESH)
        async with running_proxy(fixed, transport=web, direction=Direction.EGRESS) as outer:
            with outer.connect() as caller:
                assert await ask(caller, b"plain") == b"PLAIN"
                caller.shutdown(socket.SHUT_WR)
                assert await trio.to_thread.run_sync(caller.recv, 1) == b""
            (out,) = await outer.records.wait_closed()
            (into,) = await inner.records.wait_closed()
    assert (out.upstream_identity, into.peer_identity) == (DB, WEB)
    assert (out.flag, into.flag) == (ResponseFlag.NONE, ResponseFlag.NONE)


@pytest.mark.parametrize("how", ["revoked", "trust_bundle"])
async def test_an_open_connection_ends_when_its_peer_is_no_longer_believed(
    tmp_path: Path, root: Root, how: str
) -> None:
    lost = root.issue(WEB)
    other = Root()  # of the same name, with a key of its own
    kept = other.issue(WEB)
    crl = tmp_path / "crl.pem"
    crl.write_bytes(root.revocation_list() + other.revocation_list())
    gateway = Gateways(tmp_path, other.issue(DB), root, other)
    files = gateway.files._replace(revocation_list=str(crl))
    gateway.keeper = Keeper(files, trust_domain="cluster.local", wall_clock=time.time)
    (tmp_path / "lost").mkdir()
    (tmp_path / "kept").mkdir()
    async with echo() as app, running_proxy(view(app, Mode.STRICT), transport=gateway) as running:
        with (
            await shake(running, client(tmp_path / "lost", lost, other)) as first,
            await shake(running, client(tmp_path / "kept", kept, other)) as second,
        ):
            assert await ask(first) == await ask(second) == b"QUESTION"
            if how == "revoked":
                crl.write_bytes(root.revocation_list(lost) + other.revocation_list())
            else:
                (tmp_path / Path(files.trust_bundle or "").name).write_bytes(other.pair.certificate)
                crl.write_bytes(other.revocation_list())
            assert gateway.keeper.reload()
            with pytest.raises(OSError):
                await ask(first)
            assert await ask(second) == b"QUESTION"
        ended = await running.records.wait_closed(2)
    assert [flow.denied for flow in ended] == [how, None]
    assert ended[0].flag is ResponseFlag.DENY


@pytest.mark.parametrize("carries", ["bytes", "requests"])
@pytest.mark.parametrize("how", ["revoked", "trust_bundle", "san"])
async def test_an_upstream_that_is_no_longer_believed_is_left(
    tmp_path: Path, root: Root, how: str, carries: str
) -> None:
    """By new files, or because another one is expected now; what carries requests gets no further one."""
    lost, other, crl = root.issue(DB), Root(), tmp_path / "crl.pem"
    crl.write_bytes(root.revocation_list() + other.revocation_list())
    web = Gateways(tmp_path / "web", other.issue(WEB), root, other)
    files = web.files._replace(revocation_list=str(crl))
    web.keeper = Keeper(files, trust_domain="cluster.local", wall_clock=time.time)
    db = Gateways(tmp_path / "db", lost, root, other)
    listener, app = listening()
    listener.settimeout(20)
    async with running_proxy(view(app, Mode.STRICT), transport=db) as inner:
        address = SocketAddress("127.0.0.1", inner.address.port)
        fixed = FixedView((address,), tls=MESH, protocol="tcp" if carries == "bytes" else "http")
        async with running_proxy(fixed, transport=web, direction=Direction.EGRESS) as outer:
            with listener, outer.connect() as caller:
                caller.sendall(b"GET / HTTP/1.1\r\nHost: db\r\n\r\n")
                served, _ = await trio.to_thread.run_sync(listener.accept)
                assert (await trio.to_thread.run_sync(served.recv, 4000)).startswith(b"GET / ")
                served.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                assert (await trio.to_thread.run_sync(caller.recv, 4000)).endswith(b"ok")
                assert outer.proxy.reconsider() == 0
                if how == "san":
                    fixed.tls = replace(MESH, expected=("spiffe://cluster.local/ns/shop/sa/other",))
                    assert outer.proxy.reconsider() == 1
                elif how == "revoked":
                    crl.write_bytes(root.revocation_list(lost) + other.revocation_list())
                else:
                    (tmp_path / "web" / Path(files.trust_bundle or "").name).write_bytes(
                        other.pair.certificate
                    )
                    crl.write_bytes(other.revocation_list())
                assert how == "san" or web.keeper.reload()
                await inner.records.wait_closed()
                ended = carries == "bytes" or how == "san"
                if ended:
                    with pytest.raises(ConnectionResetError):
                        await trio.to_thread.run_sync(caller.recv, 1)
                else:
                    caller.sendall(b"GET /again HTTP/1.1\r\nHost: db\r\n\r\n")
                    assert (await trio.to_thread.run_sync(caller.recv, 4000)).startswith(b"HTTP/1.1 503 ")
                served.close()
            (flow,) = await outer.records.wait_closed()
    assert flow.denied == (how if ended else None)


LEFT = 0.8  # seconds of a certificate


@pytest.mark.parametrize("whose", ["the peer's", "ours"])
async def test_a_connection_carries_no_further_request_once_a_certificate_has_expired(
    tmp_path: Path, root: Root, whose: str
) -> None:
    """What it carries is answered first."""
    mine, theirs = (2 * HOUR, HOUR) if whose == "the peer's" else (HOUR, 2 * HOUR)
    gateway = Gateways(tmp_path, root.issue(DB, lifetime=mine), root)
    gateway.now = int(root.now + HOUR) - LEFT
    server, address = listening()
    context = client(tmp_path / "peer", root.issue(WEB, lifetime=theirs), root, ("istio", "http/1.1"))
    question = b"GET / HTTP/1.1\r\nHost: db\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with running_proxy(view(address, Mode.STRICT), transport=gateway) as running:
        with server, await shake(running, context) as idle, await shake(running, context) as busy:
            apps = []
            for peer in (idle, busy):
                peer.sendall(question)
                apps.append((await trio.to_thread.run_sync(server.accept))[0])
                await trio.to_thread.run_sync(apps[-1].recv, 4000)
            with apps[0], apps[1]:
                apps[0].sendall(answer)
                head = await trio.to_thread.run_sync(idle.recv, 4000)
                assert b"connection: close" not in head.lower()
                assert await trio.to_thread.run_sync(idle.recv, 1) == b""  # at the end of its time
                apps[1].sendall(answer)
                head = await trio.to_thread.run_sync(busy.recv, 4000)
                assert b"connection: close" in head.lower()
                assert head.endswith(b"ok")
                assert await trio.to_thread.run_sync(busy.recv, 1) == b""
        assert [flow.denied for flow in await running.records.wait_closed(2)] == [None, None]


async def test_no_request_goes_by_a_connection_whose_certificate_has_expired(
    tmp_path: Path, root: Root
) -> None:
    web = Gateways(tmp_path / "web", root.issue(WEB), root)
    web.now = int(root.now + HOUR) - LEFT
    db = Gateways(tmp_path / "db", root.issue(DB, lifetime=2 * HOUR), root)
    db.now = root.now
    listener, app = listening()
    listener.settimeout(10)
    async with running_proxy(view(app, Mode.STRICT), transport=db) as inner:
        fixed = FixedView((SocketAddress("127.0.0.1", inner.address.port),), tls=MESH, protocol="http")
        async with running_proxy(fixed, transport=web, direction=Direction.EGRESS) as outer:
            with listener, outer.connect() as caller:
                caller.settimeout(10)

                async def once() -> bytes:
                    caller.sendall(b"GET / HTTP/1.1\r\nHost: db\r\n\r\n")
                    served, _ = await trio.to_thread.run_sync(listener.accept)
                    with served:
                        await trio.to_thread.run_sync(served.recv, 4000)
                        served.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
                        return await trio.to_thread.run_sync(caller.recv, 4000)

                assert (await once()).endswith(b"ok")
                [[waiting]] = outer.proxy._services.http.pool._idle.values()
                assert waiting.until <= trio.current_time() + LEFT
                await trio.sleep_until(waiting.until)
                assert (await once()).endswith(b"ok"), "the clock of certificates stands still here"
                assert len(inner.records.opened_flows) == 2
                await trio.sleep_until(trio.current_time() + LEFT)
                web.now += 1
                caller.sendall(b"GET / HTTP/1.1\r\nHost: db\r\n\r\n")
                head = await trio.to_thread.run_sync(caller.recv, 4000)
                assert head.startswith(b"HTTP/1.1 503 ")
                assert b"expired" in head


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("how", ["revoked", "trust_bundle"])
async def test_an_authority_between_is_judged_too_also_where_the_session_was_resumed(
    tmp_path: Path, how: str, version: ssl.TLSVersion
) -> None:
    root = Root()  # ours sign no authorities
    root.pair = root.odd((), is_authority=True, self_signed=True, purposes=())
    between, other, crl = root.odd((), is_authority=True, purposes=()), Root(), tmp_path / "crl.pem"
    leaf = root.odd(issuer=between)
    crl.write_bytes(other.revocation_list())
    gateway = Gateways(tmp_path, other.issue(DB), root, other)
    files = gateway.files._replace(revocation_list=str(crl))
    gateway.keeper = Keeper(files, trust_domain="cluster.local", wall_clock=time.time)
    chain = replace(leaf, certificate=leaf.certificate + between.certificate)
    context = client(tmp_path / "peer", chain, other)
    context.maximum_version = version
    async with echo() as app, running_proxy(view(app, Mode.STRICT), transport=gateway) as running:
        with await shake(running, context) as first:
            assert await ask(first) == b"QUESTION"
            resume = partial(wrap, context, running.connect(), session=first.session)
            with await trio.to_thread.run_sync(resume) as second:
                assert await ask(second) == b"QUESTION"
                assert second.session_reused
                if how == "revoked":
                    crl.write_bytes(root.revocation_list(between) + other.revocation_list())
                else:
                    (tmp_path / Path(files.trust_bundle or "").name).write_bytes(other.pair.certificate)
                assert gateway.keeper.reload()
                for peer in (first, second):
                    with pytest.raises(OSError):
                        await ask(peer)
        with pytest.raises(OSError):
            with await shake(running, context) as peer:
                await ask(peer)
        ended = await running.records.wait_closed(3)
    last = "certificate" if how == "trust_bundle" else "revoked"
    assert [flow.denied for flow in ended] == [how, how, last]
    assert "between" in ended[0].details if how == "revoked" else "the root above" in ended[0].details


async def test_a_revoked_upstream_outside_the_mesh_is_not_spoken_to(tmp_path: Path, root: Root) -> None:
    gateway = Gateways(tmp_path / "web", root.issue(WEB), root)
    good, bad = (root.odd(uris=(), dns_names=("db.example",)) for _ in range(2))
    crl = tmp_path / "crl.pem"
    crl.write_bytes(root.revocation_list(bad))
    files = CertificateFiles(None, None, gateway.files.trust_bundle, str(crl))
    gateway.others[files] = Keeper(files, trust_domain=None, wall_clock=time.time)
    tls = UpstreamTls("DestinationRule a/b", "simple", files, "db.example")
    details = []
    for pair, answered in ((good, b"QUESTION"), (bad, b"reset")):
        upstream = server(tmp_path / "db", pair, root, asks=False)
        async with egress(gateway, upstream, tls) as running:
            assert await call(running, upstream) == answered
            (flow,) = await running.records.wait_closed()
            details.append(flow.details)
    assert "the upstream's certificate with the serial number" in details[1]


async def test_other_certificates_than_the_workloads_are_followed_too(tmp_path: Path, root: Root) -> None:
    gateway = Gateways(tmp_path / "web", root.issue(WEB), root)
    lost = root.odd(uris=(), dns_names=("db.example",))
    crl = tmp_path / "crl.pem"
    crl.write_bytes(root.revocation_list())
    files = CertificateFiles(None, None, gateway.files.trust_bundle, str(crl))
    keeper = gateway.others[files] = Keeper(files, trust_domain=None, wall_clock=time.time)
    upstream = server(tmp_path / "db", lost, root, asks=False)
    tls = UpstreamTls("DestinationRule a/b", "simple", files, "db.example")
    async with egress(gateway, upstream, tls) as running, trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, upstream.serve)
        with running.connect() as caller:
            assert await ask(caller) == b"QUESTION"
            crl.write_bytes(root.revocation_list(lost))
            assert keeper.reload()
            with pytest.raises(ConnectionResetError):
                await trio.to_thread.run_sync(caller.recv, 1)
        (flow,) = await running.records.wait_closed()
    assert (flow.denied, flow.flag) == ("revoked", ResponseFlag.DENY)
    assert "the upstream's certificate" in flow.details
