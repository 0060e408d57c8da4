"""The main process's view of a worker and the worker itself, at the two ends of one channel, in one process."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
import trio

from interceptor.config.configuration import Configuration
from interceptor.kernel import sockets
from interceptor.model.address import SocketAddress, UpstreamAddress
from interceptor.model.connection import Direction
from interceptor.proxy.transport import Credentials
from interceptor.state.health import Board
from interceptor.state.snapshot import take
from interceptor.state.store import Store
from interceptor.telemetry.access_log import AccessLog
from interceptor.telemetry.metrics import Metrics, exposition
from interceptor.workers.channel import Channel
from interceptor.workers.message import Message
from interceptor.workers.obey import obey
from interceptor.workers.remote import Remote
from interceptor.workers.worker import Worker
from tests.support.documents import SIDECAR, configuration
from tests.support.identities import WEB, Root
from tests.support.until import until
from tests.support.workload_api import answer, svid_of

ENTRY = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: entry}
spec:
  hosts: [shop.example]
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: DNS
"""
GIVEN = configuration(ENTRY)


@dataclass
class Both:
    """A worker that obeys, and what the main process has of it."""

    worker: Worker
    remote: Remote
    store: Store
    address: tuple[str, int]
    obeyed: trio.Event
    channel: Channel
    board: Board


@asynccontextmanager
async def both(given: Configuration = GIVEN, *told: Message) -> AsyncIterator[Both]:
    """``told`` is what waits for the worker before its first snapshot."""
    listener = sockets.open_listener(0)
    address = ("127.0.0.1", listener.getsockname()[1])
    metrics = Metrics(given.sidecar)
    log = AccessLog("/dev/null", "json", metrics.access_log_dropped)
    credentials = None if given.sidecar.spec.tls is None else Credentials(given, time.time)
    worker = Worker(given, [(Direction.EGRESS, listener)], metrics, log, credentials=credentials)
    ours, theirs = socket.socketpair()
    store, obeyed = Store(take(given)), trio.Event()
    board = Board()
    channel = Channel(ours)
    remote = Remote(0, channel, given)
    for message in told:
        channel.post(message)
    end = Channel(theirs)

    async def serve() -> None:
        try:
            await obey(worker, end)
            obeyed.set()
        finally:
            end.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        nursery.start_soon(remote.run, store, board)
        with trio.fail_after(10):
            await remote.ready.wait()
        yield Both(worker, remote, store, address, obeyed, channel, board)
        nursery.cancel_scope.cancel()


@pytest.fixture
def root_level() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    level = root.level
    yield root
    root.setLevel(level)


async def test_a_worker_serves_by_what_it_was_handed_and_follows_what_is_published() -> None:
    async with both() as made:
        assert made.remote.version == made.worker.store.current.version == made.store.current.version
        for number in range(3):
            made.store.publish(take(GIVEN, {"shop.example": [f"192.0.2.{number}"]}))
            await until(lambda: made.remote.version == made.store.current.version)
            current = made.worker.store.current
            assert current.version == made.store.current.version
            assert current.resolved == {"shop.example": (f"192.0.2.{number}",)}
            assert current.configuration is GIVEN, (
                "other addresses are no new configuration: no flow is judged again"
            )


async def test_what_checks_find_unhealthy_is_handed_over_also_what_was_found_before() -> None:
    one = UpstreamAddress(SocketAddress("192.0.2.1", 80))
    async with both() as made:
        made.board.publish({("shop.example", 80): {one: "it answered 503"}})
        await until(lambda: made.worker.health.current == made.board.current)
        made.board.publish({})
        await until(lambda: made.worker.health.current == {})


async def test_of_another_configuration_what_is_new_is_handed_over() -> None:
    async with both() as made:
        changed = configuration(ENTRY.replace("shop.example", "other.example"))
        changed = replace(changed, documents=())  # only the main process tells of them
        made.store.publish(take(changed))
        await until(lambda: made.remote.version == made.store.current.version)
        assert made.worker.store.current.configuration == changed
        assert made.worker.store.current.version == made.store.current.version


async def test_questions_are_answered_and_asked_once_at_a_time(root_level: logging.Logger) -> None:
    async with both() as made:
        with socket.create_connection(made.address):
            await until(lambda: made.worker.active == 0)
        answers: list[object] = []

        async def ask() -> None:
            answers.append(await made.remote.ask("collect"))

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(ask)
        assert all(answer is answers[0] for answer in answers), "one question, one answer"
        assert made.remote.series is answers[0]
        families = answers[0]
        assert isinstance(families, Iterable)
        assert b"istio_tcp_connections_opened_total" in exposition(families)
        assert await made.remote.ask("connections") == []
        root_level.setLevel(logging.WARNING)
        made.remote.tell("log_level", "debug")
        await until(lambda: root_level.level == logging.DEBUG)


async def test_what_a_worker_is_told_before_its_first_snapshot_holds_as_well(
    root_level: logging.Logger,
) -> None:
    root, level = Root(), "warning" if root_level.level != logging.WARNING else "error"
    given = configuration(f"{SIDECAR}spec: {{tls: {{workloadApi: {{socket: unix:///agent}}}}}}\n")
    svids = answer(svid_of(WEB, root.issue(WEB), root))
    async with both(given, Message("log_level", level), Message("svids", svids)) as made:
        assert logging.getLevelName(root_level.level).lower() == level
        credentials = made.worker.credentials
        assert credentials is not None
        assert credentials.workload is not None
        assert credentials.workload.current.material.identity == WEB
        made.remote.tell("svids", None)
        await until(lambda: credentials.workload.refusal() is not None)  # type: ignore[union-attr]  # asserted above
        made.remote.tell("svids", svids)
        await until(lambda: credentials.workload.refusal() is None)  # type: ignore[union-attr]  # asserted above


async def test_a_drained_worker_ends_and_leaves_what_it_counted() -> None:
    async with both() as made:
        before = made.remote.series
        made.remote.tell("drain")
        with trio.fail_after(10):
            await made.obeyed.wait()
            for _ in range(2):
                assert await made.remote.ask("connections") is None, "there is nobody who could answer"
        assert made.remote.series is not before


async def test_a_worker_that_is_left_alone_ends() -> None:
    async with both() as made:
        made.remote.end()
        with trio.fail_after(10):
            await made.obeyed.wait()


async def test_large_messages_arrive_whole_and_in_order() -> None:
    ours, theirs = map(Channel, socket.socketpair())
    sent = [Message("connections", ["x" * size]) for size in (0, 1, 3_000_000, 70_000)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.run)
        for message in sent:
            ours.post(message)
        ours.finish()
        with trio.fail_after(10):
            assert [await theirs.receive() for _ in sent] == sent
    ours.close()
    assert await theirs.receive() is None
    theirs.close()


async def test_who_waits_for_the_worker_knows_that_it_serves_by_what_is_in_force() -> None:
    async with both() as made:
        for number in range(3):
            made.store.publish(take(GIVEN, {"shop.example": [f"192.0.2.{number}"]}))
            with trio.fail_after(10):
                await made.remote.wait_taken(made.store)
            assert made.worker.store.current.version == made.store.current.version
        made.remote.end()
        made.store.publish(take(GIVEN, {"shop.example": ["192.0.2.9"]}))
        with trio.fail_after(10):
            await made.remote.wait_taken(made.store)  # which is no more
