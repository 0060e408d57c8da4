from __future__ import annotations

import contextlib

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import load_pem_x509_certificate
from hypothesis import given, strategies as st

from interceptor.tls.workload_api import Answer, Svid, chosen, decode, split
from tests.support.identities import Root
from tests.support.workload_api import answer, field, svid, varint


def der(pem: bytes) -> bytes:
    return load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)


CERTIFICATE = der(Root().pair.certificate)


def test_everything_that_an_agent_says() -> None:
    first = (
        field(1, b"spiffe://a/ns/b/sa/c")
        + field(2, CERTIFICATE * 2)
        + field(3, b"key")
        + field(4, CERTIFICATE)
    )
    second = first + field(5, "außen".encode())
    entry = field(1, b"spiffe://other") + field(2, b"bundle")
    said = decode(
        field(1, first) + field(2, b"crl") + field(1, second) + field(3, entry) + field(2, b"crl 2")
    )
    assert said == Answer(
        (
            Svid("spiffe://a/ns/b/sa/c", (CERTIFICATE, CERTIFICATE), b"key", (CERTIFICATE,), ""),
            Svid("spiffe://a/ns/b/sa/c", (CERTIFICATE, CERTIFICATE), b"key", (CERTIFICATE,), "außen"),
        ),
        (b"crl", b"crl 2"),
        {"spiffe://other": b"bundle"},
    )
    assert "key" not in repr(said).replace("key=", "")


def test_nothing_at_all_is_an_answer_without_identities() -> None:
    assert decode(b"") == Answer((), (), {})
    assert decode(field(3, b"")) == Answer((), (), {"": b""})


def test_fields_of_a_later_version_are_passed_over() -> None:
    unknown = (
        varint(9 << 3)
        + varint(2**63)
        + varint(10 << 3 | 1)
        + bytes(8)
        + varint(11 << 3 | 5)
        + bytes(4)
        + field(12, b"x")
    )
    one = unknown + svid("spiffe://a", CERTIFICATE, b"key", CERTIFICATE) + unknown
    [read] = decode(unknown + field(1, one) + unknown).svids
    assert read.spiffe_id == "spiffe://a"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x0a", "ends inside a number"),
        (b"\x0a\x05abc", "ends inside a field"),
        (varint(1 << 3 | 1) + bytes(7), "ends inside a field"),
        (b"\xff" * 11, "too long"),
        (varint(1 << 3 | 3), "no protocol buffer (wire type 3)"),
        (field(1, b""), "no spiffe_id, x509_svid, x509_svid_key, bundle"),
        (field(1, svid("spiffe://a", CERTIFICATE, b"", CERTIFICATE)), "no x509_svid_key"),
        (field(1, svid("spiffe://a", CERTIFICATE, b"k", CERTIFICATE, b"\xff")), "not UTF-8"),
        (field(1, svid("spiffe://a", CERTIFICATE[:-1], b"k", CERTIFICATE)), "cut off"),
        (field(1, svid("spiffe://a", b"-----BEGIN", b"k", CERTIFICATE)), "should be a certificate"),
        (field(1, svid("spiffe://a", b"\x30\x80", b"k", CERTIFICATE)), "should be a certificate"),
        (field(1, svid("spiffe://a", b"\x30\x85aaaaaa", b"k", CERTIFICATE)), "should be a certificate"),
        (field(1, svid("spiffe://a", b"\x30", b"k", CERTIFICATE)), "should be a certificate"),
    ],
)
def test_what_is_no_answer_is_refused_by_what_is_wrong(data: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem.replace("(", r"\(").replace(")", r"\)")):
        decode(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_refused(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        decode(data)


@given(st.data())
def test_an_answer_that_is_cut_off_or_changed_never_raises_anything_else(data: st.DataObject) -> None:
    whole = bytearray(answer(svid("spiffe://a", CERTIFICATE, b"k" * 100, CERTIFICATE, b"hint")))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        decode(bytes(whole[: data.draw(st.integers(0, len(whole)))]))


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_structures_one_behind_the_other_are_told_apart(contents: list[bytes]) -> None:
    made = []
    for content in contents:
        size = len(content)
        length = bytes([size]) if size < 0x80 else b"\x82" + size.to_bytes(2, "big")
        made.append(b"\x30" + length + content)
    assert list(split(b"".join(made))) == made


def one(hint: str, name: str = "spiffe://a") -> Svid:
    return Svid(name, (), b"", (), hint)


def test_the_first_identity_is_the_default_and_a_hint_finds_another() -> None:
    svids = (one("internal"), one("external", "b"), one("external", "c"))
    assert chosen(svids, None).hint == "internal"
    assert chosen(svids, "external").spiffe_id == "b"
    with pytest.raises(
        ValueError, match="no SVID has the hint 'x'; there are 'internal', 'external', 'external'"
    ):
        chosen(svids, "x")
    for hint in (None, "x"):
        with pytest.raises(ValueError, match="holds no SVID"):
            chosen((), hint)
