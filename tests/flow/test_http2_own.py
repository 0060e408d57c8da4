"""The user's own middleware and the built-in filters around requests of HTTP/2 and gRPC, over real connections."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from interceptor.model.connection import ResponseFlag
from interceptor.protocol.http2.codes import (
    CANCEL,
    DATA,
    INTERNAL_ERROR,
    NO_ERROR,
    PREFACE,
    RST_STREAM,
    WINDOW_UPDATE,
)
from interceptor.protocol.http2.leg import Limits
from tests.support import own_middleware
from tests.support.exchanges import Observed
from tests.support.flows import FixedView, listening, running_proxy, wait_until
from tests.support.http2 import GET, GRPC, OK, POST, Wire, rst_stream, settings
from tests.support.http2_world import World
from tests.support.stacks import stack

OWN = "tests.support.own_middleware"
TRAILERS = ((b"grpc-status", b"0"), (b"grpc-message", b"fine"))


def own(name: str, **more: str) -> str:
    given = "".join(f", {key}: {value}" for key, value in more.items())
    return f"{{name: own, use: '{OWN}:{name}'{given}}}"


@asynccontextmanager
async def world(items: str, observed: Observed | None = None) -> AsyncIterator[World]:
    middleware = stack(items, observed)
    server, address = listening()
    async with running_proxy(FixedView((address,)), middleware=middleware) as running:
        with server:
            client = Wire(running.connect())
            with client.sock:
                await client.say(PREFACE, settings())
                made = World(running, server, client)
                with made.opened:
                    yield made


async def complete(made: World, number: int = 1) -> None:
    """Nothing failed but what the test is about."""
    await made.recorded(number)
    assert made.running.records.faults == 0


@pytest.mark.parametrize("name", ["passing", "shouting"])
async def test_requests_pass_through_the_users_own(name: str) -> None:
    observed = Observed()
    async with world(own(name), observed) as made:
        shouts = name == "shouting"
        await made.client.say(made.client.peer.headers(1, POST), made.client.peer.data(1, b"ques"))
        app = await made.accept()
        asked = await app.fields(1)
        assert (b"x-seen" in asked) is shouts
        await made.client.say(made.client.peer.data(1, b"tion", end=True))
        assert await app.body(1) == (b"QUESTION" if shouts else b"question")
        await app.answer(1)
        answer = await made.client.fields(1)
        assert (answer[b":status"], b"x-seen" in answer) == (b"200", shouts)
        assert await made.client.body(1) == (b"HELLO" if shouts else b"hello")
        await complete(made)
        (record,) = made.running.records.requests
        assert (record.status, record.details, record.flag) == (200, "via_upstream", ResponseFlag.NONE)
        assert (record.bytes_received, record.bytes_sent) == (8, 5)
        assert record.upstream is not None
        assert observed.failures == []


async def test_a_request_without_a_body_ends_with_its_head_and_so_does_its_answer() -> None:
    async with world(own("passing")) as made:
        await made.client.ask(1)
        app = await made.accept()
        asked = await app.hear(1, 1)  # HEADERS
        assert asked.ends
        await app.say(app.peer.headers(1, OK, end=True))
        assert (await made.client.hear(1, 1)).ends
        await complete(made)


async def test_grpc_streams_both_ways_with_trailers() -> None:
    async with world(own("passing")) as made:
        await made.client.say(made.client.peer.headers(1, GRPC))
        app = await made.accept()
        await app.fields(1)
        await app.say(app.peer.headers(1, OK))
        assert (await made.client.fields(1))[b":status"] == b"200"
        for _ in range(3):  # each message is answered before the next one is sent
            await made.client.say(made.client.peer.data(1, b"ping"))
            assert (await app.hear(DATA, 1)).payload == b"ping"
            await app.say(app.peer.data(1, b"pong"))
            assert (await made.client.hear(DATA, 1)).payload == b"pong"
        await made.client.say(made.client.peer.headers(1, ((b"x-checksum", b"1"),), end=True))
        assert await app.fields(1) == {b"x-checksum": b"1"}
        await app.say(app.peer.headers(1, TRAILERS, end=True))
        assert await made.client.fields(1) == dict(TRAILERS)
        await complete(made)
        assert made.running.records.requests[0].grpc_status == "0"


async def test_a_grpc_answer_that_is_only_trailers_stays_one() -> None:
    async with world(own("passing")) as made:
        await made.client.ask(1, GRPC)
        app = await made.accept()
        await app.fields(1)
        await app.say(app.peer.headers(1, (*OK, (b"grpc-status", b"5")), end=True))
        answer = await made.client.hear(1, 1)
        assert answer.ends
        assert answer.decoded is not None
        assert answer.decoded[b"grpc-status"] == b"5"
        await complete(made)
        assert made.running.records.requests[0].grpc_status == "5"


async def test_an_informational_answer_passes() -> None:
    async with world(own("passing")) as made:
        await made.client.ask(1)
        app = await made.accept()
        await app.fields(1)
        await app.say(app.peer.headers(1, ((b":status", b"103"),)))
        assert (await made.client.fields(1))[b":status"] == b"103"
        await app.answer(1)
        assert (await made.client.fields(1))[b":status"] == b"200"


@pytest.mark.parametrize("ends", [True, False])
async def test_the_users_own_answers(ends: bool) -> None:
    async with world(own("answering")) as made:
        await made.client.say(made.client.peer.headers(1, POST, end=ends))
        answer = await made.client.fields(1)
        assert (answer[b":status"], answer[b"content-length"]) == (b"400", b"14")
        assert await made.client.body(1) == b"which tenant?\n"
        if not ends:
            assert (await made.client.hear(RST_STREAM, 1)).code == NO_ERROR
        await complete(made)
        assert made.running.records.requests[0].details == "middleware_response"


@pytest.mark.parametrize(
    ("name", "failure", "status"),
    [
        ("broken", "closed", 500),
        ("broken", "open", 200),
        ("slow", "closed", 504),
        ("slow", "open", 200),
        ("splitting", "closed", 500),
    ],
)
async def test_the_users_own_failing_ends_nothing_but_its_request(
    name: str, failure: str, status: int
) -> None:
    observed = Observed()
    async with world(own(name, failure=failure, timeout="50ms"), observed) as made:
        app = None
        for number in (1, 3):
            await made.client.say(
                made.client.peer.headers(number, POST), made.client.peer.data(number, b"hello", end=True)
            )
            if status == 200:
                app = app or await made.accept()
                assert await app.body(number) == b"hello"
                await app.answer(number)
            assert (await made.client.fields(number))[b":status"] == b"%d" % status
        assert observed.failures == ([] if name == "splitting" else ["own", "own"])
        await complete(made, 2)


async def test_a_failure_is_a_grpc_status_to_a_client_of_grpc() -> None:
    async with world(own("broken")) as made:
        await made.client.ask(1, GRPC)
        answer = await made.client.hear(1, 1)
        assert answer.ends
        assert answer.decoded is not None
        assert (answer.decoded[b":status"], answer.decoded[b"grpc-status"]) == (b"200", b"2")
        assert b"middleware 'own' failed" in answer.decoded[b"grpc-message"]
        (record,) = await made.recorded()
        assert (record.flag, record.grpc_status) == (ResponseFlag.LOCAL_RESET, "2")


async def test_a_body_that_fails_half_way_never_looks_complete() -> None:
    async with world(own("half")) as made:
        await made.client.ask(1)
        assert (await made.client.hear(DATA, 1)).payload == b"half"
        assert (await made.client.hear(RST_STREAM, 1)).code == INTERNAL_ERROR
        (record,) = await made.recorded()
        assert record.flag is ResponseFlag.LOCAL_RESET


@pytest.mark.parametrize("grpc", [True, False])
async def test_an_app_that_cannot_be_reached(grpc: bool) -> None:
    async with world(own("passing")) as made:
        made.server.close()
        await made.client.ask(1, GRPC if grpc else GET)
        answer = await made.client.fields(1)
        assert answer[b":status"] == (b"200" if grpc else b"503")
        if grpc:
            assert answer[b"grpc-status"] == b"14"
        (record,) = await made.recorded()
        assert record.flag is ResponseFlag.UPSTREAM_FAILURE


@pytest.mark.parametrize("begun", [True, False])
async def test_an_app_that_breaks_off_never_looks_complete(begun: bool) -> None:
    async with world(own("shouting")) as made:
        await made.client.ask(1)
        app = await made.accept()
        await app.fields(1)
        if begun:
            await app.say(app.peer.headers(1, OK), app.peer.data(1, b"half"))
            assert (await made.client.hear(DATA, 1)).payload == b"HALF"
            await app.say(rst_stream(1, CANCEL))
            assert (await made.client.hear(RST_STREAM, 1)).code == INTERNAL_ERROR
        else:
            app.sock.close()
            assert (await made.client.fields(1))[b":status"] == b"503"
        (record,) = await made.recorded()
        assert record.flag in {ResponseFlag.UPSTREAM_RESET, ResponseFlag.UPSTREAM_CLOSED}
        assert made.running.records.faults == 0


async def test_a_client_that_leaves_cancels_the_users_own() -> None:
    observed = Observed()
    async with world(own("slow", timeout="1h"), observed) as made:
        own_middleware.BEGUN.clear()
        await made.client.ask(1)
        await wait_until(lambda: bool(own_middleware.BEGUN))
        await made.client.say(rst_stream(1, CANCEL))
        (record,) = await made.recorded()
        assert record.flag is ResponseFlag.DOWNSTREAM_RESET
        assert observed.failures == []
        assert made.running.records.faults == 0


async def test_a_client_that_leaves_amid_an_answer_cancels_it_at_the_app() -> None:
    async with world(own("passing")) as made:
        await made.client.ask(1)
        app = await made.accept()
        await app.fields(1)
        await app.say(app.peer.headers(1, OK), app.peer.data(1, b"half"))
        await made.client.hear(DATA, 1)
        await made.client.say(rst_stream(1, CANCEL))
        assert (await app.hear(RST_STREAM, 1)).code == CANCEL
        await complete(made)


async def test_a_body_moves_as_fast_as_its_reader_takes_it_and_windows_come_back() -> None:
    """Through four windows of ours, and sixteen of the app's."""
    async with world(own("shouting")) as made:
        size, piece = 1 << 20, 16_384
        await made.client.say(made.client.peer.headers(1, POST))
        app = await made.accept()
        await app.fields(1)

        async def upload() -> None:
            window = Limits().window
            for at in range(0, size, piece):
                while window < piece:
                    update = await made.client.hear(WINDOW_UPDATE)
                    if update.stream == 1:
                        window += int.from_bytes(update.payload, "big")
                window -= piece
                await made.client.say(made.client.peer.data(1, b"x" * piece, end=at + piece == size))

        got = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload)
            while got < size:
                sent = await app.hear(DATA, 1)
                got += len(sent.payload)
                assert not sent.payload.strip(b"X")
                if sent.payload and not sent.ends:
                    await app.give(1, len(sent.payload))
        await app.answer(1)
        assert await made.client.body(1) == b"HELLO"
        await complete(made)
        assert made.running.records.requests[0].bytes_received == size


async def test_a_client_that_does_not_read_stops_the_app() -> None:
    async with world(own("shouting")) as made:
        await made.client.ask(1)
        app = await made.accept()
        await app.fields(1)
        await app.say(app.peer.headers(1, OK))
        window = Limits().window
        sent = 0
        with trio.move_on_after(1):
            while True:
                if window - sent < 16_384:
                    window += int.from_bytes((await app.hear(WINDOW_UPDATE, 1)).payload, "big")
                    continue
                await app.say(app.peer.data(1, b"x" * 16_384))
                sent += 16_384
        assert Limits().window <= sent < 3 << 20  # two windows and what the middleware holds
        await made.client.say(rst_stream(1, CANCEL))
        await complete(made)


async def test_a_rate_limit_is_grpc_status_8_and_too_many_requests_to_others() -> None:
    limit = "{name: limit, use: rateLimit, config: {total: {rate: 1/h, burst: 1}}}"
    async with world(limit) as made:
        await made.client.ask(1, GRPC)
        app = await made.accept()
        await app.fields(1)
        await app.say(app.peer.headers(1, (*OK, *TRAILERS), end=True))
        await made.client.fields(1)
        await made.client.ask(3, GRPC)
        refused = await made.client.fields(3)
        assert (refused[b":status"], refused[b"grpc-status"]) == (b"200", b"8")
        assert b"retry-after" in refused
        await made.client.ask(5)
        assert (await made.client.fields(5))[b":status"] == b"429"
        records = await made.recorded(3)
        assert [record.flag for record in records[1:]] == [ResponseFlag.RATE_LIMITED] * 2
        assert records[1].grpc_status == "8"


async def test_filters_behind_the_users_own_answer_clients_of_grpc() -> None:
    limit = "{name: limit, use: rateLimit, config: {total: {rate: 1/h, burst: 1}}}"
    async with world(f"{own('passing')}, {limit}") as made:
        await made.client.ask(1, GRPC)
        app = await made.accept()
        await app.fields(1)
        await app.answer(1)
        await made.client.fields(1)
        await made.client.ask(3, GRPC)
        refused = await made.client.fields(3)
        assert (refused[b":status"], refused[b"grpc-status"]) == (b"200", b"8")
        records = await made.recorded(2)
        assert records[1].flag is ResponseFlag.RATE_LIMITED


async def test_what_was_delayed_reaches_the_users_own_with_its_body() -> None:
    fault = "{name: fault, use: fault, config: {delay: {fixedDelay: 50ms, percentage: {value: 100}}}}"
    async with world(f"{fault}, {own('passing')}") as made:
        fields = made.client.peer.headers(1, POST)
        trailers = made.client.peer.headers(1, ((b"x-last", b"1"),), end=True)
        await made.client.say(fields, made.client.peer.data(1, b"question"), trailers)
        app = await made.accept()
        await app.fields(1)
        assert (await app.hear(DATA, 1)).payload == b"question"
        assert await app.fields(1) == {b"x-last": b"1"}
        await app.answer(1)
        assert await made.client.body(1) == b"hello"
