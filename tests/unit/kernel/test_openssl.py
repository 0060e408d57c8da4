"""Contexts that OpenSSL was told more of: what a handshake by them looks like, and that it works without."""

from __future__ import annotations

import contextlib
import ctypes
import ssl
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from interceptor.kernel import openssl
from interceptor.tls.authority import Pair
from interceptor.tls.contexts import Contexts
from tests.support.identities import WEB, Root, contexts


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    yield
    openssl._library.cache_clear()


def shake(
    made: Contexts,
    session: ssl.SSLSession | None = None,
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    by: Contexts | None = None,
) -> tuple[ssl.SSLObject, int]:
    """A handshake in memory that the server ends properly: the client's side, and how many bytes the server sent."""
    context = (by or made).client(())
    context.maximum_version = version
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server, session=session)
    server = made.server(()).wrap_bio(to_server, to_client, server_side=True)
    sent = 0
    waiting = {client, server}
    while waiting:
        for side in (client, server):
            try:
                side.do_handshake()
                waiting.discard(side)
            except ssl.SSLWantReadError:
                pass
            if side is server:
                sent = max(sent, to_client.pending)
    server.write(b"x")
    assert client.read(10) == b"x"
    with pytest.raises(ssl.SSLWantReadError):
        server.unwrap()
    return client, sent


def without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openssl, "_library", lambda: None)


def test_the_newest_sessions_are_kept_and_a_ticket_is_only_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openssl, "SESSIONS", 3)
    root = Root()
    made = contexts(tmp_path, root.issue(WEB), root)
    sessions = [shake(made)[0].session for _ in range(3)]
    assert made.server(()).session_stats()["number"] == 2
    assert shake(made, sessions[2])[0].session_reused
    assert not shake(made, sessions[0])[0].session_reused


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_is_resumed_in_each_version(tmp_path: Path, version: ssl.TLSVersion) -> None:
    root = Root()
    made = contexts(tmp_path, root.issue(WEB), root)
    first, _ = shake(made, version=version)
    assert not first.session_reused
    assert shake(made, first.session, version)[0].session_reused


def test_no_root_is_sent_and_aes_128_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Root()
    pair = root.issue(WEB)
    (tmp_path / "tuned").mkdir()
    (tmp_path / "plain").mkdir()
    client, sent = shake(contexts(tmp_path / "tuned", pair, root))
    without(monkeypatch)
    plain, more = shake(contexts(tmp_path / "plain", pair, root))
    assert client.cipher() == ("TLS_AES_128_GCM_SHA256", "TLSv1.3", 128)
    assert plain.cipher() == ("TLS_AES_256_GCM_SHA384", "TLSv1.3", 256)
    assert more - sent > 300, "the root's certificate"


async def test_threads_do_not_mistake_each_others_contexts() -> None:
    made: list[bool] = []

    def make() -> None:
        for _ in range(50):
            context = openssl.make_context(server=True)
            first = context.get_ciphers()[0]["name"]
            made.append(first == "TLS_AES_128_GCM_SHA256" and bool(context.options & ssl.OP_NO_TICKET))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(trio.to_thread.run_sync, make)
    assert made == [True] * 200


def connect(
    made: Contexts, session: openssl.AnySession | None, version: ssl.TLSVersion
) -> openssl.Connection:
    """A handshake in memory, whose connection is not ended by anybody: the client's side, which read a byte."""
    made.client(()).maximum_version = version
    bios = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = openssl.Connection(made.client(()), bios, server_side=False, session=session)
    server = made.server(()).wrap_bio(bios[1], bios[0], server_side=True)
    waiting = {client.tls, server}
    while waiting:
        for side in (client.tls, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
                waiting.discard(side)
    server.write(b"x")
    assert client.tls.read(10) == b"x"
    with pytest.raises(ssl.SSLWantReadError):
        server.unwrap()
    return client


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("library", [True, False])
def test_a_clients_session_outlives_connections_that_are_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: ssl.TLSVersion, library: bool
) -> None:
    """OpenSSL resumes no session of a connection that did not end as it should: ours are copies, as Python's are."""
    if not library:
        without(monkeypatch)
    root = Root()
    made = contexts(tmp_path, root.issue(WEB), root)
    first = connect(made, None, version)
    session = first.session
    assert session is not None
    assert isinstance(session, openssl.Session) is library
    assert session.has_ticket is (version is ssl.TLSVersion.TLSv1_3 or not library)
    assert session.id
    assert session.timeout > 0
    assert abs(session.time - time.time()) < 60
    del first
    for _ in range(2):
        again = connect(made, session, version)
        assert again.tls.session_reused
        assert again.tls.getpeercert()
        del again


def test_before_a_handshake_there_is_no_session(tmp_path: Path) -> None:
    root = Root()
    bios = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = contexts(tmp_path, root.issue(WEB), root).client(())
    assert openssl.Connection(context, bios, server_side=False).session is None


def below(root: Root) -> Pair:
    """A pair of an authority between; ours sign none."""
    root.pair = root.odd((), is_authority=True, self_signed=True, purposes=())
    between = root.odd(uris=(), purposes=(), is_authority=True)
    leaf = root.odd(uris=(str(WEB),), issuer=between)
    return Pair(leaf.certificate + between.certificate, leaf.key)


@pytest.mark.parametrize(
    "case", ["the root's own", "of an authority between", "long ago", "too many", "no library"]
)
def test_a_certificate_is_verified_again_after_a_while_and_where_somebody_stands_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr(openssl, "VERIFIED_FOR", 0.0 if case == "long ago" else 600.0)
    monkeypatch.setattr(openssl, "VERIFIED", 0 if case == "too many" else 1)
    if case == "no library":
        without(monkeypatch)
    root = Root()
    made = contexts(tmp_path, below(root) if "between" in case else root.issue(WEB), root)
    for number in range(3):
        client, _ = shake(made)
        shown = number == 0 or case != "the root's own"
        assert (openssl.verified_root(client) is not None) is shown
        assert client.getpeercert(binary_form=True)


def test_one_certificate_that_stands_is_no_word_for_another(tmp_path: Path) -> None:
    """Nor is it by another context, whose bundle is another one."""
    root, other = Root(), Root()
    for name in ("good", "bad", "late", "stranger"):
        (tmp_path / name).mkdir()
    good = contexts(tmp_path / "good", root.issue(WEB), root)
    bad = contexts(tmp_path / "bad", other.issue(WEB), other, root)
    late = contexts(tmp_path / "late", root.issue(WEB), root)
    stranger = contexts(tmp_path / "stranger", root.issue(WEB), other)
    for _ in range(2):
        shake(good)
        for server, client in ((bad, good), (good, stranger)):
            with pytest.raises(ssl.SSLCertVerificationError):
                shake(server, by=client)
    shake(good, by=late)


class Nameless:
    """A library that has none of OpenSSL's names."""

    def __init__(self, _path: str | None) -> None:
        pass


class Foreign:
    """Another OpenSSL than that of ``ssl``: it has the names, is never asked for a context and must not be touched."""

    def __init__(self, index: int) -> None:
        def never(*_: object) -> None:
            raise AssertionError("told something about a context that is not its own")

        self.SSL_CTX_ctrl = self.SSL_CTX_set_ciphersuites = never
        self.CRYPTO_get_ex_new_index = lambda *_: index


class Untold:
    """Nobody was told of a context."""

    def set(self, context: int | None) -> None:
        pass

    def get(self) -> None:
        return None


@pytest.mark.parametrize("case", ["nameless", "refuses"])
def test_without_the_names_a_context_is_pythons_own(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    openssl._library.cache_clear()
    library = Nameless if case == "nameless" else lambda _path: Foreign(-1)
    monkeypatch.setattr(ctypes, "CDLL", library)
    assert openssl._library() is None
    context = openssl.make_context(server=True)
    assert not context.options & ssl.OP_NO_TICKET


def test_another_library_than_that_of_ssl_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openssl, "_library", lambda: Foreign(1))
    monkeypatch.setattr(openssl, "_newest", Untold())  # what the real one tells of is not this one's
    assert not openssl.make_context(server=True).options & ssl.OP_NO_TICKET


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("library", [True, False])
def test_without_resumption_each_handshake_shows_the_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: ssl.TLSVersion, library: bool
) -> None:
    """Without the library's help a session of TLS 1.2 may be resumed, and shows none: its peer is refused."""
    if not library:
        without(monkeypatch)
    root = Root()
    made = contexts(tmp_path, root.issue(WEB), root)
    made.material = replace(made.material, anchors={"cluster.local": frozenset(), "other": frozenset()})
    made._made.clear()
    first, _ = shake(made, version=version)
    assert openssl.verified_root(first) == ssl.PEM_cert_to_DER_cert(root.pair.certificate.decode())
    again, _ = shake(made, first.session, version)
    resumed = not library and version is ssl.TLSVersion.TLSv1_2
    assert again.session_reused is resumed
    assert (openssl.verified_root(again) is None) is resumed
