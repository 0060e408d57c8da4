"""Requests that are under way when they lose permission: ended at once, each by itself, and the others go on."""

from __future__ import annotations

import socket

import pytest
import trio

from interceptor.model.connection import ResponseFlag
from interceptor.policy.policies import Policies
from interceptor.protocol.http2.codes import DATA, INTERNAL_ERROR, PREFACE, RST_STREAM
from tests.flow.test_policy import answered, app_answers, asked, assert_reset, policies, receive
from tests.support.flows import FixedView, Running, listening, running_proxy
from tests.support.http2 import GET, GRPC, OK, Wire, settings as frame_settings
from tests.support.policies import policy_text

WITHDRAWN = "permission was withdrawn by configuration: rbac_access_denied_matched_policy"


def open_at(*paths: str) -> Policies:
    """Only these paths may be asked for."""
    listed = ", ".join(paths)
    return policies(
        policy_text(f"{{rules: [{{to: [{{operation: {{paths: [{listed}]}}}}]}}]}}", "{name: open}")
    )


async def begun(
    running: Running, server: socket.socket, request: bytes
) -> tuple[socket.socket, socket.socket]:
    """A request that the app has: peer and app."""
    peer = running.connect()
    peer.sendall(request)
    app, _ = await trio.to_thread.run_sync(server.accept)
    assert await receive(app)
    return peer, app


@pytest.mark.parametrize("before", [None, ("/a", "/b")])
async def test_a_download_is_broken_off_and_others_go_on(before: tuple[str, ...] | None) -> None:
    """Also where there were no policies at all when it began."""
    server, address = listening()
    view = FixedView((address,), policies=None if before is None else open_at(*before))
    async with running_proxy(view) as running:
        with server:
            (lost, lost_app), (kept, kept_app) = [
                await begun(running, server, asked(path)) for path in ("/a", "/b")
            ]
            for peer, app in ((lost, lost_app), (kept, kept_app)):
                app.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
                got = b""
                while not got.endswith(b"half"):
                    got += await receive(peer)
            view.policies = open_at("/b")
            assert running.proxy.reconsider() == 1
            await assert_reset(lost)
            kept_app.sendall(b"and it")
            assert await receive(kept) == b"and it"
            assert running.proxy.reconsider() == 0
            for sock in (lost, lost_app, kept, kept_app):
                sock.close()
        await running.records.wait_closed(2)
    ended, complete = running.records.requests
    assert (ended.flag, ended.details, ended.bytes_sent) == (ResponseFlag.DENY, f"{WITHDRAWN}[none]", 4)
    assert ended.policy == "AuthorizationPolicy none"
    assert (complete.flag, complete.bytes_sent) == (ResponseFlag.NONE, 10)


async def test_one_that_was_not_answered_yet_is_refused_and_its_connection_goes_on() -> None:
    server, address = listening()
    view = FixedView((address,), policies=open_at("/a", "/b"))
    async with running_proxy(view) as running:
        with server:
            peer, app = await begun(running, server, asked("/a"))
            view.policies = open_at("/b")
            assert running.proxy.reconsider() == 1
            line, _, body = await answered(peer)
            assert (line, body) == (b"HTTP/1.1 403 Forbidden", b"RBAC: access denied")
            app.close()
            peer.sendall(asked("/b"))
            app, _ = await app_answers(server)
            assert (await answered(peer))[2] == b"ok"
            app.close()
            peer.close()
        await running.records.wait_closed()
    refused, allowed = running.records.requests
    assert (refused.status, refused.flag, refused.details) == (403, ResponseFlag.DENY, f"{WITHDRAWN}[none]")
    assert (allowed.status, allowed.policy) == (200, "AuthorizationPolicy default/open")


async def test_an_upload_is_refused_in_its_middle() -> None:
    server, address = listening()
    view = FixedView((address,), policies=open_at("/a"))
    async with running_proxy(view) as running:
        with server:
            peer, app = await begun(
                running, server, asked("/a", "POST", "Content-Length: 100\r\n") + b"first"
            )
            view.policies = open_at("/b")
            assert running.proxy.reconsider() == 1
            assert (await answered(peer))[0] == b"HTTP/1.1 403 Forbidden"
            app.close()
            peer.close()
        await running.records.wait_closed()


WEBSOCKET = "Connection: upgrade\r\nUpgrade: websocket\r\n"


async def test_a_websocket_stays_as_long_as_its_request_may_be_asked_and_no_longer() -> None:
    server, address = listening()
    view = FixedView((address,), policies=open_at("/ws"))
    async with running_proxy(view) as running:
        with server:
            peer, app = await begun(running, server, asked("/ws", more=WEBSOCKET))
            app.sendall(b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
            assert (await receive(peer)).startswith(b"HTTP/1.1 101 ")
            view.policies = open_at("/ws", "/other")
            assert running.proxy.reconsider() == 0
            peer.sendall(b"still")
            assert await receive(app) == b"still"
            view.policies = open_at("/other")
            assert running.proxy.reconsider() == 1
            await assert_reset(peer)
            await assert_reset(app)
            peer.close()
            app.close()
        [flow] = await running.records.wait_closed()
    [record] = running.records.requests
    assert (record.status, record.flag, record.details) == (101, ResponseFlag.DENY, f"{WITHDRAWN}[none]")
    assert (record.policy, record.bytes_received) == ("AuthorizationPolicy none", 5)
    assert (flow.denied, running.records.faults) == ("policy", 0)


async def test_a_websocket_ends_with_everything_else_where_nothing_may_be_asked() -> None:
    server, address = listening()
    view = FixedView((address,))
    async with running_proxy(view) as running:
        with server:
            peer, app = await begun(running, server, asked("/ws", more=WEBSOCKET))
            app.sendall(b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
            assert (await receive(peer)).startswith(b"HTTP/1.1 101 ")
            view.policies = policies(policy_text("{action: DENY, rules: [{}]}", "{name: all}"))
            assert running.proxy.reconsider() == 1
            await assert_reset(peer)
            peer.close()
            app.close()
        await running.records.wait_closed()
    [record] = running.records.requests
    assert (record.flag, running.records.faults) == (ResponseFlag.DENY, 0)


async def test_of_the_streams_of_a_connection_those_end_that_lost_permission() -> None:
    server, address = listening()
    view = FixedView((address,), policies=open_at("/", "/pkg.Svc/Do"))
    async with running_proxy(view) as running:
        with server, running.connect() as sock:
            client = Wire(sock)
            await client.say(PREFACE, frame_settings())
            await client.ask(1, GET)
            app = Wire((await trio.to_thread.run_sync(server.accept))[0])
            await app.say(frame_settings())
            await app.fields(1)
            await client.ask(3, [*GRPC[:3], (b":path", b"/pkg.Svc/Do"), GRPC[4]])
            await app.fields(3)
            view.policies = open_at("/")
            assert running.proxy.reconsider() == 1
            assert (await client.fields(3))[b"grpc-status"] == b"7"
            await app.answer(1)
            assert await client.body(1) == b"hello"
            await client.ask(5, GET)
            await app.fields(5)
            await app.say(app.peer.headers(5, OK), app.peer.data(5, b"half"))
            assert (await client.hear(DATA, 5)).payload == b"half"
            view.policies = open_at("/pkg.Svc/Do")
            assert running.proxy.reconsider() == 1
            assert (await client.hear(RST_STREAM, 5)).code == INTERNAL_ERROR
            app.sock.close()
        await running.records.wait_closed()
    first, second, third = running.records.requests
    assert (third.status, third.flag, third.details) == (200, ResponseFlag.DENY, f"{WITHDRAWN}[none]")
    assert (first.policy, first.flag, first.details) == (
        "AuthorizationPolicy none",
        ResponseFlag.DENY,
        f"{WITHDRAWN}[none]",
    )
    assert (second.policy, second.flag) == ("AuthorizationPolicy default/open", ResponseFlag.NONE)
