"""The path of a connection, from accept to record, on loopback with an original destination made up."""

from __future__ import annotations

import logging
import socket
from typing import NoReturn

import pytest
import trio

from interceptor.model.address import OriginalDestination, PeerAddress, SocketAddress
from interceptor.model.connection import Flow, ResponseFlag
from interceptor.proxy import services
from tests.support.flows import FixedView, Records, listening, reset, running_proxy, settings, wait_until


async def in_thread(sock: socket.socket, size: int = 1000) -> bytes:
    """Receive, without holding up the proxy that runs beside."""
    return await trio.to_thread.run_sync(sock.recv, size)


async def accept(server: socket.socket) -> socket.socket:
    accepted, _ = await trio.to_thread.run_sync(server.accept)
    return accepted


async def assert_reset(sock: socket.socket) -> None:
    with pytest.raises(ConnectionResetError):
        await in_thread(sock)


async def test_a_relayed_flow_is_recorded_once_with_all_that_was_decided() -> None:
    server, address = listening()
    async with running_proxy(FixedView((address,))) as running:
        with server, running.connect() as peer, await accept(server) as app:
            peer.sendall(b"hello")
            assert await in_thread(app) == b"hello"
            (live,) = running.proxy.connections()
            assert (live.bytes_received, live.closed, running.proxy.active) == (5, None, 1)
            upstream_local = app.getpeername()
            app.sendall(b"hi")
            app.shutdown(socket.SHUT_WR)
            assert await in_thread(peer) == b"hi"
            assert await in_thread(peer) == b""
            peer.shutdown(socket.SHUT_WR)
            (flow,) = await running.records.wait_closed()
        assert flow is live
        assert flow.original_dst == ("192.0.2.1", 80, 0)
        assert flow.upstream == address
        assert flow.upstream_local is not None
        assert flow.upstream_local[:2] == upstream_local
        assert (flow.upstream_cluster, flow.policy, flow.relay) == ("PassthroughCluster", "test", "copy")
        assert (flow.bytes_received, flow.bytes_sent) == (5, 2)
        assert (flow.flag, flow.denied, flow.details) == (ResponseFlag.NONE, None, "-")
        assert flow.started_at == 1000.0
        assert flow.closed is not None
        assert flow.connect_seconds is not None
        assert 0 <= flow.connect_seconds < flow.closed - flow.opened
        assert running.proxy.active == 0


async def test_a_refusing_upstream_resets_the_peer() -> None:
    server, address = listening()
    server.close()
    async with running_proxy(FixedView((address,))) as running:
        with running.connect() as peer:
            await assert_reset(peer)
        (flow,) = await running.records.wait_closed()
        assert flow.flag is ResponseFlag.UPSTREAM_FAILURE
        assert flow.upstream == address
        assert f"{address} refused" in flow.details


async def test_the_next_upstream_is_tried_after_a_refusal() -> None:
    closed, nobody = listening()
    closed.close()
    server, address = listening()
    async with running_proxy(FixedView((nobody, address))) as running:
        with server, running.connect() as peer, await accept(server) as app:
            peer.sendall(b"x")
            assert await in_thread(app) == b"x"
        (flow,) = await running.records.wait_closed()
        assert flow.upstream == address


async def test_the_next_upstream_is_not_tried_after_another_failure() -> None:
    server, address = listening()
    nowhere = SocketAddress(
        "255.255.255.255", 80
    )  # a broadcast address: ENETUNREACH or EACCES, never a refusal
    async with running_proxy(FixedView((nowhere, address))) as running:
        with server, running.connect() as peer:
            await assert_reset(peer)
        (flow,) = await running.records.wait_closed()
        assert flow.flag is ResponseFlag.UPSTREAM_FAILURE
        assert flow.upstream == nowhere


async def test_an_upstream_whose_queue_is_full_times_out() -> None:
    server, address = listening(backlog=0)
    with server, socket.create_connection(address[:2]), socket.socket() as second:
        second.setblocking(False)
        second.connect_ex(address[:2])  # the kernel's queue of one is full: it drops what comes now
        async with running_proxy(FixedView((address,)), settings(connect=0.2)) as running:
            with running.connect() as peer:
                await assert_reset(peer)
            (flow,) = await running.records.wait_closed()
    assert flow.flag is ResponseFlag.UPSTREAM_FAILURE
    assert "spec.timeouts.connect" in flow.details


@pytest.mark.parametrize(("reason", "flag"), [("policy", ResponseFlag.DENY), ("loop", ResponseFlag.NO_ROUTE)])
async def test_a_denied_flow_is_closed_without_a_byte(reason: str, flag: ResponseFlag) -> None:
    async with running_proxy(FixedView(denied=reason)) as running:
        with running.connect() as peer:
            await assert_reset(peer)
        (flow,) = await running.records.wait_closed()
        assert (flow.flag, flow.denied, flow.details) == (flag, reason, "not allowed here")
        assert (flow.upstream, flow.bytes_sent) == (None, 0)


@pytest.mark.parametrize("known", [True, False])
async def test_a_connection_that_was_not_redirected_is_refused(known: bool) -> None:
    def original(sock: socket.socket, _peer: PeerAddress) -> OriginalDestination | None:
        return OriginalDestination(SocketAddress("127.0.0.1", sock.getsockname()[1])) if known else None

    async with running_proxy(FixedView(), original=original) as running:
        with running.connect() as peer:
            await assert_reset(peer)
        (flow,) = await running.records.wait_closed()
        assert (flow.flag, flow.denied) == (ResponseFlag.NO_ROUTE, "loop")
        assert "straight to the proxy's own listener" in flow.details


async def test_beyond_the_limit_a_connection_is_refused_and_recorded() -> None:
    server, address = listening()
    async with running_proxy(FixedView((address,)), settings(connections=2)) as running:
        with server, running.connect() as first, running.connect() as second:
            await wait_until(lambda: running.proxy.active == 2)
            with running.connect() as third:
                await assert_reset(third)
            (refused,) = await running.records.wait_closed()
            assert (refused.flag, refused.denied) == (ResponseFlag.OVERFLOW, "limit")
            reset(first)
            await running.records.wait_closed(2)
            with running.connect() as fourth:
                await wait_until(lambda: running.proxy.active == 2)
                fourth.sendall(b"x")
            second.close()


async def test_the_limit_holds_within_one_batch_of_accepts() -> None:
    server, address = listening()
    async with running_proxy(FixedView((address,)), settings(connections=3)) as running:
        peers = [running.connect() for _ in range(10)]  # all queued before the proxy runs again
        flows = await running.records.wait_closed(7)
        assert [flow.denied for flow in flows] == ["limit"] * 7
        assert running.proxy.active == 3
        for peer in peers:
            peer.close()
        server.close()


async def test_an_upstream_that_resets_mid_stream_resets_the_peer() -> None:
    server, address = listening()
    async with running_proxy(FixedView((address,))) as running:
        with server, running.connect() as peer:
            app = await accept(server)
            app.sendall(b"half an ans")
            assert await in_thread(peer) == b"half an ans"
            reset(app)
            await assert_reset(peer)
        (flow,) = await running.records.wait_closed()
        assert (flow.flag, flow.bytes_sent) == (ResponseFlag.UPSTREAM_RESET, 11)


async def test_a_peer_that_resets_at_once_is_recorded() -> None:
    server, address = listening()
    async with running_proxy(FixedView((address,))) as running:
        with server:
            reset(running.connect())
            (flow,) = await running.records.wait_closed()
        assert flow.flag is ResponseFlag.DOWNSTREAM_RESET


class BrokenOnce(Records):
    """A recorder with a fault that shows once."""

    def opened(self, flow: Flow) -> None:
        super().opened(flow)
        if flow.id == 1:
            raise ZeroDivisionError


async def test_a_fault_in_one_flow_is_logged_counted_and_touches_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server, address = listening()
    async with running_proxy(FixedView((address,)), records=BrokenOnce()) as running:
        with server, running.connect() as unlucky:
            await assert_reset(unlucky)
            (flow,) = await running.records.wait_closed()
            assert flow.flag is ResponseFlag.LOCAL_RESET
            with running.connect() as peer, await accept(server) as app:
                peer.sendall(b"x")
                assert await in_thread(app) == b"x"
        assert running.records.faults == 1
    (record,) = (record for record in caplog.records if record.name == services.__name__)
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("flow 1 from 127.0.0.1:")


async def test_a_fault_while_refusing_does_not_end_the_listener() -> None:
    class Broken(Records):
        def closed(self, flow: Flow) -> NoReturn:
            raise ZeroDivisionError

    server, address = listening()
    async with running_proxy(FixedView((address,)), settings(connections=1), records=Broken()) as running:
        with server, running.connect() as first:
            await wait_until(lambda: running.proxy.active == 1)
            for count in (1, 2):
                with running.connect() as refused:
                    await assert_reset(refused)
                await wait_until(lambda count=count: running.records.faults == count)  # type: ignore[misc]  # bound now
            first.close()


async def test_stopping_accepts_what_is_queued_and_drains_what_runs() -> None:
    server, address = listening()
    async with running_proxy(FixedView((address,))) as running:
        with server, running.connect() as queued:
            running.proxy.stop_accepting()  # before the accept loop ran: the connection is only queued
            with await accept(server) as app:
                queued.sendall(b"x")
                assert await in_thread(app) == b"x"
                with pytest.raises(ConnectionRefusedError):
                    running.connect()
                assert running.records.closed_flows == []
            queued.close()
            with trio.fail_after(10):
                await running.proxy.wait_drained()
        (flow,) = running.records.closed_flows
        assert flow.flag is ResponseFlag.NONE


async def test_aborting_resets_what_still_runs_and_records_the_reason() -> None:
    server, address = listening()
    async with running_proxy(FixedView((address,))) as running:
        with server, running.connect() as peer, await accept(server) as app:
            peer.sendall(b"x")
            assert await in_thread(app) == b"x"
            running.proxy.stop_accepting()
            running.proxy.abort_all("the drain deadline passed")
            with trio.fail_after(10):
                await running.proxy.wait_drained()
            await assert_reset(peer)
            await assert_reset(app)
        (flow,) = running.records.closed_flows
        assert (flow.flag, flow.details) == (ResponseFlag.LOCAL_RESET, "the drain deadline passed")
        assert flow.bytes_received == 1


async def test_aborting_during_a_dial_records_the_flow() -> None:
    server, address = listening(backlog=0)
    with server, socket.create_connection(address[:2]), socket.socket() as second:
        second.setblocking(False)
        second.connect_ex(address[:2])
        async with running_proxy(FixedView((address,))) as running:
            with running.connect() as peer:
                await wait_until(lambda: running.proxy.active == 1)
                running.proxy.abort_all("enough")
                await assert_reset(peer)
            (flow,) = await running.records.wait_closed()
        assert (flow.flag, flow.details) == (ResponseFlag.LOCAL_RESET, "enough")


async def test_cancelling_the_proxy_records_every_flow_and_closes_every_socket() -> None:
    server, address = listening()
    stuck, full = listening(backlog=0)
    with server, stuck, socket.create_connection(full[:2]), socket.socket() as second:
        second.setblocking(False)
        second.connect_ex(full[:2])
        view = FixedView((address,))
        async with running_proxy(view) as running:
            relayed = running.connect()
            await wait_until(lambda: running.proxy.active == 1)
            view.upstreams = (full,)
            dialling = running.connect()
            await wait_until(lambda: running.proxy.active == 2)
            queued = running.connect()
        assert [flow.flag for flow in running.records.closed_flows] == [ResponseFlag.LOCAL_RESET] * 3
        assert {flow.details for flow in running.records.closed_flows} == {"the proxy was stopped"}
        for peer in (relayed, dialling, queued):
            with peer, pytest.raises(ConnectionResetError):
                peer.recv(1)
        await running.proxy.wait_drained()
