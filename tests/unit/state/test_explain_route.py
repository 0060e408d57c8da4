from __future__ import annotations

import pytest

from interceptor.config.plain import plain
from interceptor.model.address import SocketAddress, UpstreamAddress
from interceptor.state.explain import answer
from interceptor.state.snapshot import take
from tests.support.documents import SIDECAR, configuration
from tests.support.routed import DENY_BANK, document, shop

SUBSETS = document(
    "DestinationRule",
    "host: shop.example\nsubsets: [{name: v1, labels: {version: v1}}, {name: v3, labels: {version: v3}}]",
)


def explained(text: str, *others: str, **asked: str) -> tuple[dict[str, object], str]:
    """What routing says, for programs and for people."""
    virtual = document("VirtualService", f"hosts: [shop.example]\nhttp:\n{text}") if text else ""
    documents = [shop(80, ("10.1.0.1", "v1"), ("10.1.0.2", "v2")), *others, *([virtual] if virtual else [])]
    given = {"to": ["shop.example:80"], "path": ["/v1"], **{name: [value] for name, value in asked.items()}}
    found = answer(take(configuration(*documents)), given)
    mapping = found.as_mapping()["requestRoute"]
    assert isinstance(mapping, dict)
    return mapping, "\n".join(found.lines())


def test_the_route_its_subset_its_endpoints_and_why() -> None:
    text = """
- name: other
  match: [{uri: {prefix: /v2}}, {method: {exact: PUT}}]
  route: [{destination: {host: shop.example}}]
- name: mine
  rewrite: {uri: /x}
  fault: {delay: {percentage: {value: 5}, fixedDelay: 1s}, abort: {percentage: {value: 1}, httpStatus: 500}}
  match: [{uri: {prefix: /v1}}]
  route:
  - {destination: {host: shop.example, subset: v1}, weight: 3}
  - {destination: {host: shop.example, subset: v3}, weight: 1}
"""
    mapping, said = explained(text, SUBSETS)
    assert (mapping["document"], mapping["route"]) == ("VirtualService default/shop", "mine")
    assert mapping["clusters"] == [
        {
            "name": "outbound|80|v1|shop.example", "share": 75.0, "document": "ServiceEntry default/shop",
            "rule": "DestinationRule default/shop", "balancing": "LEAST_REQUEST", "endpoints": ["10.1.0.1:80"],
        },
        {
            "name": "outbound|80|v3|shop.example", "share": 25.0, "document": "ServiceEntry default/shop",
            "rule": "DestinationRule default/shop", "balancing": "LEAST_REQUEST", "endpoints": [],
        },
    ]  # fmt: skip
    for line in (
        "route other: not taken, since it is not so that the path begins with '/v2'; nor that the method is 'PUT'",
        "route mine: taken",
        "75% go to outbound|80|v1|shop.example",
        "25% go to outbound|80|v3|shop.example",
        "ServiceEntry default/shop has no endpoint for it: 503",
        "5% are held back by its fault",
        "1% are answered with an error by its fault",
        "the path is rewritten to /x",
        "it goes on to where its route says",
    ):
        assert line in said


@pytest.mark.parametrize(
    ("route", "line"),
    [
        ("redirect: {uri: /x}", "it is redirected: 301, http://shop.example/x"),
        ("directResponse: {status: 204}", "it is answered: 204"),
        (
            "route: [{destination: {host: shop.example}}]\n  mirrors: [{destination: {host: b.example}, percentage: {value: 5}}]",
            "copies of 5% are sent to outbound|80||b.example; their answers are dropped",
        ),
        (
            "corsPolicy: {allowOrigins: [{exact: '*'}]}\n  directResponse: {status: 204}",
            "preflights of the origins of its corsPolicy are answered here",
        ),
        ("match: [{port: 81}]\n  directResponse: {status: 204}", "no route takes it: 404"),
        ("match: [{port: 81}]\n  directResponse: {status: 204}", "  404, for no route takes it"),
        ("directResponse: {status: 204}", "  what its route answers"),
        ("route: [{destination: {host: gone.example}}]", "which the registry does not have: 503"),
        ("route: [{destination: {host: gone.example}}]", "  503, for nobody is where it goes"),
        ("timeout: 3s\n  route: [{destination: {host: shop.example}}]", "  it may take 3 s"),
        (
            "retries: {attempts: 1, perTryTimeout: 2s, retryOn: 5xx}\n  route: [{destination: {host: shop.example}}]",
            "  it is tried again at most 1 times after 5xx, 2 s each",
        ),
        (
            "retries: {attempts: 0}\n  route: [{destination: {host: shop.example}}]",
            "  it is tried again at most 0 times\n",
        ),
        (
            "rewrite: {authority: b.example}\n  route: [{destination: {host: shop.example}}]",
            "  the host is rewritten to b.example",
        ),
        (
            (
                "headers: {request: {set: {x-a: a}, remove: [x-b]}, response: {add: {x-c: c}}}\n"
                "  route: [{destination: {host: shop.example}}]"
            ),
            "  its headers are changed: x-a, x-b\n  the answer's headers are changed: x-c",
        ),
    ],
)
def test_what_becomes_of_it_otherwise(route: str, line: str) -> None:
    assert line in explained(f"- {route}")[1]


def test_a_host_that_is_not_believed() -> None:
    said = explained("- directResponse: {status: 204}", host="bank.example")[1]
    assert "the Host bank.example is not believed: the address is that of shop.example" in said
    assert said == explained("- directResponse: {status: 204}", header="Host: bank.example")[1]


def test_a_routed_host_at_a_port_that_no_service_has_passes() -> None:
    routes = document("VirtualService", "hosts: [shop.example]\nhttp: [{directResponse: {status: 204}}]")
    snapshot = take(configuration(shop(80, ("10.1.0.1", "v1")), routes))
    note = "note: the Host shop.example has routes at the ports of its service; what is sent to this address and port passes"
    for host, noted in (("shop.example", True), ("other.example", False)):
        found = answer(snapshot, {"to": ["192.0.2.1:8080"], "path": ["/"], "host": [host]})
        assert found.routed is None
        assert any(line.startswith(note) for line in found.lines()) is noted


def test_a_rule_alone() -> None:
    rule = document(
        "DestinationRule", "host: shop.example\ntrafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}"
    )
    mapping, said = explained("", rule)
    assert mapping["document"] == "DestinationRule default/shop"
    assert "each in turn, by DestinationRule default/shop, of 10.1.0.1:80, 10.1.0.2:80" in said


def test_where_no_document_is_about_it_nothing_is_said() -> None:
    other = document("VirtualService", "hosts: [other.example]\nhttp: [{directResponse: {status: 204}}]")
    given = {"to": ["10.1.0.1:80"], "path": ["/"]}
    found = answer(take(configuration(shop(80, ("10.1.0.1", "v1")), other)), given)
    assert found.routed is None
    assert found.as_mapping()["requestRoute"] is None


FLOWS = document(
    "VirtualService",
    """
    hosts: [shop.example, bank.example]
    tls:
    - {match: [{sniHosts: [bank.example]}], route: [{destination: {host: bank.example}}]}
    - match: [{sniHosts: [shop.example], port: 81}, {sniHosts: [shop.example]}]
      route:
      - {destination: {host: shop.example, subset: v1}, weight: 1}
      - {destination: {host: nowhere.example}, weight: 3}
    """,
    "flows",
)
BANK = shop(80, ("10.2.0.1", "v1"), host="bank.example", address="198.51.100.2")


def explained_flow(*documents: str, **asked: str) -> tuple[dict[str, object], str]:
    made = [shop(80, ("10.1.0.1", "v1"), ("10.1.0.2", "v2")), BANK, *documents]
    given = {"to": ["shop.example:80"], **{name: [value] for name, value in asked.items()}}
    found = answer(take(configuration(*made)), given)
    mapping = found.as_mapping()
    return mapping, "\n".join(found.lines())


def test_a_tls_route_its_subset_and_why() -> None:
    mapping, said = explained_flow(SUBSETS, FLOWS, sni="shop.example")
    route = mapping["requestRoute"]
    assert isinstance(route, dict)
    assert (route["document"], route["route"]) == ("VirtualService default/flows", "tls[1]")
    for line in (
        "the host is shop.example, the server name",
        "route tls[0]: not taken, since it is not so that the server name is bank.example",
        "route tls[1]: taken",
        "25% go to outbound|80|v1|shop.example",
        "the less loaded of two drawn by chance, by DestinationRule default/shop, of 10.1.0.1:80",
        "75% go to outbound|80||nowhere.example",
        "which the registry does not have: a reset",
    ):
        assert line in said


def test_a_server_name_that_is_not_believed() -> None:
    assert "the server name bank.example is not believed" in explained_flow(FLOWS, sni="bank.example")[1]


def test_where_no_route_holds_the_services_endpoints_are_named_and_how_one_is_chosen() -> None:
    rule = document(
        "DestinationRule",
        """
        host: shop.example
        trafficPolicy:
          loadBalancer:
            consistentHash: {useSourceIp: true}
            localityLbSetting: {distribute: [{from: r, to: {r/z: 60, "*": 40}}]}
          outlierDetection: {}
        """,
    )
    where = (
        "apiVersion: interceptor/v1\nkind: Sidecar\nmetadata: {name: app, labels: {istio-locality: r.z}}\n"
    )
    said = explained_flow(where, rule)[1]
    for line in (
        "it goes to outbound|80||shop.example",
        "the one that the hash of the request's key falls to",
        "by its source address that is 10.1.0.",
        "by locality, for this proxy is in r/z: 60% to r/z, 40% to anywhere",
        "without those that are left out for failing",
    ):
        assert line in said
    nearest = rule.replace(', to: {r/z: 60, "*": 40}}]', "}]").replace(
        "distribute: [{from: r}]", "enabled: true"
    )
    assert "the nearest of them to r/z first" in explained_flow(where, nearest)[1]


def test_a_service_of_original_destinations_within_limits() -> None:
    entry = document(
        "ServiceEntry",
        "hosts: [plain.example]\naddresses: [192.0.2.7]\nports: [{number: 80, name: a}]",
        "plain",
    )
    rule = document("DestinationRule", "host: plain.example\ntrafficPolicy: {connectionPool: {}}")
    said = explained_flow(entry, rule, to="192.0.2.7:80")[1]
    assert "it goes to the address that was dialled, within the limits of the cluster" in said


def test_the_policies_of_where_a_route_leads_count() -> None:
    route = document(
        "VirtualService", "hosts: [shop.example]\ntcp: [{route: [{destination: {host: bank.example}}]}]"
    )
    mapping, _ = explained_flow(route, DENY_BANK)
    assert (mapping["verdict"], mapping["policy"]) == ("denied", "AuthorizationPolicy default/no")
    mapping, _ = explained_flow(route)
    assert mapping["verdict"] == "allowed"


def test_a_connection_that_leads_to_nobody_is_said_to_be_reset() -> None:
    route = document(
        "VirtualService", "hosts: [shop.example]\ntcp: [{route: [{destination: {host: nowhere.example}}]}]"
    )
    mapping, said = explained_flow(route)
    assert mapping["outcome"] == "a reset, for nobody is where it goes"
    assert "note: port 80 is declared to carry HTTP, each request of which is routed by itself" in said


def test_a_header_that_a_hash_goes_by_and_that_is_not_there() -> None:
    rule = document(
        "DestinationRule",
        "host: shop.example\ntrafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}",
    )
    assert "it has no header x-user, so it goes to any one" in explained("", rule)[1]
    said = explained("", rule, header="x-user: me")[1]
    assert "by its header x-user that is 10.1.0." in said


def test_endpoints_that_a_running_proxy_leaves_out_are_named() -> None:
    documents = [
        f"{SIDECAR}spec: {{healthChecks: [{{host: shop.example, tcp: {{}}}}]}}\n",
        shop(80, ("10.1.0.1", "v1"), ("10.1.0.2", "v2")),
    ]
    down = {("shop.example", 80): {UpstreamAddress(SocketAddress("10.1.0.2", 80)): "it answered 503"}}
    given = {"to": ["shop.example:80"], "path": ["/"]}
    snapshot = take(plain(configuration(*documents)))
    said = "\n".join(answer(snapshot, given, down).lines())
    assert "without those whose health check fails; a running proxy, asked, names them" in said
    assert (
        "note: 10.1.0.2:80 of outbound|80||shop.example is left out: its health check fails: it answered 503"
        in said
    )
    other = {("shop.example", 81): {UpstreamAddress(SocketAddress("10.1.0.2", 80)): "it answered 503"}}
    assert "is left out" not in "\n".join(answer(snapshot, given, other).lines())
    assert answer(snapshot, {"from": ["192.0.2.1"], "to-port": ["80"]}, down).notes == ()
