"""The plan as nft reads it."""

from __future__ import annotations

from ipaddress import IPv4Network

from interceptor.config.redirect import RedirectSettings
from interceptor.redirect.ipv6 import Ipv6
from interceptor.redirect.plan import plan
from interceptor.redirect.render.nft import render


def test_the_plan_for_both_families() -> None:
    ruleset = plan(RedirectSettings())
    tag = f"interceptor:v1:{ruleset.hash}"
    assert (
        render(ruleset)
        == f"""# nft -f: the first two lines make sure that an earlier table is replaced, at the same instant
add table inet interceptor
delete table inet interceptor
table inet interceptor {{
	chain nat_PREROUTING {{
		type nat hook prerouting priority -101; policy accept;
		meta l4proto tcp counter jump nat_INTERCEPTOR_INGRESS comment "{tag}:ingress-hook"
	}}

	chain nat_OUTPUT {{
		type nat hook output priority -101; policy accept;
		meta l4proto tcp counter jump nat_INTERCEPTOR_EGRESS comment "{tag}:egress-hook"
	}}

	chain nat_INTERCEPTOR_INGRESS {{
		tcp dport {{ 15000-15001, 15006, 15020, 15053 }} counter return comment "{tag}:ingress-own-ports-1"
		meta l4proto tcp fib daddr type local counter redirect to :15006 comment "{tag}:ingress-everything"
	}}

	chain nat_INTERCEPTOR_EGRESS {{
		meta l4proto tcp meta skuid 1337 counter return comment "{tag}:egress-proxy-uid-1337"
		meta l4proto tcp oifname "lo" counter return comment "{tag}:egress-loopback"
		meta l4proto tcp counter redirect to :15001 comment "{tag}:egress-everything"
	}}
}}
"""
    )


def test_networks_stand_in_a_set() -> None:
    networks = (IPv4Network("10.0.0.0/8"), IPv4Network("192.0.2.7/32"))
    ruleset = plan(RedirectSettings(exclude_egress_cidrs=networks), Ipv6.LEAVE)
    tag = f"interceptor:v1:{ruleset.hash}"
    assert f"""
	set egress-exclude-cidrs-v4 {{
		type ipv4_addr
		flags interval
		counter
		elements = {{
			10.0.0.0/8 comment "{tag}:egress-exclude-cidr-10.0.0.0/8",
			192.0.2.7 comment "{tag}:egress-exclude-cidr-192.0.2.7/32",
		}}
	}}
""" in render(ruleset)
