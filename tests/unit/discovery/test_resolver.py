from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import pytest
import trio
import trio.testing
from hypothesis import given, strategies as st

from interceptor.config.configuration import Configuration
from interceptor.discovery.resolver import (
    FIRST_TIMEOUT,
    GRACE,
    LONGEST,
    MAX_ADDRESSES,
    MAX_LOOKUPS,
    RETRY,
    ROUND_TIMEOUT,
    SHORTEST,
    Answer,
    Known,
    Resolver,
    UnresolvedError,
    fixed_addresses,
    former,
    merge,
)
from interceptor.state.snapshot import take
from interceptor.state.store import Store
from tests.support.documents import configuration, service_entry_text


class Names:
    """A name server: hosts with addresses, hosts that fail, and hosts that never answer."""

    def __init__(self, **answers: Iterable[str] | Exception | None) -> None:
        self.answers = {host.replace("_", "."): answer for host, answer in answers.items()}
        self.ttl = 30.0
        self.asked: list[str] = []
        self.versions: list[frozenset[int]] = []
        self.now = 0
        self.most = 0

    async def lookup(self, host: str, versions: frozenset[int]) -> Answer:
        self.asked.append(host)
        self.versions.append(versions)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await trio.lowlevel.checkpoint()
            answer = self.answers[host]
            if answer is None:
                await trio.sleep_forever()
            elif isinstance(answer, Exception):
                raise answer
            else:
                return Answer(tuple(answer), self.ttl)
        finally:
            self.now -= 1
        raise AssertionError


def unknown(ttl: float = 0.0) -> UnresolvedError:
    return UnresolvedError("there is no such name", ttl)


def resolver(names: Names, *hosts: str, spec: str = "resolution: DNS") -> tuple[Resolver, Store]:
    listed = ", ".join(hosts or names.answers)
    made = configuration(
        service_entry_text(f"{{hosts: [{listed}], ports: [{{number: 1, name: x}}], {spec}}}")
    )
    store = Store(take(made))
    return Resolver(store, names.lookup), store


def allowed(store: Store) -> dict[str, tuple[str, ...]]:
    return dict(store.current.resolved)


async def test_a_round_publishes_what_the_hosts_resolve_to() -> None:
    names = Names(a_example=["10.0.0.2", "fd00::1", "10.0.0.2"], b_example=["10.0.0.3"])
    made, store = resolver(names)
    await made.round()
    assert allowed(store) == {"a.example": ("10.0.0.2", "fd00::1"), "b.example": ("10.0.0.3",)}


async def test_equal_answers_publish_nothing() -> None:
    names = Names(a_example=["10.0.0.2", "10.0.0.1"])
    made, store = resolver(names)
    await made.round()
    before = store.current
    names.answers["a.example"] = ["10.0.0.1", "10.0.0.2"]
    await made.round()
    assert store.current is before


async def test_addresses_and_localhost_need_no_lookup() -> None:
    names = Names(a_example=["10.0.0.1"])
    made, store = resolver(names, "a.example", "10.9.9.9", "localhost", "x.localhost")
    await made.round()
    assert names.asked == ["a.example"]
    assert made.hosts == ("a.example",)
    assert allowed(store) == {
        "10.9.9.9": ("10.9.9.9",),
        "a.example": ("10.0.0.1",),
        "localhost": ("127.0.0.1", "::1"),
        "x.localhost": ("127.0.0.1", "::1"),
    }


def test_a_name_has_no_fixed_address() -> None:
    assert fixed_addresses("a.example") == ()
    assert fixed_addresses("fd00::1") == ("fd00::1",)


async def test_hosts_of_invisible_entries_are_not_looked_up() -> None:
    made, _ = resolver(Names(a_example=[]), spec="exportTo: [elsewhere]")
    assert made.hosts == ()


async def test_a_failed_lookup_keeps_the_last_addresses_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    names = Names(a_example=["10.0.0.1"])
    made, store = resolver(names)
    await made.round()
    names.answers["a.example"] = unknown()
    for _ in range(3):
        await made.round()
    assert allowed(store) == {"a.example": ("10.0.0.1",)}
    [said] = [record.getMessage() for record in caplog.records]
    assert said.startswith(
        "the host a.example cannot be resolved: there is no such name; its last 1 addresses stay allowed"
    )
    names.answers["a.example"] = ["10.0.0.2"]
    await made.round()
    assert caplog.records[-1].getMessage() == "the host a.example resolves again"
    assert allowed(store) == {"a.example": ("10.0.0.1", "10.0.0.2")}


async def test_one_failing_host_does_not_touch_another(caplog: pytest.LogCaptureFixture) -> None:
    made, store = resolver(Names(bad_example=unknown(), good_example=["10.0.0.1"]))
    await made.round()
    assert allowed(store) == {"good.example": ("10.0.0.1",)}
    assert "bad.example cannot be resolved: there is no such name" in caplog.text
    assert "it has no addresses, so none of it is known" in caplog.text


async def test_a_silent_name_server_is_waited_for_in_bounded_time(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    made, store = resolver(Names(bad_example=None, good_example=["10.0.0.1"]))
    began = trio.current_time()
    await made.round()
    assert trio.current_time() - began == pytest.approx(ROUND_TIMEOUT)
    assert allowed(store) == {"good.example": ("10.0.0.1",)}
    assert "bad.example cannot be resolved: the name server did not answer in time" in caplog.text


async def test_hosts_without_an_answer_do_not_starve_the_others(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    silent = {f"h{n}_example": None for n in range(MAX_LOOKUPS)}
    made, store = resolver(Names(**silent, last_example=["10.0.0.1"]))
    await made.round()
    assert allowed(store) == {}
    assert "there was no time to look up 1 hosts; they come first in the next round" in caplog.text
    await made.round()
    assert allowed(store) == {"last.example": ("10.0.0.1",)}
    assert caplog.text.count("cannot be resolved") == MAX_LOOKUPS


async def test_lookups_are_bounded_in_number() -> None:
    names = Names(**{f"h{n}_example": ["10.0.0.1"] for n in range(3 * MAX_LOOKUPS)})
    made, _ = resolver(names)
    await made.round()
    assert len(names.asked) == 3 * MAX_LOOKUPS
    assert names.most == MAX_LOOKUPS


async def test_it_is_ready_after_the_first_round_and_goes_on(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    names = Names(a_example=["10.0.0.1"])
    made, store = resolver(names)
    await nursery.start(made.run)
    assert allowed(store) == {"a.example": ("10.0.0.1",)}
    names.answers["a.example"] = ["10.0.0.2"]
    with trio.fail_after(names.ttl + SHORTEST + 1):
        changed = await store.wait_changed(store.current.version)
    assert set(changed.resolved["a.example"]) == {"10.0.0.1", "10.0.0.2"}
    assert changed.former == {"a.example": ("10.0.0.1",)}, "it stays the host's, and is no endpoint any more"
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("ttl", "pause"), [(0.0, SHORTEST), (60.0, 60.0), (86_400.0, LONGEST), (-1.0, SHORTEST)]
)
@pytest.mark.parametrize("fails", [False, True])
async def test_an_answer_holds_for_its_time_within_bounds(
    ttl: float, pause: float, fails: bool, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    names = Names(a_example=unknown(ttl) if fails else ["10.0.0.1"])
    names.ttl = ttl
    made, _ = resolver(names)
    await nursery.start(made.run)
    await trio.sleep(pause - 0.1)
    assert len(names.asked) == 1
    await trio.sleep(SHORTEST)
    assert len(names.asked) == 2
    nursery.cancel_scope.cancel()


async def test_a_name_server_that_is_silent_is_asked_again_soon(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    names = Names(a_example=None)
    made, store = resolver(names)
    await nursery.start(made.run)
    names.answers["a.example"] = ["10.0.0.1"]
    with trio.fail_after(RETRY + SHORTEST + 1):
        await store.wait_changed(store.current.version)
    nursery.cancel_scope.cancel()


def with_hosts(*hosts: str) -> Configuration:
    spec = f"{{hosts: [{', '.join(hosts)}], ports: [{{number: 1, name: x}}], resolution: DNS}}"
    return configuration(service_entry_text(spec))


async def test_a_new_configuration_is_in_force_with_the_addresses_of_its_hosts() -> None:
    names = Names(a_example=["10.0.0.1"], b_example=["10.0.0.2"])
    made, store = resolver(names, "a.example")
    await made.round()
    new = with_hosts("a.example", "b.example", "10.0.0.9")
    version = await made.adopt(new)
    assert store.current.version == version
    assert store.current.configuration is new
    assert allowed(store) == {
        "10.0.0.9": ("10.0.0.9",),
        "a.example": ("10.0.0.1",),
        "b.example": ("10.0.0.2",),
    }
    assert names.asked == ["a.example", "b.example"], "what is known is not asked again"
    await made.adopt(with_hosts("b.example"))
    assert made.hosts == ("b.example",)
    assert allowed(store) == {"b.example": ("10.0.0.2",)}


async def test_a_silent_name_server_holds_a_new_configuration_up_for_a_moment_only(
    autojump_clock: trio.testing.MockClock,
) -> None:
    made, store = resolver(Names(a_example=["10.0.0.1"], b_example=None), "a.example")
    await made.round()
    before = trio.current_time()
    await made.adopt(with_hosts("b.example"))
    assert trio.current_time() - before == pytest.approx(FIRST_TIMEOUT)
    assert allowed(store) == {}


async def test_a_configuration_that_cannot_be_compiled_changes_nothing() -> None:
    made, store = resolver(Names(a_example=["10.0.0.1"], b_example=["10.0.0.2"]), "a.example")
    await made.round()
    before = store.current
    new = with_hosts("b.example")
    object.__setattr__(new, "sidecar", None)
    with pytest.raises(AttributeError):
        await made.adopt(new)
    await made.round()
    assert store.current is before
    assert made.hosts == ("a.example",)


async def test_a_round_that_ends_late_brings_no_old_configuration_back() -> None:
    names = Names(a_example=["10.0.0.1"])
    made, store = resolver(names, "a.example")
    new = with_hosts("10.0.0.9")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.round)
        nursery.start_soon(made.adopt, new)
    await made.round()
    assert store.current.configuration is new
    assert made.hosts == ()


def rounds(known: Known, answer: list[str], seconds: float, start: float = 0.0) -> Known:
    for second in range(int(seconds) + 1):
        known = merge(known, answer, start + second)
    return known


def test_an_address_that_vanishes_stays_for_the_grace_and_is_told_apart() -> None:
    known = rounds(merge({}, ["10.0.0.1"], 0), ["10.0.0.2"], GRACE)
    assert set(known) == {"10.0.0.1", "10.0.0.2"}
    assert former(known) == ("10.0.0.1",)
    known = merge(known, ["10.0.0.2"], GRACE + 1)
    assert set(known) == {"10.0.0.2"}
    assert former(known) == former({}) == ()


def test_an_address_that_comes_back_is_new_again() -> None:
    known = rounds(merge({}, ["10.0.0.1"], 0), ["10.0.0.2"], 5)
    assert former(merge(known, ["10.0.0.1"], 6)) == ("10.0.0.2",)


def test_addresses_are_made_as_connections_show_them() -> None:
    assert merge({}, ["::ffff:10.0.0.1", "FD00::1"], 7) == {"10.0.0.1": 7, "fd00::1": 7}


answers: Callable[..., st.SearchStrategy[list[list[str]]]] = st.lists


@given(
    answers(
        st.lists(st.integers(0, 400).map(lambda n: f"10.0.{n // 256}.{n % 256}"), max_size=300), max_size=5
    )
)
def test_known_addresses_are_bounded_and_the_newest_answer_is_among_them(drawn: list[list[str]]) -> None:
    known: Known = {}
    for now, answer in enumerate(drawn):
        known = merge(known, answer, now)
        assert len(known) <= MAX_ADDRESSES
        assert len(set(answer) & set(known)) == min(len(set(answer)), MAX_ADDRESSES)
        assert not set(former(known)) & set(answer) or not answer


def of_families(*asked: tuple[str, str]) -> Configuration:
    ports = "ports: [{number: 1, name: x}], resolution: DNS"
    texts = [
        service_entry_text(
            f"{{hosts: [{host}], {ports}, dnsLookupFamily: {family}}}", f"{{name: entry-{index}}}"
        )
        for index, (host, family) in enumerate(asked)
    ]
    return configuration(*texts)


async def test_only_the_versions_that_some_document_wants_are_asked_for() -> None:
    names = Names(a_example=["10.0.0.1"], b_example=["10.0.0.2"])
    store = Store(
        take(of_families(("a.example", "V4_ONLY"), ("b.example", "V4_ONLY"), ("b.example", "AUTO")))
    )
    made = Resolver(store, names.lookup)
    await made.round()
    asked = dict(zip(names.asked, names.versions, strict=True))
    assert asked == {"a.example": {4}, "b.example": {4, 6}}
    await made.adopt(of_families(("a.example", "V4_ONLY")))
    assert len(names.asked) == 2, "what is known is not asked again"
    names.answers["a.example"] = ["10.0.0.1", "fd00::1"]
    await made.adopt(of_families(("a.example", "V6_ONLY")))
    assert names.asked[2:] == ["a.example"]
    assert names.versions[-1] == {4, 6}, "the one before may stay"
    assert allowed(store) == {"a.example": ("10.0.0.1", "fd00::1")}
    await made.round()
    assert names.versions[-1] == {6}
