from __future__ import annotations

from typing import Any

from interceptor.model.address import OriginalDestination, PeerAddress, SocketAddress
from interceptor.model.connection import Direction, Flow
from interceptor.telemetry.plaintext import MAX_PEERS, MAX_PORTS, Plaintext, report
from tests.support.sample_flows import flow


def ingress(peer: str = "10.0.0.9", port: int = 8080, **changes: object) -> Flow:
    given: dict[str, Any] = {
        "direction": Direction.INGRESS,
        "peer": PeerAddress(SocketAddress(peer, 4000)),
        "original_dst": OriginalDestination(SocketAddress("10.0.0.1", port)),
        "security": "none",
        "denied": None,
        **changes,
    }
    return flow(**given)


def counted(made: Plaintext) -> dict[str, float]:
    [family] = made.collect()
    return {sample.labels["port"]: sample.value for sample in family.samples}


def test_who_did_without_mutual_tls_is_counted_by_port_and_named() -> None:
    made = Plaintext()
    for each in (ingress(), ingress(), ingress("fd00::9", 9090, security="tls")):
        made.ended(each)
    assert counted(made) == {"8080": 2, "9090": 1}
    assert report(made.peers([ingress("10.0.0.8")])) == [
        {"port": 8080, "connections": 3, "peers": {"10.0.0.8": 1, "10.0.0.9": 2}},
        {"port": 9090, "connections": 1, "peers": {"fd00::9": 1}},
    ]
    assert len(made.peers([])) == 2, "what is live is not kept"


def test_what_says_nothing_about_peers_is_left_out() -> None:
    made = Plaintext()
    others = (
        ingress(security="mutual_tls"),
        ingress(denied="policy"),
        ingress(original_dst=None),
        ingress(direction=Direction.EGRESS),
    )
    for each in others:
        made.ended(each)
    assert counted(made) == {}
    assert made.peers(others) == {}


def test_peers_and_ports_that_somebody_makes_up_are_bounded() -> None:
    made = Plaintext()
    for number in range(MAX_PEERS + 10):
        made.ended(ingress(f"10.0.{number // 256}.{number % 256}", 1000 + number))
    counts = counted(made)
    assert len(counts) == MAX_PORTS + 1
    assert counts["other"] == MAX_PEERS + 10 - MAX_PORTS
    assert len(made.peers([ingress("192.0.2.1")])) == MAX_PEERS
    made.ended(ingress("10.0.0.1", 1001))
    assert made.peers([ingress("10.0.0.1", 1001)])[1001, "10.0.0.1"] == 3
