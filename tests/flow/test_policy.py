"""Policies over real connections: refused at once, closed when permission goes, no gap between."""

from __future__ import annotations

import socket

import pytest
import trio

from interceptor.model.address import OriginalDestination, PeerAddress, SocketAddress
from interceptor.model.connection import ResponseFlag
from interceptor.policy.policies import Policies, compiled
from tests.support.documents import configuration
from tests.support.flows import FixedView, Running, listening, running_proxy, settings, wait_until
from tests.support.policies import policy_text

ALLOW = policy_text("{rules: [{}]}", "{name: allow}")
DENY = policy_text("{action: DENY, rules: [{from: [{source: {ipBlocks: [127.0.0.0/8]}}]}]}", "{name: deny}")
WORDS = "rbac_access_denied_matched_policy[ns[default]-policy[deny]-rule[0]]"


def policies(*texts: str) -> Policies:
    return compiled(configuration(*texts))


async def receive(sock: socket.socket) -> bytes:
    return await trio.to_thread.run_sync(sock.recv, 1000)


async def assert_reset(sock: socket.socket) -> None:
    with pytest.raises(ConnectionResetError):
        await receive(sock)


async def relayed(running: Running, server: socket.socket) -> tuple[socket.socket, socket.socket]:
    """A flow that is open, with a byte moved: peer and app."""
    peer = running.connect()
    app, _ = await trio.to_thread.run_sync(server.accept)
    peer.sendall(b"x")
    assert await receive(app) == b"x"
    return peer, app


async def test_a_refused_peer_gets_no_byte_and_the_policy_is_named() -> None:
    server, address = listening()
    with server:
        async with running_proxy(FixedView((address,), policies=policies(DENY))) as running:
            with running.connect() as peer:
                await assert_reset(peer)
            (flow,) = await running.records.wait_closed()
    assert (flow.flag, flow.denied, flow.details) == (ResponseFlag.DENY, "policy", WORDS)
    assert (flow.policy, flow.upstream, flow.bytes_sent) == ("AuthorizationPolicy default/deny", None, 0)


async def test_a_policy_that_lets_a_flow_through_is_named_in_its_record() -> None:
    server, address = listening()
    async with running_proxy(FixedView((address,), policies=policies(ALLOW))) as running:
        with server:
            peer, app = await relayed(running, server)
            peer.close()
            app.close()
        (flow,) = await running.records.wait_closed()
    assert (flow.policy, flow.denied) == ("AuthorizationPolicy default/allow", None)


async def test_an_open_flow_is_reset_when_it_loses_permission_and_others_stay() -> None:
    server, address = listening()
    view = FixedView((address,))
    async with running_proxy(view) as running:
        with server:
            peer, app = await relayed(running, server)
            view.policies = policies(ALLOW)
            assert running.proxy.reconsider() == 0
            peer.sendall(b"still")
            assert await receive(app) == b"still"
            view.policies = policies(DENY)
            assert running.proxy.reconsider() == 1
            await assert_reset(peer)
            await assert_reset(app)
            peer.close()
            app.close()
        (flow,) = await running.records.wait_closed()
        assert (flow.flag, flow.denied) == (ResponseFlag.DENY, "policy")
        assert flow.details == f"permission was withdrawn by configuration: {WORDS}"
        assert (flow.bytes_received, flow.policy) == (6, "AuthorizationPolicy default/deny")
        assert running.proxy.reconsider() == 0


async def test_only_flows_that_lost_permission_are_reset() -> None:
    server, address = listening()
    by_port: dict[int, int] = {}

    def original(_sock: socket.socket, peer: PeerAddress) -> OriginalDestination:
        return OriginalDestination(
            SocketAddress("192.0.2.1", by_port.setdefault(peer.port, 80 + len(by_port)))
        )

    view = FixedView((address,))
    async with running_proxy(view, original=original) as running:
        with server:
            first_peer, first_app = await relayed(running, server)
            second_peer, second_app = await relayed(running, server)
            view.policies = policies(
                policy_text("{action: DENY, rules: [{to: [{operation: {ports: ['80']}}]}]}", "{name: deny}")
            )
            assert running.proxy.reconsider() == 1
            await assert_reset(first_peer)
            second_peer.sendall(b"y")
            assert await receive(second_app) == b"y"
            for sock in (first_peer, first_app, second_peer, second_app):
                sock.close()
        await running.records.wait_closed(2)


async def test_a_flow_that_loses_permission_while_it_is_dialled_never_reaches_the_app() -> None:
    server, address = listening(backlog=0)
    view = FixedView((address,))
    with server, socket.create_connection(address[:2]), socket.socket() as second:
        second.setblocking(False)
        second.connect_ex(address[:2])  # the kernel's queue of one is full: a dial has to wait
        async with running_proxy(view, settings(connect=10)) as running:
            with running.connect() as peer:
                await wait_until(lambda: running.proxy.active == 1 and bool(running.records.opened_flows))
                view.policies = policies(DENY)
                assert running.proxy.reconsider() == 1
                server.accept()[0].close()  # room: the dial goes through
                server.accept()[0].close()
                await assert_reset(peer)
            (flow,) = await running.records.wait_closed()
    assert (flow.flag, flow.denied, flow.bytes_received) == (ResponseFlag.DENY, "policy", 0)


async def test_no_flow_slips_between_a_change_and_its_decision() -> None:
    """Connections come while policies are swapped: whatever is open after a swap to DENY is gone."""
    server, address = listening(backlog=1000)  # nobody accepts what is dialled
    view = FixedView((address,))
    async with running_proxy(view, settings(connections=1000)) as running:
        with server:
            swaps = 20
            for _ in range(swaps):
                view.policies = None
                peers = [running.connect() for _ in range(10)]
                await trio.lowlevel.checkpoint()  # some of them are accepted, some decided, some dialled
                view.policies = policies(DENY)
                running.proxy.reconsider()
                for peer in peers:
                    await assert_reset(peer)
                    peer.close()
            flows = await running.records.wait_closed(10 * swaps)
    assert {flow.denied for flow in flows} == {"policy"}
    assert len(flows) == 10 * swaps
