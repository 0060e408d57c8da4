"""The demo: real programs in two namespaces joined by a veth pair, intercepted in both directions, step by step.

``app`` holds nginx (the app), its sidecar and the clients it calls out with; ``peer`` holds the outside world: curl as
a client, and a second nginx, redis-server and PostgreSQL as servers. Nothing outside the two namespaces is touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table

from interceptor.kernel.netns import call_inside

APP, PEER = "icp-demo-app", "icp-demo-peer"
ADDRESS = {APP: ("10.9.0.2", "fd09::2"), PEER: ("10.9.0.1", "fd09::1")}
APP_USER = "www-data"  # any uid but the proxy's
BIN = Path(sys.executable).parent
POSTGRES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/nonexistent"))
DEADLINE_SECONDS = 120.0  # also for an emulated machine: reached only by a failure

SIDECAR = """\
apiVersion: interceptor/v1
kind: Sidecar
metadata: {name: shop, namespace: demo, labels: {app: shop, version: v1}}
spec:
  serviceName: shop
  meshId: demo-mesh
  egress: {policy: %s}
  accessLog: {path: %s}
  timeouts: {drainDelay: 100ms, drain: 2s}
"""
REGISTRY = """\
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: catalogue, namespace: demo}
spec:
  hosts: [catalogue.example]
  addresses: [10.9.0.1]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 10.9.0.1}]
"""

console = Console(highlight=False)


class DemoError(Exception):
    """A step did not do what the demo shows."""


def main() -> None:
    """Run the demo; clean up whatever happens, also on Ctrl-C."""
    keep = sys.argv[1:] == ["--keep"]
    if sys.argv[1:] and not keep:
        console.print("usage: sudo scripts/demo [--keep]", style="red")
        sys.exit(2)
    signal.signal(signal.SIGTERM, _interrupted)
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        try:
            demo = Demo(stack)
            demo.play()
            console.print(f"\n[bold green]Done[/] in {time.monotonic() - began:.0f} s.", end=" ")
            if keep:
                demo.linger()
        except KeyboardInterrupt:
            console.print("\n[yellow]Stopped.[/]", end=" ")
        except DemoError as error:
            console.print(f"\n[bold red]{escape(str(error))}[/]")
            stack.close()
            sys.exit(1)
    console.print("Namespaces, rules and processes are gone.")


def _interrupted(*_: object) -> NoReturn:
    raise KeyboardInterrupt


class Demo:
    """The stage and its scenes."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.stack = stack
        self.work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="icp-demo-")))
        self.work.chmod(0o755)
        self.log = self.work / "access.log"
        self.log.touch()
        shutil.chown(self.log, 1337, 1337)
        self.log_read = 0
        self.proxy: subprocess.Popen[bytes] | None = None

    def play(self) -> None:
        """All scenes in order."""
        title("interceptor", "unmodified programs, intercepted in both directions, explained")
        self.build()
        before = self.rules()
        self.scene_plan()
        self.scene_sidecar()
        self.scene_ingress()
        self.scene_egress()
        self.scene_metrics()
        self.scene_registry_only()
        self.scene_remove(before)

    # -- the stage ------------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Two namespaces, one link, four servers."""
        for name in (APP, PEER):
            quiet("ip", "netns", "add", name)
            self.stack.callback(quiet, "ip", "netns", "del", name)
            quiet("ip", "-n", name, "link", "set", "lo", "up")
        quiet("ip", "-n", APP, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", PEER)
        for name, (v4, v6) in ADDRESS.items():
            quiet("ip", "-n", name, "addr", "add", f"{v4}/24", "dev", "eth0")
            quiet("ip", "-n", name, "addr", "add", f"{v6}/64", "dev", "eth0", "nodad")
            quiet("ip", "-n", name, "link", "set", "eth0", "up")
        # Opens the rule tables once, so that the demo can show at the end that they are as they were.
        for tool in ("iptables-legacy", "ip6tables-legacy"):
            quiet("ip", "netns", "exec", APP, tool, "-t", "nat", "-S")
        self.nginx(APP, 8080, "hello from the app (nginx), which knows nothing of any proxy")
        self.nginx(PEER, 80, "hello from the catalogue (a second nginx)")
        self.start(PEER, "redis", "redis-server", "--bind", "10.9.0.1", "--protected-mode", "no", "--save", "",
                   "--dir", str(self.work), user="redis")  # fmt: skip
        self.postgres()
        for name, port in ((APP, 8080), (PEER, 80), (PEER, 6379), (PEER, 5432)):
            self.await_port(name, ADDRESS[name][0], port)
        stage = Table.grid(padding=(0, 2))
        stage.add_row(f"[bold]{APP}[/]", "10.9.0.2, fd09::2", "nginx :8080 (the app), curl, redis-cli, psql")
        stage.add_row(
            f"[bold]{PEER}[/]", "10.9.0.1, fd09::1", "curl, nginx :80, redis-server :6379, PostgreSQL :5432"
        )
        console.print(Panel(stage, title="two network namespaces, one link", border_style="dim"))

    def nginx(self, name: str, port: int, greeting: str) -> None:
        """A stock nginx that answers every path with one line."""
        config = self.work / f"nginx-{name}.conf"
        config.write_text(
            f"daemon off; worker_processes 1; pid {self.work}/{name}.pid; error_log stderr error;\n"
            "events { worker_connections 256; }\n"
            "http { access_log off; "
            + "".join(f"{k}_temp_path {self.work}/{name}-{k}; " for k in TEMP_PATHS)
            + "\n"
            f'server {{ listen {port}; listen [::]:{port}; location / {{ return 200 "{greeting}\\n"; }} }} }}\n'
        )
        self.start(name, f"nginx {name}", "nginx", "-c", str(config))

    def postgres(self) -> None:
        """A PostgreSQL of its own in a directory of its own."""
        data = self.work / "postgres"
        data.mkdir(mode=0o700)
        shutil.chown(data, "postgres", "postgres")
        initdb = (
            str(POSTGRES / "initdb"),
            "-D",
            str(data),
            "-A",
            "trust",
            "--no-sync",
            "-E",
            "UTF8",
            "--locale=C",
        )
        inside(PEER, *initdb, user="postgres")
        with (data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all 10.9.0.0/24 trust\nhost all all fd09::/64 trust\n")
        self.start(PEER, "postgres", str(POSTGRES / "postgres"), "-D", str(data), "-c", "listen_addresses=10.9.0.1,fd09::1",
                   "-c", f"unix_socket_directories={data}", "-c", "fsync=off", user="postgres")  # fmt: skip

    def start(self, name: str, what: str, *argv: str, user: str | None = None) -> subprocess.Popen[bytes]:
        """Start a program in a namespace; it is ended with the demo."""
        process = subprocess.Popen(
            command(name, *argv, user=user), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=(self.work / f"{what}.err").open("wb"), start_new_session=True, cwd=self.work,
        )  # fmt: skip
        self.stack.callback(end, process)
        return process

    def await_port(self, name: str, host: str, port: int) -> None:
        """Until something listens there."""

        def attempt() -> bool:
            with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
                return True
            return False

        wait_for(
            lambda: call_inside(Path("/run/netns", name), attempt), f"{name} {host}:{port} never listened"
        )

    def rules(self) -> str:
        """Every rule and its counters, of both families, in the app's namespace.

        Without the counters of the built-in chains: they are the kernel's account of all traffic, ours or not.
        """
        saved = [inside(APP, f"{tool}-legacy-save", "-c").stdout for tool in ("iptables", "ip6tables")]
        lines = [line for line in "".join(saved).splitlines(keepends=True) if not line.startswith("#")]
        return "".join(line.partition("[")[0] if line.startswith(":") else line for line in lines)

    # -- the scenes -----------------------------------------------------------------------------------------------

    def scene_plan(self) -> None:
        """What would be installed, in plain language, before anything is."""
        scene(1, "The plan: what the rules will do, printed without touching the kernel")
        show(str(BIN / "sidecar-setup"), "plan")

    def scene_sidecar(self) -> None:
        """Rules on, proxy up."""
        scene(2, "Rules on, sidecar up: the app keeps running, nothing in it changes")
        show(str(BIN / "sidecar-setup"), "apply", "--netns", APP)
        show(str(BIN / "sidecar-setup"), "apply", "--netns", APP)
        with self.expect_refused(
            "Rules but no proxy yet: captured traffic is refused, never let past (fail closed)"
        ):
            show_inside(APP, "curl", "-sS", "--max-time", "5", "http://10.9.0.1/", user=APP_USER, check=False)
        self.sidecar("ALLOW_ANY")

    def sidecar(self, policy: str, registry: str = "") -> None:
        """The proxy with a configuration file, ready."""
        config = self.work / "sidecar.yaml"
        config.write_text(SIDECAR % (policy, self.log) + registry)
        if self.proxy is not None:
            end(self.proxy)
        typed(f"interceptor proxy --config sidecar.yaml --netns {APP}   # runs as uid 1337, no capability")
        self.proxy = subprocess.Popen(
            [str(BIN / "interceptor"), "proxy", "--config", str(config), "--netns", APP],
            stdin=subprocess.DEVNULL, stderr=(self.work / "proxy.err").open("ab"), start_new_session=True,
        )  # fmt: skip
        self.stack.callback(end, self.proxy)
        wait_for(
            lambda: self.get(15020, "/healthz/ready") is not None,
            "the proxy never became ready",
            self.proxy_error,
        )
        console.print("  ready", style="green")

    def scene_ingress(self) -> None:
        """A peer's request to the app."""
        scene(3, "Ingress: a peer calls the app, over IPv4 and IPv6")
        show_inside(PEER, "curl", "-sS", "http://10.9.0.2:8080/")
        show_inside(PEER, "curl", "-sS", "http://[fd09::2]:8080/")
        self.tell_log(2)

    def scene_egress(self) -> None:
        """The app's own calls, with three protocols."""
        scene(4, "Egress: the app's side calls out with stock clients: HTTP, Redis, PostgreSQL")
        show_inside(APP, "curl", "-sS", "http://10.9.0.1/", user=APP_USER)
        show_inside(APP, "redis-cli", "-h", "10.9.0.1", "SET", "stock:apples", "42", user=APP_USER)
        show_inside(
            APP,
            "psql",
            "-h",
            "10.9.0.1",
            "-U",
            "postgres",
            "-Atc",
            "SELECT 6*9 AS answer",
            user=APP_USER,
        )
        show_inside(APP, "curl", "-sS", "http://[fd09::1]/", user=APP_USER)
        self.tell_log(4)

    def scene_metrics(self) -> None:
        """What a scraper sees."""
        scene(5, "Metrics: Istio's names and labels, the app instruments nothing")
        typed("curl http://127.0.0.1:15020/metrics   # an excerpt")
        wanted = (
            "istio_tcp_connections_opened_total",
            "istio_tcp_sent_bytes_total",
            "interceptor_connections_active",
        )
        for line in (self.get(15020, "/metrics") or "").splitlines():
            if line.startswith(wanted):
                console.print("  " + shorten(line), style="dim", markup=False, soft_wrap=True)

    def scene_registry_only(self) -> None:
        """The leak-proof switch."""
        scene(6, "REGISTRY_ONLY: the app may reach what the registry names, and nothing else")
        console.print(Panel(escape(REGISTRY.strip("-\n")), title="added to sidecar.yaml", border_style="dim"))
        self.sidecar("REGISTRY_ONLY", REGISTRY)
        show_inside(APP, "curl", "-sS", "http://10.9.0.1/", user=APP_USER)
        with self.expect_refused("Redis is not in the registry"):
            show_inside(APP, "redis-cli", "-h", "10.9.0.1", "GET", "stock:apples", user=APP_USER, check=False)
        self.tell_log(2)
        typed("curl http://127.0.0.1:15020/metrics | grep denied")
        for line in (self.get(15020, "/metrics") or "").splitlines():
            if line.startswith("interceptor_connections_denied_total"):
                console.print("  " + line, style="dim", markup=False, soft_wrap=True)

    def scene_remove(self, before: str) -> None:
        """No trace."""
        scene(7, "Rules off: the kernel's tables are byte for byte as before")
        show(str(BIN / "sidecar-setup"), "status", "--netns", APP)
        if KEEP:
            return
        show(str(BIN / "sidecar-setup"), "remove", "--netns", APP)
        if self.rules() != before:
            raise DemoError("the rules are not as they were before")
        console.print("  iptables-save and ip6tables-save: equal to before", style="green")

    def linger(self) -> None:
        """``--keep``: leave it running until Ctrl-C, with commands to try."""
        tool = shlex.quote(str(BIN))
        console.print("It is still running. Try, in another terminal:")
        for line in (
            f"sudo ip netns exec {PEER} curl http://10.9.0.2:8080/",
            f"sudo ip netns exec {APP} curl http://127.0.0.1:15000/connections",
            f"sudo ip netns exec {APP} curl http://127.0.0.1:15020/metrics",
            f"sudo {tool}/sidecar-setup status --netns {APP}",
            f"tail -f {self.log}",
        ):
            console.print("  " + line, style="cyan", markup=False)
        console.print("[bold]Ctrl-C[/] ends it and cleans up.")
        signal.pause()

    # -- telling --------------------------------------------------------------------------------------------------

    def tell_log(self, count: int) -> None:
        """The access log's new lines as a table."""
        lines: list[dict[str, object]] = []

        def arrived() -> bool:
            text = self.log.read_text()[self.log_read :]
            lines[:] = [json.loads(line) for line in text.splitlines()]
            return text.endswith("\n") and len(lines) >= count

        wait_for(arrived, f"the access log did not get {count} lines", self.proxy_error)
        self.log_read = len(self.log.read_text())
        table = Table(
            title="access log", title_justify="left", box=None, padding=(0, 2, 0, 0), title_style="dim"
        )
        for heading in ("direction", "peer", "original_dst", "bytes", "ms", "flags", "policy"):
            table.add_column(heading, no_wrap=heading != "policy", overflow="fold", header_style="dim")
        for line in lines:
            keys = ("direction", "peer", "original_dst", "bytes_sent", "duration", "response_flags", "policy")
            style = "red" if line["response_flags"] == "DENY" else "cyan"
            table.add_row(*(escape(str(line[key] or "-")) for key in keys), style=style)
        console.print(table)
        reasons = [
            str(line["connection_termination_details"]) for line in lines if line["response_flags"] == "DENY"
        ]
        for reason in reasons:
            console.print(f"  {reason}", style="red", markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def expect_refused(self, why: str):
        """The command inside must not get through."""
        console.print(f"  [yellow]{why}[/]")
        yield

    def get(self, port: int, path: str) -> str | None:
        """GET from the proxy's own endpoints, from inside the app's namespace; None while it does not answer 200."""

        def fetch() -> str | None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
                    return str(answer.read().decode())
            except OSError:
                return None

        return call_inside(Path("/run/netns", APP), fetch)

    def proxy_error(self) -> str:
        """What the proxy said, for a failure's message."""
        return (self.work / "proxy.err").read_text()[-2000:]


TEMP_PATHS = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
KEEP = "--keep" in sys.argv


def command(name: str, *argv: str, user: str | None = None) -> list[str]:
    """The argument vector for a namespace and a user."""
    who = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if user else []
    return ["ip", "netns", "exec", name, *who, *argv]


def inside(
    name: str, *argv: str, user: str | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run to the end in a namespace."""
    try:
        result = subprocess.run(
            command(name, *argv, user=user),
            check=False,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            cwd="/",
        )
    except subprocess.TimeoutExpired as error:
        raise DemoError(f"{shlex.join(argv)} did not end within {DEADLINE_SECONDS:.0f} s") from error
    if check and result.returncode != 0:
        raise DemoError(f"{shlex.join(argv)} failed with status {result.returncode}: {result.stderr.strip()}")
    return result


def quiet(*argv: str) -> None:
    """Run a set-up command; only its failure is shown."""
    result = subprocess.run(argv, check=False, capture_output=True, text=True)
    if result.returncode != 0:
        raise DemoError(f"{shlex.join(argv)}: {result.stderr.strip()}")


def show(*argv: str) -> None:
    """Type a command, run it, show what it prints."""
    _shown(
        Path(argv[0]).name + " " + shlex.join(argv[1:]),
        subprocess.run(argv, check=False, capture_output=True, text=True),
        check=True,
    )


def show_inside(name: str, *argv: str, user: str | None = None, check: bool = True) -> None:
    """The same inside a namespace."""
    result = inside(name, *argv, user=user, check=False)
    _shown(shlex.join(argv), result, check=check, where=name.removeprefix("icp-demo-"))
    if not check and result.returncode == 0 and "Error" not in result.stderr + result.stdout:
        raise DemoError(f"{shlex.join(argv)} got through, and should not have")


def _shown(text: str, result: subprocess.CompletedProcess[str], *, check: bool, where: str = "host") -> None:
    typed(text, where)
    for line in (result.stdout + result.stderr).rstrip().splitlines():
        console.print(
            "  " + line, markup=False, style="green" if result.returncode == 0 else "red", soft_wrap=True
        )
    if check and result.returncode != 0:
        raise DemoError(f"{text} failed with status {result.returncode}")


def typed(text: str, where: str = "host") -> None:
    """A command as a person would see it typed."""
    console.print(f"[dim]{where}[/] [bold cyan]$[/] [bold]{escape(text)}[/]", soft_wrap=True)


def title(name: str, line: str) -> None:
    """The opening."""
    console.print(Panel.fit(f"[bold]{name}[/]\n{line}", border_style="cyan"))


def scene(number: int, text: str) -> None:
    """A heading."""
    console.print()
    console.print(Rule(f"[bold]{number}. {text}[/]", align="left", style="cyan"))


def shorten(line: str) -> str:
    """A metric line with the labels a reader looks for first."""
    name, _, rest = line.partition("{")
    labels, _, value = rest.rpartition("}")
    kept = [
        p for p in labels.split(",") if p.startswith(("reporter", "destination_service_name=", "direction"))
    ]
    return f"{name}{{{','.join(kept)},...}}{value}"


def wait_for(condition: Callable[[], bool], failure: str, more: Callable[[], str] = str) -> None:
    """Poll until it holds."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise DemoError(f"{failure}\n{more()}".strip())
        time.sleep(0.05)


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, then SIGKILL; a process that has ended is fine."""
    for number, patience in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)


if __name__ == "__main__":
    main()
