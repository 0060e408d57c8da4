"""HTTP/2 through the proxy, over real connections: a client by hand, an app by hand."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from interceptor.config.base import Metadata
from interceptor.config.sidecar import Sidecar, SidecarSpec, Timeouts
from interceptor.model.connection import ResponseFlag
from interceptor.model.forwarding import Presented
from interceptor.model.http import LocalReply, ResponseHead
from interceptor.model.request import RequestRecord
from interceptor.protocol.http2 import codes
from interceptor.protocol.http2.codes import (
    CANCEL,
    DATA,
    GOAWAY,
    HEADERS,
    INTERNAL_ERROR,
    LARGEST,
    NO_ERROR,
    PING,
    PREFACE,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    RST_STREAM,
    WINDOW_UPDATE,
)
from interceptor.proxy import listener as listener_module
from interceptor.proxy.http.roles import Served
from interceptor.telemetry.request_lines import json_line
from tests.support.flows import FixedView, listening, reset, running_proxy, settings, wait_until
from tests.support.http2 import (
    GET,
    GRPC,
    OK,
    POST,
    Wire,
    frame,
    goaway,
    rst_stream,
    settings as frame_settings,
    window_update,
)
from tests.support.http2_world import World


@asynccontextmanager
async def world(given: Sidecar | None = None, *pairs: tuple[int, int]) -> AsyncIterator[World]:
    server, address = listening()
    async with running_proxy(FixedView((address,)), given) as running:
        with server:
            client = Wire(running.connect())
            with client.sock:
                await client.say(PREFACE, frame_settings(*pairs))
                made = World(running, server, client)
                with made.opened:
                    yield made


def with_timeouts(**timeouts: float) -> Sidecar:
    values = {"connect": 10.0, "idle": 60.0, "linger": 60.0} | timeouts
    made = Timeouts.model_construct(None, **values)
    return Sidecar(metadata=Metadata(name="test"), spec=SidecarSpec(timeouts=made))


async def test_a_request_is_served_and_recorded() -> None:
    async with world() as made:
        await made.client.say(
            made.client.peer.headers(1, POST), made.client.peer.data(1, b"question", end=True)
        )
        app = await made.accept()
        asked = await app.fields(1)
        assert {key: asked[key] for key in (b":method", b":path", b":authority", b"x-forwarded-proto")} == {
            b":method": b"POST",
            b":path": b"/",
            b":authority": b"app",
            b"x-forwarded-proto": b"http",
        }
        assert asked[b"x-request-id"]
        assert await app.body(1) == b"question"
        await app.answer(1)
        assert (await made.client.fields(1))[b":status"] == b"200"
        assert await made.client.body(1) == b"hello"
        (record,) = await made.recorded()
        assert (record.head.version, record.status, record.details) == (b"2", 200, "via_upstream")
        assert (record.bytes_received, record.bytes_sent, record.flag) == (8, 5, ResponseFlag.NONE)
        assert record.upstream is not None
        assert record.service_seconds is not None
        made.client.sock.close()
        assert await app.end() == "fin"
        (flow,) = await made.running.records.wait_closed()
        assert (flow.http, flow.relay, flow.flag) == (True, "http", ResponseFlag.NONE)
        assert flow.bytes_received > len(PREFACE)
        assert flow.bytes_sent > 0
        assert made.running.records.detections == ["http2"]


async def test_what_a_client_says_of_its_identity_does_not_pass() -> None:
    async with world() as made:
        await made.client.ask(1, [*GET, (b"x-forwarded-client-cert", b"By=me"), (b"x-request-id", b"kept")])
        app = await made.accept()
        asked = await app.fields(1)
        assert b"x-forwarded-client-cert" not in asked
        assert asked[b"x-request-id"] == b"kept"
        await made.client.ask(3, [*GET, (b"x-request-id", b"kept")])
        assert (await app.fields(3))[b"x-request-id"] == b"kept"


@pytest.mark.parametrize("looked_at", [False, True])
async def test_requests_that_say_the_same_get_ids_of_their_own(looked_at: bool) -> None:
    async with world() as made:
        made.running.proxy._services.http.looks = lambda _flow: looked_at
        ids = set()
        app = None
        for number in (1, 3, 5):
            await made.client.ask(number, [*GET, (b"x-forwarded-client-cert", b"By=me")])
            app = app or await made.accept()
            asked = await app.fields(number)
            assert b"x-forwarded-client-cert" not in asked
            assert asked[b"x-forwarded-proto"] == b"http"
            ids.add(asked[b"x-request-id"])
            await app.answer(number)
        assert len(ids) == 3
        logged = {json.loads(json_line(record))["request_id"].encode() for record in await made.recorded(3)}
        assert logged == ids


@pytest.mark.parametrize("looked_at", [False, True])
async def test_the_app_is_told_what_a_peer_of_the_mesh_presented(looked_at: bool) -> None:
    async with world() as made:
        await wait_until(lambda: len(made.running.records.opened_flows) == 1)
        made.running.records.opened_flows[0].peer_presented = Presented(earlier=True, element=b"By=db")
        made.running.proxy._services.http.looks = lambda _flow: looked_at
        said = [(b"x-forwarded-client-cert", b"By=web")]
        app = None
        for number, fields in ((1, GET), (3, [*GET, *said]), (5, GET)):
            await made.client.ask(number, fields)
            app = app or await made.accept()
            got = (await app.fields(number))[b"x-forwarded-client-cert"]
            assert got == (b"By=web,By=db" if number == 3 else b"By=db")


async def test_many_streams_at_once() -> None:
    async with world() as made:
        numbers = range(1, 101, 2)
        for number in numbers:
            await made.client.ask(number)
        app = await made.accept()
        for number in reversed(numbers):
            await app.fields(number)
            await app.answer(number, b"%d" % number)
        for number in numbers:
            await made.client.fields(number)
            assert await made.client.body(number) == b"%d" % number
        assert len(await made.recorded(50)) == 50


async def test_a_grpc_status_is_recorded() -> None:
    async with world() as made:
        await made.client.ask(1, GRPC)
        app = await made.accept()
        await app.say(app.peer.headers(1, OK), app.peer.headers(1, [(b"grpc-status", b"5")], end=True))
        assert (await made.client.fields(1))[b":status"] == b"200"
        assert await made.client.fields(1) == {b"grpc-status": b"5"}
        (record,) = await made.recorded()
        assert record.grpc_status == "5"


async def test_bulk_goes_both_ways_and_is_what_was_sent() -> None:
    body = bytes(range(256)) * 40_000  # 10 MB
    async with world(None, (codes.INITIAL_WINDOW_SIZE, LARGEST)) as made:
        client = made.client
        await client.say(window_update(0, LARGEST - 65_535), client.peer.headers(1, POST))
        app = await made.accept()
        await app.say(
            frame_settings((codes.INITIAL_WINDOW_SIZE, LARGEST)), window_update(0, LARGEST - 65_535)
        )
        await app.say(app.peer.headers(1, OK))
        got: dict[str, bytes] = {}

        async def send(wire: Wire) -> None:
            sent, allowed = 0, 256 * 1024
            while sent < len(body):
                while allowed < 16_384:
                    update = await wire.hear(WINDOW_UPDATE, 1)
                    allowed += int.from_bytes(update.payload, "big")
                piece = body[sent : sent + 16_384]
                sent += len(piece)
                allowed -= len(piece)
                await wire.say(wire.peer.data(1, piece, end=sent == len(body)))

        async def receive(name: str, wire: Wire) -> None:
            got[name] = await wire.body(1)

        with trio.fail_after(60):
            await app.fields(1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send, client)
                nursery.start_soon(receive, "app", app)
            await client.fields(1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send, app)
                nursery.start_soon(receive, "client", client)
        assert got == {"app": body, "client": body}


async def test_a_client_that_does_not_read_stops_the_app() -> None:
    """Its windows are open: only its socket is not read."""
    async with world(None, (codes.INITIAL_WINDOW_SIZE, LARGEST)) as made:
        await made.client.say(window_update(0, LARGEST - 65_535))
        for number in range(1, 41, 2):
            await made.client.ask(number)
        app = await made.accept()
        await app.say(b"".join(app.peer.headers(number, OK) for number in range(1, 41, 2)))
        app.window += 65_535
        sent = 0
        with trio.move_on_after(20) as scope:
            while True:
                number = 1 + 2 * (sent // 16_384 % 20)
                while app.window - sent < 16_384:
                    with trio.move_on_after(0.5) as quiet:
                        await app.more()
                    if quiet.cancelled_caught:
                        scope.cancel()
                        await trio.lowlevel.checkpoint()
                await app.say(app.peer.data(number, b"x" * 16_384))
                sent += 16_384
        assert sent < 16 << 20  # our 1 MiB window and 256 KiB, and what the kernel's buffers hold
        made.client.sock.close()


async def test_resets_pass_both_ways() -> None:
    async with world() as made:
        await made.client.ask(1)
        await made.client.ask(3)
        app = await made.accept()
        await app.fields(3)
        await made.client.say(rst_stream(1, CANCEL))
        assert (await app.hear(RST_STREAM, 1)).code == CANCEL
        await app.say(rst_stream(3, 0x77))
        assert (await made.client.hear(RST_STREAM, 3)).code == 0x77
        first, second = await made.recorded(2)
        assert (first.flag, first.status) == (ResponseFlag.DOWNSTREAM_RESET, 0)
        assert (second.flag, second.status) == (ResponseFlag.UPSTREAM_RESET, 0)


async def test_goaway_of_the_app_passes_and_ends_the_connection() -> None:
    async with world() as made:
        await made.client.ask(1)
        await made.client.ask(3)
        app = await made.accept()
        await app.fields(3)
        await app.say(goaway(1, NO_ERROR))
        assert (await made.client.hear(RST_STREAM, 3)).code == REFUSED_STREAM
        assert (await made.client.hear(GOAWAY)).code == NO_ERROR
        await app.answer(1)
        assert await made.client.body(1) == b"hello"
        assert await made.client.end() == "fin"
        made.client.sock.close()
        await made.running.records.wait_closed()


@pytest.mark.parametrize("kind", [GET, GRPC])
async def test_an_app_that_cannot_be_reached(kind: tuple[tuple[bytes, bytes], ...]) -> None:
    server, address = listening()
    server.close()
    async with running_proxy(FixedView((address,))) as running:
        with running.connect() as sock:
            client = Wire(sock)
            await client.say(PREFACE, frame_settings())
            await client.ask(1, kind)
            answer = await client.fields(1)
            if kind == GRPC:
                assert (answer[b":status"], answer[b"grpc-status"]) == (b"200", b"14")
            else:
                assert answer[b":status"] == b"503"
                assert (await client.body(1)).startswith(b"interceptor: ")
            assert (await client.hear(GOAWAY)).code == NO_ERROR
            assert await client.end() == "fin"
        (record,) = running.records.requests
        assert record.flag is ResponseFlag.UPSTREAM_FAILURE


async def test_an_app_that_dies_before_and_in_the_middle_of_its_answers() -> None:
    async with world() as made:
        await made.client.ask(1)
        await made.client.ask(3)
        app = await made.accept()
        await app.fields(3)
        await app.say(app.peer.headers(1, OK), app.peer.data(1, b"half"))
        await made.client.hear(DATA, 1)
        app.sock.close()
        assert (await made.client.hear(RST_STREAM, 1)).code == INTERNAL_ERROR
        await made.client.fields(1)
        assert (await made.client.fields(3))[b":status"] == b"503"
        assert (await made.client.hear(GOAWAY)).code == NO_ERROR
        assert await made.client.end() == "fin"
        records = {record.status: record.flag for record in await made.recorded(2)}
        assert records == {200: ResponseFlag.UPSTREAM_CLOSED, 503: ResponseFlag.UPSTREAM_CLOSED}


async def test_an_app_that_resets_its_connection() -> None:
    async with world() as made:
        await made.client.ask(1)
        app = await made.accept()
        await app.fields(1)
        reset(app.sock)
        assert (await made.client.fields(1))[b":status"] == b"503"


async def test_an_app_that_speaks_http1() -> None:
    async with world() as made:
        await made.client.ask(1)
        made.server.setblocking(False)
        await trio.lowlevel.wait_readable(made.server)
        with made.server.accept()[0] as app:
            app.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            assert (await made.client.fields(1))[b":status"] == b"503"
        (record,) = await made.recorded()
        assert record.flag is ResponseFlag.UPSTREAM_PROTOCOL


@pytest.mark.parametrize("rst", [True, False])
async def test_a_client_that_goes_cancels_what_it_asked(rst: bool) -> None:
    async with world() as made:
        await made.client.ask(1)
        app = await made.accept()
        await app.fields(1)
        if rst:
            reset(made.client.sock)
        else:
            made.client.sock.close()
        assert (await app.hear(RST_STREAM, 1)).code == CANCEL
        await app.hear(GOAWAY)
        assert await app.end() == "fin"
        (record,) = await made.recorded()
        assert (record.flag, record.status) == (ResponseFlag.DOWNSTREAM_RESET, 0)
        (flow,) = await made.running.records.wait_closed()
        assert flow.flag is ResponseFlag.DOWNSTREAM_RESET


async def test_a_client_that_breaks_the_protocol() -> None:
    async with world() as made:
        await made.client.say(frame(HEADERS, 5, 1, b"\xff\xff\xff\xff\xff\xff"))
        assert (await made.client.hear(GOAWAY)).code == codes.COMPRESSION_ERROR
        assert await made.client.end() == "fin"


async def test_a_malformed_request_is_recorded() -> None:
    async with world() as made:
        await made.client.ask(1, [*GET, (b"connection", b"close")])
        assert (await made.client.hear(RST_STREAM, 1)).code == PROTOCOL_ERROR
        (record,) = await made.recorded()
        assert (record.flag, record.status) == (ResponseFlag.DOWNSTREAM_PROTOCOL, 0)


async def test_draining_serves_what_is_under_way() -> None:
    async with world() as made:
        await made.client.ask(1)
        app = await made.accept()
        await app.fields(1)
        made.running.proxy.stop_accepting()
        assert int.from_bytes((await made.client.hear(GOAWAY)).payload[:4], "big") == LARGEST
        ping = await made.client.hear(PING)
        await made.client.say(frame(PING, 1, 0, ping.payload))
        assert int.from_bytes((await made.client.hear(GOAWAY)).payload[:4], "big") == 1
        await app.answer(1)
        assert await made.client.body(1) == b"hello"
        assert await made.client.end() == "fin"
        made.client.sock.close()
        with trio.fail_after(5):
            await made.running.proxy.wait_drained()


async def test_stopping_resets_and_records() -> None:
    async with world() as made:
        await made.client.ask(1)
        app = await made.accept()
        await app.fields(1)
        made.running.proxy.abort_all("stopped by the test")
        assert await made.client.end() == "reset"
        (record,) = await made.recorded()
        assert record.flag is ResponseFlag.LOCAL_RESET


async def test_a_flow_that_lost_its_permission_is_reset() -> None:
    async with world() as made:
        await made.client.ask(1)
        app = await made.accept()
        await app.fields(1)
        (flow,) = made.running.proxy.connections()
        flow.denied, flow.flag, flow.details = "policy", ResponseFlag.DENY, "denied by the test"
        made.running.proxy._services.http.end_denied()
        assert await made.client.end() == "reset"
        (record,) = await made.recorded()
        assert record.flag is ResponseFlag.DENY


async def test_half_a_head_is_not_waited_for() -> None:
    async with world(with_timeouts(requestHead=0.2)) as made:
        await made.client.ask(1)
        app = await made.accept()
        await app.fields(1)
        await made.client.say(frame(HEADERS, 1, 3, b"\x82"))
        assert await made.client.end() == "reset"
        (flow,) = await made.running.records.wait_closed()
        assert flow.flag is ResponseFlag.IDLE_TIMEOUT


async def test_a_client_that_has_finished_still_gets_all_of_its_answer_and_an_orderly_end() -> None:
    body = bytes(range(200)) * 300  # within the windows that both sides begin with
    async with world() as made:
        await made.client.ask(1)
        app = await made.accept()
        await app.fields(1)
        pieces = [body[at : at + 15_000] for at in range(0, len(body), 15_000)]
        frames = [app.peer.data(1, piece, end=piece is pieces[-1]) for piece in pieces]
        await app.say(app.peer.headers(1, OK), *frames)
        await made.recorded()
        made.client.sock.shutdown(socket.SHUT_WR)
        await made.running.records.wait_closed()
        assert await made.client.body(1) == body
        assert await made.client.end() == "fin"


async def test_a_silent_connection_ends() -> None:
    async with world(with_timeouts(idle=0.3, linger=1)) as made:
        assert await made.client.end() == "reset"


async def test_a_request_may_take_only_so_long() -> None:
    async with world(with_timeouts(request=0.3)) as made:
        await made.client.ask(1)
        app = await made.accept()
        await app.fields(1)
        assert (await made.client.fields(1))[b":status"] == b"504"
        assert (await app.hear(RST_STREAM, 1)).code == CANCEL
        (record,) = await made.recorded()
        assert record.flag is ResponseFlag.UPSTREAM_TIMEOUT


# Filters


@dataclass
class Filtering:
    """Filters that do with each request what a test says."""

    act: Callable[[Served], None]
    heads: list[ResponseHead] = field(default_factory=list)

    def start(self, exchange: Served) -> None:
        self.act(exchange)

    def respond(self, exchange: RequestRecord, head: ResponseHead) -> None:
        head.headers.append((b"X-Seen", b"yes"))
        self.heads.append(head)


DENIED = LocalReply(403, ResponseFlag.DENY, "denied", b"RBAC: access denied")


async def test_a_filter_forwards() -> None:
    async with world() as made:
        made.running.proxy._services.http.filters = Filtering(lambda exchange: exchange.forward())
        await made.client.ask(1)
        app = await made.accept()
        await app.fields(1)
        await app.answer(1)
        assert (await made.client.fields(1))[b"x-seen"] == b"yes"


async def test_a_filter_answers() -> None:
    async with world() as made:
        made.running.proxy._services.http.filters = Filtering(lambda exchange: exchange.reply(DENIED))
        await made.client.ask(1)
        answer = await made.client.fields(1)
        assert (answer[b":status"], answer[b"x-seen"]) == (b"403", b"yes")
        assert await made.client.body(1) == b"RBAC: access denied"
        (record,) = await made.recorded()
        assert (record.status, record.flag, record.details) == (403, ResponseFlag.DENY, "denied")


@pytest.mark.parametrize("answer", [True, False])
async def test_a_filter_takes_its_time(answer: bool) -> None:
    def act(exchange: Served) -> None:
        async def later() -> None:
            await trio.sleep(0.05)
            if answer:
                exchange.reply(DENIED)
            else:
                exchange.forward()

        exchange.spawn(later)

    async with world() as made:
        made.running.proxy._services.http.filters = Filtering(act)
        await made.client.say(made.client.peer.headers(1, POST), made.client.peer.data(1, b"body", end=True))
        app = await made.accept()
        if not answer:
            assert await app.body(1) == b"body"
            await app.answer(1)
        assert (await made.client.fields(1))[b":status"] == (b"403" if answer else b"200")


async def test_a_request_that_ends_ends_its_task() -> None:
    cancelled = trio.Event()

    def act(exchange: Served) -> None:
        async def later() -> None:
            try:
                await trio.sleep_forever()
            finally:
                cancelled.set()

        exchange.spawn(later)

    async with world() as made:
        made.running.proxy._services.http.filters = Filtering(act)
        await made.client.ask(1)
        await wait_until(lambda: bool(made.running.proxy._services.http.live))
        await made.client.say(rst_stream(1, CANCEL))
        with trio.fail_after(5):
            await cancelled.wait()


async def test_a_body_limit_of_a_filter() -> None:
    def act(exchange: Served) -> None:
        exchange.body_limit = 3
        assert exchange.body_limit == 3
        exchange.forward()

    async with world() as made:
        made.running.proxy._services.http.filters = Filtering(act)
        await made.client.say(made.client.peer.headers(1, POST), made.client.peer.data(1, b"body", end=True))
        assert (await made.client.fields(1))[b":status"] == b"413"


async def test_a_fault_of_a_task_answers_500(caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    async with world() as made:
        made.running.proxy._services.http.filters = Filtering(lambda exchange: exchange.spawn(broken))
        await made.client.ask(1)
        assert (await made.client.fields(1))[b":status"] == b"500"
        assert made.running.records.faults == 1


async def test_a_fault_of_ours_ends_the_connection_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def act(exchange: Served) -> None:
        raise ZeroDivisionError

    async with world() as made:
        made.running.proxy._services.http.filters = Filtering(act)
        with caplog.at_level(logging.CRITICAL, logger=listener_module.__name__):
            await made.client.ask(1)
            assert await made.client.end() == "reset"
            await made.running.records.wait_closed()
        assert made.running.records.faults == 1


async def test_a_denied_request() -> None:
    async with world() as made:
        made.running.proxy._services.http.looks = lambda _flow: True
        made.running.proxy._services.http.authorize = lambda _flow, _head: DENIED
        await made.client.ask(1, GRPC)
        answer = await made.client.fields(1)
        assert (answer[b"grpc-status"], answer[b"grpc-message"]) == (b"7", b"RBAC: access denied")


async def test_a_declared_port_needs_no_detection() -> None:
    server, address = listening()
    async with running_proxy(FixedView((address,), protocol="grpc"), settings()) as running:
        with server, running.connect() as sock:
            client = Wire(sock)
            await client.say(PREFACE[:5])
            made = World(running, server, client)
            with made.opened:
                app = await made.accept()
                await client.say(PREFACE[5:], frame_settings())
                await client.ask(1)
                await app.fields(1)
                await app.answer(1)
                assert await client.body(1) == b"hello"
        assert not running.records.detections


async def test_an_app_that_greets_before_the_client_speaks() -> None:
    """As gRPC's servers do: that is no protocol where the server speaks first."""
    server, address = listening()
    async with running_proxy(FixedView((address,))) as running:
        with server, running.connect() as sock:
            client = Wire(sock)
            made = World(running, server, client)
            with made.opened:
                app = await made.accept()  # which says its SETTINGS
                await trio.testing.wait_all_tasks_blocked(0.05)
                await client.say(PREFACE, frame_settings())
                await client.ask(1)
                await app.fields(1)
                await app.answer(1)
                assert await client.body(1) == b"hello"
        assert running.records.detections == ["http2"]
