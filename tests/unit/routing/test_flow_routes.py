from __future__ import annotations

import random
from collections import Counter

import pytest

from interceptor.model.address import OriginalDestination, SocketAddress
from interceptor.routing.flow_routes import FlowTable
from tests.support.documents import virtual_service

TLS = """
hosts: [shop.example, "*.wild.example"]
tls:
- match: [{sniHosts: [shop.example], port: 443, sourceLabels: {app: web}}, {sniHosts: ["*.wild.example"]}]
  route: [{destination: {host: one.example}}]
- match: [{sniHosts: [shop.example], gateways: [outer]}]
  route: [{destination: {host: never.example}}]
- match: [{sniHosts: [shop.example]}]
  route: [{destination: {host: two.example}}]
tcp:
- match: [{port: 80, destinationSubnets: [10.0.0.0/8, "fd00::/8"]}]
  route: [{destination: {host: three.example}}]
"""


def to(host: str, port: int) -> OriginalDestination:
    return OriginalDestination(SocketAddress(host, port))


def table(*specs: str, labels: dict[str, str] | None = None) -> FlowTable:
    documents = [virtual_service(spec, f"{{name: v{index}}}") for index, spec in enumerate(specs)]
    return FlowTable(documents, {"app": "web"} if labels is None else labels)


@pytest.mark.parametrize(
    ("host", "name", "destination", "taken"),
    [
        ("shop.example", "shop.example", to("10.0.0.1", 443), "tls[0]"),
        ("shop.example", "shop.example", to("10.0.0.1", 444), "tls[2]"),
        ("x.wild.example", "x.wild.example", to("10.0.0.1", 1), "tls[0]"),
        ("shop.example", None, to("10.0.0.1", 443), None),
        ("shop.example", None, to("10.0.0.1", 80), "tcp[0]"),
        ("shop.example", None, to("fd00::1", 80), "tcp[0]"),
        ("shop.example", None, to("192.0.2.1", 80), None),
        ("x.wild.example", "y.other.example", to("10.0.0.1", 80), "tcp[0]"),
        ("other.example", "shop.example", to("10.0.0.1", 443), None),
    ],
)
def test_the_first_route_of_which_a_match_holds(
    host: str, name: str | None, destination: OriginalDestination, taken: str | None
) -> None:
    found = table(TLS).take(host, name, destination)
    assert (found and found.name) == taken


def test_matches_for_other_workloads_are_not_ours() -> None:
    found = table(TLS, labels={}).take("shop.example", "shop.example", to("10.0.0.1", 443))
    assert found is not None
    assert found.name == "tls[2]"


def test_which_hosts_ask_for_the_server_name() -> None:
    made = table(TLS, "hosts: [plain.example]\ntcp: [{route: [{destination: {host: a.b}}]}]")
    assert made
    assert made.asks_name("shop.example")
    assert not made.asks_name("plain.example")
    assert not table("hosts: [a.b]\nhttp: [{directResponse: {status: 200}}]")
    assert not table(f"gateways: [outer]\n{TLS.strip()}")


def test_the_oldest_document_wins() -> None:
    route = "hosts: [a.b]\ntcp: [{{route: [{{destination: {{host: {}}}}}]}}]"
    old = virtual_service(route.format("old.b"), "{name: z, creationTimestamp: '2020-01-01T00:00:00Z'}")
    new = virtual_service(route.format("new.b"), "{name: a}")
    found = FlowTable([new, old]).take("a.b", None, to("10.0.0.1", 1))
    assert found is not None
    assert found.destination(random.Random(1)).host == "old.b"


def test_what_did_not_hold_is_said() -> None:
    steps = list(table(TLS).tried("shop.example", "x.wild.example", to("192.0.2.1", 81)))
    assert [(step.route.name, step.failed) for step in steps][:1] == [("tls[0]", None)]
    steps = list(table(TLS).tried("shop.example", "else.example", to("192.0.2.1", 81)))
    assert [step.failed for step in steps] == [
        ("the server name is shop.example", "the server name is *.wild.example"),
        ("the server name is shop.example",),
        ("the port is 80",),
    ]
    [*_, last] = table(TLS).tried("shop.example", None, to("192.0.2.1", 80))
    assert last.failed == ("the destination is in 10.0.0.0/8 or fd00::/8",)
    [*_, last] = table(TLS).tried("shop.example", "shop.example", to("192.0.2.1", 444))
    assert last.failed is None
    first = next(table(TLS).tried("shop.example", "shop.example", to("10.0.0.1", 444)))
    assert first.failed == (
        "the port is 443",
        "the server name is *.wild.example",
    )


def test_weights_share_connections_out() -> None:
    made = table(
        "hosts: [a.b]\ntcp: [{route: [{destination: {host: one.b}, weight: 3}, {destination: {host: two.b}, weight: 1}]}]"
    )
    found = made.take("a.b", None, to("10.0.0.1", 1))
    assert found is not None
    chance = random.Random(5)
    drawn = Counter(found.destination(chance).host for _ in range(4000))
    assert 2800 < drawn["one.b"] < 3200
