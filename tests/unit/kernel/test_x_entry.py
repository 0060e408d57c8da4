"""Rules as the kernel's bytes, made here by the headers' layout and read back."""

from __future__ import annotations

import struct

import pytest

from interceptor.kernel.x_entry import (
    Counters,
    comment,
    counters,
    describe,
    head_size,
    length,
    normal,
    target,
)
from interceptor.redirect.rules import FAMILIES, Family

IP_SIZE = {4: 84, 6: 136}  # struct ipt_ip, struct ip6t_ip6
COUNTERS_AT = {4: 96, 6: 152}
INTERFACES_AT = {4: 16, 6: 64}
PROTOCOL_AT = {4: 80, 6: 128}


def extension(name: bytes, payload: bytes, revision: int = 0, tail: bytes = b"") -> bytes:
    padded = payload.ljust((len(payload) + 7) // 8 * 8, b"\0")
    return struct.pack("=H29sB", 32 + len(padded), name + b"\0" + tail, revision) + padded


def an_entry(
    family: Family, action: bytes, *matches: bytes, hits: tuple[int, int] = (0, 0), noise: int = 0
) -> bytes:
    body = b"".join(matches)
    address = bytearray(IP_SIZE[family])
    address[INTERFACES_AT[family] + 16 : INTERFACES_AT[family] + 18] = b"lo"
    address[PROTOCOL_AT[family]] = 6
    start = head_size(family)
    head = bytes(address) + struct.pack(
        "=IHHI", noise, start + len(body), start + len(body) + len(action), noise
    )
    head = head.ljust(COUNTERS_AT[family], b"\0") + struct.pack("=QQ", *hits)
    return head + body + action


REMARK = extension(b"comment", b"hello".ljust(256, b"\0"))
RETURN = extension(b"", struct.pack("=i", -5))
REDIRECT = extension(b"REDIRECT", b"\x01\0\0\0\x02", 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_changes_by_itself_is_not_in_the_normal_form(family: Family) -> None:
    seen = an_entry(family, RETURN, extension(b"owner", b"\x05", 1, b"tail"), REMARK, hits=(3, 180), noise=7)
    made = an_entry(family, extension(b"RETURN", bytes(4)), extension(b"owner", b"\x05", 1), REMARK)
    assert normal(seen, family, "RETURN") == normal(made, family, "RETURN")
    assert counters(seen, family) == Counters(3, 180)
    assert length(seen, family) == len(seen)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_jump_has_its_chains_name(family: Family) -> None:
    jump = normal(an_entry(family, extension(b"", struct.pack("=i", 4711))), family, "INTERCEPTOR_EGRESS")
    assert target(jump, family) == "INTERCEPTOR_EGRESS"
    assert jump == normal(an_entry(family, extension(b"RETURN", bytes(4))), family, "INTERCEPTOR_EGRESS")


@pytest.mark.parametrize("family", FAMILIES)
def test_an_extension_keeps_its_parameters(family: Family) -> None:
    kept = normal(an_entry(family, REDIRECT), family, "REDIRECT")
    other = normal(an_entry(family, extension(b"REDIRECT", b"\x01\0\0\0\x03", 1)), family, "REDIRECT")
    assert kept != other
    assert kept.endswith(b"\x01\0\0\0\x02\0\0\0")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_rule_is_described_in_iptables_words(family: Family) -> None:
    entry = normal(an_entry(family, REDIRECT, extension(b"addrtype", bytes(8)), REMARK), family, "REDIRECT")
    assert describe(entry, family) == '-o lo -p tcp -m addrtype -m comment --comment "hello" -j REDIRECT'
    assert comment(entry, family) == "hello"


def test_a_rule_without_comment_or_target() -> None:
    entry = normal(an_entry(4, extension(b"", struct.pack("=i", 200))), 4, "")
    assert comment(entry, 4) == ""
    assert describe(entry, 4) == "-o lo -p tcp -j (next rule)"
