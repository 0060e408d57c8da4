from __future__ import annotations

import pytest

from interceptor.config.addresses import of_family
from tests.support.documents import configuration, problems, service_entry, service_entry_text

PORTS = "ports: [{number: 443, name: https}]"


def test_an_entry_is_read_and_made_canonical() -> None:
    entry = service_entry(
        "{hosts: [API.Example.com], addresses: [10.1.2.3/8, '::ffff:10.0.0.1'], location: MESH_INTERNAL, resolution: STATIC,"
        " ports: [{number: 443, name: https, protocol: https, targetPort: 443}], exportTo: ['.'],"
        " endpoints: [{address: 'FD00::5', ports: {https: 443}}]}"
    )
    assert entry.spec.hosts == ("api.example.com",)
    assert entry.spec.addresses == ("10.0.0.0/8", "10.0.0.1")
    assert entry.spec.ports[0].protocol == "HTTPS"
    assert entry.spec.endpoints[0].address == "fd00::5"


@pytest.mark.parametrize("version", ["v1", "v1beta1", "v1alpha3"])
def test_every_version_of_istios_is_read(version: str) -> None:
    text = service_entry_text(f"{{hosts: [a.b], {PORTS}}}").replace("io/v1", f"io/{version}")
    assert len(configuration(text).service_entries) == 1


@pytest.mark.parametrize(
    ("spec", "resolved"),
    [
        ("resolution: DNS", ("a.b",)),
        ("resolution: NONE", ("a.b",)),
        ("resolution: DNS, addresses: [10.0.0.1]", ()),
        ("resolution: STATIC, endpoints: [{address: 10.0.0.1}]", ()),
        ("resolution: DNS, endpoints: [{address: C.d}, {address: 10.0.0.1}]", ("c.d", "10.0.0.1")),
        ("resolution: DNS, addresses: [10.9.9.9], endpoints: [{address: c.d}]", ("c.d",)),
    ],
)
def test_hosts_are_resolved_where_no_address_is_given(spec: str, resolved: tuple[str, ...]) -> None:
    assert service_entry(f"{{hosts: [a.b], {PORTS}, {spec}}}").spec.names_to_resolve == resolved


def test_endpoints_may_have_weights_places_and_ports_of_their_own() -> None:
    spec = f"{{hosts: [a.b], {PORTS}, resolution: STATIC, addresses: [10.9.9.9]"
    endpoint = "{address: 10.0.0.1, ports: {https: 8443}, weight: 3, locality: r/z}"
    entry = service_entry(f"{spec}, endpoints: [{endpoint}]}}")
    assert (entry.spec.endpoints[0].weight, entry.spec.endpoints[0].locality) == (3, "r/z")
    assert entry.spec.translates
    assert not service_entry(f"{spec}, endpoints: [{{address: 10.0.0.1}}]}}").spec.translates


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("{hosts: [a.b]}", "spec.ports: is required; add it"),
        ("{hosts: [a.b], ports: []}", "spec.ports: must name at least one"),
        (f"{{{PORTS}}}", "spec.hosts: is required; add it"),
        (f"{{hosts: [], {PORTS}}}", "spec.hosts: must name at least one"),
        (f"{{hosts: ['*'], {PORTS}}}", "spec.hosts[0]: '*' would name every host"),
        (
            f"{{hosts: [a.b, '*.b'], {PORTS}}}",
            "spec.hosts[1]: '*.b' has no addresses of its own, and opaque TCP carries no host name to compare",
        ),
        (f"{{hosts: [a.b], addresses: [x], {PORTS}}}", "spec.addresses[0]: 'x' is not an IP address"),
        (
            f"{{hosts: [a.b], addresses: [10.0.0.0/99], {PORTS}}}",
            "spec.addresses[0]: '10.0.0.0/99' is not a CIDR",
        ),
        (
            f"{{hosts: [a.b], addresses: [10.0.0.0/8], resolution: DNS, {PORTS}}}",
            "spec.addresses: CIDRs need the resolution NONE or STATIC",
        ),
        (
            f"{{hosts: [a.b], resolution: STATIC, {PORTS}}}",
            "spec.resolution: the resolution STATIC needs addresses",
        ),
        (
            f"{{hosts: [a.b], resolution: DNS_ROUND_ROBIN, {PORTS}}}",
            "spec.resolution: 'DNS_ROUND_ROBIN' is not supported by this version; use NONE or STATIC or DNS",
        ),
        (f"{{hosts: [a.b], location: X, {PORTS}}}", "spec.location: 'X' is not a value of this field"),
        (
            f"{{hosts: [a.b], workloadSelector: {{}}, {PORTS}}}",
            "spec.workloadSelector: is not supported by this version; no workloads are known here",
        ),
        (
            f"{{hosts: [a.b], addresses: [10.0.0.1], resolution: STATIC, dnsLookupFamily: V4_ONLY, {PORTS}}}",
            "spec.dnsLookupFamily: has no meaning here: nothing is looked up with the resolution STATIC",
        ),
        (
            f"{{hosts: [a.b], resolution: DNS, endpoints: [{{address: '*.d'}}], {PORTS}}}",
            "spec.endpoints[0].address: '*.d' is many names; give one, or an IP address",
        ),
        (
            f"{{hosts: [a.b], resolution: DNS, endpoints: [{{address: c.d, labels: {{a: b}}}}], {PORTS}}}",
            "spec.endpoints[0]: labels and serviceAccount need the resolution STATIC in this version; remove them",
        ),
        (
            f"{{hosts: [a.b], endpoints: [{{address: 10.0.0.1}}], {PORTS}}}",
            "spec.endpoints: endpoints with the resolution NONE are not supported by this version; use STATIC or DNS",
        ),
        (
            f"{{hosts: [a.b], resolution: STATIC, endpoints: [{{address: 'unix:///x'}}], {PORTS}}}",
            "spec.endpoints[0].address: unix sockets are not supported",
        ),
        (
            f"{{hosts: [a.b], resolution: STATIC, endpoints: [{{address: h.example}}], {PORTS}}}",
            "spec.endpoints[0].address: 'h.example' is a name; write an IP address",
        ),
        (
            f"{{hosts: [a.b], resolution: STATIC, endpoints: [{{address: 10.0.0.1, weight: 0}}], {PORTS}}}",
            "spec.endpoints: all have the weight 0",
        ),
        (
            f"{{hosts: [a.b], resolution: STATIC, endpoints: [{{address: 10.0.0.1, ports: {{x: 1}}}}], {PORTS}}}",
            "spec.endpoints[0].ports.x: no port of spec.ports is named 'x'",
        ),
        (
            "{hosts: [a.b], ports: [{number: 80, name: a, targetPort: 81}]}",
            "spec.ports[0].targetPort: needs endpoints to be the port of",
        ),
        (
            "{hosts: [a.b], ports: [{number: 80, name: a}, {number: 80, name: b}]}",
            "spec.ports[1].number: port 80 is given twice, first in spec.ports[0]",
        ),
        (
            "{hosts: [a.b], ports: [{number: 80, name: a}, {number: 81, name: a}]}",
            "spec.ports[1].name: the name 'a' is given twice, first in spec.ports[0]",
        ),
        ("{hosts: [a.b], ports: [{number: 80}]}", "spec.ports[0].name: is required; add it"),
        (
            "{hosts: [a.b], ports: [{number: 80, name: a, protocol: UDP}]}",
            "spec.ports[0].protocol: UDP is not captured",
        ),
        (
            "{hosts: [a.b], ports: [{number: 80, name: a, protocol: X}]}",
            "spec.ports[0].protocol: 'X' is not a protocol; use one of TCP, TLS, HTTP",
        ),
    ],
)
def test_what_is_wrong_is_said_at_its_field(spec: str, found: str) -> None:
    [problem] = problems(service_entry_text(spec))
    assert problem.startswith(f"4: {found}")


@pytest.mark.parametrize(
    ("family", "chosen", "of_v4", "of_v6", "versions"),
    [
        ("ALL", ["10.0.0.1", "fd00::1"], True, True, {4, 6}),
        ("AUTO", ["fd00::1"], True, True, {4, 6}),
        ("V4_PREFERRED", ["10.0.0.1"], True, True, {4, 6}),
        ("V4_ONLY", ["10.0.0.1"], True, False, {4}),
        ("V6_ONLY", ["fd00::1"], False, True, {6}),
    ],
)
def test_the_family_chooses_among_the_addresses_of_a_host(
    family: str, chosen: list[str], of_v4: bool, of_v6: bool, versions: set[int]
) -> None:
    spec = service_entry(f"{{hosts: [a.b], {PORTS}, resolution: DNS, dnsLookupFamily: {family}}}").spec
    assert list(of_family(spec.dnsLookupFamily, ("10.0.0.1", "fd00::1"))) == chosen
    assert list(of_family(spec.dnsLookupFamily, ("10.0.0.1",))) == ["10.0.0.1"] * of_v4
    assert list(of_family(spec.dnsLookupFamily, ("fd00::1",))) == ["fd00::1"] * of_v6
    assert list(of_family(spec.dnsLookupFamily, ())) == []
    assert spec.versions == versions
