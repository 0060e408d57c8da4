"""The rules that keep the client's address, and the marks they need."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, strategies as st

from interceptor.config.redirect import Dns, Mark, Mode, PortRange, RedirectSettings
from interceptor.model.connection import Direction
from interceptor.model.record import replace
from interceptor.redirect.ipv6 import Ipv6
from interceptor.redirect.plan import plan
from interceptor.redirect.rules import Chain, Detour, Hook, MarkConnection, MarkPacket, Return, Table, Tproxy
from interceptor.redirect.simulate import Connection, explain
from interceptor.redirect.tproxy import MASK, marks, opens

TPROXY = RedirectSettings(mode=Mode.TPROXY, exclude_ingress_ports=(PortRange(22, 22),))
TAKEN, SPOOFED = Mark(0x53A, MASK), Mark(0x53B, MASK)


def chain(hook: Hook) -> Chain:
    (found,) = [each for each in plan(TPROXY).chains if (each.table, each.hook) == (Table.MANGLE, hook)]
    return found


def test_ingress_stands_in_mangle_and_not_in_nat() -> None:
    assert [(each.table, each.hook) for each in plan(TPROXY).chains] == [
        (Table.MANGLE, Hook.PREROUTING),
        (Table.MANGLE, Hook.OUTPUT),
        (Table.NAT, Hook.OUTPUT),
    ]


def test_loopback_and_what_is_not_marked_or_new_is_never_taken() -> None:
    assert [(rule.id, rule.verdict) for rule in chain(Hook.PREROUTING).rules] == [
        ("ingress-loopback", Return()),
        ("ingress-taken", Tproxy(15006)),
        ("ingress-own-ports-1", Return()),
        ("ingress-exclude-ports-1", Return()),
        ("ingress-everything-mark", MarkConnection(TAKEN)),
        ("ingress-everything", Tproxy(15006)),
    ]
    taking = [rule.match for rule in chain(Hook.PREROUTING).rules if isinstance(rule.verdict, Tproxy)]
    assert [(match.connection_mark, match.syn) for match in taking] == [(TAKEN, False), (None, True)]


def test_only_answers_to_the_clients_address_are_turned_round() -> None:
    call, answer = chain(Hook.OUTPUT).rules
    assert (call.match.out_interface, call.match.remote_source, call.match.syn) == ("lo", True, True)
    assert call.verdict == MarkConnection(SPOOFED)
    assert (answer.match.connection_mark, answer.match.reply) == (SPOOFED, True)
    assert answer.verdict == MarkPacket(SPOOFED)


@pytest.mark.parametrize(("ipv6", "families"), [(Ipv6.CAPTURE, (4, 6)), (Ipv6.BLOCK, (4,))])
def test_marked_packets_are_delivered_here(ipv6: Ipv6, families: tuple[int, ...]) -> None:
    assert plan(TPROXY, ipv6).detour == Detour(SPOOFED, families)  # type: ignore[arg-type]  # literal families
    assert plan(RedirectSettings(), ipv6).detour is None


@pytest.mark.parametrize(
    ("own", "wanted"),
    [
        (None, (0x53A, 0x53B)),
        (Mark(0x539), (0x53A, 0x53B)),
        (Mark(0x53A), (0x53B, 0x53C)),
        (Mark(0x8000053B, 0xFFFFFFFF), (0x53A, 0x53C)),
        (Mark(0x2, 0x2), (0x53C, 0x53D)),
    ],
)
def test_marks_leave_room_for_the_proxys_own(own: Mark | None, wanted: tuple[int, int]) -> None:
    found = marks(RedirectSettings(mode=Mode.TPROXY, proxy_mark=own))
    assert (found.taken.value, found.spoofed.value) == wanted


@given(st.integers(1, 2**32 - 1), st.integers(1, 2**32 - 1))
def test_no_packet_with_our_mark_is_the_proxys_nor_the_other_way_round(value: int, mask: int) -> None:
    own = Mark(value & mask or mask, mask)
    for mark in marks(RedirectSettings(proxy_mark=own)):
        assert mark.value & own.mask != own.value
        assert own.value & mark.mask != mark.value
        assert 0 < mark.value <= MASK


def test_name_queries_of_guests_are_left_to_the_nat_table() -> None:
    settings = RedirectSettings(
        mode=Mode.TPROXY,
        dns=Dns.CAPTURE,
        virtual_interfaces=("vnet0",),
        exclude_egress_cidrs=(ip_network("10.0.0.53/32"),),
    )
    query = Connection(
        direction=Direction.INGRESS, source=ip_address("172.18.0.2"), destination=ip_address("172.18.0.1"), port=53,
        interface="vnet0", local=True,
    )  # fmt: skip
    ruleset = plan(settings)
    found = explain(ruleset, query)
    assert (found.verdict, found.rule) == ("egress", "guest-vnet0-dns-tcp")
    assert explain(ruleset, replace(query, destination=ip_address("10.0.0.53"))).verdict == "direct"
    assert explain(ruleset, replace(query, interface="eth0")).verdict == "ingress"
    assert explain(ruleset, replace(query, port=80)).verdict == "ingress"


def test_what_takes_new_connections_and_what_keeps_old_ones() -> None:
    ruleset = plan(TPROXY)
    opening = {
        rule.id
        for each in ruleset.chains
        if each.table is Table.MANGLE
        for rule in each.rules
        if opens(ruleset.comment(rule))
    }
    assert opening == {
        "ingress-own-ports-1",
        "ingress-exclude-ports-1",
        "ingress-everything-mark",
        "ingress-everything",
    }
    assert not opens("a rule of somebody else's")
