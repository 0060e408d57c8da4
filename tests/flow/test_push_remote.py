"""Pushes from other machines, over real TLS: who comes in, what he can do, and what becomes of him when trust changes."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from interceptor.admin import server
from interceptor.admin.app import push_app
from interceptor.admin.push import MAX_BODY, Door, PushEndpoint, by_name
from interceptor.admin.remote import Greeter
from interceptor.model.identity import SpiffeId
from interceptor.tls.authority import Pair
from interceptor.tls.rotation import Files, Keeper
from tests.support.identities import DB, WEB, Root, write
from tests.support.workload_api import answer, bundle_of, credentials, svid_of

OPS = SpiffeId("cluster.local", "ops", "pusher")
FOREIGN = SpiffeId("other.org", "ops", "pusher")
TRUSTED = (str(OPS), str(FOREIGN), "pusher.example")
HEAD = "PUT /config HTTP/1.1\r\nHost: a\r\nContent-Type: application/yaml\r\n"


class Remote:
    """A listener for pushes, and what came in."""

    def __init__(self, directory: Path, root: Root, keeper: Keeper | None = None) -> None:
        self.directory, self.root = directory, root
        self.files = write(directory / "own", root.issue(dns_names=("gw.example",)), root)
        self.keeper = keeper or Keeper(self.files, trust_domain="cluster.local", wall_clock=time.time)
        self.taken: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        self.version = ssl.TLSVersion.TLSv1_3
        self.opened: list[trio.SocketStream] = []
        self.greeter = Greeter(self.keeper, TRUSTED)

    async def push(self, _: str, body: bytes, __: str | None) -> tuple[str, str]:
        self.taken.append(body)
        return "v2", '"f"'

    async def serve(self, task_status: trio.TaskStatus[None]) -> None:
        door = Door(
            etag=lambda: '"e"',
            shown=lambda: "{}",
            types=("application/yaml",),
            patch="-",
            push=self.push,
            refused=KeyError,
            stale=IndexError,
        )
        endpoint = PushEndpoint(door, by_name(TRUSTED))
        app = push_app(endpoint.answer)
        await server.serve(app, self.listener, endpoint.wants, self.greeter, task_status=task_status)

    def context(self, pair: Pair | None) -> ssl.SSLContext:
        made = ssl.create_default_context(cadata=self.root.pair.certificate.decode())
        made.maximum_version = self.version
        if pair is not None:
            files = write(self.directory / "client", pair, self.root)
            assert files.certificate
            made.load_cert_chain(files.certificate, files.private_key)
        return made

    async def open(self) -> trio.SocketStream:
        raw = await trio.open_tcp_stream(*self.address)
        self.opened.append(raw)
        return raw

    async def connect(self, pair: Pair | None) -> trio.SSLStream[trio.SocketStream]:
        raw = await self.open()
        return trio.SSLStream(raw, self.context(pair), server_hostname="gw.example", https_compatible=True)

    async def say(self, pair: Pair | None, text: str, body: bytes = b"") -> tuple[int, str]:
        """The status and body of the one answer; 0 where the connection ends without any."""
        received = b""
        with trio.fail_after(10):
            stream = await self.connect(pair)
            try:
                await stream.send_all(text.encode() + body)
                while chunk := await stream.receive_some(65536):
                    received += chunk
            except trio.BrokenResourceError:
                pass
        head, _, rest = received.decode().partition("\r\n\r\n")
        return int(head.split()[1]) if head else 0, rest


@pytest.fixture(scope="module")
def root() -> Root:
    return Root()


@asynccontextmanager
async def remote(directory: Path, root: Root, keeper: Keeper | None = None) -> AsyncIterator[Remote]:
    made = Remote(directory, root, keeper)
    async with trio.open_nursery() as nursery:
        await nursery.start(made.serve)
        try:
            yield made
        finally:
            for stream in made.opened:
                stream.socket.close()
        nursery.cancel_scope.cancel()


def put(body: bytes) -> str:
    return f"{HEAD}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"


async def ended(stream: trio.abc.ReceiveStream) -> bool:
    """Whether nothing more comes, one way or the other."""
    try:
        return await stream.receive_some(4096) == b""
    except trio.BrokenResourceError:
        return True


async def test_who_has_the_right_certificate_pushes_and_sees_what_is_pushed_and_nothing_else(
    tmp_path: Path, root: Root
) -> None:
    ops = root.issue(OPS)
    async with remote(tmp_path, root) as at:
        status, body = await at.say(ops, put(b"a: 1"), b"a: 1")
        assert (status, json.loads(body)) == (200, {"version": "v2"})
        assert at.taken == [b"a: 1"]
        get = "GET {} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        assert await at.say(ops, get.format("/config")) == (200, "{}")
        for other in ("/", "/config_dump", "/certs", "/stats", "/ready", "/connections", "/explain?to=a"):
            assert (await at.say(ops, get.format(other)))[0] == 404
        assert (await at.say(ops, get.format("/config").replace("GET", "POST")))[0] == 405
        assert (await at.say(ops, get.format("/drain").replace("GET", "POST")))[0] == 404


async def test_another_workload_of_the_mesh_is_told_why_not_and_none_of_its_body_is_kept(
    tmp_path: Path, root: Root
) -> None:
    large = b"#" * (4 << 20)
    async with remote(tmp_path, root) as at:
        for sent in (b"a: 1", large):
            status, body = await at.say(root.issue(WEB), put(sent), sent)
            assert status == 403
            assert f"is of '{WEB}', which is none of" in body
        assert at.taken == []


async def test_without_a_certificate_of_ours_nobody_says_anything(
    tmp_path: Path, root: Root, caplog: pytest.LogCaptureFixture
) -> None:
    foreign = Root().issue(OPS)
    expired = root.odd((str(OPS),), begins=-7200, ends=-3600)
    async with remote(tmp_path, root) as at:
        for pair in (None, foreign, expired, foreign):
            assert await at.say(pair, put(b""), b"") == (0, "")
        told = [each.getMessage() for each in caplog.records]
        assert len(told) == len(set(told)) == 3  # once a minute each
        assert all(
            "a push from another machine was refused: the TLS handshake failed" in each for each in told
        )
        plain = await at.open()
        await plain.send_all(b"GET /config HTTP/1.1\r\nHost: a\r\n\r\n")
        with trio.fail_after(10):
            assert await ended(plain)
        assert (await at.say(root.issue(OPS), put(b"a"), b"a"))[0] == 200


async def test_a_body_that_is_too_large_is_refused_and_one_that_stalls_is_given_up(
    tmp_path: Path, root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    ops = root.issue(OPS)
    huge = b"#" * (MAX_BODY + 1)
    async with remote(tmp_path, root) as at:
        assert (await at.say(ops, put(huge), huge))[0] == 413
        monkeypatch.setattr(server, "BODY_SECONDS", 0.1)
        monkeypatch.setattr(server, "IDLE_SECONDS", 0.2)
        assert await at.say(ops, put(b"1234"), b"123") == (0, "")
        assert at.taken == []


async def test_only_so_many_bodies_are_read_at_a_time(tmp_path: Path, root: Root) -> None:
    ops = root.issue(OPS)
    async with remote(tmp_path, root) as at:
        halves = []
        for _ in range(server.MAX_BODIES):
            halves.append(stream := await at.connect(ops))
            await stream.send_all(f"{HEAD}Content-Length: 2\r\nExpect: 100-continue\r\n\r\n".encode())
            with trio.fail_after(10):
                assert b" 100 " in await stream.receive_some(4096)  # its body is waited for
        status, body = await at.say(ops, put(b"a"), b"a")
        assert (status, body) == (503, "others send already; try again later\n")
        await halves[0].send_all(b"ab")
        with trio.fail_after(10):
            assert b" 200 " in await halves[0].receive_some(4096)
        assert (await at.say(ops, put(b"a"), b"a"))[0] == 200


async def test_a_rotation_counts_for_the_next_handshake_and_ends_what_was_open(
    tmp_path: Path, root: Root
) -> None:
    ops, after = root.issue(OPS), Root()
    keep = f"{HEAD}Content-Length: 1\r\n\r\na".encode()
    async with remote(tmp_path, root) as at:
        open_one = await at.connect(ops)
        await open_one.send_all(keep)
        with trio.fail_after(10):
            assert b" 200 " in await open_one.receive_some(4096)
            write(tmp_path / "own", after.issue(dns_names=("gw.example",)), after)
            assert at.keeper.reload()
            await open_one.send_all(keep)
            assert await ended(open_one)
        assert at.taken == [b"a"]
        assert await at.say(ops, put(b"a"), b"a") == (0, "")
        at.root = after
        assert (await at.say(after.issue(OPS), put(b"a"), b"a"))[0] == 200


async def test_a_revoked_certificate_pushes_no_more(tmp_path: Path, root: Root) -> None:
    ops = root.issue(OPS)
    async with remote(tmp_path, root) as at:
        revocations = tmp_path / "own" / "list.crl"
        await trio.Path(revocations).write_bytes(root.revocation_list(ops))
        at.keeper._source = Files(at.files._replace(revocation_list=str(revocations)))
        assert at.keeper.reload()
        assert await at.say(ops, put(b"a"), b"a") == (0, "")
        assert (await at.say(root.issue(OPS), put(b"a"), b"a"))[0] == 200


async def test_strangers_take_no_trusted_clients_place(
    tmp_path: Path, root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 2)
    keep = f"{HEAD}Content-Length: 1\r\n\r\na".encode()
    async with remote(tmp_path, root) as at:
        known = await at.connect(root.issue(OPS))
        await known.send_all(keep)
        with trio.fail_after(10):
            assert b" 200 " in await known.receive_some(4096)
            strangers = [await at.open() for _ in range(5)]
            for gone in strangers[:3]:
                assert await ended(gone)
            await known.send_all(keep)
            assert b" 200 " in await known.receive_some(4096)


async def test_by_an_agents_certificates_nobody_comes_in_before_there_are_any_and_after_they_were_taken_back(
    tmp_path: Path, root: Root, caplog: pytest.LogCaptureFixture
) -> None:
    ops, own = root.issue(OPS), root.issue(DB, dns_names=("gw.example",))
    identity = credentials()
    async with remote(tmp_path, root, identity.workload) as at:
        assert await at.say(ops, put(b"a"), b"a") == (0, "")
        identity.take(answer(svid_of(DB, own, root)))
        assert (await at.say(ops, put(b"a"), b"a"))[0] == 200
        fresh = Root()
        identity.take(answer(svid_of(DB, own, fresh)))
        assert await at.say(ops, put(b"a"), b"a") == (0, "")
        assert (await at.say(fresh.issue(OPS), put(b"a"), b"a"))[0] == 200
        identity.take(None)
        assert await at.say(fresh.issue(OPS), put(b"a"), b"a") == (0, "")
    assert "has given no certificate yet; until then pushes are refused" in caplog.text
    assert "took the identity of this workload back; until then pushes are refused" in caplog.text


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_foreign_trust_domains_authority_makes_nobody_ours(
    tmp_path: Path, root: Root, version: ssl.TLSVersion
) -> None:
    other = Root("other.org")
    own = svid_of(DB, root.issue(DB, dns_names=("gw.example",)), root)
    identity = credentials()
    identity.take(answer(own, federated={"spiffe://other.org": bundle_of(other)}))
    async with remote(tmp_path, root, identity.workload) as at:
        at.version = version
        for pair, status in (
            (root.issue(OPS), 200),
            (other.issue(FOREIGN), 200),
            (other.issue(OPS), 0),  # one of ours, by them
            (root.odd((str(FOREIGN),)), 0),
            (root.odd((), dns_names=("pusher.example",)), 0),  # no identity
            (other.issue(SpiffeId("other.org", "a", "b"), dns_names=("pusher.example",)), 403),
            (root.issue(OPS), 200),
        ):
            assert (await at.say(pair, put(b"a"), b"a"))[0] == status
        identity.take(answer(own))
        assert (await at.say(other.issue(FOREIGN), put(b"a"), b"a"))[0] == 0
        assert (await at.say(root.odd((), dns_names=("pusher.example",)), put(b"a"), b"a"))[0] == 200
