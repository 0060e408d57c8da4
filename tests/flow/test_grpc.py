"""gRPC's own library on both sides of a proxy with filters, a middleware of the user's own, and policies."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import Queue

import grpc
import pytest
import trio

from interceptor.model.address import SocketAddress
from interceptor.model.connection import Direction
from interceptor.model.request import RequestRecord
from interceptor.policy.peer_authentication import Mode
from interceptor.policy.policies import compiled
from interceptor.routing.security import UpstreamTls
from interceptor.telemetry.message_metrics import MessageMetrics
from tests.flow.test_policy import READ_ONLY
from tests.support.documents import configuration
from tests.support.flows import FixedView, Records, Running, running_proxy, settings, wait_until
from tests.support.grpc_programs import METHODS, OPTIONS, TOLD, ask
from tests.support.identities import DB, WEB, Root
from tests.support.mesh import Gateways, view
from tests.support.stacks import stack

OWN = "{name: own, use: 'tests.support.own_middleware:passing'}"
LIMIT = "{name: limit, use: rateLimit, config: {total: {rate: 1/h, burst: 2}}}"


class Echo(grpc.GenericRpcHandler):  # type: ignore[misc] # grpcio ships no types
    """Sends back each message, with a trailer."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        def stream(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            context.set_trailing_metadata((("x-end", "yes"),))
            yield from messages

        return grpc.stream_stream_rpc_method_handler(stream)


@contextmanager
def serving(methods: dict[str, grpc.RpcMethodHandler] | None = None) -> Iterator[SocketAddress]:
    handler = grpc.method_handlers_generic_handler("test.Service", methods) if methods else Echo()
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, handlers=[handler], options=OPTIONS)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield SocketAddress("127.0.0.1", port)
        finally:
            server.stop(None).wait()


def call(port: int, messages: list[bytes]) -> tuple[list[bytes], grpc.StatusCode, str]:
    """What a client gets of the messages it sends, with the status, and the trailer or the status' message."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answers = channel.stream_stream("/test.Echo/Do")(iter(messages), timeout=10)
        try:
            got = list(answers)
        except grpc.RpcError:
            return [], answers.code(), answers.details()
        return got, answers.code(), dict(answers.trailing_metadata())["x-end"]


async def _calls(running: Running, number: int) -> list[tuple[list[bytes], grpc.StatusCode, str]]:
    messages = [b"x" * 200_000, b"", b"end"]
    got = [await trio.to_thread.run_sync(call, running.address.port, messages) for _ in range(number)]
    await wait_until(lambda: len(running.records.requests) == number)
    assert running.records.faults == 0
    return got


@pytest.mark.parametrize("items", [LIMIT, f"{OWN}, {LIMIT}", f"{LIMIT}, {OWN}"])
async def test_a_rate_limit_is_resource_exhausted(items: str) -> None:
    with serving() as address:
        async with running_proxy(FixedView((address,)), middleware=stack(items)) as running:
            *passed, refused = await _calls(running, 3)
            assert passed == [([b"x" * 200_000, b"", b"end"], grpc.StatusCode.OK, "yes")] * 2
            assert refused[1] is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "rate limit 'limit' is exceeded" in refused[2]
            assert [each.grpc_status for each in running.records.requests] == ["0", "0", "8"]
            counted = [each.messages for each in running.records.requests]
            assert [(each.requests, each.responses) for each in counted[:2] if each is not None] == [
                (3, 3)
            ] * 2
            assert counted[2] is not None
            assert counted[2].responses == 0


class Counting(Records):
    """Counts messages as the proxy's own recorder does."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics = MessageMetrics(settings())

    def call(self, record: RequestRecord) -> None:
        self.metrics.begun(record)

    def request(self, record: RequestRecord) -> None:
        self.metrics.ended(record)
        super().request(record)

    def totals(self) -> tuple[float, float]:
        """What a scrape would read."""
        requests, responses = (
            sum(sample.value for sample in family.samples) for family in self.metrics.collect()
        )
        return requests, responses


@pytest.mark.parametrize("items", [None, OWN])
async def test_messages_are_counted_while_their_call_lasts(items: str | None) -> None:
    said = [b"x" * 200_000, b"", b"end"]
    records = Counting()

    def converse(port: int) -> list[tuple[float, float]]:
        more: Queue[bytes | None] = Queue()
        seen = []
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            answers = channel.stream_stream("/test.Echo/Do")(iter(more.get, None), timeout=10)
            for message in said:
                more.put(message)
                assert next(answers) == message
                seen.append(trio.from_thread.run_sync(records.totals))
            more.put(None)
            assert list(answers) == []
        return seen

    with serving() as address:
        middleware = None if items is None else stack(items)
        async with running_proxy(FixedView((address,)), records=records, middleware=middleware) as running:
            assert await trio.to_thread.run_sync(converse, running.address.port) == [(1, 1), (2, 2), (3, 3)]
            await wait_until(lambda: len(records.requests) == 1)
            assert records.totals() == (3, 3)


async def test_everything_over_mutual_tls_between_two_gateways(tmp_path: Path) -> None:
    """Unary, streams both ways, trailers, deadlines, cancellations, 10 MB messages, 200 calls at once."""
    root = Root()
    near, far = (Gateways(tmp_path / each.service_account, root.issue(each), root) for each in (WEB, DB))
    tls = UpstreamTls("DestinationRule a/b", "mesh", None, "outbound_.80_._.db.shop", (str(DB),))
    with serving(METHODS) as app:
        async with (
            running_proxy(view(app, Mode.STRICT), transport=far) as db,
            running_proxy(
                FixedView((db.address,), tls=tls, protocol="grpc"), transport=near, direction=Direction.EGRESS
            ) as web,
        ):
            told = await trio.to_thread.run_sync(ask, "127.0.0.1", web.address.port)
            await db.records.wait_closed()
            (flow,) = await web.records.wait_closed()
    assert told == TOLD
    for records in (db.records, web.records):
        assert records.faults == 0
        statuses = {each.grpc_status for each in records.requests}
        # A deadline may be told by the server, too; a call that is cancelled has no status.
        assert {"0", "5", "12"} <= statuses <= {"0", "5", "12", "4", "unknown"}
    assert (flow.security, str(flow.upstream_identity)) == ("mutual_tls", str(DB))
    assert {each.flow.peer_identity for each in db.records.requests} == {WEB}


@pytest.mark.parametrize("items", [None, OWN])
async def test_what_policies_deny_is_permission_denied(items: str | None) -> None:
    with serving() as address:
        view = FixedView((address,), policies=compiled(configuration(READ_ONLY)))
        middleware = None if items is None else stack(items)
        async with running_proxy(view, middleware=middleware) as running:
            [refused] = await _calls(running, 1)
            assert refused == ([], grpc.StatusCode.PERMISSION_DENIED, "RBAC: access denied")
            assert running.records.requests[0].grpc_status == "7"
