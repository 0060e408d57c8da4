"""Faults and bad input of identity and policy: each by name, with the test that holds it.

=================================  =========================================================================
expired, not yet valid             tests/flow/test_mesh.py: test_a_peer_that_proves_nothing_gets_nothing;
                                   our own: tests/unit/tls/test_certificates.py, test_rotation.py, test_judgement.py
wrong trust domain                 the same; an agent's: tests/flow/test_spiffe.py
wrong key usage                    the same; and below: test_a_certificate_that_is_not_for_handshakes...
no SAN, two URI SANs               test_a_peer_that_proves_nothing_gets_nothing
self-signed, another root          test_a_peer_that_proves_nothing_gets_nothing
chain too long                     test_a_peer_that_proves_nothing_gets_nothing ("longer than the root allows", "endless")
key and certificate mismatch       test_certificates.py: test_a_pair_that_may_not_be_used_is_refused_by_name
truncated PEM                      the same, and test_a_bundle_that_trusts_nobody_is_refused
rotated mid-handshake              below: test_a_rotation_in_the_middle_of_a_handshake...
rotated mid-download               below: test_a_rotation_in_the_middle_of_a_download
bundle emptied                     test_rotation.py: test_what_cannot_be_used_is_refused_once_and_the_old_pair_stays
slow handshakes                    test_mesh.py: test_a_slow_handshake_ends_in_time_and_holds_up_nobody
garbage handshakes                 below: test_a_garbage_handshake...; before it: test_plaintext_to_a_strict_port...
renegotiation                      below: test_a_client_that_renegotiates...
ClientHello in single bytes        test_mesh.py: test_a_hello_in_single_bytes_is_understood;
                                   in records of one byte: tests/unit/protocol/test_client_hello.py
SNI absurdities                    below: test_an_absurd_server_name..., test_a_server_name_is_noted_in_one_form;
                                   the parser's: tests/unit/protocol/test_client_hello.py
policies with unknown fields       tests/unit/config/test_authorization_policy.py: test_what_is_wrong_is_said_at_its_field,
                                   test_peer_authentication.py, test_request_authentication.py
malformed CIDRs                    the same; one among thousands: test_one_bad_policy_among_thousands...
conflicting scopes                 tests/unit/policy/test_peer_authentication.py: test_within_a_scope_the_oldest_counts...,
                                   test_documents_that_decide_nothing_are_named
empty rules in every position      tests/unit/config/test_authorization_policy.py: test_no_rules_empty_rules_and_a_rule_of_nothing...,
                                   test_what_is_wrong_is_said_at_its_field; what they decide: below, by request and by connection
thousands of policies              below: test_thousands_of_policies...; tests/unit/policy/test_index.py
last good kept, the reason told    tests/flow/test_live.py, tests/netns/test_live_configuration.py
=================================  =========================================================================
"""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest
import trio
from cryptography import x509

from interceptor.config.plain import plain
from interceptor.model.address import PeerAddress, SocketAddress
from interceptor.model.http import RequestHead
from interceptor.model.identity import CertificateFiles, SpiffeId
from interceptor.policy.authorization import Authorizer
from interceptor.policy.facts import ConnectionFacts, RequestFacts
from interceptor.policy.peer_authentication import Mode
from interceptor.policy.policies import compiled
from interceptor.tls.rotation import Keeper
from tests.support.client_hellos import hello, name_list, record, vector
from tests.support.documents import configuration
from tests.support.flows import Running, listening, running_proxy
from tests.support.identities import DB, WEB, Root, write
from tests.support.mesh import Gateways, ask, client, echo, shake, view
from tests.support.policies import named, policy_text

ALPN = (16, vector(2, vector(1, b"istio")))


@pytest.fixture(scope="module")
def root() -> Root:
    return Root()


def usage(*, sign: bool = True, authority: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(sign, False, not sign, False, False, authority, False, False, False)


async def served(running: Running, directory: Path, root: Root) -> None:
    """A good peer comes after the bad one, and is served."""
    with await shake(running, client(directory, root.issue(WEB), root)) as peer:
        assert await ask(peer) == b"QUESTION"


async def ended(peer: socket.socket) -> bytes:
    """What a peer gets until its connection is over."""

    def read() -> bytes:
        got = b""
        try:
            while data := peer.recv(65536):
                got += data
        except ConnectionResetError:
            pass
        return got

    return await trio.to_thread.run_sync(read)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"usage": usage(sign=False)}, "certificate"),
        ({"usage": usage(authority=True)}, "usage"),
        ({"is_authority": True}, "usage"),
    ],
    ids=["a key that may not sign handshakes", "a key that signs certificates", "an authority"],
)
async def test_a_certificate_that_is_not_for_handshakes_proves_nothing(
    tmp_path: Path, root: Root, given: dict[str, object], reason: str, version: ssl.TLSVersion
) -> None:
    gateway = Gateways(tmp_path, root.issue(DB), root)
    context = client(tmp_path, root.odd(**given), root)  # type: ignore[arg-type]  # test data
    context.maximum_version = version
    async with echo() as app, running_proxy(view(app, Mode.STRICT), transport=gateway) as running:
        with pytest.raises(OSError):
            with await shake(running, context) as peer:
                await ask(peer)
        [flow] = await running.records.wait_closed()
    assert (flow.denied, flow.bytes_sent, flow.upstream) == (reason, 0, None)


@pytest.mark.parametrize(
    ("extension", "reason"),
    [
        (name_list(b""), "plaintext"),
        (name_list(b"a" * 256), "plaintext"),
        (name_list(b"a" * 60000)[:16000], "plaintext"),
        (name_list(b"shop\0.example"), "plaintext"),
        (name_list("schön.example".encode()), "plaintext"),
        (name_list(b"shop.example\n"), "plaintext"),
        (vector(2, b"\0\0\1a\0\0\1b"), "plaintext"),
        (name_list(b"10.0.0.1"), "handshake"),
        (name_list(b"SHOP.Example."), "handshake"),
        (name_list(b"a" * 254), "handshake"),
    ],
    ids=[
        *("empty", "256 bytes", "cut off", "NUL", "not ASCII", "a line break", "two names"),
        *("an address", "upper case and a dot", "254 bytes"),
    ],
)
async def test_an_absurd_server_name_lets_nobody_in(
    tmp_path: Path, root: Root, extension: bytes, reason: str
) -> None:
    """What is no name is no hello of ours; what is one gets as far as a hello without keys can."""
    gateway = Gateways(tmp_path, root.issue(DB), root)
    async with echo() as app, running_proxy(view(app, Mode.STRICT), transport=gateway) as running:
        with running.connect() as peer:
            peer.sendall(record(hello((0, extension), ALPN)))
            got = await ended(peer)
        [flow] = await running.records.wait_closed()
        await served(running, tmp_path, root)
    assert flow.denied == reason
    assert (flow.upstream, got[:1]) == (None, b"" if reason == "plaintext" else b"\x15")  # at most an alert


@pytest.mark.parametrize(
    ("name", "noted"), [("SHOP.Example", "shop.example"), ("shop.example.", "shop.example"), (None, None)]
)
async def test_a_server_name_is_noted_in_one_form(
    tmp_path: Path, root: Root, name: str | None, noted: str | None
) -> None:
    gateway = Gateways(tmp_path, root.issue(DB), root)
    async with echo() as app, running_proxy(view(app, Mode.STRICT), transport=gateway) as running:
        with await shake(running, client(tmp_path, root.issue(WEB), root), name) as peer:
            assert await ask(peer) == b"QUESTION"
        [flow] = await running.records.wait_closed()
    assert flow.server_name == noted


def first_flight(context: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO, bytes]:
    """A client in memory, and its hello."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return tls, incoming, outgoing, outgoing.read()


@pytest.mark.parametrize(
    "garbage",
    [
        os.urandom(500),
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x17\x03\x03\x00\x10" + bytes(16),
        b"\x16\x03\x03\x40\x01" + bytes(0x4001),
        b"\x14\x03\x03\x00\x01\x01" * 40,
        b"\x15\x03\x03\x00\x02\x02\x28",
    ],
    ids=["noise", "HTTP", "data too early", "a record too long", "endless ChangeCipherSpec", "an alert"],
)
async def test_a_garbage_handshake_costs_its_sender_the_connection_and_nobody_else(
    tmp_path: Path, root: Root, garbage: bytes
) -> None:
    gateway = Gateways(tmp_path, root.issue(DB), root)
    _, _, _, sent = first_flight(client(tmp_path, root.issue(WEB), root))
    async with echo() as app, running_proxy(view(app, Mode.STRICT), transport=gateway) as running:
        with running.connect() as peer:
            peer.sendall(sent + garbage)
            await ended(peer)
        [flow] = await running.records.wait_closed()
        await served(running, tmp_path, root)
        assert running.records.faults == 0
    assert (flow.denied, flow.upstream) == ("handshake", None)


def renegotiate(port: int, files: CertificateFiles) -> bytes:
    """What OpenSSL's own client says when it asks for another handshake in a connection of TLS 1.2."""
    argv = ["openssl", "s_client", "-tls1_2", "-alpn", "istio", "-connect", f"127.0.0.1:{port}"]
    argv += ["-cert", str(files.certificate), "-key", str(files.private_key)]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as program:
        deadline = threading.Timer(20, program.kill)
        deadline.start()
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(b"question\n")
        program.stdin.flush()
        for line in program.stdout:
            if line == b"QUESTION\n":
                break
        program.stdin.write(b"R\n")  # at the begin of what it reads a command
        program.stdin.flush()
        said = program.stdout.read()
        deadline.cancel()
    return said


async def test_a_client_that_renegotiates_is_refused_that(tmp_path: Path, root: Root) -> None:
    gateway = Gateways(tmp_path, root.issue(DB), root)
    files = write(tmp_path / "web", root.issue(WEB), root)
    async with echo() as app, running_proxy(view(app, Mode.STRICT), transport=gateway) as running:
        said = await trio.to_thread.run_sync(renegotiate, running.address.port, files)
        assert b"RENEGOTIATING" in said
        assert b"no renegotiation" in said
        [flow] = await running.records.wait_closed()
        await served(running, tmp_path, root)
    assert flow.peer_identity == WEB


async def test_a_rotation_in_the_middle_of_a_download(tmp_path: Path, root: Root) -> None:
    gateway = Gateways(tmp_path, root.issue(DB), root)
    listener, address = listening()
    sent = os.urandom(1 << 20) * 8

    def serve() -> None:
        app, _ = listener.accept()
        with app:
            app.recv(100)
            app.sendall(sent)

    def read(peer: ssl.SSLSocket, size: int) -> bytes:
        got = bytearray()
        while len(got) < size and (data := peer.recv(min(65536, size - len(got)))):
            got += data
        return bytes(got)

    async with running_proxy(view(address, Mode.STRICT), transport=gateway) as running:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, serve)
            with listener, await shake(running, client(tmp_path, root.issue(WEB), root)) as peer:
                await trio.to_thread.run_sync(peer.sendall, b"download")
                got = await trio.to_thread.run_sync(read, peer, len(sent) // 2)
                write(tmp_path, root.issue(DB), Root(), root)
                assert gateway.keeper.reload()
                got += await trio.to_thread.run_sync(read, peer, len(sent))
    assert got == sent


async def answered(tls: ssl.SSLObject, incoming: ssl.MemoryBIO, peer: socket.socket) -> bytes:
    """What comes behind the tickets."""
    while True:
        try:
            return tls.read(100)
        except ssl.SSLWantReadError:
            incoming.write(await trio.to_thread.run_sync(peer.recv, 65536))


@pytest.mark.parametrize("what", ["pair", "bundle", "revoked"])
async def test_a_rotation_in_the_middle_of_a_handshake_is_judged_by_what_is_true_then(
    tmp_path: Path, root: Root, what: str
) -> None:
    gateway = Gateways(tmp_path, root.issue(DB), root)
    crl, pair = tmp_path / "crl.pem", root.issue(WEB)
    crl.write_bytes(root.revocation_list())
    files = gateway.files._replace(revocation_list=str(crl))
    gateway.keeper = Keeper(files, trust_domain="cluster.local", wall_clock=lambda: gateway.now)
    tls, incoming, outgoing, sent = first_flight(client(tmp_path, pair, root))
    async with echo() as app, running_proxy(view(app, Mode.STRICT), transport=gateway) as running:
        with running.connect() as peer:
            peer.sendall(sent)
            while True:
                incoming.write(await trio.to_thread.run_sync(peer.recv, 65536))
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    pass
            if what == "revoked":
                crl.write_bytes(root.revocation_list(pair))
            else:
                crl.write_bytes(b"")
                write(tmp_path, root.issue(DB), *((root,) if what == "pair" else (Root(),)))
            assert gateway.keeper.reload()
            tls.write(b"question")
            peer.sendall(outgoing.read())  # the end of the handshake
            if what == "pair":
                assert await answered(tls, incoming, peer) == b"QUESTION"
            else:
                await ended(peer)
        [flow] = await running.records.wait_closed()
    assert flow.denied == {"pair": None, "bundle": "trust_bundle", "revoked": "revoked"}[what]
    assert (flow.upstream is None) is (what != "pair")


READER = SpiffeId("cluster.local", "shop", "reader")
CONNECTION = ConnectionFacts(
    PeerAddress(SocketAddress("10.0.0.9", 40000)), SocketAddress("10.0.0.1", 8080), READER
)


def authorizer(*texts: str) -> Authorizer:
    sidecar = "apiVersion: interceptor/v1\nkind: Sidecar\nmetadata: {name: web, namespace: shop, labels: {app: web}}\n"
    made = compiled(plain(configuration(sidecar, *texts))).ingress
    assert made is not None
    return made


def request(path: bytes = b"/") -> RequestFacts:
    return RequestFacts(RequestHead(b"GET", path, b"web", b"http", b"1.1", []))


@pytest.mark.parametrize(
    ("spec", "allowed"),
    [
        ("{action: ALLOW}", False),
        ("{action: ALLOW, rules: []}", False),
        ("{action: ALLOW, rules: [{}]}", True),
        ("{action: DENY}", True),
        ("{action: DENY, rules: []}", True),
        ("{action: DENY, rules: [{}]}", False),
        ("{action: AUDIT}", True),
        ("{action: AUDIT, rules: []}", True),
        ("{action: AUDIT, rules: [{}]}", True),
        ("{}", False),
    ],
)
def test_no_rules_empty_rules_and_a_rule_of_nothing_decide_as_istio_says(spec: str, allowed: bool) -> None:
    made = authorizer(policy_text(spec))
    assert made.decide(CONNECTION, request()).allowed is allowed
    assert made.decide(CONNECTION).allowed is allowed


def test_thousands_of_policies_decide_as_one_does() -> None:
    def text(number: int) -> str:
        action = "DENY" if number % 2 else "ALLOW"
        rule = f"{{to: [{{operation: {{paths: ['/api/v{number}/*']}}}}]}}"
        return policy_text(f"{{action: {action}, rules: [{rule}]}}", named(f"p{number}"))

    made = authorizer(*map(text, range(2000)))
    for number in (0, 1, 1000, 1001, 1998, 1999):
        verdict = made.decide(CONNECTION, request(f"/api/v{number}/x".encode()))
        assert (verdict.allowed, verdict.policy) == (number % 2 == 0, f"AuthorizationPolicy shop/p{number}")
    assert made.decide(CONNECTION, request(b"/other")).details == "rbac_access_denied_matched_policy[none]"
