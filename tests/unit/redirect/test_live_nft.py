"""Live rules out of what ``nft -j list ruleset`` prints."""

from __future__ import annotations

import json
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given, strategies as st

from interceptor.config.redirect import Mark, PortRange, RedirectSettings
from interceptor.redirect import live, live_nft, simulate
from interceptor.redirect.nft_layout import NOTHING, commands, wanted
from interceptor.redirect.plan import plan
from interceptor.redirect.simulate import Connection
from tests.support.connections import IN, OUT
from tests.unit.redirect.test_live_iptables import CONNECTIONS, PORTS

HOOKS = {"OUT": "output", "PRE": "prerouting", "IN": "input"}


def listing(*rules: dict[str, Any], family: str = "inet", kind: str = "nat", policy: str = "accept") -> str:
    """A listed table; a rule is its expressions, and its chain under 'chain' if that is not OUT."""
    place = {"family": family, "table": "t"}
    chains = [
        {"chain": {**place, "name": name, "type": kind, "hook": hook, "prio": -100, "policy": policy}}
        for name, hook in HOOKS.items()
    ]
    chains += [{"chain": {**place, "name": "ONE"}}]
    listed = [
        {"rule": {**place, "chain": rule.get("chain", "OUT"), "handle": number, "expr": rule["expr"]}}
        for number, rule in enumerate(rules)
    ]
    named = [
        {
            "set": {
                **place,
                "name": "known",
                "type": "ipv4_addr",
                "elem": ["192.0.2.7", {"elem": {"val": "10.0.0.1"}}],
            }
        }
    ]
    return json.dumps({"nftables": [{"metainfo": {}}, {"table": place}, *chains, *named, *listed]})


def verdict(connection: Connection, text: str) -> tuple[str, str]:
    found = live.explain(list(live_nft.tables(text)), connection, PORTS)
    return found.verdict, found.because


def when(left: object, right: object, op: str = "==") -> dict[str, object]:
    return {"match": {"op": op, "left": left, "right": right}}


TO_PROXY = {"redirect": {"port": 15001}}
UID = {"meta": {"key": "skuid"}}
DADDR = {"payload": {"protocol": "ip", "field": "daddr"}}
DPORT = {"payload": {"protocol": "tcp", "field": "dport"}}


@pytest.mark.parametrize(
    ("condition", "fits"),
    [
        (when(UID, 1000), True), (when(UID, 5), False), (when(UID, 1000, "!="), False),
        (when(UID, {"range": [900, 1100]}), True), (when(UID, "root"), False),
        (when({"meta": {"key": "skgid"}}, {"set": [1, 1000]}), True),
        (when(DADDR, "192.0.2.7"), True), (when(DADDR, {"prefix": {"addr": "192.0.2.0", "len": 24}}), True),
        (when(DADDR, {"range": ["192.0.2.0", "192.0.2.5"]}), False),
        (when(DADDR, "@known"), True), (when(DADDR, "@known", "!="), False), (when(DADDR, "@unknown"), None),
        (when({"payload": {"protocol": "ip", "field": "saddr"}}, "10.9.0.2"), True),
        (when({"payload": {"protocol": "ip6", "field": "daddr"}}, "fd00::1"), False),
        (when({"payload": {"protocol": "ip6", "field": "daddr"}}, {"prefix": {"addr": "::", "len": 0}}), False),
        (when(DPORT, 443), True), (when(DPORT, {"set": [22, {"range": [400, 500]}]}), True), (when(DPORT, 80), False),
        (when({"payload": {"protocol": "udp", "field": "dport"}}, 443), False),
        (when({"payload": {"protocol": "th", "field": "dport"}}, 443), True),
        (when({"payload": {"protocol": "tcp", "field": "flags"}}, "syn"), None),
        (when({"meta": {"key": "oifname"}}, "eth0"), True), (when({"meta": {"key": "oifname"}}, "eth*"), True),
        (when({"meta": {"key": "oifname"}}, "lo"), False), (when({"meta": {"key": "iifname"}}, "eth0"), False),
        (when({"meta": {"key": "l4proto"}}, "tcp"), True), (when({"meta": {"key": "l4proto"}}, {"set": ["tcp", "udp"]}), True),
        (when({"meta": {"key": "nfproto"}}, "ipv6"), False), (when({"meta": {"key": "cgroup"}}, 1), None),
        (when({"meta": {"key": "mark"}}, 0), True), (when({"&": [{"meta": {"key": "mark"}}, 4095]}, 1337), False),
        (when({"&": [{"meta": {"key": "cgroup"}}, 4095]}, 1), None),
        (when({"ct": {"key": "state"}}, "new", "in"), True), (when({"ct": {"key": "state"}}, ["established"], "in"), False),
        (when({"ct": {"key": "status"}}, "dnat", "in"), False), (when({"ct": {"key": "helper"}}, "x"), None),
        (when({"fib": {"result": "type", "flags": ["daddr"]}}, "local"), False),
        (when({"fib": {"result": "type", "flags": ["saddr"]}}, "local", "!="), False),
        (when({"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, ["fin", "syn"]]}, "syn"), True),
        (when({"fib": {"result": "oif", "flags": ["saddr"]}}, 0), None),
        (when(DPORT, 443, "<"), None), (when(DPORT, {"concat": []}), None),
        ({"xt": {"type": "match", "name": "string"}}, None), ({"counter": {"packets": 1, "bytes": 1}}, True),
    ],
)  # fmt: skip
def test_conditions(condition: dict[str, object], fits: bool | None) -> None:
    # Where the statement itself is unknown the whole rule is, whatever it does.
    found = verdict(OUT, listing({"expr": [condition, TO_PROXY]}))
    if "xt" in condition:
        found = verdict(OUT, listing({"expr": [TO_PROXY, condition]}))
    assert found[0] == ("egress" if fits else "direct")
    assert ("cannot read" in found[1]) is (fits is None)


@pytest.mark.parametrize(
    ("statement", "outcome"),
    [
        ({"drop": None}, "rejected"),
        ({"reject": {"type": "tcp reset"}}, "rejected"),
        ({"accept": None}, "direct"),
        ({"return": None}, "direct"),
        ({"redirect": {"port": 8080}}, "direct"),
        ({"redirect": None}, "direct"),
        ({"dnat": {"addr": "10.0.0.1", "port": 80}}, "direct"),
        ({"tproxy": {"port": 15006}}, "ingress"),
        ({"jump": {"target": "ONE"}}, "rejected"),
        ({"goto": {"target": "ONE"}}, "rejected"),
        ({"log": None}, "direct"),
    ],
)
def test_statements(statement: dict[str, object], outcome: str) -> None:
    text = listing({"expr": [statement]}, {"expr": [{"drop": None}], "chain": "ONE"})
    assert verdict(OUT, text)[0] == outcome


def test_a_rule_is_found_again_by_its_handle() -> None:
    found = live.explain(list(live_nft.tables(listing({"expr": [{"drop": None}]}))), OUT, PORTS)
    assert found.rule == "rule with handle 0 in inet t OUT"


def test_policies_families_and_tables_that_are_skipped() -> None:
    assert verdict(OUT, listing(policy="drop", kind="filter"))[0] == "rejected"
    assert verdict(OUT, listing({"expr": [{"drop": None}]}, family="ip6"))[0] == "direct"
    assert verdict(OUT, listing({"expr": [{"drop": None}]}, family="netdev"))[0] == "direct"
    assert not list(live_nft.tables(listing(), frozenset({"inet t"})))
    dropping = list(live_nft.tables(listing(policy="drop", kind="filter")))
    assert [live.dropping(dropping, family) for family in (4, 6)] == [["nft inet t IN"]] * 2
    assert live.dropping(list(live_nft.tables(listing(policy="drop", family="ip6"))), 4) == []
    assert live.dropping(list(live_nft.tables(listing())), 4) == []
    assert not list(live_nft.tables(""))


def test_what_iptables_nft_made_is_known() -> None:
    assert live_nft.of_iptables(listing({"expr": [{"xt": {}}]}, family="ip")) == {"ip t"}
    assert live_nft.of_iptables(listing({"expr": [TO_PROXY]})) == live_nft.of_iptables("") == frozenset()


def as_listed(settings: RedirectSettings) -> str:
    """Our own commands for nft, as nft would list what they made."""
    added = [command["add"] for command in commands(NOTHING, wanted(plan(settings))) if "add" in command]  # type: ignore[index,operator,call-overload]  # JSON
    for number, each in enumerate(each for each in added if "rule" in each):  # type: ignore[operator]  # JSON
        each["rule"]["handle"] = number  # type: ignore[index,call-overload]  # JSON
    return json.dumps({"nftables": added})


SETTINGS = st.builds(
    RedirectSettings,
    proxy_mark=st.sampled_from([None, Mark(0x539, 0xFFF), Mark(0x539)]),
    exclude_uids=st.sampled_from([(), (5,)]),
    exclude_interfaces=st.sampled_from([(), ("eth+",)]),
    exclude_egress_ports=st.sampled_from([(), (PortRange(400, 500),)]),
    exclude_egress_cidrs=st.sampled_from(
        [(), (ip_network("192.0.2.7/32"),), (ip_network("192.0.2.0/30"), ip_network("192.0.2.7/32"))]
    ),
    exclude_ingress_ports=st.sampled_from([(), (PortRange(8080, 8080),)]),
    strict=st.booleans(),
)


@given(SETTINGS, CONNECTIONS)
def test_our_own_table_says_what_the_plan_says(settings: RedirectSettings, connection: Connection) -> None:
    planned = simulate.explain(plan(settings), connection)
    found = live.explain(list(live_nft.tables(as_listed(settings))), connection, PORTS)
    assert (found.verdict, "cannot read" in found.because) == (planned.verdict, False)
    assert planned.rule is None or found.rule == planned.rule


@pytest.mark.parametrize(
    ("elements", "fitting"),
    [
        (["192.0.2.7", "10.0.0.1"], "192.0.2.7"),
        (["10.0.0.1", {"prefix": {"addr": "192.0.2.0", "len": 24}}], "192.0.2.0/24"),
        ([{"range": ["192.0.2.1", "192.0.2.9"]}], "192.0.2.1-192.0.2.9"),
        ([{"elem": {"val": "192.0.2.7", "timeout": 60}}], "192.0.2.7"),
        ([{"concat": ["192.0.2.7", 443]}], "192.0.2.7 . 443"),
        (["10.0.0.1"], None),
        ([], None),
    ],
)
def test_of_a_set_the_element_is_named(elements: list[object], fitting: str | None) -> None:
    left = {"concat": [DADDR, DPORT]} if "concat" in str(elements) else DADDR
    form = json.loads(listing({"expr": [when(left, "@known"), {"drop": None}]}))
    next(each["set"] for each in form["nftables"] if "set" in each)["elem"] = elements
    found = live.explain(list(live_nft.tables(json.dumps(form))), OUT, PORTS)
    named = None if fitting is None else f"rule with handle 0 in inet t OUT, element {fitting}"
    assert (found.verdict, found.rule) == ("direct" if fitting is None else "rejected", named)


def test_what_arrives_has_no_owner() -> None:
    rule = {"expr": [when(UID, 0), {"drop": None}], "chain": "PRE"}
    assert verdict(IN, listing(rule))[0] == "direct"


CT_MARK = {"ct": {"key": "mark"}}
META_MARK = {"meta": {"key": "mark"}}
TO = {"concat": [DADDR, {"meta": {"key": "l4proto"}}, {"payload": {"protocol": "th", "field": "dport"}}]}
SERVICE = {"concat": ["192.0.2.7", "tcp", 443]}


@pytest.mark.parametrize("key", [CT_MARK, META_MARK], ids=["of the connection", "of the packet"])
@pytest.mark.parametrize(
    ("value", "mark"),
    [
        (lambda _: 7, 7),
        (lambda key: {"|": [{"&": [key, 0xFFFFF000]}, 0x53A]}, 0x53A),
        (lambda key: {"|": [key, 0x10]}, 0x10),
    ],
)
def test_marks_are_kept_for_the_rules_that_follow(key: dict[str, object], value: Any, mark: int) -> None:
    noted = {"mangle": {"key": key, "value": value(key)}}
    assert verdict(OUT, listing({"expr": [noted]}, {"expr": [when(key, mark), TO_PROXY]}))[0] == "egress"
    assert verdict(OUT, listing({"expr": [noted, {"accept": None}]}, {"expr": [TO_PROXY]}))[0] == "direct"


def test_a_mark_that_is_not_understood_is_told_and_others_are_nothing() -> None:
    odd = {"mangle": {"key": META_MARK, "value": {"numgen": {}}}}
    assert "cannot read" in verdict(OUT, listing({"expr": [odd]}))[1]
    dscp = {"mangle": {"key": {"payload": {"protocol": "ip", "field": "dscp"}}, "value": 1}}
    assert verdict(OUT, listing({"expr": [dscp]})) == ("direct", "no rule captures it")


def test_tproxy_and_accept_is_tproxy() -> None:
    rule = {"expr": [{"tproxy": {"port": 15006}}, {"accept": None}], "chain": "PRE"}
    assert verdict(IN, listing(rule, kind="filter"))[0] == "ingress"


def test_a_rate_limit_may_fit_or_not() -> None:
    found = verdict(OUT, listing({"expr": [{"limit": {"rate": 3, "per": "minute"}}, {"drop": None}]}))
    assert (found[0], "cannot read" in found[1]) == ("direct", True)
    assert "cannot read" not in verdict(OUT, listing({"expr": [{"limit": {}}, {"log": None}]}))[1]


def test_what_is_not_tracked_is_not_redirected() -> None:
    raw = listing({"expr": [{"notrack": None}]}, kind="filter").replace('"prio": -100', '"prio": -300')
    bases = [base for text in (raw, listing({"expr": [TO_PROXY]})) for base in live_nft.tables(text)]
    assert live.explain(bases, OUT, PORTS).verdict == "direct"
    new = listing({"expr": [when({"ct": {"key": "state"}}, "new", "in"), {"drop": None}]}, kind="filter")
    assert live.explain([*bases, *live_nft.tables(new)], OUT, PORTS).verdict == "direct"


@pytest.mark.parametrize(
    ("data", "outcome", "read"),
    [
        ({"set": [[SERVICE, {"drop": None}]]}, "rejected", True),
        ({"set": [[SERVICE, {"goto": {"target": "ONE"}}]]}, "rejected", True),
        ({"set": [[{"concat": ["192.0.2.8", "tcp", 443]}, {"drop": None}]]}, "egress", True),
        ("@services", "rejected", True),
        ("@others", "egress", False),
        ({"set": ["odd"]}, "egress", False),
    ],
)
def test_verdict_maps(data: object, outcome: str, read: bool) -> None:
    rules = (
        {"expr": [{"vmap": {"key": TO, "data": data}}]},
        {"expr": [TO_PROXY]},
        {"expr": [{"drop": None}], "chain": "ONE"},
    )
    place = {
        "family": "inet",
        "table": "t",
        "name": "services",
        "elem": [[SERVICE, {"jump": {"target": "ONE"}}]],
    }
    found = verdict(OUT, listing(*rules).replace('{"metainfo": {}}', json.dumps({"map": place})))
    assert (found[0], "cannot read" not in found[1]) == (outcome, read)


def test_a_map_by_chance_cannot_be_read() -> None:
    chance = {"vmap": {"key": {"numgen": {}}, "data": {"set": [[0, {"drop": None}]]}}}
    assert "cannot read" in verdict(OUT, listing({"expr": [chance]}))[1]
    mixed = {"concat": [DADDR, {"numgen": {}}]}
    assert (
        "cannot read"
        in verdict(OUT, listing({"expr": [when(mixed, {"concat": ["192.0.2.7", 0]}), TO_PROXY]}))[1]
    )
