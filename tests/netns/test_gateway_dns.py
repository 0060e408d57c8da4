"""Names with the whole gateway: captured queries are answered, and a virtual address leads to who is behind it."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.message
import dns.query
import pytest

from tests.support.gateways import Gateway, connect, gateway, server
from tests.support.netns import Namespace, Topology
from tests.support.resolvers import resolving

pytestmark = pytest.mark.netns

NOBODY = {4: "192.0.2.53", 6: "2001:db8::53"}  # a resolver that is nowhere: its queries are captured
ENTRY = """\
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: shop, namespace: demo}
spec:
  hosts: [shop.example.com]
  resolution: STATIC
  endpoints: [{address: %s}]
  ports: [{number: 7001, name: tcp, protocol: TCP}]
"""
# The query's id, the bit of an answer, no question: what is taken as an answer to it.
FORWARDED = "??\x80" + "\0" * 8 + "forwarded"
LOST = """\
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: lost, namespace: demo}
spec:
  hosts: [lost.invalid]
  resolution: DNS
  ports: [{number: 7001, name: tcp, protocol: TCP}]
"""


@contextmanager
def answering(bed: Topology, entries: str) -> Iterator[Gateway]:
    with tempfile.TemporaryDirectory(prefix="icp-") as made:
        Path(made).chmod(0o755)  # for the proxy's user
        asked = f"{{nameservers: [{bed.peer.v4}]}}"
        with gateway(
            bed, Path(made), "REGISTRY_ONLY", entries, dns=asked, flags=("--dns", "capture")
        ) as running:
            yield running


@pytest.fixture
def proxy(bed: Topology) -> Iterator[Gateway]:
    with (
        resolving(bed.peer, {(bed.peer.v4, 53): FORWARDED}),
        answering(bed, ENTRY % bed.peer.v4) as running,
    ):
        yield running


def ask(where: Namespace, name: str, kind: str = "A", *, family: int = 4, by_tcp: bool = False) -> list[str]:
    query = dns.message.make_query(name, kind)
    way = dns.query.tcp if by_tcp else dns.query.udp
    reply = where.call(lambda: way(query, NOBODY[family], timeout=20))
    return [str(item) for rrset in reply.answer for item in rrset]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("by_tcp", [False, True], ids=["udp", "tcp"])
def test_a_name_leads_to_the_service(bed: Topology, proxy: Gateway, family: int, *, by_tcp: bool) -> None:
    kind = {4: "A", 6: "AAAA"}[family]
    [virtual] = ask(bed.app, "shop.example.com", kind, family=family, by_tcp=by_tcp)
    with server(bed.peer, bed.peer.v4, 7001) as listening, connect(bed.app, virtual, 7001) as sock:
        accepted, (host, _) = listening.accept()
        with accepted:
            sock.sendall(b"hello")
            assert accepted.recv(5) == b"hello"
            assert host == bed.app.v4
    [flow] = proxy.flows(1)
    assert flow["upstream_host"] == f"{bed.peer.v4}:7001"
    assert flow["original_dst"] == (f"[{virtual}]:7001" if family == 6 else f"{virtual}:7001")
    assert flow["upstream_cluster"] == "outbound|7001||shop.example.com"
    assert proxy.metric('interceptor_dns_queries_total{result="answered"}') == 1


def test_other_names_are_passed_on_byte_by_byte(bed: Topology, proxy: Gateway) -> None:
    def exchange() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(20)
            sock.connect((NOBODY[4], 53))
            sock.send(b"??" + bytes(10) + b"not quite DNS")
            return sock.recv(512)

    assert bed.app.call(exchange) == FORWARDED.encode()
    assert proxy.metric('interceptor_dns_queries_total{result="forwarded"}') == 1


def test_a_service_that_nobody_resolves_is_refused_by_name(bed: Topology) -> None:
    with answering(bed, LOST) as proxy:
        [virtual] = ask(bed.app, "lost.invalid")
        with pytest.raises(ConnectionResetError), connect(bed.app, virtual, 7001) as sock:
            sock.recv(1)
        [flow] = proxy.flows(1)
        assert flow["response_flags"] == "UH"
        assert "lost.invalid has no addresses" in str(flow["connection_termination_details"])
