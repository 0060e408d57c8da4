"""What an answer of a name server says, and which names are asked for."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given, strategies as st

from interceptor.discovery.lookup import candidates, dialled, read
from interceptor.discovery.name_servers import Upstream
from interceptor.discovery.resolver import RETRY, UnresolvedError

QUERY = dns.message.make_query("db.example.", "A")


def reply(*answers: str, rcode: int = 0, soa: int | None = None) -> bytes:
    """Each answer as ``name ttl type data``."""
    made = dns.message.make_response(QUERY)
    made.set_rcode(dns.rcode.Rcode(rcode))
    for answer in answers:
        name, ttl, kind, data = answer.split()
        made.answer.append(dns.rrset.from_text(name, int(ttl), "IN", kind, data))
    if soa is not None:
        text = f"ns.example. root.example. 1 2 3 4 {soa}"
        made.authority.append(dns.rrset.from_text("example.", 900, "IN", "SOA", text))
    return made.to_wire()


@pytest.mark.parametrize(
    ("data", "addresses", "ttl"),
    [
        (reply("db.example. 60 A 10.0.0.1"), ("10.0.0.1",), 60),
        (reply("db.example. 60 CNAME x.example.", "x.example. 7 A 10.0.0.1"), ("10.0.0.1",), 7),
        (reply("other.example. 60 A 10.6.6.6"), (), RETRY),
        (reply("db.example. 60 CNAME x.example.", "other.example. 7 A 10.6.6.6"), (), RETRY),
        (reply("db.example. 60 A 0.0.0.0"), (), 60),
        (reply("db.example. 60 A 224.0.0.1"), (), 60),
        (reply(soa=20), (), 20),
        (reply(), (), RETRY),
        (reply(rcode=3, soa=30), (), 30),
        (reply(rcode=3), (), RETRY),
    ],
)
def test_what_an_answer_says(data: bytes, addresses: tuple[str, ...], ttl: float) -> None:
    found = read(QUERY, data)
    assert (found.addresses, found.ttl) == (addresses, ttl)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (reply(rcode=2), "answered SERVFAIL"),
        (reply(rcode=5), "answered REFUSED"),
        (b"", "answered what cannot be read: ShortHeader"),
        (QUERY.to_wire(), "answered something else"),
        (
            dns.message.make_response(dns.message.make_query("x.example.", "A", id=QUERY.id)).to_wire(),
            "answered something else",
        ),
        (reply("db.example. 60 A 10.0.0.1", rcode=3), "answered what cannot be read: AnswerForNXDOMAIN"),
        (
            reply("db.example. 1 CNAME a.example.", "a.example. 1 CNAME db.example."),
            "answered what cannot be read: ChainTooLong",
        ),
    ],
)
def test_what_is_no_answer(data: bytes, said: str) -> None:
    with pytest.raises(UnresolvedError, match=said):
        read(QUERY, data)


@given(st.binary(max_size=200), st.booleans())
def test_whatever_comes_is_an_answer_or_none(data: bytes, begun: bool) -> None:
    try:
        found = read(QUERY, reply()[:12] + data if begun else data)
    except UnresolvedError:
        return
    assert all(dialled(address) for address in found.addresses)


def names(host: str, *search: str, dots: int = 1) -> list[str]:
    return [str(name) for name in candidates(host, Upstream((), search, dots))]


def test_the_names_that_a_name_may_stand_for() -> None:
    assert names("db", "a.svc", "svc") == ["db.a.svc.", "db.svc.", "db."]
    assert names("db.prod", "a.svc") == ["db.prod.", "db.prod.a.svc."]
    assert names("db.prod", "a.svc", dots=5) == ["db.prod.a.svc.", "db.prod."]
    assert names("db.prod.", "a.svc", dots=5) == ["db.prod."]
    assert names("db", "x." * 125 + "x", "svc") == ["db.svc.", "db."]
    assert names("bücher.example") == ["xn--bcher-kva.example."]


def test_what_is_no_name_is_said() -> None:
    with pytest.raises(UnresolvedError, match="63"):
        candidates("x" * 64, Upstream(()))


def test_which_addresses_can_be_dialled() -> None:
    good = ("10.0.0.1", "127.0.0.1", "fd00::1", "fe80::1")
    bad = ("0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255")
    assert [*map(dialled, (*good, *bad))] == [True] * 4 + [False] * 5
