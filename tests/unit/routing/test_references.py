from __future__ import annotations

from interceptor.routing.references import dangling
from tests.support.documents import configuration
from tests.support.routed import document, shop

RULES = (
    document("DestinationRule", "host: shop.example\nsubsets: [{name: v1, labels: {version: v1}}]"),
    document("DestinationRule", "host: '*.example'\nsubsets: [{name: wide}]", "wide"),
    document("DestinationRule", "host: '*.other.example'", "nobody"),
)


def found(text: str) -> list[str]:
    made = configuration(
        shop(80, ("10.1.0.1", "v1")),
        shop(80, ("10.2.0.1", "v1"), host="bank.example", address="198.51.100.2"),
        *RULES,
        document("VirtualService", text),
    )
    told = dangling(made.service_entries, made.destination_rules, made.virtual_services)
    return [f"{kind} {name}: {note.partition(': ')[0]}" for kind, name, note in told]


NOBODY = (
    "DestinationRule default/nobody: no ServiceEntry has the host *.other.example, so it holds for nothing"
)


def test_what_is_there_is_not_spoken_of() -> None:
    text = """
    hosts: [shop.example]
    http:
    - route:
      - {destination: {host: shop.example, subset: v1, port: {number: 80}}, weight: 50}
      - {destination: {host: bank.example, subset: wide}, weight: 50}
    """
    assert found(text) == [NOBODY]


def test_each_thing_that_is_not_there_is_said_once() -> None:
    text = """
    hosts: [shop.example]
    http:
    - route: [{destination: {host: gone.example}}]
    - route: [{destination: {host: shop.example, port: {number: 81}}}]
      mirrors: [{destination: {host: gone.example}}]
    - route: [{destination: {host: shop.example, subset: wide}}]
    tcp: [{route: [{destination: {host: bank.example, subset: v9}}]}]
    tls: [{match: [{sniHosts: [shop.example]}], route: [{destination: {host: gone.tls}}]}]
    """
    who = "VirtualService default/shop"
    assert found(text) == [
        NOBODY,
        f"{who}: no ServiceEntry has the host gone.example",
        f"{who}: no ServiceEntry of shop.example has the port 81",
        f"{who}: no DestinationRule about shop.example has the subset wide",
        f"{who}: no DestinationRule about bank.example has the subset v9",
        f"{who}: no ServiceEntry has the host gone.tls",
    ]


def test_a_delegate_that_is_not_there_is_said() -> None:
    text = "hosts: [shop.example]\nhttp: [{delegate: {name: team}}]"
    assert found(text) == [
        NOBODY,
        "VirtualService default/shop: there is no VirtualService default/team without hosts",
    ]
