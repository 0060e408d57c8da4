"""What routing costs: ``scripts/bench-routes``. Figures are in docs/benchmarks.md.

wrk -> gateway (egress) -> nginx on one machine, the same connections with other documents in turn: none (passthrough), a
DestinationRule, a VirtualService, and 5 000 services. Then the same load while the configuration is swapped again and again.
"""

from __future__ import annotations

import argparse
import contextlib
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
ROUTES = (
    HEAD
    + """\
kind: VirtualService
metadata: {{name: {name}}}
spec:
  hosts: [{name}.example]
  http:
  - match: [{{uri: {{prefix: /v2}}, headers: {{x-user: {{exact: me}}}}}}]
    route: [{{destination: {{host: {name}.example}}}}]
  - route: [{{destination: {{host: {name}.example}}}}]
"""
)
MANY = 5000


def service(name: str, endpoints: str, *kinds: str) -> str:
    """A service's documents."""
    return "---\n".join(kind.format(name=name, port=PORT, endpoints=endpoints) for kind in (ENTRY, *kinds))


def shop(*kinds: str) -> str:
    """The service that is asked."""
    return "\n---\n".join([SIDECAR, service("shop", f"{{address: {ADDRESS}}}", *kinds)])


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
        before = cpu(pid)
        found = load(seconds, connections)
        found["cpu"] = (cpu(pid) - before) / (found["rate"] * seconds) * 1e6
        return found


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


def prepare(directory: Path) -> None:
    """An address of this namespace, redirected to the proxy, and nginx behind it."""
    run("ip", "address", "add", f"{ADDRESS}/32", "dev", "lo")
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
  server {{ listen {ADDRESS}:{PORT} backlog=4096; location / {{ return 200 "hello\\n"; }} }}
}}
"""
    (directory / "nginx.conf").write_text(configuration, encoding="ascii")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--fleet", action="store_true", help="with 5 000 services, and swaps of them")
    given = parser.parse_args()
    cases = {"passthrough": shop(), "DestinationRule": shop(RULE), "VirtualService": shop(ROUTES)}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        prepare(directory)
        nginx = subprocess.Popen(["nginx", "-c", str(directory / "nginx.conf"), "-p", name])
        try:
            found: dict[str, list[dict[str, float]]] = {case: [] for case in cases}
            for _ in range(given.rounds):
                for case, text in cases.items():
                    found[case].append(one(directory, [text], given.seconds, given.connections))
            plain = statistics.median(each["rate"] for each in found["passthrough"])
            for case, runs in found.items():
                middle = {key: statistics.median(each[key] for each in runs) for key in runs[0]}
                print(
                    f"{case:<16} {middle['rate']:8.0f} requests/s ({middle['rate'] / plain:.2f}), "
                    f"{middle['cpu']:5.1f} us of CPU, p50 {middle['p50']:.2f} ms, p99 {middle['p99']:.2f} ms"
                    f"{', FAILURES' * bool(middle['failed'])}",
                    flush=True,
                )
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
        finally:
            nginx.terminate()
            nginx.wait()


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
