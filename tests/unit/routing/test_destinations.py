from __future__ import annotations

import ipaddress
from typing import get_args

import pytest
from hypothesis import given, strategies as st

from interceptor.config.service_entry import ServiceEntry
from interceptor.model.address import OriginalDestination, SocketAddress, UpstreamAddress
from interceptor.routing.destinations import (
    Decision,
    EgressPolicy,
    Registry,
    Service,
    egress_decision,
    ingress_decision,
)
from tests.support.documents import service_entry, sidecar


def to(host: str, port: int) -> OriginalDestination:
    return OriginalDestination(SocketAddress(host, port))


def up(host: str, port: int) -> UpstreamAddress:
    return UpstreamAddress(SocketAddress(host, port))


def entry(
    name: str, addresses: str, ports: str = "{number: 443, name: a}", metadata: str = ""
) -> ServiceEntry:
    return service_entry(
        f"{{hosts: [{name}.example], addresses: [{addresses}], ports: [{ports}]}}",
        f"{{name: {name}{metadata}}}",
    )


def found(registry: Registry, host: str, port: int = 443) -> str | None:
    service = registry.find(to(host, port))
    return service.entry.removeprefix("default/") if service else None


def test_a_service_is_found_by_address_and_port() -> None:
    registry = Registry([entry("a", "10.0.0.1, 'fd00::1'", "{number: 443, name: a}, {number: 80, name: b}")])
    assert registry.find(to("10.0.0.1", 80)) == Service("default/a", "a.example", 80)
    assert registry.find(to("fd00::1", 443)) == Service("default/a", "a.example", 443)
    assert registry.find(to("10.0.0.1", 81)) is None
    assert registry.find(to("10.0.0.2", 80)) is None
    assert Registry().find(to("10.0.0.1", 80)) is None


def test_the_most_specific_address_wins() -> None:
    registry = Registry(
        [
            entry("all", "0.0.0.0/0"),
            entry("net", "10.0.0.0/8"),
            entry("sub", "10.1.0.0/16"),
            entry("one", "10.1.1.1/32"),
        ]
    )
    assert [
        found(registry, host) for host in ("192.0.2.1", "10.2.0.0", "10.1.255.255", "10.1.1.1", "fd00::1")
    ] == [
        "all",
        "net",
        "sub",
        "one",
        None,
    ]


def test_a_wider_network_counts_where_the_narrower_one_lacks_the_port() -> None:
    registry = Registry(
        [entry("wide", "10.0.0.0/8", "{number: 80, name: a}"), entry("narrow", "10.1.0.0/16")]
    )
    assert found(registry, "10.1.0.1", 80) == "wide"


def test_among_equals_the_oldest_wins_and_then_the_first() -> None:
    old = entry("old", "10.0.0.1, 10.0.0.0/8", metadata=", creationTimestamp: 2020-01-01T00:00:00Z")
    new = entry("new", "10.0.0.1, 10.0.0.0/8", metadata=", creationTimestamp: 2024-01-01T00:00:00Z")
    undated = entry("undated", "10.0.0.1, 10.0.0.0/8")
    assert found(Registry([undated, new, old]), "10.0.0.1") == "old"
    assert found(Registry([undated, new, old]), "10.0.0.2") == "old"
    assert found(Registry([undated, new]), "10.0.0.1") == "new"
    assert found(Registry([undated, entry("second", "10.0.0.1")]), "10.0.0.1") == "undated"


def test_hosts_stand_for_what_they_resolve_to() -> None:
    made = service_entry("{hosts: [a.example, b.example], ports: [{number: 443, name: x}], resolution: DNS}")
    registry = Registry([made], {"b.example": ("10.0.0.2", "fd00::2"), "other.example": ("10.0.0.9",)})
    assert registry.find(to("10.0.0.2", 443)) == Service("default/entry", "b.example", 443)
    assert registry.find(to("fd00::2", 443)) == Service("default/entry", "b.example", 443)
    assert registry.find(to("10.0.0.9", 443)) is None


def test_hosts_with_addresses_of_their_own_are_not_resolved() -> None:
    assert found(Registry([entry("a", "10.0.0.1")], {"a.example": ("10.0.0.2",)}), "10.0.0.2") is None


def test_static_endpoints_are_known() -> None:
    made = service_entry(
        "{hosts: [a.example], resolution: STATIC, ports: [{number: 443, name: x}], endpoints: [{address: 10.0.0.1}]}"
    )
    assert found(Registry([made]), "10.0.0.1") == "entry"


V4 = ("0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/30", "10.0.0.0/31", "10.0.0.1", "10.0.0.2", "10.0.0.3/32")
V6 = ("::/0", "fd00::/126", "fd00::/127", "fd00::1", "fd00::2", "fd00::3/128")
networks = st.sampled_from(V4 + V6)
entries = st.lists(st.tuples(st.lists(networks, min_size=1, max_size=3), st.integers(1, 3)), max_size=6)
hosts = st.sampled_from([*(f"10.0.0.{n}" for n in range(5)), *(f"fd00::{n}" for n in range(1, 5)), "9.9.9.9"])


def written(drawn: list[tuple[list[str], int]]) -> list[ServiceEntry]:
    return [
        entry(f"e{index}", ", ".join(f"'{each}'" for each in addresses), f"{{number: {port}, name: a}}")
        for index, (addresses, port) in enumerate(drawn)
    ]


def scanned(drawn: list[tuple[list[str], int]], host: str, port: int) -> str | None:
    """The naive reading: every entry, every address; the longest prefix, and of equals the first."""
    address = ipaddress.ip_address(host)
    best, name = -1, None
    for index, (addresses, number) in enumerate(drawn):
        for network in map(ipaddress.ip_network, addresses):
            if number == port and address in network and network.prefixlen > best:
                best, name = network.prefixlen, f"e{index}"
    return name


@given(entries, hosts, st.integers(1, 3))
def test_a_lookup_is_a_linear_scan(drawn: list[tuple[list[str], int]], host: str, port: int) -> None:
    assert found(Registry(written(drawn)), host, port) == scanned(drawn, host, port)


@given(entries, hosts, st.integers(1, 3))
def test_registry_only_allows_what_an_entry_names_and_nothing_else(
    drawn: list[tuple[list[str], int]], host: str, port: int
) -> None:
    decision = egress_decision("REGISTRY_ONLY", Registry(written(drawn)), to(host, port))
    named = scanned(drawn, host, port) is not None
    assert decision.upstreams == ((up(host, port),) if named else ())
    assert decision.denied == (None if named else "registry")


KNOWN = Registry([entry("a", "10.0.0.1")])


@pytest.mark.parametrize("policy", get_args(EgressPolicy))
def test_a_known_destination_is_named_in_the_decision(policy: EgressPolicy) -> None:
    allowed = egress_decision(policy, KNOWN, to("10.0.0.1", 443))
    assert allowed == Decision(
        (up("10.0.0.1", 443),),
        "outbound|443||a.example",
        "a.example",
        "ServiceEntry default/a",
        namespace="default",
        protocol="tcp",
        entry="default/a",
    )


def test_allow_any_passes_the_unknown_through() -> None:
    assert egress_decision("ALLOW_ANY", KNOWN, to("fd00::9", 80)) == Decision(
        (up("fd00::9", 80),), "PassthroughCluster", "PassthroughCluster", "egress.policy=ALLOW_ANY"
    )


def test_registry_only_refuses_the_unknown_and_says_what_to_add() -> None:
    refused = egress_decision("REGISTRY_ONLY", KNOWN, to("fd00::9", 80))
    assert (refused.cluster, refused.service) == ("BlackHoleCluster", "BlackHoleCluster")
    assert (refused.policy, refused.denied) == ("egress.policy=REGISTRY_ONLY", "registry")
    assert refused.details == (
        "no ServiceEntry names [fd00::9]:80 and spec.egress.policy is REGISTRY_ONLY; to allow it, add a ServiceEntry "
        "with the host or the address fd00::9 and the port 80"
    )


@pytest.mark.parametrize(("host", "loopback"), [("10.0.0.1", "127.0.0.1"), ("fd00::1", "::1")])
def test_a_declared_port_falls_back_to_loopback_of_its_family(host: str, loopback: str) -> None:
    decision = ingress_decision(sidecar("{ingress: {ports: [{port: 80}]}}"), to(host, 80))
    assert decision == Decision(
        (up(host, 80), up(loopback, 80)), "inbound|80||", "app", "-", namespace="default"
    )


def test_an_undeclared_port_is_never_looked_for_on_loopback() -> None:
    decision = ingress_decision(
        sidecar("{serviceName: shop, ingress: {ports: [{port: 80}]}}"), to("10.0.0.1", 81)
    )
    assert decision.upstreams == (up("10.0.0.1", 81),)
    assert (decision.cluster, decision.service, decision.denied) == ("inbound|81||", "shop", None)
    assert decision.hint.startswith("port 81 is not declared in spec.ingress.ports")


def test_loopback_is_not_tried_twice() -> None:
    decision = ingress_decision(sidecar("{ingress: {ports: [{port: 80}]}}"), to("127.0.0.1", 80))
    assert (decision.upstreams, decision.hint) == ((up("127.0.0.1", 80),), "-")


@pytest.mark.parametrize("port", [15000, 15001, 15006, 15020, 15053])
def test_our_own_listeners_are_no_destination(port: int) -> None:
    decision = ingress_decision(sidecar(), to("10.0.0.1", port))
    assert (decision.upstreams, decision.denied, decision.policy) == ((), "loop", "Sidecar default/app")
    assert f"10.0.0.1:{port} is a listener of this proxy" in decision.details


@given(hosts, st.integers(1, 65535), st.frozensets(st.integers(1, 15), max_size=4))
def test_ingress_reaches_loopback_on_declared_ports_only(
    host: str, port: int, declared: frozenset[int]
) -> None:
    ports = ", ".join(f"{{port: {each}}}" for each in declared)
    decision = ingress_decision(sidecar(f"{{ingress: {{ports: [{ports}]}}}}"), to(host, port))
    beyond = [upstream for upstream in decision.upstreams if upstream != up(host, port)]
    assert all(upstream.port == port and port in declared for upstream in beyond)


def test_the_dump_names_every_service_with_what_means_it() -> None:
    assert Registry([entry("a", "10.0.0.1, 10.1.0.0/16")]).dump() == [
        {
            "name": "outbound|443||a.example",
            "document": "ServiceEntry default/a",
            "addresses": ["10.0.0.1", "10.1.0.0/16"],
        }
    ]


HOSTS = service_entry("{hosts: [a.example], ports: [{number: 443, name: x}], resolution: DNS}")


def test_behind_a_virtual_address_are_those_that_the_name_resolves_to() -> None:
    registry = Registry([HOSTS], {"a.example": ["10.0.0.1", "10.0.0.2"]}, {"a.example": 0})
    for host in ("240.240.0.1", "2001:2::1"):
        decision = egress_decision("REGISTRY_ONLY", registry, to(host, 443))
        assert decision.upstreams == (up("10.0.0.1", 443), up("10.0.0.2", 443))
        assert decision.service == "a.example"
    assert egress_decision("REGISTRY_ONLY", registry, to("10.0.0.2", 443)).upstreams == (up("10.0.0.2", 443),)


def test_a_virtual_address_without_anybody_behind_it_goes_nowhere() -> None:
    registry = Registry([HOSTS], {}, {"a.example": 0})
    unresolved = egress_decision("ALLOW_ANY", registry, to("240.240.0.1", 443))
    assert (unresolved.upstreams, unresolved.denied) == ((), "unresolved")
    assert unresolved.details.startswith("a.example has no addresses")
    for host, port in (("240.240.0.1", 80), ("240.240.0.2", 443)):
        unknown = egress_decision("ALLOW_ANY", registry, to(host, port))
        assert (unknown.upstreams, unknown.denied) == ((), "unresolved")
        assert f"{host}:{port} is a virtual address" in unknown.details


def test_endpoints_are_behind_the_virtual_address_of_a_static_service() -> None:
    static = service_entry(
        "{hosts: [a.example], ports: [{number: 443, name: x}], resolution: STATIC, endpoints: [{address: 10.0.0.5}]}"
    )
    registry = Registry([static], {}, {"a.example": 0})
    assert registry.upstreams(Service("default/entry", "a.example", 443), to("240.240.0.1", 443)) == (
        up("10.0.0.5", 443),
    )


@pytest.mark.parametrize(
    ("resolved", "upstreams"),
    [({"c.d": ("10.0.0.1", "fd00::1")}, ["[fd00::1]:443"]), ({"a.b": ("10.6.6.6",)}, [])],
)
def test_endpoints_by_name_are_what_their_names_resolve_to_and_nothing_else(
    resolved: dict[str, tuple[str, ...]], upstreams: list[str]
) -> None:
    entry = service_entry(
        "{hosts: [a.b], addresses: [10.9.9.9], resolution: DNS, dnsLookupFamily: V6_ONLY, endpoints: [{address: c.d}],"
        " ports: [{number: 443, name: x}]}"
    )
    made = egress_decision(
        "ALLOW_ANY", Registry([entry], resolved), OriginalDestination(SocketAddress("10.9.9.9", 443))
    )
    assert [str(each) for each in made.upstreams] == upstreams
    assert made.denied == (None if upstreams else "unresolved")
