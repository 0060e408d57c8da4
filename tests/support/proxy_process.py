"""A proxy in a process of its own, for a test that puts it into a namespace under another uid, or starves it.

Usage: python -m tests.support.proxy_process '{"listeners": {"ingress": 15006, "egress": 15001}, ...}'

Prints one JSON object a line: first ``{"ready": {direction: port}}``, then each flow at its end; at SIGTERM it stops
accepting and ends when the flows have.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from enum import Enum

import trio

from interceptor.kernel import process, sockets
from interceptor.model.address import SocketAddress
from interceptor.model.connection import Direction, Flow
from interceptor.model.request import RequestRecord
from interceptor.policy.authorization import Shadow
from interceptor.proxy.server import Proxy
from tests.support.flows import FixedView, settings


class Printer:
    """A recorder that prints each flow at its end, and counts what went wrong."""

    def __init__(self) -> None:
        self.accept_errors: list[int] = []
        self.faults = 0

    def opened(self, flow: Flow) -> None:
        pass

    def closed(self, flow: Flow) -> None:
        say(asdict(flow))

    def request(self, record: RequestRecord) -> None:
        pass

    def call(self, record: RequestRecord) -> None:
        pass

    def detected(self, flow: Flow, result: str) -> None:
        pass

    def shadowed(self, flow: Flow, shadows: Sequence[Shadow]) -> None:
        pass

    def mirrored(self, *, sent: bool) -> None:
        pass

    def accept_error(self, number: int) -> None:
        self.accept_errors.append(number)

    def internal_error(self) -> None:
        self.faults += 1


def say(record: dict[str, object]) -> None:
    print(json.dumps(record, default=_plain), flush=True)  # noqa: T201 (its output is its purpose)


def _plain(value: object) -> object:
    assert isinstance(value, Enum)
    return value.value


async def main(given: dict[str, object]) -> None:
    limits = given.get("limits") or {}
    assert isinstance(limits, dict)
    ports = given["listeners"]
    assert isinstance(ports, dict)
    if given.get("nofile"):
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(str(given["nofile"])),) * 2)
    upstreams = given.get("upstreams") or []
    assert isinstance(upstreams, list)
    if given.get("uid"):  # once everything is imported, which only root may be able to read
        process.become(process.Identity(int(str(given["uid"])), int(str(given["uid"]))))
    view = FixedView(tuple(SocketAddress(host, port) for host, port in upstreams))
    listeners = [(Direction(name), sockets.open_listener(port)) for name, port in ports.items()]
    extra = {}
    if upstreams:  # no redirect rules: any original destination does
        extra["original_destination"] = lambda _sock, _peer: SocketAddress("192.0.2.1", 80)
    printer = Printer()
    proxy = Proxy(settings(**limits), listeners, lambda: view, printer, **extra)  # type: ignore[arg-type]  # test data
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(proxy.serve)
            say({"ready": {direction.value: sock.getsockname()[1] for direction, sock in listeners}})
            async for _ in signals:
                proxy.stop_accepting()
                break
            await proxy.wait_drained()
            say({"accept_errors": printer.accept_errors, "faults": printer.faults})


if __name__ == "__main__":
    trio.run(main, json.loads(sys.argv[1]))
