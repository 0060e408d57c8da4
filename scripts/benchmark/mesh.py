"""Mutual TLS side by side: wrk -> client gateway -> server gateway -> nginx, with two of ours or two Envoys, one thread each.

Everything runs in namespaces of its own. Both relay opaque TCP (no HTTP is parsed), verify each other's certificate
against one authority and resume sessions; ``handshakes`` are full ones, made by ``openssl s_time -new`` against the server
gateway alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from scripts.benchmark.stage import process, run, wait, wait_listening

WORK: Final = Path("/run/mesh")
APP: Final = "10.9.1.2"
HTTP: Final = 8080
BULK: Final = 5201
UID: Final = 1337
LOADS: Final = 8  # at once: with two, which wait for every answer, a quarter of the machine had nothing to do
# Linux's default, cubic, sends without a timer, and so does reno, which may be chosen in a namespace everywhere: a machine's
# BBR would spend a quarter of the CPU of both contestants on its timers.
SYSCTLS: Final = {
    "ipv4/ip_local_port_range": "1024 65535",
    "ipv4/tcp_tw_reuse": "1",
    "ipv4/tcp_congestion_control": "reno",
    "core/somaxconn": "8192",
}
SIDES: Final = {"mesh-app": ("db", APP), "mesh-peer": ("web", "10.9.1.1")}
BODY: Final = "thirty-four bytes make this answer"
RULES: Final = f"""\
*nat
-A PREROUTING -i eth0 -p tcp -j REDIRECT --to-ports 15006
-A OUTPUT -o lo -j RETURN
-A OUTPUT -m owner --uid-owner {UID} -j RETURN
-A OUTPUT -p tcp -j REDIRECT --to-ports 15001
COMMIT
"""


def inside(where: str, *argv: str, timeout: float = 60) -> str:
    """Run a command in one of the two namespaces."""
    return run("nsenter", f"--net=/run/netns/{where}", *argv, timeout=timeout)


@contextlib.contextmanager
def network() -> Iterator[None]:
    """Two namespaces, joined, with the redirect rules."""
    for name in SIDES:
        run("ip", "netns", "add", name)
        run("ip", "-n", name, "link", "set", "lo", "up")
    run(
        "ip",
        "link",
        "add",
        "eth0",
        "netns",
        "mesh-app",
        "type",
        "veth",
        "peer",
        "name",
        "eth0",
        "netns",
        "mesh-peer",
    )
    for name, (_, address) in SIDES.items():
        run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        run("ip", "-n", name, "link", "set", "eth0", "up")
        inside(
            name,
            "sh",
            "-c",
            "; ".join(f"echo '{value}' > /proc/sys/net/{key}" for key, value in SYSCTLS.items()),
        )
        run("nsenter", f"--net=/run/netns/{name}", "iptables-legacy-restore", input=RULES)
    try:
        yield
    finally:
        for name in SIDES:
            run("ip", "netns", "del", name)


def certificates(root: Path) -> None:
    """An authority, and a certificate for each side."""
    command = [str(root / ".venv/bin/interceptor"), "certs"]
    run(*command, "init", f"{WORK}/ca")
    for account, _ in SIDES.values():
        run(
            *command,
            "issue",
            f"{WORK}/{account}",
            "--authority",
            f"{WORK}/ca",
            "--namespace",
            "shop",
            "--service-account",
            account,
        )


def ours(account: str) -> str:
    """Our configuration for a side."""
    tls = f"{{certificate: {WORK}/{account}/tls.crt, privateKey: {WORK}/{account}/tls.key, trustBundle: {WORK}/{account}/ca.crt}}"
    return f"""\
apiVersion: interceptor/v1
kind: Sidecar
metadata: {{name: {account}, namespace: shop}}
spec:
  accessLog: {{path: /dev/null}}
  limits: {{connections: 20000}}
  tls: {tls}
  ingress: {{ports: [{{port: {HTTP}, protocol: tcp}}, {{port: {BULK}, protocol: tcp}}]}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: strict, namespace: shop}}
spec: {{mtls: {{mode: STRICT}}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: db, namespace: shop}}
spec:
  hosts: [db.shop]
  resolution: STATIC
  ports: [{{number: {HTTP}, name: http, protocol: TCP}}, {{number: {BULK}, name: bulk, protocol: TCP}}]
  endpoints: [{{address: {APP}, labels: {{security.istio.io/tlsMode: istio}}, serviceAccount: db}}]
"""


def envoys(account: str) -> str:
    """Envoy's for a side, which does the same."""

    def tls(kind: str, alpn: list[str], **more: object) -> dict[str, object]:
        directory = f"{WORK}/{account}"
        pair = {
            "certificate_chain": {"filename": f"{directory}/tls.crt"},
            "private_key": {"filename": f"{directory}/tls.key"},
        }
        san = {"san_type": "URI", "matcher": {"prefix": "spiffe://cluster.local/"}}
        common = {
            "alpn_protocols": alpn,
            "tls_certificates": [pair],
            "validation_context": {
                "trusted_ca": {"filename": f"{directory}/ca.crt"},
                "match_typed_subject_alt_names": [san],
            },
        }
        typed = {
            "@type": f"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind}",
            "common_tls_context": common,
            **more,
        }
        return {"transport_socket": {"name": "tls", "typed_config": typed}}

    def listener(name: str, port: int, **chain: object) -> dict[str, object]:
        proxy = {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": name,
            "cluster": name,
        }
        original = {
            "@type": "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst"
        }
        return {
            "name": name,
            "address": {"socket_address": {"address": "0.0.0.0", "port_value": port}},
            "listener_filters": [{"name": "original_dst", "typed_config": original}],
            "filter_chains": [{"filters": [{"name": "tcp_proxy", "typed_config": proxy}], **chain}],
        }

    def cluster(name: str, **more: object) -> dict[str, object]:
        limits = {"thresholds": [{"max_connections": 100_000, "max_pending_requests": 100_000}]}
        return {
            "name": name,
            "type": "ORIGINAL_DST",
            "lb_policy": "CLUSTER_PROVIDED",
            "connect_timeout": "10s",
            "circuit_breakers": limits,
            **more,
        }

    server = tls("DownstreamTlsContext", ["h2", "http/1.1"], require_client_certificate=True)
    client = tls("UpstreamTlsContext", ["istio"], sni="outbound_.8080_._.db.shop")
    resources = {
        "listeners": [listener("ingress", 15006, **server), listener("egress", 15001)],
        "clusters": [cluster("ingress"), cluster("egress", **client)],
    }
    return json.dumps({"static_resources": resources})


@contextlib.contextmanager
def gateways(name: str, root: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Both sides of one contestant, until they answer."""
    with contextlib.ExitStack() as stack:
        started = []
        for where, (account, _) in SIDES.items():
            log = WORK / f"{account}.log"
            if name == "interceptor":
                file = WORK / f"{account}.yaml"
                file.write_text(ours(account))
                argv = [str(root / ".venv/bin/interceptor"), "proxy", "--config", str(file), "--netns", where]
                proxy = stack.enter_context(process(None, argv, log=log))
            else:
                file = WORK / f"{account}.json"
                file.write_text(envoys(account))
                argv = [
                    str(WORK / "envoy"),
                    "-c",
                    str(file),
                    "--concurrency",
                    "1",
                    "--disable-hot-restart",
                    "-l",
                    "error",
                ]
                proxy = stack.enter_context(process(where, argv, uid=UID, log=log))
            wait_listening(name, proxy, {15001, 15006}, log)
            started.append(proxy)
        wait(
            lambda: BODY in ask(), lambda: f"{name} does not answer: {(WORK / 'web.log').read_text()[-500:]}"
        )
        yield started


def ask() -> str:
    """One request by curl."""
    done = subprocess.run(
        ["nsenter", "--net=/run/netns/mesh-peer", "curl", "-s", f"http://{APP}:{HTTP}/"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


def wrk(seconds: int, *more: str) -> float:
    """Requests a second."""
    said = inside(
        "mesh-peer", "wrk", "-t", "1", "-c", "50", "-d", f"{seconds}s", *more, f"http://{APP}:{HTTP}/"
    )
    found = re.search(r"Requests/sec:\s+([\d.]+)", said)
    assert found, said
    return float(found[1])


def bulk(seconds: int, *more: str) -> float:
    """Gbit a second."""
    said = json.loads(inside("mesh-peer", "iperf3", "-c", APP, "-t", str(seconds), "-J", *more))
    return float(said["end"]["sum_received"]["bits_per_second"]) / 1e9


def handshakes(seconds: int) -> float:
    """Full ones; openssl calls the server gateway straight, as the proxy's own uid would: past the client's rules."""
    # Without the root (-CAfile), which openssl would send with its certificate: gateways do not, neither Envoy nor ours.
    pair = ("-cert", f"{WORK}/web/tls.crt", "-key", f"{WORK}/web/tls.key")
    argv = ["nsenter", "--net=/run/netns/mesh-peer", "setpriv", f"--reuid={UID}", "--clear-groups", "openssl", "s_time",
            "-connect", f"{APP}:{HTTP}", "-new", "-time", str(seconds), *pair]  # fmt: skip
    began = time.monotonic()
    both = [
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(LOADS)
    ]
    total = 0
    for each in both:
        said = each.communicate(timeout=60)[0]
        found = re.search(r"(\d+) connections in \d+ real seconds", said)
        assert found, said
        total += int(found[1])
    # openssl tells whole seconds: up to one more than it took
    return total / (time.monotonic() - began)


def measure(name: str, seconds: int) -> Iterator[tuple[str, float]]:
    """All measures of one contestant, in fresh namespaces."""
    root = Path(__file__).parents[2]
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(mode=0o755)
    binary = next((root / ".venv-bench").glob("lib/python3*/site-packages/envoy/_bin/envoy"))
    shutil.copy(binary, WORK / "envoy")
    certificates(root)
    servers = [
        (["nginx", "-e", "stderr", "-p", str(WORK / "nginx"), "-c", "nginx.conf"], HTTP),
        (["iperf3", "-s"], BULK),
    ]
    nginx_files(WORK / "nginx")
    with network(), contextlib.ExitStack() as stack:
        for argv, port in servers:
            server = stack.enter_context(process("mesh-app", argv, uid=65534, log=WORK / "server.log"))
            wait_listening(argv[0], server, {port}, WORK / "server.log")
        stack.enter_context(gateways(name, root))
        yield "mesh-requests", wrk(seconds)
        yield "mesh-up", bulk(seconds)
        yield "mesh-down", bulk(seconds, "-R")
        yield "mesh-resumed", wrk(seconds, "-H", "Connection: close")
        yield "mesh-handshakes", handshakes(seconds)


def nginx_files(directory: Path) -> None:
    """An app that answers a few bytes."""
    directory.mkdir()
    os.chown(directory, 65534, 65534)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {directory}/{kind}; " for kind in kinds)
    (directory / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {directory}/pid; error_log stderr crit; events {{ worker_connections 9000; }}\n"
        f'http {{ access_log off; keepalive_requests 1000000000; {temporary} server {{ listen {HTTP} backlog=8192; location / {{ return 200 "{BODY}"; }} }} }}\n'
    )
