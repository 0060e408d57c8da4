"""The stage of one visit: two fresh namespaces, the redirect rules, the servers and one contestant.

Fresh for each visit, so that no contestant pays for the closed connections of the one before it. Everything runs in
the private namespaces that scripts/bench made (network, mounts, processes): what is left over ends with them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from interceptor.kernel.netns import call_inside
from scripts.benchmark import outputs
from scripts.benchmark.contestants import (
    BULK_CLIENT,
    CONTESTANTS,
    EGRESS_PORT,
    HTTP2_PORT,
    HTTP_PORT,
    INGRESS_PORT,
    PROXY_UID,
    UPSTREAM,
    Place,
)
from scripts.benchmark.http_files import HTTP_FILES
from scripts.benchmark.measures import OURS, Direction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")

WORK: Final = Path(
    "/run/bench"
)  # a tmpfs of our own (scripts/bench): readable by the proxy's uid, gone at the end
APP: Final = "bench-app"
PEER: Final = "bench-peer"
ADDRESSES: Final = {  # of the servers; each is reached from a client address of its own
    "ingress": {
        "10.9.0.2": "10.9.0.21",
        "10.9.0.3": "10.9.0.22",
        "10.9.0.4": "10.9.0.23",
        "10.9.0.5": "10.9.0.24",
    },
    "egress": {
        "10.9.0.1": "10.9.0.41",
        "10.9.0.6": "10.9.0.42",
        "10.9.0.7": "10.9.0.43",
        "10.9.0.8": "10.9.0.44",
    },
}
BODY: Final = "thirty-four bytes make this answer"
assert len(BODY) == 34
READY_SECONDS: Final = 20.0
NOBODY: Final = 65534
TICKS: Final = os.sysconf("SC_CLK_TCK")

# Local ports for a minute of new connections, and back in use after a second; TIME_WAIT leaves conntrack soon as well.
SYSCTLS: Final = {
    "net/ipv4/ip_local_port_range": "1024 65535",
    "net/ipv4/ip_local_reserved_ports": f"{HTTP_PORT},{HTTP2_PORT},5201,15000-15099",
    "net/ipv4/tcp_tw_reuse": "1",
    "net/ipv4/tcp_max_syn_backlog": "8192",
    "net/core/somaxconn": "8192",
    "net/netfilter/nf_conntrack_tcp_timeout_time_wait": "5",
}


class StageError(Exception):
    """The visit cannot take place: the report says why, and the others go on."""


@dataclass(frozen=True)
class Stage:
    """A visit's world."""

    name: str
    direction: Direction
    proxy: subprocess.Popen[bytes] | None
    server: subprocess.Popen[bytes]  # nginx, in the namespace that is called

    @property
    def client(self) -> str:
        return PEER if self.direction == "ingress" else APP

    @property
    def called(self) -> str:
        return APP if self.direction == "ingress" else PEER

    @property
    def target(self) -> str:
        return UPSTREAM[self.direction]

    def inside_client(self, function: Callable[[], T]) -> T:
        """Call a function in the client's namespace: for making sockets."""
        return call_inside(_path(self.client), function)

    def proxy_processes(self) -> list[outputs.Process]:
        """The contestant's processes; none for no proxy."""
        return [] if self.proxy is None else outputs.descendants(_processes(), self.proxy.pid)

    def proxy_cpu_seconds(self) -> float:
        return sum(process.cpu_seconds for process in self.proxy_processes())

    def proxy_memory_mb(self) -> float:
        pids = [process.pid for process in self.proxy_processes()]
        return outputs.memory_mb([Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids])

    def redirected(self) -> int:
        """Connections that our rules brought to the contestant in this visit's direction."""
        saved = run("nsenter", f"--net={_path(APP)}", "iptables-legacy-save", "-c", "-t", "nat")
        return outputs.redirected(saved, INGRESS_PORT if self.direction == "ingress" else EGRESS_PORT)


@contextlib.contextmanager
def stage(
    name: str, direction: Direction, workers: int, wrapper: Sequence[str] = (), *, http: bool = False
) -> Iterator[Stage]:
    """Build the world, start the contestant (behind ``wrapper``, a profiler), wait until it listens, tear all down.

    With ``http`` it serves requests, without it relays bytes.
    """
    files = HTTP_FILES.get(name) if http else CONTESTANTS[name].files
    with contextlib.ExitStack() as stack:
        directory = WORK / "visit"
        directory.mkdir(mode=0o755)
        stack.callback(shutil.rmtree, directory)
        os.chown(directory, PROXY_UID, PROXY_UID)
        _build_network(stack)
        called = APP if direction == "ingress" else PEER
        server = stack.enter_context(_server(called))
        proxy = None
        if name != "none":
            _install_rules()
            if files is None:
                raise StageError(f"{name} is not set up to serve requests to their original destination")
            proxy = stack.enter_context(_proxy(name, workers, directory, wrapper, files(workers)))
        yield Stage(name, direction, proxy, server)
        if proxy is not None and (status := proxy.poll()) is not None:
            raise StageError(
                f"{name} ended with status {status} under load: {_tail(directory / 'proxy.log')}"
            )


def _build_network(stack: contextlib.ExitStack) -> None:
    for name in (APP, PEER):
        run("ip", "netns", "add", name)
        stack.callback(run, "ip", "netns", "del", name)
        run("ip", "-n", name, "link", "set", "lo", "up")
    run("ip", "link", "add", "eth0", "netns", APP, "type", "veth", "peer", "name", "eth0", "netns", PEER)
    # In the app's namespace: what is called on ingress and what calls on egress; the rest in the peer's.
    ingress, egress = ADDRESSES["ingress"], ADDRESSES["egress"]
    ours = {
        APP: [*ingress, BULK_CLIENT["egress"], *egress.values()],
        PEER: [*egress, BULK_CLIENT["ingress"], *ingress.values()],
    }
    for name, addresses in ours.items():
        for address in addresses:
            run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        run("ip", "-n", name, "link", "set", "eth0", "up")
        settings = "".join(
            f"[ ! -e /proc/sys/{key} ] || echo '{value}' > /proc/sys/{key}\n"
            for key, value in SYSCTLS.items()
        )
        run("nsenter", f"--net={_path(name)}", "sh", "-ec", settings)
    for name, routes in ((PEER, ingress), (APP, egress)):
        for server, client in routes.items():
            run("ip", "-n", name, "route", "add", f"{server}/32", "dev", "eth0", "src", client)


def _install_rules() -> None:
    """The same plain rules for every contestant: all TCP from outside, all TCP to the outside, but for the proxy's own."""
    text = f"""\
*nat
-A PREROUTING -i eth0 -p tcp -j REDIRECT --to-ports {INGRESS_PORT}
-A OUTPUT -o lo -j RETURN
-A OUTPUT -m owner --uid-owner {PROXY_UID} -j RETURN
-A OUTPUT -p tcp -j REDIRECT --to-ports {EGRESS_PORT}
COMMIT
"""
    run("nsenter", f"--net={_path(APP)}", "iptables-legacy-restore", input=text)


@contextlib.contextmanager
def _server(where: str) -> Iterator[subprocess.Popen[bytes]]:
    """The app: nginx with the small answer."""
    directory = WORK / "server"
    directory.mkdir()
    os.chown(directory, NOBODY, NOBODY)
    temporary = "".join(
        f"{kind}_temp_path {kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (directory / "nginx.conf").write_text(f"""\
daemon off; master_process off; pid nginx.pid; error_log stderr crit;
events {{ worker_connections 20000; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; {temporary}
  http2_max_concurrent_streams 1000;
  server {{
    listen 0.0.0.0:{HTTP_PORT} backlog=8192; listen 0.0.0.0:{HTTP2_PORT} http2 backlog=8192; location / {{ return 200 "{BODY}"; }}
  }}
}}
""")
    argv = ["nginx", "-e", "stderr", "-p", str(directory), "-c", "nginx.conf"]
    try:
        with process(where, argv, uid=NOBODY, log=directory / "log") as server:
            wait_listening("the app's nginx", server, {HTTP_PORT, HTTP2_PORT}, directory / "log")
            yield server
    finally:
        shutil.rmtree(directory)


@contextlib.contextmanager
def _proxy(
    name: str, workers: int, directory: Path, wrapper: Sequence[str], files: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    contestant = CONTESTANTS[name]
    for file, text in files.items():
        (directory / file).write_text(text)
    command = contestant.command(Place(directory, WORK / "peers", WORK / "ours", APP), workers)
    log = directory / "proxy.log"
    where, uid = (None, None) if contestant.drops_root else (APP, PROXY_UID)
    with process(where, [*wrapper, *command], uid=uid, log=log) as proxy:
        wait_listening(name, proxy, {INGRESS_PORT, EGRESS_PORT}, log)
        if name == OURS:
            wait(
                lambda: call_inside(_path(APP), _is_ready),
                lambda: f"{name} did not become ready: {_tail(log)}",
            )
        yield proxy


def _is_ready() -> bool:
    try:
        with urllib.request.urlopen("http://127.0.0.1:15020/healthz/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextlib.contextmanager
def process(
    where: str | None, argv: Sequence[str], *, log: Path, uid: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A program in a namespace (None: it goes there itself), ended when the block ends: first asked, then forced."""
    with log.open("ab") as output:
        started = subprocess.Popen(
            command_inside(where, argv, uid),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
            env={**os.environ, "HOME": str(log.parent)},
        )
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(10)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def command_inside(where: str | None, argv: Sequence[str], uid: int | None = None) -> list[str]:
    """The argument vector that runs a program in a namespace, as another user if asked; its pid stays the same."""
    place = [] if where is None else ["nsenter", f"--net={_path(where)}"]
    who = [] if uid is None else ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    return [*place, *who, *argv]


def wait_listening(name: str, program: subprocess.Popen[bytes], ports: set[int], log: Path) -> None:
    """Wait until a program's namespace has listeners at these ports.

    Looked up, not tried: a connection made straight to a transparent proxy's port may make it dial itself.
    """

    def listening() -> bool:
        if program.poll() is not None:
            raise StageError(f"{name} ended with status {program.returncode}: {_tail(log)}")
        tables = [Path(f"/proc/{program.pid}/net/{table}") for table in ("tcp", "tcp6")]
        try:
            return ports <= set().union(*(outputs.listening_ports(table.read_text()) for table in tables))
        except OSError:  # it has just ended: the next look says how
            return False

    wait(listening, lambda: f"{name} does not listen at {sorted(ports)}: {_tail(log)}")


def wait(condition: Callable[[], bool], complaint: Callable[[], str], seconds: float = READY_SECONDS) -> None:
    """Wait for a condition, or raise StageError."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise StageError(complaint())
        time.sleep(0.02)


def run(*argv: str, input: str | None = None, timeout: float = 30) -> str:  # noqa: A002 (subprocess's own word)
    """Run a short command to its end. Raises StageError with what it said."""
    try:
        done = subprocess.run(argv, check=False, input=input, capture_output=True, text=True, timeout=timeout)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StageError(f"{argv[0]}: {error}") from error
    if done.returncode:
        raise StageError(f"'{' '.join(argv)[:80]}' failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout or done.stderr


def _processes() -> list[outputs.Process]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended meanwhile
                found.append(outputs.parse_process((entry / "stat").read_text(), TICKS))
    return found


def _path(namespace: str) -> Path:
    return Path("/run/netns", namespace)


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return " / ".join(lines[-3:]) or "it said nothing"


def interrupt_on(*numbers: signal.Signals) -> None:
    """Let these signals end the run as Ctrl-C does, so that what was measured is still saved."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, interrupt)
