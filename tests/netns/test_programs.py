"""Real programs through the whole gateway, both ways, with nothing declared: each must work as it does without it."""

from __future__ import annotations

import itertools
import os
import smtplib
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pymysql
import pytest
from websockets.sync.client import connect as websocket

from tests.support import small_servers
from tests.support.gateways import Gateway, connect, gateway
from tests.support.netns import Namespace, Topology, topology
from tests.support.processes import listens, run, sidecar_setup, wait_until
from tests.support.programs import Programs, copied, database, ssh_keys
from tests.support.small_servers import serving

pytestmark = [pytest.mark.netns, pytest.mark.slow]

WEB, ASGI, COUNT, TRAILERS, CONNECT = 8080, 8090, 8091, 8092, 3128
REDIS, POSTGRES, SSH, SMTP, MYSQL = 6379, 5432, 22, 25, 3306
LARGE = int(os.environ.get("INTERCEPTOR_LARGE_BODY_GB", "1")) * 1_000_000_000


@dataclass
class Stage:
    """The servers of both namespaces and the gateway between them."""

    bed: Topology
    proxy: Gateway
    directory: Path
    _seen: int = field(default=0)

    def since(self, count: int) -> list[dict[str, object]]:
        """The next lines of the access log, once there are so many, but for connections on which nobody spoke."""

        def spoken() -> list[dict[str, object]]:
            return [
                line for line in self.proxy.flows(0)[self._seen :] if line["method"] or line["bytes_received"]
            ]

        wait_until(lambda: len(spoken()) >= count, f"{count} lines in the access log")
        return spoken()

    def forget(self) -> None:
        """Begin anew, once what ended is in the log too."""
        wait_until(lambda: self.proxy.metric("interceptor_connections_active{") == 0, "no connection is left")
        ended = sum(map(self.proxy.metric, ("istio_requests_total{", "istio_tcp_connections_closed_total{")))
        self._seen = len(self.proxy.flows(int(ended)))


@dataclass
class Side:
    """One direction: who calls, and who is called."""

    stage: Stage
    direction: str
    client: Namespace
    called: Namespace

    @property
    def host(self) -> str:
        return self.called.v4

    def url(self, port: int = WEB, path: str = "/") -> str:
        return f"http://{self.host}:{port}{path}"

    def recorded(
        self, count: int, *relays: str, flags: frozenset[str] = frozenset("-")
    ) -> list[dict[str, object]]:
        """So many flows or requests ended, all of this direction, without a fault, moved in one of these ways."""
        lines = self.stage.since(count)
        odd = [line for line in lines if line["response_flags"] not in flags]
        assert (len(lines), odd) == (count, [])
        assert {line["direction"] for line in lines} == {self.direction}
        assert {line["relay"] for line in lines} <= set(relays)
        return lines


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Everything started at once, the gateway last: what the tests wait for is done by then."""
    with ExitStack() as stack:
        made = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="icp-")))
        made.chmod(0o755)
        bed = stack.enter_context(topology())
        stack.callback(run, sidecar_setup("remove", "--netns", bed.app.name))
        keys, data = ssh_keys(made), database(made)
        for where in (bed.app, bed.peer):
            programs = Programs(where, made, stack)
            programs.nginx(WEB, LARGE)
            programs.redis(REDIS)
            programs.postgres(POSTGRES, copied(data, f"postgres-{where.name}"))
            programs.sshd(SSH, keys)
            programs.hypercorn(ASGI, "tests.support.echo_application:application")
            reach = partial(connect, where, "127.0.0.1")
            for port, handle in (
                (SMTP, small_servers.smtp),
                (MYSQL, small_servers.mysql),
                (TRAILERS, small_servers.trailers),
                (COUNT, small_servers.count_body),
                (CONNECT, partial(small_servers.connect_proxy, reach=reach)),
            ):
                stack.enter_context(serving(where, port, handle))
        for where, port in itertools.product((bed.app, bed.peer), (WEB, REDIS, POSTGRES, SSH, ASGI)):
            wait_until(listens(where, where.v4, port), f"{where.name} listens at {port}")
        yield Stage(bed, stack.enter_context(gateway(bed, made)), made)


@pytest.fixture(params=["ingress", "egress"])
def side(stage: Stage, request: pytest.FixtureRequest) -> Side:
    bed = stage.bed
    ends = (bed.peer, bed.app) if request.param == "ingress" else (bed.app, bed.peer)
    stage.forget()
    return Side(stage, request.param, *ends)


def curl(side: Side, *options: str) -> str:
    return side.client.run("curl", "--silent", "--show-error", "--max-time", "20", *options).stdout


# Protocols that are not HTTP


@pytest.mark.parametrize(("mode", "encrypted"), [("disable", "f"), ("require", "t")])
def test_postgresql_plain_and_after_an_ssl_request(side: Side, mode: str, encrypted: str) -> None:
    said = side.client.run(
        "psql",
        "--no-psqlrc",
        "--tuples-only",
        "--no-align",
        f"host={side.host} port={POSTGRES} user=postgres sslmode={mode} gssencmode=disable",
        "--command=select ssl from pg_stat_ssl where pid = pg_backend_pid()",
        "--command=select sum(length(repeat('x', n))) from generate_series(1, 2000) n",
        "--command=copy (select repeat('x', 1000) from generate_series(1, 1000)) to stdout",
    ).stdout
    first, total, *rows = said.split("\n")
    assert (first, total) == (encrypted, "2001000")
    assert rows == ["x" * 1000] * 1000 + [""]
    # Over TLS every such session ends with a reset, also without us: PostgreSQL leaves the client's closing unread.
    ends = frozenset({"-", "DC", "UR"} if encrypted == "t" else "-")
    (line,) = side.recorded(1, "copy", "splice", flags=ends)
    assert int(str(line["bytes_sent"])) > 1_000_000


def test_redis(side: Side) -> None:
    redis = ("redis-cli", "-h", side.host, "-p", str(REDIS))
    assert side.client.run(*redis, "set", "key", "v" * 100_000).stdout == "OK\n"
    assert side.client.run(*redis, "get", "key").stdout == "v" * 100_000 + "\n"
    benchmark = ("redis-benchmark", "-h", side.host, "-p", str(REDIS), "-q", "-n", "2000", "-c", "20")
    assert "requests per second" in side.client.run(*benchmark, "-P", "16", "-t", "set").stdout
    lines = side.recorded(2 + 20 + 1, "copy", "splice")  # redis-benchmark asks for the configuration first
    assert int(str(lines[1]["bytes_sent"])) > 100_000


def test_ssh_whose_server_speaks_first(side: Side) -> None:
    key = side.stage.directory / "keys" / "key"
    said = side.client.run(
        *("ssh", "-F", "none", "-i", str(key), "-o", "StrictHostKeyChecking=no"),
        *("-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR"),
        *(f"root@{side.host}", "echo $((6*7)); head -c 1000000 /dev/zero | wc -c"),
    ).stdout
    assert said.split() == ["42", "1000000"]
    side.recorded(1, "copy", "splice")


def test_smtp_whose_server_speaks_first(side: Side) -> None:
    def send() -> bytes:
        with smtplib.SMTP(side.host, SMTP, local_hostname="test", timeout=20) as client:
            client.mail("a@test")
            client.rcpt("b@test")
            return client.data("line\r\n" * 10_000)[1]

    assert side.client.call(send) == b"took 60000 bytes"
    side.recorded(1, "copy", "splice")


def test_mysql_whose_server_speaks_first(side: Side) -> None:
    def ask() -> str:
        with pymysql.connect(host=side.host, port=MYSQL, user="u", password="p", read_timeout=20) as client:
            client.ping(reconnect=False)
            return str(client.get_server_info())

    assert side.client.call(ask) == "8.0.0-test"
    side.recorded(1, "copy", "splice")


# HTTP


def test_curl_in_every_form(side: Side) -> None:
    assert curl(side, side.url(path="/a?b")) == "HTTP/1.1 /a?b\n"
    assert curl(side, "--http1.0", side.url()) == "HTTP/1.0 /\n"
    assert "Content-Length: 11" in curl(side, "--head", side.url())
    assert curl(side, "--include", side.url(path="/none")).startswith("HTTP/1.1 204 No Content\n")
    assert curl(side, "--include", side.url(path="/cached")).startswith("HTTP/1.1 304 Not Modified\n")
    assert curl(side, side.url(path="/1"), side.url(path="/2")) == "HTTP/1.1 /1\nHTTP/1.1 /2\n"
    lines = side.recorded(7, "http")
    assert [line["response_code"] for line in lines] == [200, 200, 200, 204, 304, 200, 200]


def test_curl_uploads_in_chunks_and_waits_to_be_told_to(side: Side) -> None:
    body = side.stage.directory / "body"
    body.write_bytes(bytes(range(256)) * 8000)
    chunked = ("--header", "Transfer-Encoding: chunked", "--data-binary", f"@{body}")
    assert curl(side, *chunked, side.url(ASGI, "/up")) == f"1.1 POST /up {body.stat().st_size}\n"
    expecting = ("--header", "Expect: 100-continue", "--expect100-timeout", "15", *chunked)
    said = side.client.run(
        "curl",
        "--silent",
        "--verbose",
        "--max-time",
        "10",
        *expecting,
        side.url(TRAILERS),
        "--output",
        "/dev/null",
    ).stderr
    assert "< HTTP/1.1 100 " in said
    assert "Done waiting for 100-continue" not in said
    assert "< HTTP/1.1 200" in said
    first, second = side.recorded(2, "http")
    assert first["bytes_received"] == second["bytes_received"] == second["bytes_sent"] == body.stat().st_size


def test_trailers_pass_both_ways(side: Side) -> None:
    request = (
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\nConnection: close\r\n\r\n"
        b"5\r\nhello\r\n0\r\nX-Sum: 42\r\n\r\n"
    )
    said = exchange(side, TRAILERS, request)
    assert said.startswith(b"HTTP/1.1 200")
    assert said.endswith(b"5\r\nhello\r\n0\r\nx-sum: 42\r\n\r\n")
    side.recorded(1, "http")


@pytest.mark.parametrize("server", [WEB, ASGI])
def test_pipelined_requests_are_answered_in_order(side: Side, server: int) -> None:
    requests = b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % number for number in range(49))
    said = exchange(side, server, requests + b"GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    answers = [part.partition(b"\r\n\r\n")[2] for part in said.split(b"HTTP/1.1 200")[1:]]
    paths = [b"/%d" % number for number in range(49)] + [b"/last"]
    form = b"HTTP/1.1 %b\n" if server == WEB else b"1.1 GET %b 0\n"
    assert [answer for answer in answers if answer] == [form % path for path in paths]
    side.recorded(50, "http")


def exchange(side: Side, port: int, request: bytes) -> bytes:
    """All that comes back until the server closes."""
    with connect(side.client, side.host, port) as client:
        client.sendall(request)
        return b"".join(iter(partial(client.recv, 65536), b""))


@pytest.mark.parametrize("keep", [(), ("-k",)])
def test_ab_speaks_http_1_0(side: Side, keep: tuple[str, ...]) -> None:
    said = side.client.run("ab", "-q", *keep, "-n", "500", "-c", "10", side.url()).stdout
    found = dict(line.split(":", 1) for line in said.splitlines() if ":" in line)
    assert found["Complete requests"].strip() == "500"
    assert found["Failed requests"].strip() == "0"
    assert "Non-2xx responses" not in found
    assert found.get("Keep-Alive requests", "none").strip() == ("500" if keep else "none")
    assert {line["protocol"] for line in side.recorded(500, "http")} == {"HTTP/1.0"}


def test_wrk(side: Side) -> None:
    said = side.client.run("wrk", "-t1", "-c20", "-d1s", side.url()).stdout
    assert "requests in" in said
    assert "Non-2xx" not in said
    assert "Socket errors" not in said
    counted = int(said.split(" requests in")[0].split()[-1])
    lines = side.stage.since(counted)
    assert {line["response_code"] for line in lines} <= {
        200,
        0,
    }  # wrk leaves in the middle of its last requests


def test_websockets_carry_messages_both_ways(side: Side) -> None:
    raw = connect(side.client, side.host, ASGI)
    with websocket(f"ws://{side.host}:{ASGI}/chat", sock=raw, open_timeout=20) as client:
        assert client.recv(timeout=20) == "the server speaks first"
        for message in ("text", b"bytes", os.urandom(1_000_000), ""):
            client.send(message)
            assert client.recv(timeout=20) == message
        assert client.ping().wait(20)
    assert client.close_code == 1000
    (line,) = side.recorded(1, "copy", "splice", "http")
    assert line["response_code"] == 101


def test_connect_makes_a_tunnel(side: Side) -> None:
    proxy = ("--proxytunnel", "--proxy", f"http://{side.host}:{CONNECT}")
    assert curl(side, *proxy, f"http://there.test:{WEB}/through") == "HTTP/1.1 /through\n"
    (line,) = side.recorded(1, "copy", "splice", "http")
    assert (line["method"], line["response_code"]) == ("CONNECT", 200)


def peak_memory(side: Side) -> int:
    """The most that the proxy has held in memory since it was last asked, in bytes."""
    process = Path("/proc", str(side.stage.proxy.process.pid))
    lines = (process / "status").read_text().splitlines()
    (process / "clear_refs").write_text("5")  # proc(5): the peak is what is held now
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def test_a_body_of_gigabytes_passes_in_a_few_megabytes(side: Side) -> None:
    curl(side, side.url())  # what the first request loads stays
    peak_memory(side)
    before = peak_memory(side)
    assert fetched(side) == LARGE
    assert peak_memory(side) - before < 8_000_000
    large = side.stage.directory / f"nginx-{side.called.name}" / "files" / "large"
    assert curl(side, "--upload-file", str(large), side.url(COUNT)) == str(LARGE)
    assert peak_memory(side) - before < 8_000_000
    _, down, up = side.recorded(3, "http")
    assert down["bytes_sent"] == up["bytes_received"] == LARGE


def fetched(side: Side) -> int:
    """The length of the large file's body as it arrives."""
    buffer = bytearray(1 << 20)
    with connect(side.client, side.host, WEB) as client:
        client.sendall(b"GET /files/large HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(1)
        return sum(iter(partial(client.recv_into, buffer, 0, socket.MSG_WAITALL), 0))
