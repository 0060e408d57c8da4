"""Two unmodified programs behind two gateways: plain TCP to their own, mutual TLS between, and whoever else may try.

The caller stands in the topology's ``peer``, the called in its ``app``.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support import real_envoy
from tests.support.identities import DB, Root
from tests.support.netns import Namespace, Topology, topology
from tests.support.processes import interceptor, listens, run, sidecar_setup, started, wait_until
from tests.support.workload_api import Agent, answer, svid_of

pytestmark = pytest.mark.netns

SIDECAR = """\
apiVersion: interceptor/v1
kind: Sidecar
metadata: {name: %(name)s, namespace: shop}
spec:
  serviceAccount: %(name)s
  accessLog: {path: %(directory)s/access.log}
  timeouts: {connect: 2s, drainDelay: 10ms, drain: 1s, handshake: 2s}
  tls: {certificate: %(directory)s/tls/tls.crt, privateKey: %(directory)s/tls/tls.key, trustBundle: %(directory)s/tls/ca.crt}
  discovery: {push: {enabled: true, remote: {address: "[::]:15010", subjectAltNames: [spiffe://cluster.local/ns/shop/sa/web]}}}
"""
STRICT = """\
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: shop}
spec: {mtls: {mode: STRICT}}
"""
ONLY_WEB = """\
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-web, namespace: shop}
spec:
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}]
"""
MESH = """\
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db, namespace: shop}
spec:
  hosts: [db.shop]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 8080, name: http, protocol: HTTP}, {number: 8081, name: http2, protocol: HTTP2}, {number: 6379, name: redis, protocol: TCP}]
  endpoints: [{address: 10.9.0.2, labels: {security.istio.io/tlsMode: istio}, serviceAccount: db}]
"""


class Sidecar:
    """A gateway in a namespace."""

    def __init__(self, where: Namespace, directory: Path) -> None:
        self.where = where
        self.directory = directory

    def flows(self, count: int) -> list[dict[str, object]]:
        log = self.directory / "access.log"
        wait_until(lambda: log.read_text().count("\n") >= count, f"{count} lines in {log}")
        return [json.loads(line) for line in log.read_text().splitlines()]

    def get(self, path: str, port: int = 15020) -> str:
        return self.where.run("curl", "-s", f"http://127.0.0.1:{port}{path}", check=False).stdout


@pytest.fixture
def work() -> Iterator[Path]:
    """A directory that the proxy's user may enter, with an authority in it."""
    with tempfile.TemporaryDirectory(prefix="icp-") as made:
        Path(made).chmod(0o755)
        certs("init", f"{made}/ca", "--lifetime", "48h")
        yield Path(made)


def certs(*argv: str) -> str:
    done = run(interceptor("certs", *argv))
    assert done.returncode == 0, done.stderr
    return done.stdout


def issue(work: Path, name: str, *argv: str) -> None:
    certs(
        *("issue", f"{work}/{name}/tls", "--authority", f"{work}/ca", "--namespace", "shop"),
        *("--service-account", name, *argv),
    )


@contextmanager
def sidecar(
    where: Namespace, work: Path, name: str, *documents: str, **environment: str
) -> Iterator[Sidecar]:
    directory = work / name
    directory.mkdir(exist_ok=True)
    directory.chmod(0o755)
    issue(work, name)
    log = directory / "access.log"
    log.touch()
    log.chmod(0o666)
    config = directory / "sidecar.yaml"
    config.write_text(SIDECAR % {"name": name, "directory": directory} + "".join(documents))
    applied = run(sidecar_setup("apply", "--netns", where.name, "--exclude-ingress-ports", "15010"))
    assert applied.returncode == 0, applied.stderr
    argv = interceptor("proxy", "--config", str(config), "--netns", where.name)
    with started(argv, **environment) as process:
        made = Sidecar(where, directory)
        wait_until(lambda: made.get("/healthz/ready") == "ready\n" or process.poll() is not None, "ready")
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        yield made
    assert run(sidecar_setup("remove", "--netns", where.name)).returncode == 0


@contextmanager
def program(where: Namespace, port: int, *argv: str) -> Iterator[None]:
    process = where.popen(*argv, uid=1000, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(listens(where, "127.0.0.1", port), f"{argv[0]} listens")
        yield
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def nginx(where: Namespace, work: Path) -> Iterator[None]:
    """It says ``hello`` at /, and 64 MB at /large; to the port 8081 it speaks HTTP/2 alone."""
    root = work / "nginx"
    root.mkdir()
    (root / "large").write_bytes(bytes(range(256)) * 262144)
    (root / "index.html").write_text("hello")
    shutil.chown(root, 1000, 1000)
    temporary = "".join(
        f"{kind}_temp_path {root}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (root / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {root}/pid; error_log {root}/error.log; events {{}}\n"
        f'http {{ access_log off; {temporary} root {root}; server {{ listen 8080; add_header seen "<$http_x_envoy_peer_metadata>"; add_header told "<$http_x_forwarded_client_cert>"; }} '
        'server { listen 8081 http2; add_header told "<$http_x_forwarded_client_cert>"; } }\n'
    )
    with program(where, 8080, "nginx", "-e", f"{root}/error.log", "-c", f"{root}/nginx.conf"):
        yield


def curl(where: Namespace, *argv: str) -> subprocess.CompletedProcess[str]:
    return where.run("curl", "-sS", "--max-time", "60", *argv, uid=1000, check=False, timeout=90)


@pytest.fixture
def bed() -> Iterator[Topology]:
    with topology() as made:
        yield made


def test_two_programs_talk_in_the_clear_and_their_gateways_by_mutual_tls(bed: Topology, work: Path) -> None:
    with (
        sidecar(bed.app, work, "db", STRICT, ONLY_WEB) as db,
        sidecar(bed.peer, work, "web", MESH) as web,
        nginx(bed.app, work),
        program(bed.app, 6379, "redis-server", "--save", "", "--protected-mode", "no"),
    ):
        done = curl(bed.peer, "http://10.9.0.2:8080/", "http://10.9.0.2:8080/")
        assert done.stdout == "hellohello", done.stderr
        claim = "x-forwarded-client-cert: URI=spiffe://cluster.local/ns/shop/sa/admin"
        head = curl(bed.peer, "-i", "-H", claim, "http://10.9.0.2:8080/").stdout.lower()
        assert told(head)
        assert "seen: <>" in head
        assert "x-envoy-peer" not in head, "what gateways tell each other is no business of apps"
        redis = bed.peer.run("redis-cli", "-h", "10.9.0.2", "incr", "seen", uid=1000)
        assert redis.stdout == "1\n"
        into = db.flows(4)
        assert {line["peer_identity"] for line in into} == {"spiffe://cluster.local/ns/shop/sa/web"}
        assert {line["relay"] for line in into} == {"http", "tls"}
        assert {line["policy"] for line in into} == {"AuthorizationPolicy shop/only-web"}
        assert {line["requested_server_name"] for line in into} >= {"outbound_.6379_._.db.shop"}
        web.flows(4)
        metrics = db.get("/metrics")
        assert tells(
            metrics, source_workload="web", source_canonical_service="web", destination_workload="db"
        )
        upstream = "spiffe://cluster.local/ns/shop/sa/db"
        assert tells(
            web.get("/metrics"),
            destination_workload="db",
            destination_principal=upstream,
            source_workload="web",
        )
        labels = 'source_principal="spiffe://cluster.local/ns/shop/sa/web"'
        assert any(
            labels in line and 'connection_security_policy="mutual_tls"' in line
            for line in metrics.splitlines()
        )
        assert "interceptor_certificate_expiry_seconds{" in metrics
        shown = db.get("/certs", 15000)
        assert "spiffe://cluster.local/ns/shop/sa/db" in shown
        assert "PRIVATE" not in shown + db.get("/config_dump", 15000)
        assert pushed(bed.peer, work / "web") == "200"
        assert "ServiceEntry/shop/db" in db.get("/config_dump", 15000)
        assert pushed(bed.peer, work / "db") == "403"


def pushed(where: Namespace, directory: Path) -> str:
    """What is answered to a push from another machine, with somebody's certificate."""
    pair = ("--cert", f"{directory}/tls/tls.crt", "--key", f"{directory}/tls/tls.key")
    sent = (
        "-H",
        "Content-Type: application/yaml",
        "-X",
        "PUT",
        "--data-binary",
        MESH,
        "-w",
        "%{http_code}",
        "-o",
        "/dev/null",
    )
    done = where.run("curl", "-sSk", *pair, *sent, "https://10.9.0.2:15010/config", check=False)
    return done.stdout


def told(head: str) -> bool:
    """Whether the app heard of its peer's certificate, and of no other."""
    ours = 'by=spiffe://cluster.local/ns/shop/sa/db;hash=[0-9a-f]{64};subject="";uri=spiffe://cluster.local/ns/shop/sa/web'
    return re.search(f"^told: <{ours}>\r?$", head.lower(), re.MULTILINE) is not None


def tells(metrics: str, **labels: str) -> bool:
    """Whether all requests that were counted have these labels."""
    lines = [line for line in metrics.splitlines() if line.startswith("istio_requests_total{")]
    return bool(lines) and all(
        f'{name}="{value}"' in line for line in lines for name, value in labels.items()
    )


def test_http2_stays_http2_over_mutual_tls(bed: Topology, work: Path) -> None:
    url = "http://10.9.0.2:8081/"
    with (
        sidecar(bed.app, work, "db", STRICT, ONLY_WEB) as db,
        sidecar(bed.peer, work, "web", MESH) as web,
        nginx(bed.app, work),
    ):
        for path in ("", "large", ""):  # one by one: curl 7.88 fails when it uses such a connection again
            done = curl(
                bed.peer,
                "--http2-prior-knowledge",
                "-w",
                "%{http_version} %{size_download}",
                f"{url}{path}",
                "-o",
                "/dev/null",
            )
            assert done.stdout == f"2 {1 << 26 if path else 5}", done.stderr
        assert told(curl(bed.peer, "--http2-prior-knowledge", "-i", url).stdout)
        for line in (*db.flows(4), *web.flows(4)):
            assert (line["protocol"], line["response_code"]) == ("HTTP/2", 200)
        assert {line["peer_identity"] for line in db.flows(4)} == {"spiffe://cluster.local/ns/shop/sa/web"}
        assert tells(db.get("/metrics"), source_workload="web", source_app="unknown")
        assert tells(web.get("/metrics"), destination_workload="db", destination_canonical_revision="latest")


def test_who_may_not_is_refused_and_told_apart_in_the_log(bed: Topology, work: Path) -> None:
    with sidecar(bed.app, work, "db", STRICT, ONLY_WEB) as db, nginx(bed.app, work):
        url = "http://10.9.0.2:8080/"
        assert curl(bed.peer, url).returncode == 56  # reset: plaintext
        (line,) = db.flows(1)
        assert (line["response_flags"], line["bytes_sent"]) == ("NR", 0)
        assert "STRICT" in str(line["connection_termination_details"])
        with sidecar(bed.peer, work, "eve", MESH):
            done = curl(bed.peer, "-w", "%{http_code}", url)  # in the mesh, and not allowed
            assert done.stdout == "RBAC: access denied403"
        line = db.flows(2)[-1]
        assert line["peer_identity"] == "spiffe://cluster.local/ns/shop/sa/eve"
        certs("init", f"{work}/other")
        certs(
            *("issue", f"{work}/mallory", "--authority", f"{work}/other", "--namespace", "shop"),
            *("--service-account", "web"),
        )
        tls = ("--cert", f"{work}/mallory/tls.crt", "--key", f"{work}/mallory/tls.key", "-k")
        for path in Path(f"{work}/mallory").rglob("tls.key"):
            shutil.chown(path, 1000)
        assert curl(bed.peer, *tls, "https://10.9.0.2:8080/").returncode in {16, 35, 55, 56}
        line = db.flows(3)[-1]
        assert "does not stand against the trust bundle" in str(line["connection_termination_details"])
        assert line["response_flags"] == "DENY"


def test_certificates_rotate_under_traffic_and_nobody_notices(bed: Topology, work: Path) -> None:
    with (
        sidecar(bed.app, work, "db", STRICT, ONLY_WEB) as db,
        sidecar(bed.peer, work, "web", MESH) as web,
        nginx(bed.app, work),
    ):
        url = "http://10.9.0.2:8080"
        sizes: list[str] = []
        counts: list[str] = []
        stop = threading.Event()

        def download() -> None:
            sizes.append(
                curl(
                    bed.peer,
                    "--limit-rate",
                    "12M",
                    "-o",
                    "/dev/null",
                    "-w",
                    "%{size_download}",
                    f"{url}/large",
                ).stdout
            )

        def ask() -> None:
            while not stop.is_set():
                done = curl(bed.peer, "-w", "\n%{http_code}\n", f"{url}/", f"{url}/", f"{url}/")
                counts.extend(done.stdout.split())
                if done.returncode:
                    counts.append(done.stderr)

        threads = [threading.Thread(target=work) for work in (download, ask)]
        for thread in threads:
            thread.start()
        before = {name: serial(made) for name, made in (("db", db), ("web", web))}
        for step in (("init", f"{work}/ca", "--renew"), None, None):
            if step is not None:
                certs(*step)
            certs("rotate", f"{work}/db/tls", f"{work}/web/tls", "--authority", f"{work}/ca", "--all")
            for name, made in (("db", db), ("web", web)):
                wait_until(lambda made=made, name=name: serial(made) != before[name], "a new pair is used")  # type: ignore[misc]  # bound now
                before[name] = serial(made)
        stop.set()
        for thread in threads:
            thread.join(90)
        assert sizes == [str(64 << 20)]
        assert set(counts) == {"hello", "200"}, set(counts)
        assert len(counts) > 100


def serial(made: Sidecar) -> str:
    return str(json.loads(made.get("/certs", 15000))[0]["cert_chain"][0]["serial_number"])


@pytest.mark.parametrize("source", ["files", "agent"])
def test_run_gives_the_app_the_trust_store_of_the_moment(bed: Topology, work: Path, source: str) -> None:
    root = Root()
    issue(work, "db")
    config, tls = work / "sidecar.yaml", work / "db" / "tls"
    text = SIDECAR % {"name": "db", "directory": work / "db"}
    agent = Agent(work)
    if source == "agent":
        agent.say(answer(svid_of(DB, root.issue(DB), root)))
        agent.start()
        agent.path.chmod(0o777)
        text = re.sub("tls: {.*", f"tls: {{workloadApi: {{socket: '{agent.address}'}}}}", text)
    config.write_text(text)
    (work / "db" / "access.log").touch()
    (work / "db" / "access.log").chmod(0o666)
    script = (
        'last() { tail -n 3 "$SSL_CERT_FILE"; }; first=$(last); echo "$first"; '
        'while test "$first" = "$(last)"; do sleep 0.05; done; last; test -r "$NODE_EXTRA_CA_CERTS" || exit 3'
    )
    options = ("--netns", bed.app.name, "--user", "65534", "--config", str(config))
    with started(interceptor("run", *options, "--", "sh", "-c", script)) as process:
        assert process.stdout is not None
        told = [process.stdout.readline().rstrip() for _ in range(3)]
        if source == "agent":
            assert told == root.pair.certificate.decode().splitlines()[-3:]
            newer = Root()
            agent.say(answer(svid_of(DB, newer.issue(DB), root, newer)))
            expected = newer.pair.certificate.decode()
        else:
            assert told == (tls / "ca.crt").read_text().splitlines()[-3:]
            renewed = tls / "ca.new"
            renewed.write_bytes((tls / "ca.crt").read_bytes() + root.pair.certificate)
            renewed.replace(tls / "ca.crt")
            expected = root.pair.certificate.decode()
        out, err = process.communicate(timeout=30)
    if source == "agent":
        agent.stop()
    assert process.returncode == 0, err
    assert out.splitlines()[:3] == expected.splitlines()[-3:]


def tls_context(work: Path, name: str, *, server: bool) -> dict[str, object]:
    kind = "DownstreamTlsContext" if server else "UpstreamTlsContext"
    directory = work / name / "tls"
    common = {
        "alpn_protocols": ["h2", "http/1.1"] if server else ["istio-http/1.1", "istio", "http/1.1"],
        "tls_certificates": [
            {
                "certificate_chain": {"filename": f"{directory}/tls.crt"},
                "private_key": {"filename": f"{directory}/tls.key"},
            }
        ],
        "validation_context": {
            "trusted_ca": {"filename": f"{directory}/ca.crt"},
            "match_typed_subject_alt_names": [
                {"san_type": "URI", "matcher": {"prefix": "spiffe://cluster.local/"}}
            ],
        },
    }
    typed: dict[str, object] = {
        "@type": f"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind}",
        "common_tls_context": common,
    }
    if server:
        typed["require_client_certificate"] = True
    return {"transport_socket": {"name": "tls", "typed_config": typed}}


def envoy_configuration(work: Path, name: str, listen: int, to: tuple[str, int], *, server: bool) -> str:
    """A TCP proxy that terminates mutual TLS (server), or begins it."""
    proxy = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
    chain: dict[str, object] = {
        "filters": [{"name": "t", "typed_config": {"@type": proxy, "stat_prefix": "t", "cluster": "c"}}]
    }
    cluster: dict[str, object] = {
        "name": "c",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "c",
            "endpoints": [
                {
                    "lb_endpoints": [
                        {"endpoint": {"address": {"socket_address": {"address": to[0], "port_value": to[1]}}}}
                    ]
                }
            ],
        },
    }
    (chain if server else cluster).update(tls_context(work, name, server=server))
    listener = {
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": listen}},
        "filter_chains": [chain],
    }
    return json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}})


@contextmanager
def envoy(where: Namespace, work: Path, configuration: str, port: int) -> Iterator[None]:
    copied = real_envoy.copied_to(work)
    (work / "envoy.json").write_text(configuration)
    with program(
        where, port,
        *(str(copied), "-c", f"{work}/envoy.json", "--concurrency", "1", "--disable-hot-restart", "-l", "off"),
    ):  # fmt: skip
        yield


def test_envoy_calls_us_by_mutual_tls(bed: Topology, work: Path) -> None:
    with ExitStack() as stack:
        db = stack.enter_context(sidecar(bed.app, work, "db", STRICT, ONLY_WEB))
        stack.enter_context(nginx(bed.app, work))
        (work / "web").mkdir()
        issue(work, "web", "--owner", "1000")
        configuration = envoy_configuration(work, "web", 9000, ("10.9.0.2", 8080), server=False)
        stack.enter_context(envoy(bed.peer, work, configuration, 9000))
        assert curl(bed.peer, "http://127.0.0.1:9000/").stdout == "hello"
        claim = "x-forwarded-client-cert: By=me;URI=spiffe://cluster.local/ns/shop/sa/front"
        head = curl(bed.peer, "-i", "-H", claim, "http://127.0.0.1:9000/").stdout
        assert "told: <By=me;URI=spiffe://cluster.local/ns/shop/sa/front,By=spiffe://" in head
        size = curl(
            bed.peer, "-o", "/dev/null", "-w", "%{size_download}", "http://127.0.0.1:9000/large"
        ).stdout
        assert size == str(64 << 20)
        assert {line["peer_identity"] for line in db.flows(3)} == {"spiffe://cluster.local/ns/shop/sa/web"}


def test_we_call_envoy_by_mutual_tls(bed: Topology, work: Path) -> None:
    with ExitStack() as stack:
        web = stack.enter_context(sidecar(bed.peer, work, "web", MESH))
        stack.enter_context(nginx(bed.app, work))
        (work / "db").mkdir()
        issue(work, "db", "--owner", "1000")
        configuration = envoy_configuration(work, "db", 6379, ("127.0.0.1", 8080), server=True)
        stack.enter_context(envoy(bed.app, work, configuration, 6379))
        assert curl(bed.peer, "http://10.9.0.2:6379/").stdout == "hello"
        size = curl(
            bed.peer, "-o", "/dev/null", "-w", "%{size_download}", "http://10.9.0.2:6379/large"
        ).stdout
        assert size == str(64 << 20)
        assert {line["response_flags"] for line in web.flows(2)} == {"-"}
