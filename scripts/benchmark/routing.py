"""What routing costs: ``scripts/bench --measures routes``, and in detail ``scripts/bench-routes``. Figures are in docs/benchmarks.md.

wrk -> gateway (egress) -> nginx on one machine, with other documents: none (passthrough), a DestinationRule, a VirtualService
and so on, each in a network namespace of its own; all are there at the same time, and asked in turn for a second. Then
the same load while the configuration of 5 000 services is swapped again and again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from scripts.benchmark import lookup

ADDRESS, PORT, UID = "10.8.0.1", 8080, 1337
ADMIN = "http://127.0.0.1:15000"
METRICS = "http://127.0.0.1:15020/metrics"
SIDECAR = """\
apiVersion: interceptor/v1
kind: Sidecar
metadata: {name: bench}
spec: {accessLog: {path: /dev/null}}
"""
HEAD = "apiVersion: networking.istio.io/v1\n"
ENTRY = (
    HEAD
    + """\
kind: ServiceEntry
metadata: {{name: {name}}}
spec:
  hosts: [{name}.example]
  ports: [{{number: {port}, name: http, protocol: HTTP}}]
  resolution: STATIC
  endpoints: [{endpoints}]
"""
)
RULE = HEAD + (
    "kind: DestinationRule\nmetadata: {{name: {name}}}\n"
    "spec: {{host: {name}.example, trafficPolicy: {{loadBalancer: {{simple: LEAST_REQUEST}}}}}}\n"
)
ROUTED = (
    HEAD
    + """\
kind: VirtualService
metadata: {{name: {name}}}
spec:
  hosts: [{name}.example]
  http:
"""
)
ROUTES = (
    ROUTED
    + """\
  - match: [{{uri: {{prefix: /v2}}, headers: {{x-user: {{exact: me}}}}}}]
    route: [{{destination: {{host: {name}.example}}}}]
  - route: [{{destination: {{host: {name}.example}}}}]
"""
)
WEIGHTS = (
    ROUTED
    + """\
  - route:
    - {{destination: {{host: {name}.example}}, weight: 90}}
    - {{destination: {{host: {name}.example, port: {{number: {port}}}}}, weight: 10}}
"""
)
TIMEOUT = (
    ROUTED
    + """\
  - timeout: 15s
    route: [{{destination: {{host: {name}.example}}}}]
"""
)
MANY = 5000
MORE = tuple(f"10.8.0.{number}" for number in range(2, 5))  # endpoints, beside the address that is dialled


def service(name: str, endpoints: str, *kinds: str) -> str:
    """A service's documents."""
    return "---\n".join(kind.format(name=name, port=PORT, endpoints=endpoints) for kind in (ENTRY, *kinds))


def shop(*kinds: str, more: Sequence[str] = ()) -> str:
    """The service that is asked."""
    endpoints = ", ".join(f"{{address: {address}}}" for address in (ADDRESS, *more))
    return "\n---\n".join([SIDECAR, service("shop", endpoints, *kinds)])


CASES = {
    "passthrough": shop(),
    "DestinationRule": shop(RULE),
    "VirtualService": shop(ROUTES),
    "four endpoints": shop(RULE, more=MORE),
    "two weights": shop(WEIGHTS),
    "a timeout": shop(TIMEOUT),
}


def fleet() -> list[str]:
    """It among 5 000 with ten endpoints each, as files."""
    texts = []
    for number in range(MANY):
        ends = ", ".join(f"{{address: 10.{100 + number // 250}.{number % 250}.{at}}}" for at in range(1, 11))
        texts.append(service(f"s{number}", ends, ROUTES))
    return [shop(ROUTES), *("\n---\n".join(texts[at : at + 500]) for at in range(0, MANY, 500))]


def run(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def cpu(pid: int) -> float:
    """Seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> float:
    """MB of a process that are its own."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return sum(int(value) for value in re.findall(r"^Pss:\s+(\d+)", text, re.MULTILINE)) / 1024


@contextlib.contextmanager
def gateway(directory: Path, *texts: str) -> Iterator[int]:
    """The proxy with some files, until it is ready; its process."""
    files = directory / "files"
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir()
    for number, text in enumerate(texts):
        (files / f"{number}.yaml").write_text(text, encoding="utf-8")
    with (directory / "log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("interceptor")), "proxy", "--config", str(files)], stderr=log
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"{ADMIN}/ready", timeout=1) as reply:
                    reply.read()
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    sys.exit((directory / "log").read_text(encoding="utf-8"))
                time.sleep(0.05)
        yield process.pid
    finally:
        process.kill()
        process.wait()


def load(seconds: int, connections: int) -> dict[str, float]:
    """Requests a second, and latencies in ms."""
    command = ("wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--latency", "-H", "Host: shop.example")
    said = run(*command, f"http://{ADDRESS}:{PORT}/v1/thing")
    found = {"rate": float(re.findall(r"Requests/sec:\s+([\d.]+)", said)[0])}
    units = {"us": 0.001, "ms": 1.0, "s": 1000.0}
    for percent, value, unit in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s)", said):
        found[f"p{percent}"] = float(value) * units[unit]
    bad = re.findall(r"Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)", said)
    found["failed"] = float(bool(bad))
    return found


def one(directory: Path, texts: Sequence[str], seconds: int, connections: int) -> dict[str, float]:
    """One run with these documents."""
    with gateway(directory, *texts) as pid:
        load(1, connections)
        return asked(pid, seconds, connections)


def asked(pid: int, seconds: int, connections: int) -> dict[str, float]:
    """A run, and microseconds of the proxy's CPU for a request of it."""
    before = cpu(pid)
    found = load(seconds, connections)
    found["cpu"] = (cpu(pid) - before) / (found["rate"] * seconds) * 1e6
    return found


class Case:
    """A gateway with documents of its own, in a namespace of its own, that is asked whenever it is told to."""

    def __init__(self, name: str, seconds: int, connections: int) -> None:
        command = (sys.executable, "-m", "scripts.benchmark.routing", "--serve", name)
        options = ("--seconds", str(seconds), "--connections", str(connections))
        script = 'mount -t tmpfs tmpfs /run; ip link set lo up; exec "$@"'
        self._process = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-ec", script, "sh", *command, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self) -> dict[str, float]:
        """What came of one run."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            sys.exit("a gateway of the benchmark did not start: see above")
        found: dict[str, float] = json.loads(line)
        return found

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def serve(name: str, seconds: int, connections: int) -> None:
    """Such a case, inside its namespace."""
    with stage() as directory, gateway(directory, CASES[name]) as pid:
        load(1, connections)
        for _ in sys.stdin:
            print(json.dumps(asked(pid, seconds, connections)), flush=True)


def in_turn(names: Sequence[str], rounds: int, seconds: int, connections: int) -> dict[str, dict[str, float]]:
    """Medians of each case, and its share of the first one's requests in the same round: a machine that is slow is slow for all."""
    cases = {name: Case(name, seconds, connections) for name in names}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    try:
        for _ in range(rounds):
            runs = {name: case.ask() for name, case in cases.items()}
            for name, each in runs.items():
                found[name].append({**each, "share": each["rate"] / runs[names[0]]["rate"]})
    finally:
        for case in cases.values():
            case.close()
    return {
        name: {key: statistics.median(each[key] for each in runs) for key in runs[0]}
        for name, runs in found.items()
    }


def measure(seconds: int) -> Iterator[tuple[str, float]]:
    """The rows of scripts/bench."""
    found = in_turn(("passthrough", "DestinationRule", "VirtualService"), 8, min(seconds, 2), 50)
    for key, name in (("routed-rule", "DestinationRule"), ("routed-routes", "VirtualService")):
        yield key, found[name]["share"]
    yield "lookup", lookup.microseconds(fleet(), PORT)


def swaps(
    directory: Path, texts: Sequence[str], seconds: int, connections: int
) -> tuple[dict[str, float], int]:
    """The same while one document changes again and again; and how many versions came into force."""
    with gateway(directory, *texts) as pid:
        load(1, connections)
        over, seen = threading.Event(), set[bytes]()

        def swap() -> None:
            number = 0
            while not over.wait(0.2):
                number += 1
                new = directory / "new"
                new.write_text(_other(number), encoding="utf-8")
                new.replace(directory / "files" / "other.yaml")
                os.kill(pid, signal.SIGHUP)  # look at once
                with contextlib.suppress(OSError), urllib.request.urlopen(METRICS) as reply:
                    seen.update(re.findall(rb'config_version_info{version="([^"]+)"', reply.read()))

        thread = threading.Thread(target=swap)
        thread.start()
        try:
            return load(seconds, connections), len(seen)
        finally:
            over.set()
            thread.join()


def _other(number: int) -> str:
    return service("other", f"{{address: 10.99.{number // 250}.{number % 250 + 1}}}")


@contextlib.contextmanager
def stage() -> Iterator[Path]:
    """Addresses of this namespace, one of them redirected to the proxy, and nginx behind them all; a directory."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        prepare(directory)
        nginx = subprocess.Popen(["nginx", "-c", str(directory / "nginx.conf"), "-p", name])
        try:
            yield directory
        finally:
            nginx.terminate()
            nginx.wait()


def prepare(directory: Path) -> None:
    """The addresses, the rule and nginx's file."""
    for address in (ADDRESS, *MORE):
        run("ip", "address", "add", f"{address}/32", "dev", "lo")
    owner = ("-m", "owner", "!", "--uid-owner", str(UID))
    rule = ("-p", "tcp", "-d", ADDRESS, *owner, "-j", "REDIRECT", "--to-ports", "15001")
    run("iptables", "-t", "nat", "-A", "OUTPUT", *rule)
    configuration = f"""\
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 100000000;
  server {{ listen {PORT} backlog=4096; location / {{ return 200 "hello\\n"; }} }}
}}
"""
    (directory / "nginx.conf").write_text(configuration, encoding="ascii")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=1, help="of each run")
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--fleet", action="store_true", help="with 5 000 services, and swaps of them")
    parser.add_argument("--serve", choices=CASES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        serve(given.serve, given.seconds, given.connections)
        return
    for case, middle in in_turn(list(CASES), given.rounds, given.seconds, given.connections).items():
        print(
            f"{case:<16} {middle['rate']:8.0f} requests/s ({middle['share']:.2f}), {middle['cpu']:5.1f} us of CPU, "
            f"p50 {middle['p50']:.2f} ms, p99 {middle['p99']:.2f} ms{', FAILURES' * bool(middle['failed'])}",
            flush=True,
        )
    print(
        f"a route among {MANY} virtual hosts is found in {lookup.microseconds(fleet(), PORT):.1f} us",
        flush=True,
    )
    with stage() as directory:
        _print_swaps(directory, 10, given.connections, [shop(ROUTES)], "one service")
        if given.fleet:
            texts = fleet()
            with gateway(directory, SIDECAR) as pid:
                small = memory(pid)
            with gateway(directory, *texts) as pid:
                large = memory(pid)
            each = (large - small) * 1024 / MANY
            print(
                f"{MANY} services, {10 * MANY} endpoints: {large:.0f} MB, {each:.1f} KB a service",
                flush=True,
            )
            _print_swaps(directory, 10, given.connections, texts, f"{MANY} services")


def _print_swaps(directory: Path, seconds: int, connections: int, texts: Sequence[str], what: str) -> None:
    still = one(directory, texts, seconds, connections)
    moved, versions = swaps(directory, texts, seconds, connections)
    print(
        f"{what}: p99 {still['p99']:.2f} ms, while {versions} versions come into force in {seconds} s {moved['p99']:.2f} ms; "
        f"{still['rate']:.0f} and {moved['rate']:.0f} requests/s, "
        f"{'FAILURES' if moved['failed'] else 'no request failed'}",
        flush=True,
    )


if __name__ == "__main__":
    main()
