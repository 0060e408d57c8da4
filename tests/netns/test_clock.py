"""Somebody sets the date of a gateway's machine: what is timed goes on, and certificates follow the wall clock."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from tests.netns.test_mesh import MESH, Sidecar, bed, program, sidecar, work
from tests.support.netns import Topology
from tests.support.processes import ROOT, wait_until

__all__ = ["bed", "work"]  # fixtures
pytestmark = [pytest.mark.netns, pytest.mark.slow]

YEARS = 10 * 365 * 86400
NOBODY = """\
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: nobody%(port)s, namespace: shop}
spec:
  hosts: [nobody%(port)s.example]
  addresses: [198.51.100.1]
  resolution: STATIC
  ports: [{number: %(port)s, name: http, protocol: HTTP}]
  endpoints: [{address: 10.9.0.2}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: nobody%(port)s, namespace: shop}
spec:
  host: nobody%(port)s.example
  trafficPolicy:
    outlierDetection: {consecutive5xxErrors: 1, interval: 100ms, baseEjectionTime: %(time)s, maxEjectionPercent: 100}
"""
SHORT, LONG = 8083, 8084


class Clock:
    """The wall clock of a program that is started with its environment."""

    def __init__(self, directory: Path) -> None:
        self._beside = directory / "wall_clock"
        self.set(0)
        library = directory / "wall_clock.so"
        source = ROOT / "tests" / "support" / "wall_clock.c"
        subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source)], check=True)
        self.environment = {"LD_PRELOAD": str(library), "WALL_CLOCK": str(self._beside)}

    def set(self, seconds: int) -> None:
        """So many seconds beside the machine's."""
        with self._beside.open("r+b" if self._beside.exists() else "wb") as file:
            file.write(seconds.to_bytes(8, "little", signed=True))


def lines(web: Sidecar, address: str) -> list[dict[str, object]]:
    """What the access log has of connections to an address."""
    return [line for line in web.flows(0) if line["original_dst"] == address]


def done(web: Sidecar, address: str, *command: str) -> tuple[str, dict[str, object]]:
    """What a command of the app's printed, and the line of its connection to an address."""
    before = len(lines(web, address))
    printed = web.where.run(*command, uid=1000, check=False).stdout
    wait_until(lambda: len(lines(web, address)) > before, f"a line about {address}")
    return printed, lines(web, address)[-1]


def tried(web: Sidecar, port: int) -> bool:
    """Whether a request leaves for the endpoint, where nobody answers; else the gateway has left it out."""
    address = f"198.51.100.1:{port}"
    _, line = done(web, address, "curl", "-sS", "-o", "/dev/null", f"http://{address}/")
    assert (line["response_code"], line["response_flags"]) in {(503, "-"), (503, "UF"), (503, "UH")}
    return line["response_flags"] != "UH"


def ping(web: Sidecar) -> tuple[bool, str]:
    """Whether a new connection of mutual TLS leads to Redis, and what the gateway says of it."""
    printed, line = done(web, "10.9.0.2:6379", "redis-cli", "-h", "10.9.0.2", "ping")
    return printed == "PONG\n", str(line["connection_termination_details"])


def test_timers_go_on_and_certificates_follow_the_date(bed: Topology, work: Path) -> None:
    clock = Clock(work)
    nobody = NOBODY % {"port": SHORT, "time": "1s"} + NOBODY % {"port": LONG, "time": "3600s"}
    with (
        sidecar(bed.app, work, "db"),
        sidecar(bed.peer, work, "web", MESH, nobody, **clock.environment) as web,
        program(bed.app, 6379, "redis-server", "--save", "", "--protected-mode", "no"),
    ):
        kept = bed.peer.call(lambda: socket.create_connection(("10.9.0.2", 6379), timeout=30))
        assert _answers(kept)
        assert ping(web) == (True, "None")
        assert [tried(web, port) for port in (SHORT, LONG, LONG)] == [True, True, False]

        clock.set(-YEARS)
        wait_until(
            lambda: tried(web, SHORT),
            "an ejection ends though the date is years before its start",
        )
        reached, why = ping(web)
        assert not reached
        assert "becomes valid in 3650 days" in why

        clock.set(YEARS)
        assert not tried(web, LONG), "an ejection of an hour lasts"
        reached, why = ping(web)
        assert not reached
        assert "expired" in why
        assert _answers(kept), "a connection that was made goes on"
        assert str(lines(web, "10.9.0.2:6379")[-1]["start_time"]) > "2034"
        assert web.get("/healthz/ready").startswith("ready")

        clock.set(0)
        assert ping(web) == (True, "None")
        assert _answers(kept)
        kept.close()


def _answers(kept: socket.socket) -> bool:
    """Whether Redis answers on a connection that is there."""
    kept.sendall(b"PING\r\n")
    return kept.recv(64) == b"+PONG\r\n"
