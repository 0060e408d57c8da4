from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from interceptor.routing import names as module
from interceptor.routing.names import (
    ROOM,
    Answer,
    Names,
    allocate,
    is_virtual,
    needs_virtual,
    virtual_addresses,
)
from tests.support.documents import service_entry

hosts = st.sets(st.from_regex(r"[a-z]{1,8}\.example\.com", fullmatch=True), max_size=30)


@given(hosts, hosts)
def test_a_host_keeps_its_place_while_others_come_and_go(before: set[str], after: set[str]) -> None:
    first = allocate(before, {})
    second = allocate(after, first)
    assert set(second) == after
    assert len(set(second.values())) == len(after)
    assert all(second[host] == first[host] for host in before & after)


@given(hosts)
def test_places_follow_from_the_names_alone(wanted: set[str]) -> None:
    assert allocate(sorted(wanted), {}) == allocate(sorted(wanted, reverse=True), {})


def test_names_that_fall_on_one_place_get_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROOM", 2)
    assert sorted(allocate(["a.b", "c.d"], {}).values()) == [0, 1]
    with pytest.raises(ValueError, match="3 hosts need virtual addresses and there are 2"):
        allocate(["a.b", "c.d", "e.f"], {})


@pytest.mark.parametrize("place", [0, ROOM - 1])
def test_virtual_addresses(place: int) -> None:
    v4, v6 = virtual_addresses(place)
    assert v4 not in {"240.240.0.0", "240.240.255.255"}
    assert is_virtual(v4)
    assert is_virtual(v6)
    assert not is_virtual("10.0.0.1")


PORTS = "ports: [{number: 80, name: http}]"


@pytest.mark.parametrize(
    ("spec", "needed"),
    [
        (f"{{hosts: [a.b], {PORTS}, resolution: DNS}}", ("a.b",)),
        (
            f"{{hosts: [a.b, 10.0.0.1], {PORTS}, resolution: STATIC, endpoints: [{{address: 10.0.0.2}}]}}",
            ("a.b",),
        ),
        (f"{{hosts: [a.b], {PORTS}, resolution: STATIC, addresses: [10.0.0.0/8]}}", ("a.b",)),
        (f"{{hosts: [a.b], {PORTS}, resolution: STATIC, addresses: [10.0.0.1]}}", ()),
        (f"{{hosts: [a.b], {PORTS}}}", ()),
    ],
)
def test_who_needs_a_virtual_address(spec: str, needed: tuple[str, ...]) -> None:
    assert needs_virtual(service_entry(spec)) == needed


NAMES = Names(
    [
        service_entry(f"{{hosts: [given.example.com], {PORTS}, addresses: [10.0.0.1, 'fd00::1']}}"),
        service_entry(f"{{hosts: [given.example.com], {PORTS}, addresses: [10.0.0.9]}}"),
        service_entry(f"{{hosts: [virtual.example.com, 10.0.0.7], {PORTS}, resolution: DNS}}"),
        service_entry(f"{{hosts: ['*.wild.example.com'], {PORTS}, addresses: [10.0.0.2]}}"),
        service_entry(f"{{hosts: [passed.example.com], {PORTS}}}"),
    ],
    {"virtual.example.com": 0},
)
GIVEN = Answer("given.example.com", ("10.0.0.1",), ("fd00::1",))
WILD = Answer("*.wild.example.com", ("10.0.0.2",), ())


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("given.example.com", ("given.example.com", GIVEN)),
        ("given.example.com.shop.svc", ("given.example.com", GIVEN)),
        ("a.b.wild.example.com", ("a.b.wild.example.com", WILD)),
        (
            "virtual.example.com",
            ("virtual.example.com", Answer("virtual.example.com", ("240.240.0.1",), ("2001:2::1",))),
        ),
        ("wild.example.com", None),
        ("passed.example.com", None),
        ("given.example.com.svc.shop", None),
        ("10.0.0.7", None),
    ],
)
def test_names_are_found(name: str, found: tuple[str, Answer] | None) -> None:
    assert NAMES.find(name, ("svc", "shop.svc")) == found


def test_without_documents_no_name_is_ours() -> None:
    assert Names().find("a.b") is None
