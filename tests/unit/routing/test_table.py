from __future__ import annotations

import pytest

from interceptor.model.address import OriginalDestination, SocketAddress
from interceptor.model.http import RequestHead
from interceptor.routing.routes import Question
from interceptor.routing.table import Found, FoundFlow, Routing
from interceptor.state.snapshot import Snapshot, take
from tests.support.documents import configuration
from tests.support.routed import document, shop

ROUTES = document("VirtualService", "hosts: [shop.example]\nhttp: [{directResponse: {status: 200}}]")
PICKY = document(
    "VirtualService",
    "hosts: [shop.example]\nhttp: [{match: [{uri: {prefix: /x}}], directResponse: {status: 200}}]",
)
BANK = shop(80, ("10.2.0.1", "v1"), host="bank.example", address="198.51.100.2")
WILD = document(
    "ServiceEntry",
    "hosts: ['*.wild.example', other.example]\naddresses: [198.51.100.0/24]\nports: [{number: 80, name: a}]",
    "wild",
)
NAMED = document(
    "ServiceEntry",
    "hosts: [a.named.example, b.named.example]\nports: [{number: 80, name: a}]\nresolution: DNS",
    "named",
)
RESOLVED = {"a.named.example": ("203.0.113.1",), "b.named.example": ("203.0.113.1", "203.0.113.2")}


def snapshot(*documents: str) -> Snapshot:
    return take(configuration(*documents), RESOLVED)


def routing(of: Snapshot) -> Routing:
    assert of.routing is not None
    return of.routing


def ask(of: Snapshot, host: str, address: str, port: int = 80) -> Found | None:
    destination = OriginalDestination(SocketAddress(address, port))
    head = RequestHead(b"GET", b"/", host.encode(), b"http", b"1.1", [])
    decision = of.egress(destination)
    found = routing(of).find(Question(head, port), decision, destination)
    assert routing(of).concerns(host.encode(), decision, destination) is (found is not None)
    return found


def test_a_host_is_believed_where_the_address_is_its_own() -> None:
    of = snapshot(shop(80, ("10.1.0.1", "v1")), BANK, ROUTES)
    own = ask(of, "Shop.Example:80", "198.51.100.1")
    assert own is not None
    assert own.believed
    assert own.taken is not None
    bank = ask(of, "bank.example", "198.51.100.2")
    assert bank is not None  # its endpoints, since what was dialled stands for them
    assert (bank.taken, bank.cluster and bank.cluster.name) == (None, "outbound|80||bank.example")
    assert ask(of, "bank.example", "10.2.0.1") is None


@pytest.mark.parametrize("host", ["bank.example", "elsewhere.example", ""])
def test_another_host_leads_to_the_routes_of_the_service_that_was_dialled(host: str) -> None:
    found = ask(snapshot(shop(80, ("10.1.0.1", "v1")), BANK, ROUTES), host, "198.51.100.1")
    assert found is not None
    assert (found.host, found.believed) == (b"shop.example", False)
    assert found.taken is not None


def test_a_routed_host_at_another_services_address_gets_none_of_its_routes() -> None:
    found = ask(snapshot(shop(80, ("10.1.0.1", "v1")), BANK, ROUTES), "shop.example", "198.51.100.2")
    assert found is not None
    assert (found.host, found.believed, found.taken) == (b"bank.example", False, None)
    assert found.cluster is not None
    assert found.cluster.base.service == "bank.example"


def test_an_address_that_nobody_names_may_be_any_host() -> None:
    found = ask(snapshot(shop(80, ("10.1.0.1", "v1")), ROUTES), "shop.example", "192.0.2.1")
    assert found is not None
    assert found.believed


def test_where_no_service_has_the_port_a_host_that_is_routed_elsewhere_passes() -> None:
    """As in Istio, which has a listener for each port of a service, and passes on what comes to any other one."""
    of = snapshot(shop(80, ("10.1.0.1", "v1")), shop(9090, ("10.2.0.1", "v1"), host="bank.example"), PICKY)
    for port in (8080, 9090):
        assert ask(of, "shop.example", "192.0.2.1", port) is None
    assert ask(of, "shop.example", "198.51.100.1", 8080) is None


def test_a_routed_host_without_a_service_is_routed_at_the_ports_of_any() -> None:
    free = document("VirtualService", "hosts: [free.example]\nhttp: [{directResponse: {status: 200}}]")
    of = snapshot(shop(80, ("10.1.0.1", "v1")), free)
    found = ask(of, "free.example", "192.0.2.1")
    assert found is not None
    assert found.believed
    assert ask(of, "free.example", "192.0.2.1", 8080) is None
    assert ask(of, "nobody.example", "192.0.2.1", 80) is None


def test_a_document_whose_routes_do_not_hold_is_still_about_the_host() -> None:
    found = ask(snapshot(shop(80, ("10.1.0.1", "v1")), PICKY), "shop.example", "198.51.100.1")
    assert found is not None
    assert (found.taken, found.cluster) == (None, None)


@pytest.mark.parametrize(
    ("host", "address", "may_be"),
    [
        ("x.wild.example", "198.51.100.77", True),
        ("other.example", "198.51.100.77", True),
        ("wild.example", "198.51.100.77", False),
        ("a.named.example", "203.0.113.1", True),
        ("b.named.example", "203.0.113.1", True),
        ("a.named.example", "203.0.113.2", False),
        ("b.named.example", "203.0.113.2", True),
    ],
)
def test_which_hosts_an_address_may_be(host: str, address: str, may_be: bool) -> None:
    of = snapshot(WILD, NAMED, ROUTES)
    destination = OriginalDestination(SocketAddress(address, 80))
    assert routing(of).may_be(host, of.egress(destination), destination) is may_be


def test_a_rule_alone_manages_the_service_that_was_dialled() -> None:
    rule = document("DestinationRule", "host: shop.example\ntrafficPolicy: {outlierDetection: {}}")
    of = snapshot(shop(80, ("10.1.0.1", "v1")), rule)
    found = ask(of, "shop.example", "198.51.100.1")
    assert found is not None
    assert found.cluster is not None
    assert ask(of, "shop.example", "192.0.2.1") is None


TLS_ROUTES = document(
    "VirtualService",
    """
    hosts: [shop.example, bank.example]
    tls:
    - {match: [{sniHosts: [shop.example]}], route: [{destination: {host: shop.example}}]}
    - {match: [{sniHosts: [bank.example]}], route: [{destination: {host: bank.example}}]}
    """,
)


def ask_flow(of: Snapshot, name: str | None, address: str, port: int = 80) -> FoundFlow | None:
    destination = OriginalDestination(SocketAddress(address, port))
    return routing(of).find_flow(name, of.egress(destination), destination)


@pytest.mark.parametrize(
    ("name", "address", "host", "believed", "route"),
    [
        ("Shop.Example", "198.51.100.1", "shop.example", True, "tls[0]"),
        ("bank.example", "198.51.100.1", "shop.example", False, "tls[0]"),  # a lie: the shop was dialled
        ("shop.example", "198.51.100.2", "bank.example", False, "tls[1]"),
        ("shop.example", "192.0.2.1", "shop.example", True, "tls[0]"),  # taken to the shop's own endpoints
        (None, "198.51.100.1", "shop.example", None, None),
    ],
)
def test_a_server_name_is_believed_as_a_host_is(
    name: str | None, address: str, host: str, believed: bool | None, route: str | None
) -> None:
    found = ask_flow(snapshot(shop(80, ("10.1.0.1", "v1")), BANK, TLS_ROUTES), name, address)
    assert found is not None
    assert (found.host, found.believed, found.route and found.route.name) == (host, believed, route)


def test_a_connection_that_nothing_is_said_about() -> None:
    of = snapshot(shop(80, ("10.1.0.1", "v1")), BANK, TLS_ROUTES)
    assert ask_flow(of, "else.example", "192.0.2.1") is None
    assert ask_flow(of, None, "192.0.2.1") is None
    assert ask_flow(of, "shop.example", "192.0.2.1", 8443) is None  # a port that no service has
    assert ask_flow(of, None, "10.1.0.1") is None  # the endpoint itself was dialled


def test_a_service_of_original_destinations_is_never_balanced_over_without_a_rule() -> None:
    rule = document("DestinationRule", "host: '*.wild.example'\ntrafficPolicy: {connectionPool: {}}")
    assert ask_flow(snapshot(WILD, NAMED, ROUTES), None, "198.51.100.77") is None
    found = ask_flow(snapshot(WILD, NAMED, ROUTES, rule), None, "198.51.100.77")
    assert found is not None
    assert found.cluster is not None
    assert found.cluster.original
