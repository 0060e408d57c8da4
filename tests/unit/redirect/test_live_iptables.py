"""Live rules out of what iptables-save prints, and the kernel's walk over them."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given, strategies as st

from interceptor.config.redirect import Mark, PortRange, RedirectSettings
from interceptor.model.connection import Direction
from interceptor.model.record import replace
from interceptor.redirect import live, live_iptables, simulate
from interceptor.redirect.plan import plan
from interceptor.redirect.render import iptables
from interceptor.redirect.rules import Protocol, Ruleset
from interceptor.redirect.simulate import Connection
from tests.support.connections import IN, OUT

PORTS = {15001: Direction.EGRESS, 15006: Direction.INGRESS}


def saved(*rules: str, table: str = "nat", policy: str = "ACCEPT", chains: str = "") -> str:
    builtin = [f":{name} {policy} [0:0]" for name in ("PREROUTING", "INPUT", "OUTPUT")]
    own = [f":{name} - [0:0]" for name in chains.split()]
    return "\n".join([f"*{table}", *builtin, *own, *rules, "COMMIT", ""])


def verdict(connection: Connection, *texts: str) -> tuple[str, str | None, str]:
    bases = [base for text in texts for base in live_iptables.tables(text, 4, "legacy")]
    found = live.explain(bases, connection, PORTS)
    return found.verdict, found.rule, found.because


@pytest.mark.parametrize(
    ("condition", "fits"),
    [
        ("-p tcp", True), ("-p udp", False), ("! -p tcp", False), ("-p all", True),
        ("-s 10.9.0.0/24", True), ("-s 10.8.0.0/24", False), ("! -s 10.9.0.2/32", False),
        ("-d 192.0.2.7/32", True), ("-d 192.0.2.8/32", False),
        ("-o eth0", True), ("-o eth+", True), ("-o lo", False), ("-i eth0", False), ("! -i eth0", True),
        ("-p tcp -m tcp --dport 443", True), ("-p tcp -m tcp --dport 1:442", False),
        ("-p tcp -m multiport --dports 22,400:500", True), ("-p tcp -m multiport ! --dports 22,443", False),
        ("-m owner --uid-owner 1000", True), ("-m owner ! --uid-owner 1000", False), ("-m owner --uid-owner 0-999", False),
        ("-m owner --gid-owner 1000 --suppl-groups", True), ("-m owner --gid-owner 5", False),
        ("-m mark --mark 0x539/0xfff", False), ("-m mark --mark 0x0", True), ("-m connmark --mark 0x1", False),
        ("-m conntrack --ctstate NEW", True), ("-m conntrack --ctstate RELATED,ESTABLISHED", False),
        ("-m conntrack --ctstate DNAT", False), ("-m state --state NEW", True), ("-m conntrack --ctdir REPLY", False),
        ("-m addrtype --dst-type LOCAL", False), ("-m addrtype ! --dst-type LOCAL", True),
        ("-m addrtype --src-type LOCAL", True), ("-m addrtype --dst-type BROADCAST", None),
        ("-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN", True), ("-p tcp -m tcp --tcp-flags ALL NONE", None),
        ("-p tcp -m tcp --syn", True), ("-m string --string x", None), ("-p udp -m string --string x", False),
    ],
)  # fmt: skip
def test_conditions(condition: str, fits: bool | None) -> None:
    found = verdict(OUT, saved(f"-A OUTPUT {condition} -j REDIRECT --to-ports 15001"))
    assert found[0] == ("egress" if fits else "direct")
    assert ("cannot read" in found[2]) is (fits is None)


def test_what_arrives_has_no_owner() -> None:
    text = saved("-A PREROUTING -m owner --uid-owner 0 -j DROP", table="mangle")
    assert verdict(IN, text)[0] == "direct"


@pytest.mark.parametrize("target", ["DROP", "REJECT --reject-with tcp-reset"])
def test_a_refusal_behind_the_redirection_wins(target: str) -> None:
    redirect = saved("-A OUTPUT -p tcp -j REDIRECT --to-ports 15001")
    refusal = saved(f"-A OUTPUT -p tcp -d 127.0.0.1/32 -m tcp --dport 15001 -j {target}", table="filter")
    assert verdict(OUT, redirect, refusal)[:2] == ("rejected", refusal.splitlines()[4])
    unrelated = saved(f"-A OUTPUT -p tcp -m tcp --dport 443 -j {target}", table="filter")
    assert verdict(OUT, redirect, unrelated)[0] == "egress"


def test_the_guards_dnat_state_is_known() -> None:
    redirect = saved("-A PREROUTING -p tcp -j REDIRECT --to-ports 15006")
    guard = ("-A INPUT -m conntrack --ctstate DNAT -j RETURN", "-A INPUT -p tcp -j DROP")
    assert verdict(IN, redirect, saved(*guard, table="filter"))[0] == "ingress"
    assert verdict(IN, saved(*guard, table="filter"))[0] == "rejected"


def test_a_policy_to_drop() -> None:
    assert verdict(OUT, saved(table="filter", policy="DROP")) == (
        "rejected",
        None,
        "it is the policy of legacy IPv4 filter OUTPUT to drop",
    )
    accepted = saved("-A OUTPUT -j ACCEPT", table="filter", policy="DROP")
    assert verdict(OUT, accepted)[:2] == ("direct", "-A OUTPUT -j ACCEPT")


def test_jumps_returns_and_gotos() -> None:
    rules = (
        "-A OUTPUT -j ONE",
        "-A OUTPUT -j REDIRECT --to-ports 15001",
        "-A ONE -p udp -j DROP",
        "-A ONE -j RETURN",
        "-A ONE -j REDIRECT --to-ports 1",
    )
    assert verdict(OUT, saved(*rules, chains="ONE"))[0] == "egress"
    goto = ("-A OUTPUT -g ONE", "-A OUTPUT -j REDIRECT --to-ports 15001", "-A ONE -p udp -j ACCEPT")
    assert verdict(OUT, saved(*goto, chains="ONE"))[0] == "direct"
    assert verdict(OUT, saved("-A OUTPUT -j ONE", "-A ONE -j ONE", chains="ONE"))[0] == "direct"


def test_marks_are_carried_along() -> None:
    mark = saved(
        "-A OUTPUT -p tcp -j MARK --set-xmark 0x5/0xf",
        "-A OUTPUT -j MARK --set-xmark 0x100/0x100",
        table="mangle",
    )
    nat = saved("-A OUTPUT -m mark --mark 0x105 -j REDIRECT --to-ports 15001")
    assert verdict(OUT, mark, nat)[0] == "egress"
    assert verdict(OUT, nat)[0] == "direct"


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("-A OUTPUT -p tcp -j DNAT --to-destination 10.0.0.1:80", "leads it elsewhere"),
        ("-A OUTPUT -p tcp -j REDIRECT --to-ports 8080", "leads it elsewhere"),
        ("-A OUTPUT -p tcp -j REDIRECT", "leads it elsewhere"),
        ("-A OUTPUT -p tcp -j SOMETHING", "cannot read stands before: legacy IPv4 nat OUTPUT: -A OUTPUT -p tcp -j SOMETHING"),
        ("-A OUTPUT -p tcp -j LOG", "no rule captures it"),
        ("-A OUTPUT -p tcp", "no rule captures it"),
    ],
)  # fmt: skip
def test_what_is_not_captured_by_the_proxy(rule: str, says: str) -> None:
    found = verdict(OUT, saved(rule))
    assert found[0] == "direct"
    assert says in found[2]


def test_only_the_first_redirection_counts() -> None:
    first = saved("-A OUTPUT -j REDIRECT --to-ports 8080")
    assert verdict(OUT, first, saved("-A OUTPUT -j REDIRECT --to-ports 15001"))[0] == "direct"


def test_tproxy_leaves_the_packet_as_it_is() -> None:
    text = saved(
        "-A PREROUTING -p tcp -j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x1/0x1", table="mangle"
    )
    behind = saved("-A INPUT -p tcp -m tcp --dport 8080 -j DROP", table="filter")
    assert verdict(IN, text)[0] == "ingress"
    assert verdict(IN, text, behind)[0] == "rejected"


def test_another_familys_rules_are_no_matter() -> None:
    bases = list(live_iptables.tables(saved("-A OUTPUT -j DROP", table="filter"), 6, "legacy"))
    assert live.explain(bases, OUT, PORTS).because == "there are no rules in its way"


def as_saved(ruleset: Ruleset) -> str:
    """Our own rendering for iptables-restore as iptables-save would print it."""
    lines: list[str] = []
    for line in iptables.render(ruleset).split("# IPv6")[0].splitlines():
        if line.startswith("*"):
            lines += [line, ":PREROUTING ACCEPT", ":INPUT ACCEPT", ":FORWARD ACCEPT", ":OUTPUT ACCEPT"]
        else:
            lines.append(
                line.replace(" 1 ", " ", 1).replace("-I ", "-A ", 1) if line.startswith("-I ") else line
            )
    return "\n".join(lines)


NAMED = st.sampled_from([0, 5, 1000, 1337, 4242])
SETTINGS = st.builds(
    RedirectSettings,
    proxy_mark=st.sampled_from([None, Mark(0x539, 0xFFF)]),
    proxy_gids=st.sampled_from([(), (4242,)]),
    exclude_uids=st.sampled_from([(), (5,)]),
    exclude_interfaces=st.sampled_from([(), ("eth+",), ("tun0",)]),
    exclude_egress_ports=st.sampled_from([(), (PortRange(400, 500),)]),
    include_ingress_ports=st.sampled_from([(), (PortRange(80, 80), PortRange(8080, 8090))]),
    exclude_ingress_ports=st.sampled_from([(), (PortRange(8080, 8080),)]),
    strict=st.booleans(),
)
CONNECTIONS = st.one_of(
    st.builds(
        lambda uid, gid, port, mark, interface: replace(
            OUT, uid=uid, gid=gid, port=port, mark=mark, interface=interface, local=interface == "lo"
        ),
        NAMED,
        NAMED,
        st.sampled_from([22, 80, 443, 15001]),
        st.sampled_from([0, 0x539, 0x1539]),
        st.sampled_from(["lo", "eth0", "tun0"]),
    ),
    st.builds(
        lambda port, interface, protocol: replace(IN, port=port, interface=interface, protocol=protocol),
        st.sampled_from([80, 8080, 15006, 15020]),
        st.sampled_from(["eth0", "tun0"]),
        st.sampled_from(Protocol),
    ),
)


@given(SETTINGS, CONNECTIONS)
def test_our_own_rules_read_back_say_what_the_plan_says(
    settings: RedirectSettings, connection: Connection
) -> None:
    ruleset = plan(settings)
    planned = simulate.explain(ruleset, connection)
    found = live.explain(list(live_iptables.tables(as_saved(ruleset), 4, "legacy")), connection, PORTS)
    assert (found.verdict, "cannot read" in found.because) == (planned.verdict, False)


def test_what_is_forwarded_meets_forward_and_not_input() -> None:
    guest = replace(IN, destination=ip_address("192.0.2.7"), interface="vnet0", local=False)
    refused = [
        saved(f"-A {hook} -p tcp -j DROP", table="filter", chains="FORWARD") for hook in ("FORWARD", "INPUT")
    ]
    refused = [text.replace(":FORWARD - ", ":FORWARD ACCEPT ") for text in refused]
    assert verdict(guest, refused[0])[0] == "rejected"
    assert verdict(guest, refused[1])[0] == "direct"
    redirect = saved("-A PREROUTING -p tcp -j REDIRECT --to-ports 15001")
    assert verdict(guest, redirect, refused[0])[0] == "egress"
    assert verdict(guest, redirect, refused[1])[0] == "rejected"


@pytest.mark.parametrize("rule", ["-A INPUT -i lo -p tcp -j DROP", "-A PREROUTING -i lo -p tcp -j DROP"])
def test_what_is_redirected_comes_in_again_by_loopback(rule: str) -> None:
    redirect = saved("-A OUTPUT -p tcp -j REDIRECT --to-ports 15001")
    refusal = saved(rule, table="mangle")
    assert verdict(OUT, redirect, refusal)[0] == "rejected"
    assert verdict(OUT, refusal)[0] == "direct"
    own = replace(OUT, destination=ip_address("10.9.0.2"), interface="lo", local=True)
    assert verdict(own, refusal)[0] == "rejected"
    assert verdict(own, saved("-A PREROUTING -p tcp -j REDIRECT --to-ports 15006"))[0] == "direct"


def test_what_is_not_tracked_is_not_redirected() -> None:
    redirect = saved("-A OUTPUT -p tcp -j REDIRECT --to-ports 15001")
    for target in ("CT --notrack", "NOTRACK"):
        assert verdict(OUT, redirect, saved(f"-A OUTPUT -j {target}", table="raw"))[0] == "direct"
    assert verdict(OUT, redirect, saved("-A OUTPUT -j CT --zone-orig 7", table="raw"))[0] == "egress"


def test_marks_of_connections_are_kept() -> None:
    marked = saved("-A OUTPUT -j CONNMARK --set-xmark 0x53a/0xfff", table="raw")
    redirect = saved("-A OUTPUT -p tcp -m connmark --mark 0x53a/0xfff -j REDIRECT --to-ports 15001")
    assert verdict(OUT, marked, redirect)[0] == "egress"
    assert verdict(OUT, redirect)[0] == "direct"
    assert verdict(OUT, saved("-A OUTPUT -j CONNMARK --save-mark", table="raw"), redirect)[0] == "direct"


def test_supplementary_groups() -> None:
    member = replace(OUT, groups=frozenset({7}))
    text = saved("-A OUTPUT -m owner --gid-owner 7 --suppl-groups -j REDIRECT --to-ports 15001")
    assert (verdict(member, text)[0], verdict(OUT, text)[0]) == ("egress", "direct")
    assert verdict(member, text.replace(" --suppl-groups", ""))[0] == "direct"
