"""Rules in the words of nft."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from interceptor.config.redirect import Mark, PortRange, RedirectSettings
from interceptor.errors import ConfigError
from interceptor.model.record import replace
from interceptor.redirect.ipv6 import Ipv6
from interceptor.redirect.nftables import (
    Base,
    ChainForm,
    Element,
    Json,
    NamedSet,
    RuleForm,
    TableForm,
    planned_name,
    table_form,
)
from interceptor.redirect.plan import plan
from interceptor.redirect.rules import (
    Answer,
    Chain,
    Family,
    Hook,
    Jump,
    MarkConnection,
    MarkPacket,
    Match,
    Protocol,
    Redirect,
    Reject,
    Return,
    Rule,
    Ruleset,
    Table,
    Tproxy,
    Verdict,
    Zone,
)

HOOK = Rule("hook", Match(protocol=Protocol.TCP), Jump("MINE"), "always", "")
BOTH: tuple[Family, ...] = (4, 6)


def table(*rules: Rule, families: tuple[Family, ...] = BOTH) -> TableForm:
    return table_form(Ruleset("abc", (Chain(Table.NAT, "MINE", Hook.OUTPUT, HOOK, rules, families),)))


def one(match: Match, verdict: Verdict = Return(), name: str = "id") -> Rule:  # noqa: B008 (a value)
    return Rule(name, match, verdict, "always", "")


def form(match: Match, verdict: Verdict = Return()) -> RuleForm:  # noqa: B008 (a value)
    (rule,) = table(one(match, verdict)).chains[1].rules
    return rule


def texts(rule: RuleForm) -> list[str]:
    return [statement.text for statement in rule.statements]


def json_of(match: Match, verdict: Verdict = Return()) -> list[Json]:  # noqa: B008 (a value)
    return [statement.form for statement in form(match, verdict).statements]


def test_no_chain_is_no_table() -> None:
    assert table_form(Ruleset("abc", ())) == TableForm((), ())


def test_a_base_chain_leads_to_ours_and_runs_before_everybodys_redirects() -> None:
    base, mine = table().chains
    assert base.base == Base("nat", "output", -101)
    (jump,) = base.rules
    assert (base.name, mine) == ("nat_OUTPUT", ChainForm("nat_MINE", None, ()))
    assert (jump.comment, texts(jump)) == (
        "interceptor:v1:abc:hook",
        ["meta l4proto tcp", "counter", "jump nat_MINE"],
    )


@pytest.mark.parametrize(("families", "name"), [((4,), "ipv4"), ((6,), "ipv6")])
def test_a_chain_for_one_family_says_so(families: tuple[Family, ...], name: str) -> None:
    (jump,) = table(families=families).chains[0].rules
    assert texts(jump)[0] == f"meta nfproto {name}"


def test_chains_of_one_name_in_two_tables_have_two_names() -> None:
    names = [chain.name for chain in table_form(plan(RedirectSettings(), Ipv6.BLOCK)).chains]
    assert len(names) == len(set(names)) == 8
    assert {"nat_INTERCEPTOR_EGRESS_ipv4", "filter_INTERCEPTOR_EGRESS_ipv6", "filter_INPUT"} <= set(names)


def test_two_chains_at_one_hook_share_its_base_chain() -> None:
    chain = Chain(Table.NAT, "MINE", Hook.OUTPUT, HOOK, (), BOTH)
    base, *ours = table_form(Ruleset("abc", (chain, replace(chain, name="OTHER")))).chains
    assert [texts(jump)[-1] for jump in base.rules] == ["jump nat_MINE", "jump nat_OTHER"]
    assert [each.name for each in ours] == ["nat_MINE", "nat_OTHER"]


@pytest.mark.parametrize(
    ("name", "planned"),
    [
        ("nat_INTERCEPTOR_EGRESS", (Table.NAT, "INTERCEPTOR_EGRESS")),
        ("filter_X", (Table.FILTER, "X")),
        ("theirs", None),
        ("nat_", None),
    ],
)
def test_names_lead_back_to_the_plan(name: str, planned: tuple[Table, str] | None) -> None:
    assert planned_name(name) == planned


SAMPLES: dict[str, tuple[Match, str]] = {
    "protocol": (Match(protocol=Protocol.TCP), "meta l4proto tcp"),
    "in_interface": (Match(in_interface="eth0"), 'iifname "eth0"'),
    "out_interface": (Match(out_interface="docker+"), 'oifname "docker*"'),
    "source": (Match(source=ip_network("10.0.0.0/8")), "ip saddr 10.0.0.0/8"),
    "destination": (Match(destination=ip_network("fd00::1/128")), "ip6 daddr fd00::1"),
    "ports": (Match(protocol=Protocol.UDP, ports=(PortRange(1, 1), PortRange(3, 5))), "udp dport { 1, 3-5 }"),
    "uid": (Match(uid=0), "meta skuid 0"),
    "gid": (Match(gid=7), "meta skgid 7"),
    "mark": (Match(mark=Mark(5, 15)), "meta mark & 0x0000000f == 0x00000005"),
    "local_destination": (Match(local_destination=True), "fib daddr type local"),
    "new": (Match(new=True), "ct state new"),
    "connection_mark": (Match(connection_mark=Mark(5)), "ct mark 0x00000005"),
    "remote_destination": (Match(remote_destination=True), "fib daddr type != local"),
    "remote_source": (Match(remote_source=True), "fib saddr type != local"),
    "rewritten": (Match(rewritten=True), "ct status dnat"),
    "reply": (Match(reply=True), "ct direction reply"),
    "syn": (Match(protocol=Protocol.TCP, syn=True), "tcp flags & (fin | syn | rst | ack) == syn"),
}


@pytest.mark.parametrize("name", [name for name in Match.__annotations__ if name != "supplementary"])
def test_each_field_of_a_match_has_its_statement(name: str) -> None:
    match, text = SAMPLES[name]
    assert texts(form(match)) == [text, "counter", "return"]


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        (Match(mark=Mark(5)), {"left": {"meta": {"key": "mark"}}, "right": 5}),
        (Match(mark=Mark(5, 15)), {"left": {"&": [{"meta": {"key": "mark"}}, 15]}, "right": 5}),
        (Match(uid=0), {"left": {"meta": {"key": "skuid"}}, "right": 0}),
        (Match(in_interface="eth+"), {"left": {"meta": {"key": "iifname"}}, "right": "eth*"}),
        (
            Match(source=ip_network("10.0.0.0/8")),
            {
                "left": {"payload": {"protocol": "ip", "field": "saddr"}},
                "right": {"prefix": {"addr": "10.0.0.0", "len": 8}},
            },
        ),
        (
            Match(protocol=Protocol.TCP, ports=(PortRange(80, 80),)),
            {"left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 80},
        ),
        (
            Match(protocol=Protocol.TCP, ports=(PortRange(80, 80), PortRange(90, 99))),
            {
                "left": {"payload": {"protocol": "tcp", "field": "dport"}},
                "right": {"set": [80, {"range": [90, 99]}]},
            },
        ),
        (
            Match(local_destination=True),
            {"left": {"fib": {"result": "type", "flags": ["daddr"]}}, "right": "local"},
        ),
    ],
)
def test_the_json_of_a_match(match: Match, expected: dict[str, Json]) -> None:
    assert json_of(match)[0] == {"match": {"op": "==", **expected}}


@pytest.mark.parametrize(
    ("verdict", "text", "expected"),
    [
        (Return(), "return", {"return": None}),
        (Jump("X"), "jump X", {"jump": {"target": "X"}}),
        (Redirect(15001), "redirect to :15001", {"redirect": {"port": 15001}}),
        (Reject(Answer.RESET), "reject with tcp reset", {"reject": {"type": "tcp reset"}}),
        (
            Reject(Answer.UNREACHABLE),
            "reject with icmpx type port-unreachable",
            {"reject": {"type": "icmpx", "expr": "port-unreachable"}},
        ),
        (
            Zone(15053),
            "ct original zone set 15053",
            {"mangle": {"key": {"ct": {"key": "zone", "dir": "original"}}, "value": 15053}},
        ),
        (
            MarkPacket(Mark(5)),
            "meta mark set 0x00000005",
            {"mangle": {"key": {"meta": {"key": "mark"}}, "value": 5}},
        ),
        (
            MarkConnection(Mark(0x53A, 0xFFF)),
            "ct mark set ct mark & 0xfffff53a | 0x0000053a",
            {
                "mangle": {
                    "key": {"ct": {"key": "mark"}},
                    "value": {"|": [{"&": [{"ct": {"key": "mark"}}, 0xFFFFF53A]}, 0x53A]},
                }
            },
        ),
    ],
)
def test_each_verdict(verdict: Verdict, text: str, expected: Json) -> None:
    rule = form(Match(), verdict)
    assert texts(rule) == ["counter", text]
    assert rule.statements[-1].form == expected


def test_where_no_transparent_listener_is_the_packet_is_dropped() -> None:
    """As iptables does; nft would go on, past the proxy."""
    handed, dropped = table(one(Match(uid=1), Tproxy(15006))).chains[1].rules
    assert texts(handed) == ["meta skuid 1", "counter", "tproxy to :15006", "accept"]
    assert handed.statements[-2].form == {"tproxy": {"port": 15006}}
    assert texts(dropped) == ["meta skuid 1", "counter", "drop"]
    assert dropped.comment == "interceptor:v1:abc:id-unheard"


def test_supplementary_groups_are_refused_with_the_remedy() -> None:
    with pytest.raises(
        ConfigError, match=r"--supplementary-groups cannot be had with nftables.*--backend legacy"
    ):
        form(Match(gid=1, supplementary=True))


def test_a_mark_on_output_is_made_where_the_packet_is_routed_anew() -> None:
    chain = Chain(Table.MANGLE, "MINE", Hook.OUTPUT, HOOK, (), BOTH)
    chains = table_form(Ruleset("abc", (chain, replace(chain, hook=Hook.PREROUTING)))).chains
    assert [each.base for each in chains[:2]] == [
        Base("route", "output", -151),
        Base("filter", "prerouting", -151),
    ]


def test_chains_of_one_name_for_one_family_each_have_two_names() -> None:
    chain = Chain(Table.FILTER, "MINE", Hook.OUTPUT, HOOK, (), (4,))
    names = [each.name for each in table_form(Ruleset("abc", (chain, replace(chain, families=(6,))))).chains]
    assert names == ["filter_OUTPUT", "filter_MINE_ipv4", "filter_MINE_ipv6"]
    assert {planned_name(name) for name in names[1:]} == {(Table.FILTER, "MINE")}


def cidr(network: str, **more: object) -> Rule:
    match = Match(destination=ip_network(network))
    return replace(one(match, name=f"exclude-cidr-{ip_network(network)}"), **more)  # type: ignore[arg-type]  # mypy cannot see through **


def test_rules_that_differ_in_one_address_become_one_over_a_set() -> None:
    found = table(cidr("10.0.0.0/8"), cidr("192.0.2.7"), cidr("fd00::/8"), cidr("fe80::/10"))
    assert found.sets == (
        NamedSet(
            "exclude-cidrs-v4",
            "ipv4_addr",
            (
                Element(ip_network("10.0.0.0/8"), "interceptor:v1:abc:exclude-cidr-10.0.0.0/8"),
                Element(ip_network("192.0.2.7"), "interceptor:v1:abc:exclude-cidr-192.0.2.7/32"),
            ),
        ),
        NamedSet(
            "exclude-cidrs-v6",
            "ipv6_addr",
            (
                Element(ip_network("fd00::/8"), "interceptor:v1:abc:exclude-cidr-fd00::/8"),
                Element(ip_network("fe80::/10"), "interceptor:v1:abc:exclude-cidr-fe80::/10"),
            ),
        ),
    )
    v4, v6 = found.chains[1].rules
    assert texts(v4) == ["ip daddr @exclude-cidrs-v4", "counter", "return"]
    assert (texts(v6)[0], v6.comment) == (
        "ip6 daddr @exclude-cidrs-v6",
        "interceptor:v1:abc:exclude-cidrs-v6",
    )


def test_sources_go_into_a_set_too() -> None:
    rules = [
        one(Match(source=ip_network(each)), name=f"cidr-{each}") for each in ("10.0.0.0/8", "11.0.0.0/8")
    ]
    assert texts(table(*rules).chains[1].rules[0])[0] == "ip saddr @cidrs-v4"


@pytest.mark.parametrize(
    "second",
    [
        cidr("11.0.0.0/8", verdict=Redirect(1)),
        cidr("fd00::/8"),
        cidr("11.0.0.0/8", id="include-cidr-11.0.0.0/8"),
        one(Match(source=ip_network("11.0.0.0/8"))),
        one(
            Match(destination=ip_network("11.0.0.0/8"), protocol=Protocol.TCP), name="exclude-cidr-11.0.0.0/8"
        ),
        one(Match(source=ip_network("11.0.0.0/8"), destination=ip_network("10.0.0.0/8"))),
        one(Match()),
    ],
)
def test_what_differs_otherwise_stays_a_rule_of_its_own(second: Rule) -> None:
    found = table(cidr("10.0.0.0/8"), second)
    assert (found.sets, len(found.chains[1].rules)) == ((), 2)


def test_a_rule_between_keeps_two_apart() -> None:
    found = table(cidr("10.0.0.0/8"), one(Match(uid=1)), cidr("11.0.0.0/8"))
    assert (found.sets, len(found.chains[1].rules)) == ((), 3)
