from __future__ import annotations

import pytest

from interceptor.model.address import OriginalDestination, SocketAddress
from interceptor.routing.security import UpstreamTls
from interceptor.state.snapshot import take
from tests.support.documents import SIDECAR, configuration, service_entry_text

TLS = "spec: {tls: {certificate: /c, privateKey: /k, trustBundle: /b}}\n"
ENTRY = (
    "{hosts: [db.shop], ports: [{number: 80, name: a}, {number: 81, name: b}], resolution: STATIC, endpoints: "
    "[{address: 10.0.0.1, labels: {security.istio.io/tlsMode: istio}, serviceAccount: db}, {address: 10.0.0.2},"
    " {address: 10.0.0.3, labels: {security.istio.io/tlsMode: istio}}]}"
)
MESH_NAME = "outbound_.80_._.db.shop"


def rule(host: str, policy: str, metadata: str = "{name: rule}") -> str:
    head = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n"
    return f"{head}metadata: {metadata}\nspec: {{host: '{host}', trafficPolicy: {policy}}}\n"


def tls_of(
    *rules: str, to: str = "10.0.0.1", port: int = 80, own: bool = True, entry: str = ENTRY
) -> UpstreamTls | None:
    given = configuration(SIDECAR + (TLS if own else ""), service_entry_text(entry), *rules)
    return take(given).egress(OriginalDestination(SocketAddress(to, port))).tls


def test_an_endpoint_that_says_so_is_spoken_to_by_mutual_tls() -> None:
    tls = tls_of()
    assert tls == UpstreamTls(
        "ServiceEntry default/entry", "mesh", None, MESH_NAME, ("spiffe://cluster.local/ns/default/sa/db",)
    )
    assert tls_of(to="10.0.0.2") is None
    assert tls_of(to="10.0.0.9") is None
    unnamed = tls_of(to="10.0.0.3")
    assert unnamed is not None
    assert unnamed.expected == ()
    named = tls_of(entry=ENTRY[:-1] + ", subjectAltNames: [spiffe://a/ns/b/sa/c]}")
    assert named is not None
    assert named.expected == ("spiffe://a/ns/b/sa/c",)


def test_without_an_identity_nothing_is_mutual_by_itself() -> None:
    assert tls_of(own=False) is None


@pytest.mark.parametrize(
    ("policy", "found"),
    [
        ("{tls: {mode: DISABLE}}", None),
        ("{tls: {mode: ISTIO_MUTUAL}}", ("mesh", MESH_NAME, ())),
        ("{tls: {mode: ISTIO_MUTUAL, sni: other, subjectAltNames: [x]}}", ("mesh", "other", ("x",))),
        ("{tls: {mode: SIMPLE}}", ("simple", "db.shop", ())),
        ("{tls: {mode: SIMPLE, sni: other}}", ("simple", "other", ())),
        ("{tls: {mode: MUTUAL, clientCertificate: /c, privateKey: /k}}", ("mutual", "db.shop", ())),
        ("{tls: {mode: SIMPLE}, portLevelSettings: [{port: {number: 80}, tls: {mode: DISABLE}}]}", None),
        ("{tls: {mode: DISABLE}, portLevelSettings: [{port: {number: 81}, tls: {mode: SIMPLE}}]}", None),
        ("{tls: {mode: SIMPLE}, portLevelSettings: [{port: {number: 80}}]}", None),
    ],
)
def test_a_rule_decides_over_what_the_endpoint_says(
    policy: str, found: tuple[str, str, tuple[str, ...]] | None
) -> None:
    tls = tls_of(rule("db.shop", policy), to="10.0.0.2")
    assert (tls and (tls.kind, tls.server_name, tls.expected)) == found
    assert tls is None or tls.policy == "DestinationRule default/rule"


def test_a_rule_that_disables_wins_over_an_endpoint_that_could() -> None:
    assert tls_of(rule("db.shop", "{tls: {mode: DISABLE}}")) is None


def test_the_most_specific_host_wins_and_then_the_oldest() -> None:
    wide = rule("*.shop", "{tls: {mode: SIMPLE, sni: wide}}", "{name: wide}")
    own = rule("db.shop", "{tls: {mode: SIMPLE, sni: own}}", "{name: own}")
    old = rule(
        "db.shop", "{tls: {mode: SIMPLE, sni: old}}", "{name: old, creationTimestamp: '2020-01-01T00:00:00Z'}"
    )
    names = [tls and tls.server_name for tls in (tls_of(wide), tls_of(wide, own), tls_of(wide, own, old))]
    assert names == ["wide", "own", "old"]
    far = rule("*.other", "{tls: {mode: SIMPLE}}")
    assert tls_of(far, to="10.0.0.2") is None


def test_an_address_is_no_server_name() -> None:
    entry = "{hosts: [10.0.0.2], ports: [{number: 80, name: a}]}"
    tls = tls_of(rule("10.0.0.2", "{tls: {mode: SIMPLE}}"), to="10.0.0.2", entry=entry + "")
    assert tls is None or tls.server_name is None


def test_a_rule_of_another_namespace_is_not_seen() -> None:
    hidden = rule("db.shop", "{tls: {mode: SIMPLE}}", "{name: rule, namespace: far}")
    assert tls_of(hidden.replace("trafficPolicy", "exportTo: ['.'], trafficPolicy"), to="10.0.0.2") is None


def test_what_no_entry_names_is_spoken_to_in_the_clear() -> None:
    assert tls_of(rule("db.shop", "{tls: {mode: SIMPLE}}"), to="192.0.2.1") is None


def test_a_wildcard_host_is_matched_by_wider_rules() -> None:
    entry = "{hosts: ['*.shop'], addresses: [10.0.0.2], ports: [{number: 80, name: a}]}"
    tls = tls_of(rule("*.shop", "{tls: {mode: SIMPLE}}"), to="10.0.0.2", entry=entry)
    assert tls is not None
    assert tls.server_name is None
