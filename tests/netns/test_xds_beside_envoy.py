"""One control plane, which is neither's, feeds the real Envoy and us; both take every request the same way."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import socket
import socketserver
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import real_envoy
from tests.support.control_plane import (
    CLUSTER,
    ENDPOINT,
    LISTENER,
    ROUTE,
    SECRET,
    ControlPlane,
    bundle_secret,
    eds_cluster,
    endpoints,
    guarded,
    http_listener,
    limited,
    listener,
    named_listener,
    original_cluster,
    pair_secret,
    route_configuration,
    secured,
    static_cluster,
)
from tests.support.gateways import gateway
from tests.support.identities import Root, write
from tests.support.netns import Topology
from tests.support.processes import listens, wait_until

pytestmark = [pytest.mark.netns, pytest.mark.slow]

VIP, OTHER = "10.99.0.1", "10.99.0.2"
PORTS = {"one": 7001, "two": 7002, "three": 7003}
SECURED = 7004  # takes mutual TLS
NAME = "a.example.com"


class Server(http.server.ThreadingHTTPServer):
    """An upstream that says who it is and what it was asked."""

    daemon_threads = True

    def __init__(self, host: str, name: str, context: ssl.SSLContext | None = None) -> None:
        super().__init__((host, PORTS.get(name, SECURED)), Handler)
        self.name = name
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def server_bind(self) -> None:
        """Without a look for our own name, which takes half a minute where there is no name server."""
        socketserver.TCPServer.server_bind(self)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # a reset, or a handshake that fails
            super().handle()

    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        told = {name: ",".join(self.headers.get_all(name, ())) for name in ("host", "x-a", "x-b", "x-gone")}
        body = json.dumps({"by": self.server.name, "path": self.path, **told}).encode()
        status = 503 if self.path == "/fails" else 200
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nX-From: upstream\r\n\r\n"
        self.wfile.write(head.encode() + body)  # at once: no delayed ACK

    do_POST = do_GET  # noqa: N815 (the name http.server calls)

    def log_message(self, *_: object) -> None:
        pass


class Asked(NamedTuple):
    """A request of the app's."""

    path: str
    host: str = "api.example.com"
    to: str = VIP
    port: int = 80
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    sni: str | None = None  # by the app's own TLS


class Answer(NamedTuple):
    """What of an answer has to be the same."""

    status: int
    seen: tuple[object, ...]  # by the upstream: who it is, path, host, headers
    location: str | None
    from_: list[str] | None

    @property
    def by(self) -> object:
        return self.seen[0]


def ask(bed: Topology, asked: Asked) -> Answer | None:
    """The answer to a request from the app's namespace; None where there is none."""

    def there() -> Answer | None:
        connection = http.client.HTTPConnection(asked.to, asked.port, timeout=10)
        with contextlib.closing(connection):
            try:
                if asked.sni is not None:
                    raw = socket.create_connection((asked.to, asked.port), 10)
                    connection.sock = TRUST.client.wrap_socket(raw, server_hostname=asked.sni)
                connection.request(
                    asked.method, asked.path, headers={"Host": asked.host, **dict(asked.headers)}
                )
                answer = connection.getresponse()
                text = answer.read()
            except (OSError, http.client.HTTPException):
                return None
        told = json.loads(text) if text.startswith(b"{") else {}
        seen = tuple(told.get(name) for name in ("by", "path", "host", "x-a", "x-b", "x-gone"))
        return Answer(answer.status, seen, answer.getheader("location"), answer.headers.get_all("x-from"))

    return bed.app.call(there)


def to(cluster: str, **more: object) -> dict[str, object]:
    return {"route": {"cluster": cluster, "timeout": "5s", **more}}


def header(name: str, value: str, action: str = "APPEND_IF_EXISTS_OR_ADD") -> dict[str, object]:
    return {"header": {"key": name, "value": value}, "appendAction": action}


def weighted(**weights: int) -> dict[str, object]:
    clusters = [{"name": name, "weight": weight} for name, weight in weights.items()]
    return {"route": {"weightedClusters": {"clusters": clusters}, "timeout": "5s"}}


def first_routes(canary: int) -> list[object]:
    """The virtual hosts of the port 80."""
    api = [
        {"match": {"path": "/exact"}, **to("one")},
        {"match": {"prefix": "/v1/"}, **to("two", prefixRewrite="/")},
        {"match": {"safeRegex": {"regex": "/users/[0-9]+"}}, **to("three")},
        {"match": {"prefix": "/RW", "caseSensitive": False}, **to("one", hostRewriteLiteral="inner.example.com")},
        {"match": {"prefix": "/re/"}, **to("one", regexRewrite={"pattern": {"regex": "^/re/([a-z]+)"}, "substitution": "/\\1/re"})},
        {"match": {"prefix": "/h", "headers": [{"name": "x-user", "stringMatch": {"exact": "jason"}}]}, **to("one")},
        {"match": {"prefix": "/h", "headers": [{"name": "x-user", "presentMatch": True}]}, **to("two")},
        {"match": {"prefix": "/h", "headers": [{"name": "x-no", "stringMatch": {"prefix": "y"}, "invertMatch": True}]}, **to("three")},
        {"match": {"prefix": "/h", "headers": [{"name": ":method", "stringMatch": {"exact": "POST"}}]}, **to("three")},
        {"match": {"prefix": "/q", "queryParameters": [{"name": "v", "stringMatch": {"exact": "2"}}]}, **to("two")},
        {"match": {"pathSeparatedPrefix": "/seg"}, **to("two")},
        {"match": {"prefix": "/old"}, "redirect": {"pathRedirect": "/new", "hostRedirect": "b.example.com", "responseCode": "FOUND"}},
        {"match": {"prefix": "/tea"}, "directResponse": {"status": 418, "body": {"inlineString": "short"}}},
        {"match": {"prefix": "/split"}, **weighted(one=100 - canary, two=canary)},
        {"match": {"prefix": "/nowhere"}, **to("not-there")},
        {
            "match": {"prefix": "/ops"},
            **to("one"),
            "requestHeadersToAdd": [header("x-a", "route"), header("x-b", "route", "OVERWRITE_IF_EXISTS_OR_ADD")],
            "requestHeadersToRemove": ["x-gone"],
            "responseHeadersToAdd": [header("x-from", "route")],
        },
        {"match": {"prefix": "/fails"}, **to("one", retryPolicy={"retryOn": "5xx", "numRetries": 1})},
    ]  # fmt: skip
    return [
        {"name": "api", "domains": ["api.example.com", "api.example.com:80"], "routes": api,
         "requestHeadersToAdd": [header("x-a", "host")]},
        {"name": "wild", "domains": ["*.wild.example.com"], "routes": [{"match": {"prefix": "/"}, **to("three")}]},
        {"name": "ip", "domains": [OTHER], "routes": [{"match": {"prefix": "/"}, **to("one")}]},
    ]  # fmt: skip


# With whom it has to end, or with which status.
SCRIPT: list[tuple[Asked, str | int]] = [
    (Asked("/exact"), "one"),
    (Asked("/exact?query=1"), "one"),
    (Asked("/exact/not"), 404),
    (Asked("/v1/items?x=1"), "two"),
    (Asked("/users/77"), "three"),
    (Asked("/users/x"), 404),
    (Asked("/rw/a"), "one"),
    (Asked("/re/abc/d"), "one"),
    (Asked("/h", headers=(("x-user", "jason"), ("x-no", "y"))), "one"),
    (Asked("/h", headers=(("x-user", "other"), ("x-no", "y"))), "two"),
    (Asked("/h", headers=(("x-no", "n"),)), "three"),
    (Asked("/h", headers=(("x-no", "yes"),)), 404),
    (Asked("/h", method="POST"), "three"),
    (Asked("/q?v=2"), "two"),
    (Asked("/q?v=3"), 404),
    (Asked("/seg"), "two"),
    (Asked("/seg/x"), "two"),
    (Asked("/segment"), 404),
    (Asked("/old/x?y=1"), 302),
    (Asked("/tea"), 418),
    (Asked("/split"), "one"),
    (Asked("/nowhere"), 503),
    (Asked("/ops", headers=(("x-a", "app"), ("x-b", "app"), ("x-gone", "app"))), "one"),
    (Asked("/fails"), "one"),
    (Asked("/any", "API.example.com:80"), 404),
    (Asked("/any", "a.wild.example.com"), "three"),
    (Asked("/any", "b.a.wild.example.com"), "three"),
    (Asked("/any", "wild.example.com"), 404),
    (Asked("/any", "nobody.example.com"), 404),
    (Asked("/any", OTHER), "one"),
    (Asked("/any", to=OTHER, port=8080), "two"),
    (Asked("/any", "whoever.example.com", to=OTHER, port=8080), "two"),
    (Asked("/through", to="10.9.0.1", port=7003), "three"),
    (Asked("/relayed", to=OTHER, port=9000), "two"),
    (Asked("/secured", to=OTHER, port=9443), "secured"),
    (Asked("/named", to=OTHER, port=9444, sni=NAME), "secured"),
    (Asked("/named", to=OTHER, port=9444, sni="b.example.com"), 0),
    (Asked("/let/through", to=OTHER, port=8081), "two"),
    (Asked("/admin/x", to=OTHER, port=8081), 403),
    (Asked("/guarded", to=OTHER, port=9001), "two"),
    (Asked("/closed", to=OTHER, port=9002), 0),
    *((Asked("/limited", to=OTHER, port=8082), wanted) for wanted in ("two", "two", 429, 429)),
]


class Trust:
    """An authority, the server that its certificates are for, and the app's own TLS."""

    def __init__(self) -> None:
        self.root = Root()
        self.client = ssl.create_default_context(cadata=self.root.pair.certificate.decode())
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.load_verify_locations(cadata=self.root.pair.certificate.decode())
        self.server.verify_mode = ssl.CERT_REQUIRED
        with tempfile.TemporaryDirectory() as work:
            for context, pair in (
                (self.server, self.root.issue(dns_names=(NAME, "b.example.com"))),
                (self.client, self.root.issue()),
            ):
                files = write(Path(work), pair, self.root)
                assert files.certificate is not None
                context.load_cert_chain(files.certificate, files.private_key)

    def secrets(self, of: Root) -> list[object]:
        pair = of.issue()
        bundle = bundle_secret("trust", self.root.pair.certificate)
        return [pair_secret("pair", pair.certificate, pair.key), bundle]


TRUST = Trust()


def put_first(plane: ControlPlane, host: str) -> None:
    """What the control plane begins with; listeners last."""
    clusters = [eds_cluster(name, connectTimeout="1s") for name in PORTS]
    tls = secured(static_cluster("secured", host, port=SECURED), "pair", "trust", NAME, NAME)
    plain = static_cluster("plain", host, port=SECURED)
    plane.put(SECRET, *TRUST.secrets(TRUST.root))
    plane.put(CLUSTER, *clusters, tls, plain, original_cluster("out"))
    plane.put(ENDPOINT, *(endpoints(name, host, port=port) for name, port in PORTS.items()))
    everything = {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **to("two")}]}
    plane.put(ROUTE, route_configuration("80", *first_routes(0)), route_configuration("8080", everything))
    plane.put(
        LISTENER,
        http_listener("l80", "0.0.0.0", 80, "80"),
        http_listener("l8080", OTHER, 8080, "8080"),
        listener("tcp", host, PORTS["three"], "out"),
        listener("relayed", OTHER, 9000, "two"),
        listener("secured", OTHER, 9443, "secured"),
        named_listener("named", OTHER, 9444, plain=(NAME,)),
        guarded(
            http_listener("l8081", OTHER, 8081, "8080"), "DENY", {"urlPath": {"path": {"prefix": "/admin/"}}}
        ),
        limited(http_listener("l8082", OTHER, 8082, "8080"), 2),
        guarded(listener("guarded", OTHER, 9001, "two"), "ALLOW", {"destinationPort": 9001}),
        guarded(listener("closed", OTHER, 9002, "two"), "ALLOW", {"destinationPort": 9001}),
    )


def played(bed: Topology, plane: ControlPlane) -> list[Answer | None]:
    """What comes of every request, and of changes that are pushed meanwhile."""
    host = bed.peer.v4
    put_first(plane, host)
    wait_until(lambda: told(ask(bed, Asked("/exact"))) == "one", "the first configuration is in force")
    answers = [ask(bed, asked) for asked, _ in SCRIPT]
    for (asked, wanted), answer in zip(SCRIPT, answers, strict=True):
        assert (answer is None) == (wanted == 0), (asked, answer)
        assert answer is None or wanted in (answer.by, answer.status), (asked, answer)

    def becomes(asked: Asked, wanted: str | int | None) -> None:
        wait_until(lambda: told(ask(bed, asked)) == wanted, f"{asked} ends with {wanted}")
        answers.append(ask(bed, asked))

    plane.put(ROUTE, route_configuration("80", *first_routes(100)), plane.resources[ROUTE]["8080"])
    becomes(Asked("/split"), "two")
    moved = endpoints("one", host, port=PORTS["three"])
    plane.put(ENDPOINT, moved, *(plane.resources[ENDPOINT][name] for name in ("two", "three")))
    becomes(Asked("/exact"), "three")
    plane.put(ENDPOINT, endpoints("one"), *(plane.resources[ENDPOINT][name] for name in ("two", "three")))
    becomes(Asked("/exact"), 503)
    plane.put(SECRET, *TRUST.secrets(Root()))  # which the upstream does not believe
    becomes(Asked("/secured", to=OTHER, port=9443), None)
    plane.put(SECRET, *TRUST.secrets(TRUST.root))
    becomes(Asked("/secured", to=OTHER, port=9443), "secured")
    return answers


def told(answer: Answer | None) -> object:
    return answer and (answer.by or answer.status)


def bootstrap(bed: Topology, port: int, protocol: str) -> str:
    """Envoy as a sidecar: what is captured goes to the listener of its original destination."""
    proxy = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
    options = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    filter_ = {"@type": proxy, "stat_prefix": "p", "cluster": "passthrough"}
    address = {"socket_address": {"address": bed.peer.v4, "port_value": port}}
    captured = {
        "name": "captured",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": 15001}},
        "use_original_dst": True,
        "filter_chains": [{"filters": [{"name": "t", "typed_config": filter_}]}],
    }
    plane = {
        "name": "plane",
        "load_assignment": {
            "cluster_name": "plane",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "typed_extension_protocol_options": {
            options.rpartition("/")[2]: {
                "@type": options,
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
    }
    passthrough = {"name": "passthrough", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"}
    ads = {
        "api_type": "DELTA_GRPC" if protocol == "delta" else "GRPC",
        "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": "plane"}}],
    }
    source = {"ads": {}, "resource_api_version": "V3"}
    return json.dumps(
        {
            "node": {"id": "envoy", "cluster": "shop"},
            "static_resources": {"listeners": [captured], "clusters": [plane, passthrough]},
            "dynamic_resources": {"ads_config": ads, "cds_config": source, "lds_config": source},
        }
    )


@contextlib.contextmanager
def envoy(bed: Topology, work: Path, program: Path, port: int, protocol: str) -> Iterator[None]:
    """The real Envoy in our place: the rules that are there bring the app's connections to it."""
    (work / "envoy.json").write_text(bootstrap(bed, port, protocol))
    argv = (
        str(program),
        "-c",
        f"{work}/envoy.json",
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "-l",
        "off",
    )
    process = bed.app.popen(*argv, uid=1337)
    try:
        wait_until(listens(bed.app, "127.0.0.1", 15001), "Envoy listens")
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def upstreams(bed: Topology) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name in (*PORTS, "secured"):

            def make(name: str = name) -> Server:
                return Server(bed.peer.v4, name, TRUST.server if name == "secured" else None)

            server = stack.enter_context(bed.peer.call(make))
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
        yield


def with_plane(bed: Topology, run: Callable[[ControlPlane], list[Answer | None]]) -> list[Answer | None]:
    plane = bed.peer.call(lambda: ControlPlane(host=bed.peer.v4))
    try:
        return run(plane)
    finally:
        plane.stop()


@pytest.mark.parametrize("protocol", ["delta", "stateOfTheWorld"])
def test_envoy_and_we_route_alike(bed: Topology, protocol: str) -> None:
    def ours(plane: ControlPlane) -> list[Answer | None]:
        given = f'servers: [{{address: "{bed.peer.v4}:{plane.port}"}}], protocol: {protocol}'
        put_first(plane, bed.peer.v4)
        place = "middleware: [{name: limits, use: rateLimitDocuments}]"
        with gateway(bed, work, discovery=f"{{xds: {{{given}}}}}\n  {place}"):
            return played(bed, plane)

    def envoys(plane: ControlPlane) -> list[Answer | None]:
        put_first(plane, bed.peer.v4)
        with envoy(bed, work, program, plane.port, protocol):
            return played(bed, plane)

    with tempfile.TemporaryDirectory(prefix="icp-") as made, upstreams(bed):
        work = Path(made)
        work.chmod(0o755)
        program = real_envoy.copied_to(work)
        assert with_plane(bed, ours) == with_plane(bed, envoys)
