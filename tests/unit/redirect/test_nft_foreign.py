"""Others' tables as nft lists them."""

from __future__ import annotations

from interceptor.config.redirect import Backend
from interceptor.redirect.foreign import DNAT, REDIRECT, TPROXY, ForeignChain, ForeignRule
from interceptor.redirect.nft_foreign import base_tables, describe, foreign_chains
from interceptor.redirect.nftables import Json

Form = dict[str, Json]


def base(family: str, table: str, name: str, kind: str, hook: str) -> dict[str, Json]:
    where: Form = {"family": family, "table": table, "name": name, "type": kind, "hook": hook, "prio": -100}
    return {"chain": where}


def rule(chain: str, *expressions: Json, **more: Json) -> dict[str, Json]:
    return {"rule": {"family": "ip", "table": "nat", "chain": chain, "expr": list(expressions), **more}}


def test_tables_that_can_bring_connections_elsewhere_each_once() -> None:
    listing: list[Form] = [
        {"metainfo": {"version": "1.0.6"}},
        base("ip", "nat", "OUTPUT", "nat", "output"),
        base("ip", "nat", "PREROUTING", "nat", "prerouting"),
        base("ip6", "mangle", "PREROUTING", "filter", "prerouting"),
        base("inet", "filter", "input", "filter", "input"),
        base("inet", "interceptor", "nat_OUTPUT", "nat", "output"),
        base("bridge", "b", "p", "filter", "prerouting"),
        {"chain": {"family": "inet", "table": "plain", "name": "x"}},
    ]
    assert base_tables(listing) == [("ip", "nat"), ("ip6", "mangle")]


def test_chains_with_their_rules_hooks_and_targets() -> None:
    tcp: Json = {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": "tcp"}}
    listing: list[Form] = [
        base("ip", "nat", "OUTPUT", "nat", "output"),
        {"chain": {"family": "ip", "table": "nat", "name": "DOCKER"}},
        rule("OUTPUT", tcp, {"counter": {"packets": 1, "bytes": 2}}, {"jump": {"target": "DOCKER"}}),
        rule("DOCKER", {"xt": {"type": "target", "name": "DNAT"}}),
        rule("DOCKER", tcp, {"redirect": {"port": 9}}, comment="mine"),
        rule("DOCKER", {"tproxy": {"port": 9}}),
        rule("DOCKER", {"xt": {"type": "match", "name": "owner"}}, {"accept": None}),
        rule("DOCKER", {"xt": None}),
    ]
    assert foreign_chains("ip", "nat", listing) == [
        ForeignChain(
            Backend.NFT,
            (4,),
            "ip nat",
            "OUTPUT",
            (ForeignRule("l4proto tcp jump DOCKER", "", ("DOCKER",)),),
            "output",
            -100,
        ),
        ForeignChain(
            Backend.NFT,
            (4,),
            "ip nat",
            "DOCKER",
            (
                ForeignRule("xt target DNAT", DNAT),
                ForeignRule('l4proto tcp redirect 9 comment "mine"', REDIRECT),
                ForeignRule("tproxy 9", TPROXY),
                ForeignRule("xt match owner accept"),
                ForeignRule("xt"),
            ),
            nat=False,
        ),
    ]


def test_a_map_of_verdicts_leads_to_its_chains() -> None:
    """As kube-proxy has it: by name, or written into the rule."""
    listing: list[Form] = [
        base("ip", "kube-proxy", "services", "nat", "output"),
        {
            "map": {
                "name": "ips",
                "elem": [[{"concat": ["10.0.0.1", "tcp", 80]}, {"goto": {"target": "svc"}}]],
            }
        },
        rule(
            "services", {"vmap": {"key": {"payload": {"protocol": "ip", "field": "daddr"}}, "data": "@ips"}}
        ),
        rule("services", {"vmap": {"key": 1, "data": {"set": [[1, {"goto": {"target": "inline"}}]]}}}),
    ]
    (chain,) = foreign_chains("ip", "kube-proxy", listing)
    assert [each.leads_to for each in chain.rules] == [("svc",), ("inline",)]


def test_a_rule_without_expressions_is_nothing() -> None:
    listing: list[Form] = [base("ip", "nat", "OUTPUT", "nat", "output"), {"rule": {"chain": "OUTPUT"}}]
    (chain,) = foreign_chains("ip", "nat", listing)
    assert chain.rules == (ForeignRule(""),)


def test_rules_are_described_nearly_as_nft_writes_them() -> None:
    prefix: Json = {"prefix": {"addr": "127.0.0.0", "len": 8}}
    ports: Json = {"set": [22, {"range": [80, 90]}]}
    expressions: list[Json] = [
        {"match": {"op": "!=", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": prefix}},
        {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": ports}},
        {"log": {"prefix": "x", "flags": ["all", "skuid"]}},
        {"accept": None},
    ]
    assert describe({"expr": expressions}) == (
        "ip daddr != 127.0.0.0/8 tcp dport { 22, 80-90 } log x all skuid accept"
    )
    assert describe({"expr": ["odd"]}) == "odd"
