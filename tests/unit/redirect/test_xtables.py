"""Rules in the words of x_tables."""

from __future__ import annotations

from ipaddress import ip_network

from interceptor.config.redirect import Mark, PortRange
from interceptor.redirect.rules import (
    Jump,
    Match,
    Protocol,
    Redirect,
    Reject,
    Return,
    Rule,
    Ruleset,
    Verdict,
)
from interceptor.redirect.xtables import Entry, Extension, entry

RULESET = Ruleset("abc", ())


def form(match: Match, verdict: Verdict) -> Entry:
    return entry(RULESET, Rule("id", match, verdict, "always", ""))


def test_a_rule_that_says_nothing_has_only_its_comment() -> None:
    comment = Extension("comment", (("comment", "interceptor:v1:abc:id"),))
    assert form(Match(), Return()) == Entry(None, None, None, None, None, (comment,), Extension("RETURN"))


def test_each_field_has_its_match() -> None:
    found = form(
        Match(
            protocol=Protocol.TCP,
            in_interface="eth0",
            out_interface="lo",
            source=ip_network("10.0.0.0/8"),
            destination=ip_network("192.0.2.0/24"),
            ports=(PortRange(1, 1), PortRange(3, 5)),
            uid=0,
            gid=7,
            mark=Mark(5, 15),
            local_destination=True,
            new=True,
        ),
        Return(),
    )
    assert found[:5] == ("10.0.0.0/8", "192.0.2.0/24", "eth0", "lo", "tcp")
    assert found.matches[:-1] == (
        Extension("mark", (("mark", "0x5/0xf"),)),
        Extension("owner", (("uid-owner", "0"),)),
        Extension("owner", (("gid-owner", "7"),)),
        Extension("addrtype", (("dst-type", "LOCAL"),)),
        Extension("conntrack", (("ctstate", "NEW"),)),
        Extension("multiport", (("dports", "1,3:5"),)),
    )


def test_each_verdict_has_its_target() -> None:
    assert form(Match(), Redirect(15001)).target == Extension("REDIRECT", (("to-ports", "15001"),))
    assert form(Match(), Jump("CHAIN")).target == Extension("CHAIN")
    assert form(Match(), Reject("tcp-reset")).target == Extension("REJECT", (("reject-with", "tcp-reset"),))
