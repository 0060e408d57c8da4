from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given, strategies as st

from interceptor.config.configuration import PLACES, Configuration
from interceptor.model.address import OriginalDestination, SocketAddress
from interceptor.model.work import done
from interceptor.state.snapshot import Snapshot, letting_go, take, visible
from tests.support.documents import SIDECAR, configuration, service_entry, service_entry_text
from tests.support.policies import policy_text, security_text
from tests.support.routed import document, shop

NAMED = service_entry_text("{hosts: [a.example], ports: [{number: 443, name: x}], resolution: DNS}")
STRICT = f"{SIDECAR}spec: {{egress: {{policy: REGISTRY_ONLY}}}}\n"


def to(host: str, port: int) -> OriginalDestination:
    return OriginalDestination(SocketAddress(host, port))


def test_a_snapshot_decides_by_its_own_configuration_and_addresses() -> None:
    made = take(configuration(STRICT, NAMED), {"a.example": ["10.0.0.1"]})
    assert made.egress(to("10.0.0.1", 443)).service == "a.example"
    assert made.egress(to("10.0.0.2", 443)).denied == "registry"
    assert made.ingress(to("10.0.0.9", 15006)).denied == "loop"
    assert take(configuration(NAMED)).egress(to("10.0.0.1", 443)).service == "PassthroughCluster"


def test_the_version_follows_what_decides_and_nothing_else() -> None:
    made = take(configuration(NAMED), {"a.example": ["10.0.0.1", "10.0.0.2"]})
    assert (
        made.version
        == take(configuration("# a comment\n" + NAMED), {"a.example": ["10.0.0.2", "10.0.0.1"]}).version
    )
    others = [
        take(configuration(NAMED)),
        take(configuration(NAMED), {"a.example": ["10.0.0.1"]}),
        take(configuration(STRICT, NAMED), {"a.example": ["10.0.0.1", "10.0.0.2"]}),
        take(configuration(NAMED.replace("443", "444")), {"a.example": ["10.0.0.1", "10.0.0.2"]}),
    ]
    assert len({made.version, *(other.version for other in others)}) == 5


def test_a_snapshot_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        take(configuration()).version = "x"  # type: ignore[misc]  # that is the point


def test_entries_of_other_namespaces_decide_only_where_they_are_exported() -> None:
    def made(export_to: str) -> Snapshot:
        spec = f"{{hosts: [a.b], addresses: [10.0.0.1], ports: [{{number: 443, name: x}}], exportTo: {export_to}}}"
        return take(configuration(STRICT, service_entry_text(spec, "{name: entry, namespace: other}")))

    assert made("['*']").egress(to("10.0.0.1", 443)).denied is None
    assert made("['.']").egress(to("10.0.0.1", 443)).denied == "registry"


def test_a_dump_is_json_with_documents_addresses_and_version() -> None:
    made = take(configuration(NAMED), {"a.example": ["10.0.0.2", "10.0.0.1"]})
    dumped = json.loads(json.dumps(made.dump()))
    assert dumped["version"] == made.version
    assert [(each["kind"], each["status"]) for each in dumped["documents"]] == [
        ("Sidecar", "accepted"),
        ("ServiceEntry", "accepted"),
    ]
    assert dumped["resolved"] == {"a.example": ["10.0.0.1", "10.0.0.2"]}
    assert dumped["sidecar"]["spec"]["egress"] == {"port": 15001, "policy": "ALLOW_ANY"}
    assert dumped["serviceEntries"][0]["spec"]["hosts"] == ["a.example"]


@pytest.mark.parametrize(
    ("export_to", "seen_by"),
    [
        ("['*']", {"own", "other"}),
        ("['.']", {"own"}),
        ("[other]", {"other"}),
        ("['~']", set()),
        ("[]", set()),
    ],
)
def test_export_to_names_the_namespaces_that_see_it(export_to: str, seen_by: set[str]) -> None:
    spec = f"{{hosts: [a.b], ports: [{{number: 443, name: x}}], exportTo: {export_to}}}"
    entry = service_entry(spec, "{name: entry, namespace: own}")
    assert {name for name in ("own", "other") if visible(entry, name)} == seen_by


def test_policies_are_compiled_once_for_each_configuration() -> None:
    text = policy_text("{rules: [{}]}", "{name: p}")
    made = configuration(NAMED, text)
    first = take(made)
    assert first.policies is not None
    assert first.policies.ingress is not None
    assert take(made, {"a.example": ["10.0.0.1"]}, before=first).policies is first.policies
    assert take(configuration(NAMED, text), before=first).policies is first.policies, "the same documents"
    other = policy_text("{rules: [{}]}", "{name: q}")
    for texts in ((NAMED, text, other), (NAMED, other), (STRICT, NAMED, text)):
        assert take(configuration(*texts), before=first).policies is not first.policies
    assert take(configuration(NAMED)).policies is None


def test_policies_are_part_of_the_version_and_of_the_dump() -> None:
    texts = [policy_text("{rules: [{}]}"), policy_text("{rules: []}"), policy_text("{}"), NAMED]
    assert len({take(configuration(text)).version for text in texts}) == 4
    kinds = {
        "PeerAuthentication": ("peerAuthentications", "{mtls: {mode: STRICT}}"),
        "RequestAuthentication": (
            "requestAuthentications",
            "{jwtRules: [{issuer: i, jwksUri: 'file:///k'}]}",
        ),
        "AuthorizationPolicy": ("authorizationPolicies", "{action: DENY}"),
    }
    made = take(configuration(*(security_text(kind, spec) for kind, (_, spec) in kinds.items())))
    dumped = json.loads(json.dumps(made.dump()))
    for key, _ in kinds.values():
        assert [document["metadata"]["name"] for document in dumped[key]] == ["p"]


DNS = f"{SIDECAR}spec: {{dns: {{}}}}\n"
NAMED_TOO = service_entry_text(
    "{hosts: [b.example], ports: [{number: 443, name: x}], resolution: DNS}", "{name: other}"
)


def test_names_are_answered_where_the_document_asks_for_it() -> None:
    assert take(configuration(NAMED)).names.find("a.example") is None
    made = take(configuration(DNS, NAMED), {"a.example": ["10.0.0.1"]})
    found = made.names.find("a.example")
    assert found is not None
    [virtual] = found[1].v4
    assert [str(upstream) for upstream in made.egress(to(virtual, 443)).upstreams] == ["10.0.0.1:443"]


def test_a_host_keeps_its_virtual_address_in_the_next_version_and_in_every_process() -> None:
    first = take(configuration(DNS, NAMED))
    moved = take(configuration(DNS, NAMED), places={"a.example": 7})
    assert moved.places == {"a.example": 7}
    assert take(configuration(DNS, NAMED, NAMED_TOO), before=moved).places["a.example"] == 7
    assert first.places["a.example"] != 7


def test_an_address_that_an_answer_has_no_longer_is_allowed_and_no_endpoint() -> None:
    rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: rule}\nspec:\n  host: a.example\n  trafficPolicy: {loadBalancer: {simple: RANDOM}}\n"
    resolved = {"a.example": ["10.0.0.2", "10.0.0.1"]}
    both = take(configuration(NAMED, rule), resolved)
    made = take(configuration(NAMED, rule), resolved, former={"a.example": ["10.0.0.1"]})
    assert made.version != both.version
    assert made.dump()["former"] == {"a.example": ["10.0.0.1"]}
    [port] = {each.number for entry in made.configuration.service_entries for each in entry.spec.ports}
    for snapshot, expected in ((both, ["10.0.0.1", "10.0.0.2"]), (made, ["10.0.0.2"])):
        assert snapshot.routing is not None
        cluster = snapshot.routing.clusters.find("a.example", port, None, port)
        assert cluster is not None
        assert [each.address.host for each in cluster.endpoints] == expected
        assert snapshot.egress(to("10.0.0.1", port)).service == "a.example"


DNS = STRICT.replace("policy: REGISTRY_ONLY}", "policy: REGISTRY_ONLY}, dns: {}")
DRAWN = {
    "dns": DNS,
    "named": NAMED,
    "old": shop(80, ("10.1.0.1", "v1")).replace(
        "{name: shop}", "{name: old, creationTimestamp: 2026-01-01T00:00:00Z}"
    ),
    "shop": shop(80, ("10.1.0.1", "v1"), ("10.1.0.2", "v2")),
    "moved": shop(80, ("10.1.0.3", "v1")).replace("{name: shop}", "{name: moved}"),
    "wide": service_entry_text(
        "{hosts: ['*.wide.example'], addresses: [10.1.0.0/16], ports: [{number: 80, name: http}]}",
        "{name: wide}",
    ),
    "rule": document("DestinationRule", "host: shop.example\ntrafficPolicy: {outlierDetection: {}}"),
    "routes": document(
        "VirtualService", "hosts: [shop.example]\nhttp: [{directResponse: {status: 200}}]", "routes"
    ),
    "other": document(
        "VirtualService",
        "hosts: [shop.example]\nhttp: [{directResponse: {status: 201}}]\n"
        "tls: [{match: [{sniHosts: [shop.example]}], route: [{destination: {host: shop.example}}]}]",
        "other",
    ),
    "open": policy_text("{rules: [{}]}", "{name: p}"),
}
KEPT = {name: configuration(STRICT, text) for name, text in DRAWN.items() if text != DNS}
SIDECARS = {"dns": configuration(DNS).sidecar, "": configuration(STRICT).sidecar}


def chosen(names: list[str]) -> Configuration:
    """Some of the documents in an order, each the same object in every configuration, as in a running proxy."""
    fields = {
        place: tuple(each for name in names if name in KEPT for each in getattr(KEPT[name], place))
        for place in PLACES.values()
    }
    return Configuration(SIDECARS["dns" if "dns" in names else ""], **fields)


def says(made: Snapshot) -> object:
    """Everything that a version decides, over what these documents name."""
    addresses = [f"10.1.0.{at}" for at in range(1, 5)] + [
        "10.0.0.1",
        "10.0.0.2",
        "240.240.0.1",
        "198.51.100.1",
    ]
    routing = made.routing
    hosts = ("shop.example", "a.example", "x.wide.example")
    return (
        made.version,
        sorted(made.registry.dump(), key=str),
        [made.egress(to(address, port)) for address in addresses for port in (80, 443)],
        [made.names.find(host) for host in hosts],
        dict(made.places),
        made.policies is not None and made.policies.ingress is not None,
        routing
        and [
            (
                [(route.document, route.spec) for route in routing.table.of_host(host.encode())],
                routing.table.shadowed,
                routing.flows.asks_name(host),
                routing.clusters.find(host, 80, None, 80),
                [
                    routing.may_be(host, made.egress(to(address, 80)), to(address, 80))
                    for address in addresses
                ],
            )
            for host in hosts
        ],
    )


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(sorted(DRAWN)), unique=True),
            st.sampled_from([{}, {"a.example": ["10.0.0.1"]}, {"a.example": ["10.0.0.2", "10.1.0.1"]}]),
        ),
        min_size=2,
        max_size=4,
    )
)
def test_what_is_made_of_the_version_before_is_what_is_made_of_nothing(
    steps: list[tuple[list[str], dict[str, list[str]]]],
) -> None:
    before: Snapshot | None = None
    for names, resolved in steps:
        made = take(chosen(names), resolved, before=before)
        assert says(made) == says(
            take(chosen(names), resolved, places=None if before is None else before.places)
        )
        before = made
    assert before is not None
    done(letting_go(before))
    assert before.version, "what others still use stays what it is"


def test_what_did_not_change_is_the_very_same_in_the_next_version() -> None:
    first = take(chosen(["shop", "named", "rule", "routes"]))
    assert first.routing is not None
    cluster = first.routing.clusters.find("shop.example", 80, None, 80)
    second = take(chosen(["shop", "rule", "routes", "open"]), before=first)
    assert second.routing is not None
    assert second.routing.clusters.find("shop.example", 80, None, 80) is cluster
    assert second.routing.table.of_host(b"shop.example") is first.routing.table.of_host(b"shop.example")
    third = take(chosen(["shop", "routes"]), before=second)
    assert third.routing is not None
    assert third.routing.clusters.find("shop.example", 80, None, 80) is not cluster, "its rule is gone"
