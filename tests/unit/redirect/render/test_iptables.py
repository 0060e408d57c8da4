"""The plan as iptables-restore reads it."""

from __future__ import annotations

from ipaddress import ip_network

from interceptor.config.redirect import Mode, RedirectSettings
from interceptor.redirect.ipv6 import Ipv6
from interceptor.redirect.plan import plan
from interceptor.redirect.render.iptables import arguments, render
from interceptor.redirect.rules import Answer, Match, Protocol, Reject, Rule, Ruleset, Zone
from interceptor.redirect.xtables import entry


def test_the_plan_for_ipv4_only() -> None:
    ruleset = plan(RedirectSettings(), Ipv6.LEAVE)
    tag = f"interceptor:v1:{ruleset.hash}"
    assert (
        render(ruleset)
        == f"""# IPv4: iptables-restore --noflush
*nat
:INTERCEPTOR_INGRESS - [0:0]
:INTERCEPTOR_EGRESS - [0:0]
-I PREROUTING 1 -p tcp -m comment --comment "{tag}:ingress-hook" -j INTERCEPTOR_INGRESS
-I OUTPUT 1 -p tcp -m comment --comment "{tag}:egress-hook" -j INTERCEPTOR_EGRESS
-A INTERCEPTOR_INGRESS -p tcp -m multiport --dports 15000:15001,15006,15020,15053 -m comment --comment "{tag}:ingress-own-ports-1" -j RETURN
-A INTERCEPTOR_INGRESS -p tcp -m addrtype --dst-type LOCAL -m comment --comment "{tag}:ingress-everything" -j REDIRECT --to-ports 15006
-A INTERCEPTOR_EGRESS -p tcp -m owner --uid-owner 1337 -m comment --comment "{tag}:egress-proxy-uid-1337" -j RETURN
-A INTERCEPTOR_EGRESS -o lo -p tcp -m comment --comment "{tag}:egress-loopback" -j RETURN
-A INTERCEPTOR_EGRESS -p tcp -m comment --comment "{tag}:egress-everything" -j REDIRECT --to-ports 15001
COMMIT
# IPv6: nothing
"""
    )


def test_both_families_have_their_tables() -> None:
    text = render(plan(RedirectSettings(), Ipv6.BLOCK))
    assert text.index("# IPv4: iptables-restore") < text.index("# IPv6: ip6tables-restore")
    assert text.count("COMMIT") == 2
    assert "*filter" in text


def test_the_order_of_arguments_is_iptables_saves() -> None:
    match = Match(
        protocol=Protocol.TCP,
        in_interface="eth0",
        source=ip_network("10.0.0.0/8"),
        destination=ip_network("192.0.2.7/32"),
    )
    rule = Rule("id", match, Reject(Answer.RESET), "always", "")
    assert arguments(entry(Ruleset("abc", ()), rule, 4)) == (
        "-s 10.0.0.0/8 -d 192.0.2.7/32 -i eth0 -p tcp "
        '-m comment --comment "interceptor:v1:abc:id" -j REJECT --reject-with tcp-reset'
    )


def test_an_inverted_match_and_a_switch() -> None:
    match = Match(remote_source=True, gid=7, supplementary=True)
    rule = Rule("id", match, Zone(7), "always", "")
    assert arguments(entry(Ruleset("abc", ()), rule, 6)) == (
        "-m owner --gid-owner 7 --suppl-groups -m addrtype ! --src-type LOCAL "
        '-m comment --comment "interceptor:v1:abc:id" -j CT --zone-orig 7'
    )


def test_policy_routing_follows_its_family_as_ip_commands() -> None:
    lines = render(plan(RedirectSettings(mode=Mode.TPROXY), Ipv6.LEAVE)).splitlines()
    assert lines[-3:] == [
        "# ip route add local default dev lo table 15006 proto 150",
        "# ip rule add pref 15006 fwmark 0x53b/0xfff table 15006 protocol 150",
        "# IPv6: nothing",
    ]
    assert "# ip -6 rule add pref 15006" in render(plan(RedirectSettings(mode=Mode.TPROXY)))
