"""Handshakes that no task waits for: what becomes of them when something else happens meanwhile."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import trio

from interceptor.model.address import SocketAddress
from interceptor.model.connection import Direction, Flow, ResponseFlag
from interceptor.policy.peer_authentication import Mode
from interceptor.proxy.transport import Transport
from interceptor.routing.security import UpstreamTls
from tests.support.flows import FixedView, Running, listening, running_proxy, settings, wait_until
from tests.support.identities import DB, WEB, Root
from tests.support.mesh import Gateways, ask, call, client, echo, server, shake, view, wrap

MESH = UpstreamTls("DestinationRule a/b", "mesh", None, "outbound_.80_._.db.shop", (str(DB),))


@pytest.fixture(scope="module")
def root() -> Root:
    return Root()


def egress(*upstreams: SocketAddress) -> FixedView:
    return FixedView(upstreams, tls=MESH, protocol="tcp")


def has_set_out(running: Running) -> bool:
    return len(running.proxy._services.underway) == 1


async def ended(connection: socket.socket) -> bytes:
    try:
        return await trio.to_thread.run_sync(connection.recv, 1)
    except ConnectionResetError:
        return b"reset"


async def test_a_peer_that_has_not_proved_itself_is_cut_off_when_the_proxy_is(
    tmp_path: Path, root: Root
) -> None:
    gateway = Gateways(tmp_path, root.issue(DB), root)
    async with echo() as app, running_proxy(view(app, Mode.STRICT), transport=gateway) as running:
        with running.connect() as peer:
            peer.sendall(b"\x16\x03\x01")
            await wait_until(lambda: has_set_out(running))
            running.proxy.abort_all("it is enough")
            (flow,) = await running.records.wait_closed()
            assert await ended(peer) == b"reset"
            await running.proxy.wait_drained()
    assert "it is enough" in flow.details


async def test_an_upstream_that_has_not_proved_itself_is_cut_off_when_the_proxy_is(
    tmp_path: Path, root: Root
) -> None:
    gateway = Gateways(tmp_path, root.issue(WEB), root)
    silent, address = listening()
    async with running_proxy(egress(address), transport=gateway, direction=Direction.EGRESS) as running:
        with silent, running.connect() as app:
            upstream, _ = await trio.to_thread.run_sync(silent.accept)
            with upstream:
                assert (await trio.to_thread.run_sync(upstream.recv, 1)) == b"\x16"
                running.proxy.abort_all("it is enough")
                (flow,) = await running.records.wait_closed()
                assert await ended(app) == b"reset"
                upstream.settimeout(10)
                assert upstream.recv(10_000)
                assert await ended(upstream) == b"reset"
    assert "it is enough" in flow.details


async def test_a_proxy_that_drains_waits_for_who_is_proving_himself(tmp_path: Path, root: Root) -> None:
    gateway = Gateways(tmp_path, root.issue(DB), root)
    async with echo() as app, running_proxy(view(app, Mode.STRICT), transport=gateway) as running:
        raw = running.connect()
        await wait_until(lambda: has_set_out(running))
        running.proxy.stop_accepting()
        context = client(tmp_path, root.issue(WEB), root)
        with await trio.to_thread.run_sync(lambda: wrap(context, raw)) as peer:
            assert await ask(peer) == b"QUESTION"
        (flow,) = await running.records.wait_closed()
        with trio.fail_after(10):
            await running.proxy.wait_drained()
    assert (flow.bytes_received, flow.bytes_sent) == (8, 8)


async def test_the_next_upstream_is_called_where_one_refuses(tmp_path: Path, root: Root) -> None:
    gateway = Gateways(tmp_path / "web", root.issue(WEB), root)
    upstream = server(tmp_path / "db", root.issue(DB), root)
    closed, nobody = listening()
    closed.close()
    fixed = egress(nobody, upstream.address)
    async with running_proxy(fixed, transport=gateway, direction=Direction.EGRESS) as running:
        with upstream.listener:
            assert await call(running, upstream) == b"QUESTION"
        (flow,) = await running.records.wait_closed()
    assert (flow.upstream, flow.upstream_identity) == (upstream.address, DB)


async def test_an_upstream_that_does_not_go_on_is_left_in_time(tmp_path: Path, root: Root) -> None:
    gateway = Gateways(tmp_path, root.issue(WEB), root, timeout=0.3)
    silent, address = listening()
    async with running_proxy(egress(address), transport=gateway, direction=Direction.EGRESS) as running:
        with silent, running.connect() as app:
            assert await ended(app) == b"reset"
        (flow,) = await running.records.wait_closed()
    assert flow.flag is ResponseFlag.UPSTREAM_FAILURE
    assert "the upstream did not complete the TLS handshake within spec.timeouts.handshake" in flow.details


async def test_an_upstream_that_does_not_answer_is_left_in_time(tmp_path: Path, root: Root) -> None:
    gateway = Gateways(tmp_path, root.issue(WEB), root)
    given = settings()
    given.spec.timeouts.__dict__["connect"] = 0.3
    full, address = listening(0)  # its queue has room for one, and the kernel answers no further one
    waiting = [socket.socket() for _ in range(3)]
    for each in waiting:
        each.setblocking(False)
        each.connect_ex(tuple(address[:2]))
    async with running_proxy(
        egress(address), given, transport=gateway, direction=Direction.EGRESS
    ) as running:
        with full, running.connect() as app:
            assert await ended(app) == b"reset"
        (flow,) = await running.records.wait_closed()
    for each in waiting:
        each.close()
    assert flow.flag is ResponseFlag.UPSTREAM_FAILURE
    assert "did not answer within spec.timeouts.connect" in flow.details


async def test_a_flow_that_lost_permission_while_it_was_called_does_not_begin(
    tmp_path: Path, root: Root
) -> None:
    gateway = Gateways(tmp_path / "web", root.issue(WEB), root)
    upstream = server(tmp_path / "db", root.issue(DB), root)
    async with running_proxy(
        egress(upstream.address), transport=gateway, direction=Direction.EGRESS
    ) as running:
        with upstream.listener, running.connect() as app:
            await wait_until(lambda: has_set_out(running))
            (flow,) = running.proxy.connections()
            flow.denied, flow.flag, flow.details = "policy", ResponseFlag.DENY, "not any more"
            await trio.to_thread.run_sync(upstream.serve)
            assert await ended(app) == b"reset"
        (flow,) = await running.records.wait_closed()
    assert (flow.flag, flow.details, flow.bytes_received) == (ResponseFlag.DENY, "not any more", 0)


@pytest.mark.parametrize("direction", list(Direction))
async def test_a_fault_ends_its_own_flow_alone(
    tmp_path: Path, root: Root, direction: Direction, monkeypatch: pytest.MonkeyPatch
) -> None:
    web, db = (
        Gateways(tmp_path / "web", root.issue(WEB), root),
        Gateways(tmp_path / "db", root.issue(DB), root),
    )
    broken = {Direction.INGRESS: "admit", Direction.EGRESS: "believe"}[direction]

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    async with echo() as app, running_proxy(view(app, Mode.STRICT), transport=db) as inner:
        fixed = egress(SocketAddress("127.0.0.1", inner.address.port))
        async with running_proxy(fixed, transport=web, direction=Direction.EGRESS) as outer:
            with monkeypatch.context() as patched:
                patched.setattr(Transport, broken, fail)
                with outer.connect() as caller:
                    assert await ended(caller) == b"reset"
                side: Running = inner if direction is Direction.INGRESS else outer
                (faulty,) = await side.records.wait_closed()
                assert "fault of the proxy" in faulty.details
            with outer.connect() as caller:
                assert await ask(caller) == b"QUESTION"
            flows: list[Flow] = await outer.records.wait_closed(2)
    assert flows[1].flag is ResponseFlag.NONE


async def test_who_hangs_up_before_he_has_said_anything_is_no_fault(tmp_path: Path, root: Root) -> None:
    gateway = Gateways(tmp_path, root.issue(DB), root)
    async with echo() as app, running_proxy(view(app, Mode.STRICT), transport=gateway) as running:
        running.connect().close()
        (flow,) = await running.records.wait_closed()
        with await shake(running, client(tmp_path, root.issue(WEB), root)) as peer:
            assert await ask(peer) == b"QUESTION"
    assert flow.denied == "plaintext"
