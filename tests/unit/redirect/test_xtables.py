"""Rules in the words of x_tables."""

from __future__ import annotations

from ipaddress import ip_network

from interceptor.config.redirect import Mark, PortRange
from interceptor.redirect.rules import (
    FAMILIES,
    Answer,
    Family,
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
    Tproxy,
    Verdict,
    Zone,
)
from interceptor.redirect.xtables import Entry, Extension, entry

RULESET = Ruleset("abc", ())


def form(match: Match, verdict: Verdict, family: Family = 4) -> Entry:
    return entry(RULESET, Rule("id", match, verdict, "always", ""), family)


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
            supplementary=True,
            mark=Mark(5, 15),
            connection_mark=Mark(6),
            local_destination=True,
            remote_destination=True,
            remote_source=True,
            new=True,
            syn=True,
            reply=True,
            rewritten=True,
        ),
        Return(),
    )
    assert (found.source, found.destination, found.protocol) == ("10.0.0.0/8", "192.0.2.0/24", "tcp")
    assert (found.in_interface, found.out_interface) == ("eth0", "lo")
    assert found.matches[:-1] == (
        Extension("mark", (("mark", "0x5/0xf"),)),
        Extension("connmark", (("mark", "0x6"),)),
        Extension("owner", (("uid-owner", "0"),)),
        Extension("owner", (("gid-owner", "7"), ("suppl-groups", ""))),
        Extension("addrtype", (("dst-type", "LOCAL"),)),
        Extension("addrtype", (("!dst-type", "LOCAL"),)),
        Extension("addrtype", (("!src-type", "LOCAL"),)),
        Extension("conntrack", (("ctstate", "NEW"),)),
        Extension("conntrack", (("ctstate", "DNAT"),)),
        Extension("conntrack", (("ctdir", "REPLY"),)),
        Extension("tcp", (("tcp-flags", "FIN,SYN,RST,ACK SYN"),)),
        Extension("multiport", (("dports", "1,3:5"),)),
    )


def test_each_verdict_has_its_target() -> None:
    assert form(Match(), Redirect(15001)).target == Extension("REDIRECT", (("to-ports", "15001"),))
    assert form(Match(), Jump("CHAIN")).target == Extension("CHAIN")
    mark = Extension("MARK", (("set-xmark", "0x5/0xf"),))
    assert form(Match(), MarkPacket(Mark(5, 15))).target == mark
    assert form(Match(), MarkConnection(Mark(5, 15))).target == mark._replace(name="CONNMARK")
    assert form(Match(), Zone(7)).target == Extension("CT", (("zone-orig", "7"),))


def test_some_targets_differ_between_the_families() -> None:
    def words(verdict: Verdict) -> list[str]:
        targets = [form(Match(), verdict, family).target for family in FAMILIES]
        return [value for target in targets for _, value in target.parameters]

    assert words(Reject(Answer.RESET)) == ["tcp-reset"] * 2
    assert words(Reject(Answer.UNREACHABLE)) == ["icmp-port-unreachable", "icmp6-port-unreachable"]
    assert words(Tproxy(15006)) == ["15006", "0.0.0.0", "0x0/0x0", "15006", "::", "0x0/0x0"]
