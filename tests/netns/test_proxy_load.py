"""The proxy under many short flows, and before readers that do not read: nothing is left over, nothing grows without end.

``INTERCEPTOR_CHURN_SECONDS`` makes the first of them longer: minutes, where a leak is looked for.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from interceptor.kernel.splice import KEPT
from tests.netns.test_proxy import proxied, serve
from tests.support.flows import reset
from tests.support.netns import Namespace, topology
from tests.support.processes import wait_until
from tests.support.proxies import ProxyProcess

pytestmark = [pytest.mark.netns, pytest.mark.slow]

SECONDS = float(os.environ.get("INTERCEPTOR_CHURN_SECONDS", "8"))
CLIENTS = 16


def echo(listener: socket.socket) -> None:
    """Answer every connection with what it says, until the listener is closed."""

    def answer(accepted: socket.socket) -> None:
        with accepted, contextlib.suppress(ConnectionError):
            while data := accepted.recv(65536):
                accepted.sendall(data)

    with ThreadPoolExecutor(2 * CLIENTS) as answering, contextlib.suppress(OSError):
        while True:
            answering.submit(answer, listener.accept()[0])


def churn(host: str, seed: int) -> int:
    """Open flows one after the other, compare what comes back, and end them in every way; how many there were."""
    chance = random.Random(seed)
    until = time.monotonic() + SECONDS
    made = 0
    while time.monotonic() < until:
        client = socket.create_connection((host, 8080), timeout=30)
        made += 1
        data = chance.randbytes(chance.choice((0, 1, 300, 5000, 100_000)))
        way = chance.randrange(4)
        with client:
            client.sendall(data)
            if way == 0:  # cut off, whatever of it has arrived
                reset(client)
                continue
            received = 0
            while received < len(data):
                part = client.recv(65536)
                assert part
                assert part == data[received : received + len(part)]
                received += len(part)
            if way == 1:  # a half-close first
                client.shutdown(socket.SHUT_WR)
                assert client.recv(1) == b""
    return made


def sockets_of(proxy: ProxyProcess) -> int:
    """How many sockets the proxy has open."""
    with contextlib.suppress(FileNotFoundError):  # one was closed while we looked
        return sum(
            str(each.readlink()).startswith("socket:")
            for each in Path(f"/proc/{proxy.process.pid}/fd").iterdir()
        )
    return -1


def test_thousands_of_flows_leave_no_descriptor_no_flow_and_no_memory_behind() -> None:
    with topology() as bed, proxied(bed) as proxy, serve(bed.app, "0.0.0.0", 8080) as server:
        server.listen(1024)
        answering = threading.Thread(target=echo, args=(server,))
        answering.start()
        try:
            before, descriptors = sockets_of(proxy), proxy.descriptors()

            def load() -> int:
                with ThreadPoolExecutor(CLIENTS) as clients:
                    return sum(clients.map(churn, [bed.app.v4] * CLIENTS, range(CLIENTS)))

            made = bed.peer.call(load)
            resident = proxy.resident()
            records = [proxy.record() for _ in range(made)]
            assert made > 1000 * SECONDS / 8
            assert {record["direction"] for record in records} == {"ingress"}
            assert len({record["id"] for record in records}) == made
            wait_until(lambda: sockets_of(proxy) == before, "every socket is closed")
            assert proxy.descriptors() - descriptors <= 2 * KEPT  # pipes, for the next flow
            assert resident < 100 << 20
            assert proxy.stop() == {"accept_errors": [], "faults": 0}  # it waits for every flow
        finally:
            server.shutdown(socket.SHUT_RDWR)
            answering.join()


def held(where: Namespace, port: int) -> int:
    """Bytes of the kernel's memory that the proxy's sockets with this port at either end have."""
    text = where.run("ss", "-Htnmp", "state", "established").stdout
    lines = text.replace("\n\t", " ").splitlines()
    ours = [line for line in lines if "python" in line and f":{port} " in line]
    return sum(
        int(size)
        for line in ours
        for size in re.findall(r"skmem:\(r(\d+),rb\d+,t(\d+)", line)
        for size in size
    )


@pytest.mark.parametrize("relay", ["copy", "splice"])
def test_a_reader_that_does_not_read_costs_a_bounded_memory_the_kernels_too(relay: str) -> None:
    limits = [Path(f"/proc/sys/net/ipv4/tcp_{kind}mem").read_text().split() for kind in "rw"]
    bound = sum(int(most) for _, _, most in limits)
    with (
        topology() as bed,
        proxied(bed, limits={"relay": relay}) as proxy,
        serve(bed.app, bed.app.v4, 8080) as server,
        bed.peer.call(lambda: socket.create_connection((bed.app.v4, 8080), timeout=10)) as peer,
    ):
        resident = proxy.resident()
        accepted, _ = server.accept()
        with accepted:
            peer.settimeout(1)  # so long nobody takes anything: all that can be full is full
            block, sent = bytes(1 << 20), 0
            with contextlib.suppress(TimeoutError):
                while True:
                    sent += peer.send(block)
            kernels = held(bed.app, 8080)
            assert 0 < kernels < bound
            assert proxy.resident() - resident < 8 << 20
            received = 0
            accepted.settimeout(10)
            while received < sent:
                received += len(accepted.recv(1 << 20))
            assert received == sent
