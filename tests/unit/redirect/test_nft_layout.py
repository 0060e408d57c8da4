"""Our nftables table as planned, as listed, and the way from one to the other."""

from __future__ import annotations

import copy
from ipaddress import IPv4Network, ip_network
from typing import cast

from interceptor.config.redirect import Backend, RedirectSettings
from interceptor.redirect.ipv6 import Ipv6
from interceptor.redirect.nft_layout import NOTHING, Key, Layout, commands, installed, listed, wanted
from interceptor.redirect.nftables import Json
from interceptor.redirect.plan import plan
from interceptor.redirect.rules import Ruleset, Table, Tag
from interceptor.redirect.status import Hits

Form = dict[str, Json]

NETWORKS = (IPv4Network("10.0.0.0/8"), IPv4Network("192.0.2.7/32"))
PLAN = plan(RedirectSettings(exclude_egress_cidrs=NETWORKS), Ipv6.BLOCK)
WANTED = wanted(PLAN)
TABLE: Form = {"family": "inet", "name": "interceptor"}


def listing(layout: Layout = WANTED) -> list[Form]:
    """What nft would list: with handles, and in the order in which the kernel has it."""
    objects: list[Form] = [{"metainfo": {"version": "1.0.6"}}]
    objects += [
        {key.kind: {**copy.deepcopy(form), "handle": number}}
        for number, (key, form) in enumerate(layout.objects.items())
    ]
    objects += [
        {"rule": {**copy.deepcopy(rule), "handle": 99}} for rules in layout.rules.values() for rule in rules
    ]
    return objects


def rule_of(objects: list[Form], ending: str) -> Form:
    rules = [cast("Form", each["rule"]) for each in objects if "rule" in each]
    return next(rule for rule in rules if str(rule.get("comment")).endswith(ending))


def set_of(objects: list[Form]) -> Form:
    return next(cast("Form", each["set"]) for each in objects if "set" in each)


def elements_of(objects: list[Form]) -> list[Json]:
    return cast("list[Json]", set_of(objects)["elem"])


def count(rule: Form, packets: int) -> None:
    for expression in cast("list[Form]", rule["expr"]):
        if "counter" in expression:
            expression["counter"] = {"packets": packets, "bytes": packets * 60}


def test_no_chains_is_no_table() -> None:
    assert wanted(Ruleset("abc", ())) == NOTHING
    assert listed([]) == NOTHING


def test_what_is_listed_as_planned_is_equal_whatever_the_handles_and_counters() -> None:
    objects = listing()
    count(rule_of(objects, ":egress-everything"), 7)
    elements_of(objects).reverse()
    assert listed(objects) == WANTED


def test_nft_writes_some_ipv6_addresses_in_another_way() -> None:
    ours = wanted(plan(RedirectSettings(exclude_egress_cidrs=(ip_network("::102:304/128"),))))
    objects = listing(ours)
    match = cast("list[dict[str, Form]]", rule_of(objects, "cidr-::102:304/128")["expr"])[1]["match"]
    assert match["right"] == "::102:304"
    match["right"] = "::1.2.3.4"
    assert listed(objects) == ours


def test_every_difference_counts() -> None:
    def without_a_rule(objects: list[Form]) -> None:
        objects.remove({"rule": rule_of(objects, ":egress-loopback")})

    def in_another_order(objects: list[Form]) -> None:
        last = objects.pop()
        objects.insert(next(number for number, each in enumerate(objects) if "rule" in each), last)

    def with_a_foreign_object(objects: list[Form]) -> None:
        objects.append({"counter": {"family": "inet", "table": "interceptor", "name": "theirs"}})

    def without_an_element(objects: list[Form]) -> None:
        elements_of(objects).pop()

    def switched_off(objects: list[Form]) -> None:
        cast("Form", objects[1]["table"])["flags"] = ["dormant"]

    def without_a_counter(objects: list[Form]) -> None:
        cast("list[Json]", rule_of(objects, ":egress-everything")["expr"]).pop(1)

    for spoil in (
        without_a_rule,
        in_another_order,
        with_a_foreign_object,
        without_an_element,
        switched_off,
        without_a_counter,
    ):
        objects = listing()
        spoil(objects)
        assert listed(objects) != WANTED, spoil.__name__


def test_a_table_is_made_as_a_whole() -> None:
    made = commands(NOTHING, WANTED)
    assert made[:2] == [{"add": {"table": TABLE}}, {"flush": {"table": TABLE}}]
    kinds = [next(iter(cast("dict[str, Form]", each)["add"])) for each in made[2:]]
    assert kinds == ["set"] + ["chain"] * 8 + ["rule"] * (WANTED.size + 4)


def test_a_table_is_removed_as_a_whole() -> None:
    assert commands(WANTED, NOTHING) == [{"delete": {"table": TABLE}}]
    assert commands(NOTHING, NOTHING) == []


def test_chains_that_are_right_stay_where_they_are() -> None:
    """Base chains are never taken away while rules change: there is no moment without a hook."""
    other = wanted(plan(RedirectSettings(exclude_uids=(7,)), Ipv6.BLOCK))
    made = commands(WANTED, other)
    assert [each for each in made if "delete" in cast("Form", each)] == [
        {"delete": {"set": {"family": "inet", "table": "interceptor", "name": "egress-exclude-cidrs-v4"}}}
    ]
    assert not any("chain" in cast("dict[str, Form]", each).get("add", {}) for each in made)


def test_chains_go_after_what_may_be_mapped_to_them() -> None:
    capture = wanted(plan(RedirectSettings()))
    theirs: Form = {"family": "inet", "table": "interceptor", "name": "theirs", "map": "verdict"}
    before = Layout({**WANTED.objects, Key("map", "theirs"): theirs}, WANTED.rules)
    deleted = [
        cast("dict[str, Form]", each)["delete"]
        for each in commands(before, capture)
        if "delete" in cast("Form", each)
    ]
    assert [next(iter(each)) for each in deleted] == ["set", "map", *["chain"] * 6]


def test_a_chain_that_is_another_is_made_anew() -> None:
    objects = listing()
    base = next(cast("Form", each["chain"]) for each in objects if "chain" in each)
    base["prio"] = 5
    made = commands(listed(objects), WANTED)
    where = {"family": "inet", "table": "interceptor", "name": "nat_PREROUTING"}
    assert {"delete": {"chain": where}} in made
    assert {"add": {"chain": WANTED.objects[Key("chain", "nat_PREROUTING")]}} in made


def test_status_has_every_rule_with_its_hits_also_those_in_a_set() -> None:
    objects = listing()
    count(rule_of(objects, ":egress-everything"), 7)
    element = cast("dict[str, Form]", elements_of(objects)[0])["elem"]
    element["counter"] = {"packets": 3, "bytes": 180}
    chains = {(chain.table, chain.name): chain for chain in installed(objects)}
    egress = chains[Table.NAT, "INTERCEPTOR_EGRESS"]
    assert (egress.backend, egress.families, egress.hook, egress.before_ours) == (
        Backend.NFT,
        (4,),
        "OUTPUT",
        (),
    )
    assert egress.rules == (
        Hits(Tag(PLAN.hash, "egress-proxy-uid-1337"), 0, 0),
        Hits(Tag(PLAN.hash, "egress-exclude-cidr-10.0.0.0/8"), 3, 180),
        Hits(Tag(PLAN.hash, "egress-exclude-cidr-192.0.2.7/32"), 0, 0),
        Hits(Tag(PLAN.hash, "egress-loopback"), 0, 0),
        Hits(Tag(PLAN.hash, "egress-everything"), 7, 420),
    )
    assert chains[Table.FILTER, "INTERCEPTOR_INGRESS"].families == (6,)
    assert len(chains) == 4


def test_chains_for_both_families_are_of_both() -> None:
    assert {chain.families for chain in installed(listing(wanted(plan(RedirectSettings()))))} == {(4, 6)}


def test_status_tells_what_is_not_ours() -> None:
    objects = listing()
    theirs: Form = {"chain": "nat_OUTPUT", "expr": [{"accept": None}]}
    position = objects.index({"rule": rule_of(objects, ":egress-hook")})
    objects.insert(position, {"rule": theirs})
    objects.append(
        {"rule": {"chain": "nat_INTERCEPTOR_EGRESS_ipv4", "comment": "x", "expr": [{"counter": "named"}]}}
    )
    elements_of(objects).append("198.51.100.1")
    objects.append({"chain": {"family": "inet", "table": "interceptor", "name": "theirs"}})
    egress = next(
        chain
        for chain in installed(objects)
        if (chain.table, chain.name) == (Table.NAT, "INTERCEPTOR_EGRESS")
    )
    assert egress.before_ours == ("accept",)
    assert [hits.tag for hits in egress.rules].count(None) == 2


def test_a_chain_without_a_jump_and_a_table_switched_off_are_not_hooked_in() -> None:
    objects = listing()
    objects.remove({"rule": rule_of(objects, ":egress-hook")})
    hooks = {(chain.table, chain.name): chain.hook for chain in installed(objects)}
    assert hooks[Table.NAT, "INTERCEPTOR_EGRESS"] is None
    assert hooks[Table.NAT, "INTERCEPTOR_INGRESS"] == "PREROUTING"
    objects = listing()
    cast("Form", objects[1]["table"])["flags"] = ["dormant"]
    assert {chain.hook for chain in installed(objects)} == {None}


def test_a_rule_without_expressions_is_somebodys() -> None:
    objects = listing()
    objects.append({"rule": {"chain": "nat_INTERCEPTOR_EGRESS_ipv4"}})
    assert listed(objects) != WANTED
    assert any(hits.tag is None for chain in installed(objects) for hits in chain.rules)
