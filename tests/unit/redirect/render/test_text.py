"""The plan in plain language."""

from __future__ import annotations

from ipaddress import ip_network

from interceptor.config.redirect import Dns, Mark, Mode, PortRange, RedirectSettings
from interceptor.redirect.ipv6 import Ipv6
from interceptor.redirect.plan import plan
from interceptor.redirect.render.text import describe, outcome, render
from interceptor.redirect.rules import Jump, MarkConnection, MarkPacket, Match, Protocol, Tproxy, Zone


def test_the_plan_without_flags() -> None:
    ruleset = plan(RedirectSettings())
    assert render(ruleset) == (
        f"Redirect rules of configuration {ruleset.hash}. The first line that fits a connection decides.\n"
        """
Ingress: connections that peers open to this host (IPv4 and IPv6, TCP)
   1. to port 15000-15001, 15006, 15020, 15053  direct: the proxy's own listeners, metrics and health are reached directly
   2. to an address of this host                to the proxy, port 15006: no include narrows it down: everything else for this host's addresses is captured
      anything else: direct

Egress: connections that programs here open (IPv4 and IPv6, TCP)
   1. opened by uid 1337  direct: the proxy's own traffic must never come back to it [--proxy-uid]
   2. leaving by lo       direct: traffic of this host with itself, by 127.0.0.0/8, ::1 or its own addresses, is direct
   3. everything          to the proxy, port 15001: no include narrows it down: everything else is captured
      anything else: direct
"""
    )


def test_a_blocked_family_says_so() -> None:
    text = render(plan(RedirectSettings(), Ipv6.BLOCK))
    assert "(IPv6, all protocols)" in text
    assert "refused: it would have been captured, and IPv6 is blocked [--ipv6]" in text


def test_each_field_of_a_match_has_its_phrase() -> None:
    match = Match(
        protocol=Protocol.UDP,
        in_interface="eth0",
        out_interface="lo",
        source=ip_network("10.0.0.0/8"),
        destination=ip_network("192.0.2.0/24"),
        ports=(PortRange(1, 1), PortRange(3, 5)),
        uid=0,
        gid=7,
        mark=Mark(5),
        connection_mark=Mark(6),
        local_destination=True,
        remote_destination=True,
        remote_source=True,
        syn=True,
        reply=True,
        rewritten=True,
    )
    assert list(describe(match)) == [
        "UDP",
        "of a connection marked 0x6",
        "marked 0x5",
        "opened by uid 0",
        "opened by gid 7",
        "arriving on eth0",
        "leaving by lo",
        "from 10.0.0.0/8",
        "to 192.0.2.0/24",
        "from an address that is not this host's",
        "to an address of this host",
        "to another host",
        "to port 1, 3-5",
        "when it is opened",
        "on the way back",
        "redirected",
    ]
    assert list(describe(Match(gid=7, supplementary=True))) == ["opened by a member of gid 7"]


def test_a_jump_names_its_chain() -> None:
    assert outcome(Jump("CHAIN")) == "see CHAIN"


def test_each_verdict_has_its_words() -> None:
    assert outcome(Tproxy(15006)) == "to the proxy, port 15006, addresses kept"
    assert outcome(MarkPacket(Mark(5))) == "marked 0x5"
    assert outcome(MarkConnection(Mark(5))) == "its connection is marked 0x5"
    assert outcome(Zone(7)) == "tracked in zone 7"


def test_policy_routing_and_what_filters_let_pass_are_told() -> None:
    text = render(plan(RedirectSettings(mode=Mode.TPROXY, strict=True, dns=Dns.CAPTURE)))
    assert "Routing (IPv4 and IPv6): packets marked 0x53b/0xfff are delivered on this host" in text
    assert "passes: it was brought to the proxy, as it should be" in text
    assert "Zones: name queries that are captured are tracked apart (IPv4 and IPv6, UDP)" in text
    assert "Way back: " in text
