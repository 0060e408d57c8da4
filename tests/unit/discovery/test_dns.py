from __future__ import annotations

import contextlib
import subprocess
import sys

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import given, strategies as st

from interceptor.discovery.dns import answer, failure
from interceptor.routing.names import Names
from tests.support.documents import service_entry

PORTS = "ports: [{number: 80, name: http}]"
MANY = ", ".join(f"10.0.0.{number}" for number in range(1, 201))
NAMES = Names(
    [
        service_entry(f"{{hosts: [api.example.com], {PORTS}, addresses: [10.0.0.1, 'fd00::1']}}"),
        service_entry(f"{{hosts: [v4.example.com], {PORTS}, addresses: [10.0.0.2]}}"),
        service_entry(f"{{hosts: [many.example.com], {PORTS}, addresses: [{MANY}]}}"),
    ]
)


def ask(
    name: str, kind: str = "A", *, by_udp: bool = True, payload: int | None = None
) -> dns.message.Message | None:
    query = dns.message.make_query(name, kind, use_edns=payload is not None, payload=payload or 0)
    reply = answer(query.to_wire(), NAMES, ("shop.svc",), by_udp=by_udp)
    if reply is None:
        return None
    assert len(reply) <= (max(payload or 512, 512) if by_udp else 65_535)
    message = dns.message.from_wire(reply)
    assert query.is_response(message)
    return message


def answers(message: dns.message.Message | None) -> list[str]:
    assert message is not None
    assert message.rcode() == dns.rcode.NOERROR
    return [text for rrset in message.answer for text in rrset.to_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("api.example.com", "A", ["api.example.com. 30 IN A 10.0.0.1"]),
        ("API.Example.com", "A", ["API.Example.com. 30 IN A 10.0.0.1"]),
        ("api.example.com", "AAAA", ["api.example.com. 30 IN AAAA fd00::1"]),
        ("v4.example.com", "AAAA", []),
        ("api.example.com", "MX", []),
        (
            "api.example.com.shop.svc",
            "A",
            ["api.example.com.shop.svc. 30 IN CNAME api.example.com.", "api.example.com. 30 IN A 10.0.0.1"],
        ),
    ],
)
def test_names_of_the_registry_are_answered(name: str, kind: str, expected: list[str]) -> None:
    assert answers(ask(name, kind)) == expected


def test_other_names_are_not() -> None:
    assert ask("www.example.com") is None


def test_what_is_no_query_of_the_internet_is_not() -> None:
    chaos = dns.message.make_query("api.example.com", "TXT", rdclass="CH")
    update = dns.message.make_query("api.example.com", "A")
    update.set_opcode(dns.opcode.STATUS)
    for query in (chaos, update):
        assert answer(query.to_wire(), NAMES, (), by_udp=True) is None


def test_an_answer_that_does_not_fit_says_so() -> None:
    cut = ask("many.example.com")
    assert cut is not None
    assert cut.flags & dns.flags.TC
    assert not cut.answer
    for whole in (ask("many.example.com", payload=4096), ask("many.example.com", by_udp=False)):
        assert len(answers(whole)) == 200


@given(st.binary(max_size=600))
def test_no_bytes_are_too_strange(data: bytes) -> None:
    with contextlib.suppress(dns.exception.DNSException):
        answer(data, NAMES, (), by_udp=True)
    refused = failure(data)
    assert refused is None or (refused[:2] == data[:2] and len(refused) == 12)


def test_failures() -> None:
    query = dns.message.make_query("a.b", "A")
    refused = failure(query.to_wire())
    assert refused is not None
    message = dns.message.from_wire(refused)
    assert (message.id, message.rcode()) == (query.id, dns.rcode.SERVFAIL)
    assert message.flags & dns.flags.RD
    assert failure(dns.message.make_response(query).to_wire()) is None
    assert failure(b"short") is None


_WITHOUT_FILES = """
import sys
import dns.message
from interceptor.discovery.dns import answer
from interceptor.routing.names import Names
from tests.support.documents import service_entry

text = "{hosts: [api.example.com], ports: [{number: 80, name: http}], addresses: [10.0.0.1, 'fd00::1']}"
names = Names([service_entry(text)])
sys.meta_path.clear()  # what is not loaded yet cannot be any more
for name in ("api.example.com", "api.example.com.shop.svc"):
    for kind in ("A", "AAAA"):
        query = dns.message.make_query(name, kind, use_edns=True).to_wire()
        print(len(answer(query, names, ("shop.svc",), by_udp=True)))
"""


def test_nothing_is_loaded_for_an_answer() -> None:
    """The proxy has given up root by then: in a checkout below /root there is nothing that it could load."""
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_FILES], capture_output=True, text=True, check=True, timeout=60
    )
    assert [int(size) > 40 for size in done.stdout.split()] == [True] * 4
