from __future__ import annotations

import pytest

from interceptor.errors import ConfigError
from interceptor.state.difference import Change, changes, question, resolved, strangers
from interceptor.state.snapshot import take
from tests.support.documents import SIDECAR, configuration, service_entry_text
from tests.support.routed import document, shop

EGRESS = {
    "direction": "egress",
    "original_dst": "192.0.2.1:80",
    "peer": "10.0.0.1:4000",
    "peer_identity": None,
    "method": None,
    "requested_server_name": "-",
    "upstream_cluster": "outbound|80||api.example",
}
REQUEST = {
    **EGRESS,
    "direction": "ingress",
    "peer": "[fd00::1]:4000",
    "original_dst": "10.0.0.1:8080",
    "method": "GET",
    "path": "/x?y",
    "authority": "shop",
    "user_agent": "curl",
    "x_forwarded_for": None,
}
ENTRY = service_entry_text("{hosts: [api.example], ports: [{number: 80, name: http}], resolution: DNS}")
DENY = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-x}
spec: {action: DENY, rules: [{to: [{operation: {paths: [/x]}}]}]}
"""


def test_an_entry_of_the_access_log_asks_what_was_decided_then() -> None:
    assert question(EGRESS) == (("to", ("192.0.2.1:80",)),)
    assert dict(question(REQUEST)) == {
        "from": ("fd00::1",),
        "to-port": ("8080",),
        "method": ("GET",),
        "path": ("/x?y",),
        "host": ("shop",),
        "header": ("user-agent: curl",),
    }


def test_a_description_has_the_fields_of_explain() -> None:
    assert question({"to-port": 80, "header": ["a: b", "c: d"]}) == (
        ("header", ("a: b", "c: d")),
        ("to-port", ("80",)),
    )
    with pytest.raises(ConfigError, match="there is no field 'port'"):
        question({"port": 80})


def test_what_had_no_destination_was_not_decided() -> None:
    with pytest.raises(ConfigError, match="original_dst is not known"):
        question({**EGRESS, "original_dst": None})


def test_the_addresses_of_then_are_known_by_their_clusters() -> None:
    other = {**EGRESS, "original_dst": "192.0.2.2:80"}
    literal = {**EGRESS, "upstream_cluster": "outbound|80||192.0.2.7"}
    unknown = {**EGRESS, "upstream_cluster": "PassthroughCluster"}
    assert resolved([EGRESS, EGRESS, other, literal, unknown]) == {"api.example": ["192.0.2.1", "192.0.2.2"]}


def test_what_goes_elsewhere_is_told_and_what_does_not_is_not() -> None:
    strict = f"{SIDECAR}spec: {{egress: {{policy: REGISTRY_ONLY}}}}\n"
    names = resolved([EGRESS])
    before = take(configuration(strict, ENTRY), names)
    after = take(configuration(strict, ENTRY.replace("api.example", "other.example")), names)
    asked = {question(EGRESS): 3, question({**EGRESS, "original_dst": "192.0.2.9:80"}): 1}
    [change] = changes(before, after, asked)
    assert str(change).splitlines() == [
        "egress: the app (cluster.local/ns/default/sa/default) to 192.0.2.1:80 (3 times)",
        "  verdict: allowed by ServiceEntry default/entry -> denied by egress.policy=REGISTRY_ONLY",
        "  cluster: outbound|80||api.example -> BlackHoleCluster",
        "  upstream: 192.0.2.1:80 -> -",
    ]
    assert changes(before, before, asked) == []


def test_a_policy_over_a_request_is_compared() -> None:
    [change] = changes(take(configuration()), take(configuration(DENY)), {question(REQUEST): 1})
    assert change == Change(
        change.asked,
        1,
        {"verdict": "allowed by -"},
        {"verdict": "denied by AuthorizationPolicy default/no-x"},
    )
    assert "times" not in str(change)


def test_the_mode_of_mutual_tls_is_compared() -> None:
    strict = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: s}\nspec: {mtls: {mode: STRICT}}\n"
    [change] = changes(take(configuration()), take(configuration(strict)), {question(REQUEST): 1})
    assert (change.before["mutual TLS"], change.after["mutual TLS"]) == ("PERMISSIVE", "STRICT")


def test_a_tcp_route_that_changes_is_told_with_its_endpoints() -> None:
    text = "hosts: [shop.example]\ntcp: [{{route: [{{destination: {{host: {}.example}}}}]}}]"
    services = [
        shop(80, *((f"10.1.0.{number}", "v1") for number in range(1, 8))),
        shop(80, ("10.2.0.1", "v1"), host="bank.example", address="198.51.100.2"),
    ]
    before, after = (
        take(configuration(*services, document("VirtualService", text.format(host), "flows")))
        for host in ("shop", "bank")
    )
    asked = question({"to": "shop.example:80"})
    [change] = changes(before, after, {asked: 1})
    name = "VirtualService default/flows, tcp[0]: 100%"
    ends = ", ".join(f"10.1.0.{number}:80" for number in range(1, 6))
    assert change.before == {"route": f"{name} outbound|80||shop.example ({ends} and 2 more)"}
    assert change.after == {"route": f"{name} outbound|80||bank.example (10.2.0.1:80)"}


def test_a_request_that_its_route_leads_where_it_went_is_not_told_though_its_service_changes() -> None:
    text = """
    hosts: [shop.example]
    http:
    - {match: [{uri: {prefix: /old}}], redirect: {uri: %s}}
    - {route: [{destination: {host: shop.example, subset: v1}}]}
    """
    rule = document("DestinationRule", "host: shop.example\nsubsets: [{name: v1, labels: {version: v1}}]")
    many = [(f"10.1.0.{number}", "v1") for number in range(1, 8)]
    sides = (
        (("10.2.0.1", "v2"), "/x", many),
        (("10.2.0.2", "v2"), "/y", many),
        (("10.2.0.1", "v2"), "/x", [*many[:6], ("10.1.0.9", "v1")]),
    )
    before, after, later = (
        take(configuration(shop(80, other, *ends), rule, document("VirtualService", text % to)))
        for other, to, ends in sides
    )
    asked = question({"to": "shop.example:80", "path": "/", "header": ["User-Agent: x", "x-user: me"]})
    redirected = question({"to": "shop.example:80", "path": "/old/1"})
    [change] = changes(before, after, {asked: 1, redirected: 1})
    assert change.before == {"what is done": "it is redirected: 301, http://shop.example/x"}
    [change] = changes(before, later, {asked: 1, redirected: 1})
    assert change.asked.endswith("to 198.51.100.1:80, GET /, with x-user: me")
    assert (change.before, change.after) == ({"endpoints": "10.1.0.7:80"}, {"endpoints": "10.1.0.9:80"})


def test_what_took_another_route_than_the_log_can_tell_is_said() -> None:
    routes = document(
        "VirtualService",
        """
        hosts: [shop.example]
        http:
        - {name: mine, match: [{headers: {x-me: {exact: me}}}], route: [{destination: {host: shop.example}}]}
        - {name: rest, route: [{destination: {host: shop.example}}]}
        """,
    )
    before = take(configuration(shop(80, ("10.1.0.1", "v1")), routes))
    asked = (
        ("host", ("shop.example",)),
        ("method", ("GET",)),
        ("path", ("/",)),
        ("to", ("198.51.100.1:80",)),
    )
    elsewhere = (("to", ("192.0.2.1:80",)),)
    assert strangers(before, {asked: "rest"}) == []
    [said] = strangers(before, {asked: "mine"})
    assert said.endswith("GET /: recorded on the route mine, by the old configuration rest")
    [said] = strangers(before, {elsewhere: "mine"})
    assert said.endswith("recorded on the route mine, by the old configuration -")
