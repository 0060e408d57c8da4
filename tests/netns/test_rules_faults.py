"""A fault at any step of the transaction, in any table, family or route, leaves everything as it was, byte for byte."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from interceptor.config.redirect import Backend, Dns, Mark, Mode, PortRange, Quic, RedirectSettings
from interceptor.errors import KernelError
from interceptor.kernel import rules
from interceptor.kernel.driver import Step
from interceptor.redirect.rules import FAMILIES, Table
from tests.support.netns import Namespace, namespace

pytestmark = pytest.mark.netns

EVERYTHING = RedirectSettings(
    mode=Mode.TPROXY, dns=Dns.CAPTURE, strict=True, quic=Quic.BLOCK, virtual_interfaces=("docker0",)
)
# Each table and each route of it differs from EVERYTHING's.
OTHERWISE = RedirectSettings(
    mode=Mode.TPROXY, dns=Dns.CAPTURE, strict=True, proxy_mark=Mark(0x53A, 0xFFF),
    exclude_egress_cidrs=(ip_network("10.0.0.0/8"), ip_network("fd00::/8")),
    exclude_ingress_ports=(PortRange(22, 22),),
)  # fmt: skip
PLAIN = RedirectSettings()
HANDLE = re.compile(r" # handle \d+$", re.MULTILINE)  # a table that was taken away and put back has others
PLACES = {Backend.LEGACY: {*(table.value for table in Table), "routing"}, Backend.NFT: {"nft", "routing"}}


@pytest.fixture
def app() -> Iterator[Namespace]:
    """With foreign rules and routes in every table; a table that did not exist could not be taken away again."""
    with namespace("fault") as made:
        for family, tool in ((4, "iptables-legacy"), (6, "ip6tables-legacy")):
            for table in Table:
                made.run(
                    tool, "-t", table.value, "-A", "OUTPUT", "-c", "12", "3456", "-p", "udp", "-j", "ACCEPT"
                )
            made.run("ip", f"-{family}", "rule", "add", "pref", "100", "fwmark", "7", "table", "77")
            made.run("ip", f"-{family}", "route", "add", "local", "default", "dev", "lo", "table", "77")
        yield made


def everything(where: Namespace) -> str:
    """All rules with counters, all policy rules, all routes, of both families."""
    return "".join(
        where.save(family) + where.run("ip", f"-{family}", *what).stdout
        for family in FAMILIES
        for what in (("rule",), ("route", "show", "table", "all"))
    ) + HANDLE.sub("", where.ruleset())


Act = Callable[[Namespace, Callable[[Step], None]], None]


def install(backend: Backend) -> Act:
    def act(where: Namespace, before_commit: Callable[[Step], None]) -> None:
        rules.apply(EVERYTHING, where.path, backend=backend, before_commit=before_commit)

    return act


def uninstall(where: Namespace, before_commit: Callable[[Step], None]) -> None:
    rules.remove(where.path, before_commit=before_commit)


def steps_of(act: Act, where: Namespace) -> list[str]:
    """What the act does when nothing goes wrong, in order."""
    log = Path("/run", f"steps-{where.name}")
    log.write_text("")

    def note(step: Step) -> None:
        with log.open("a") as stream:  # each step is made in a process of its own
            stream.write(named(step) + "\n")

    act(where, note)
    return log.read_text().splitlines()


def named(step: Step) -> str:
    place = "nft" if step.backend is Backend.NFT else step.table.value if step.table else "routing"
    return f"{step.family} {place} {step.attempt}"


@pytest.mark.parametrize(
    ("first", "death"),
    [(None, 0), (None, 1), (OTHERWISE, 0), (PLAIN, 1)],
    ids=["fresh", "fresh, the other way", "over another", "over a plain one"],
)
def test_an_installation_that_fails_anywhere_changes_nothing(
    app: Namespace, backend: Backend, first: RedirectSettings | None, death: int
) -> None:
    if first is not None:
        rules.apply(first, app.path, backend=backend)
    with_all_undone(app, install(backend), PLACES[backend], death, lambda: restore(app, backend, first))


def test_a_removal_that_fails_anywhere_changes_nothing(app: Namespace, backend: Backend) -> None:
    rules.apply(EVERYTHING, app.path, backend=backend)
    with_all_undone(app, uninstall, PLACES[backend], 0, lambda: restore(app, backend, EVERYTHING))


def test_a_move_that_fails_anywhere_changes_nothing(app: Namespace, backend: Backend) -> None:
    other = Backend.NFT if backend is Backend.LEGACY else Backend.LEGACY
    rules.apply(OTHERWISE, app.path, backend=other)
    places = {"routing"}.union(*PLACES.values())
    with_all_undone(app, install(backend), places, 0, lambda: restore(app, other, OTHERWISE))


def restore(where: Namespace, backend: Backend, settings: RedirectSettings | None) -> None:
    if settings is None:
        rules.remove(where.path)
    else:
        rules.apply(settings, where.path, backend=backend)


def with_all_undone(
    where: Namespace,
    act: Act,
    places: set[str],
    death: int,
    start_over: Callable[[], None],
) -> None:
    """Learn the steps from a run that succeeds, then let each of them fail: every other by the death of its process."""
    steps = steps_of(act, where)
    assert {step.split()[1] for step in steps} == places
    assert {step.split()[0] for step in steps} >= {"4", "6"}
    start_over()
    before = everything(where)
    for number, wanted in enumerate(steps):

        def fail(step: Step, number: int = number, wanted: str = wanted) -> None:
            if named(step) == wanted:
                if number % 2 == death:
                    os._exit(9)
                raise KernelError("the test refuses")

        with pytest.raises(KernelError, match="nothing was changed"):
            act(where, fail)
        assert everything(where) == before, wanted


def test_installed_and_removed_it_leaves_no_trace(app: Namespace, backend: Backend) -> None:
    before = everything(app)
    for settings in (EVERYTHING, OTHERWISE, PLAIN, EVERYTHING):
        rules.apply(settings, app.path, backend=backend)
    assert rules.remove(app.path).outcome == "removed"
    assert everything(app) == before


def test_a_plain_installation_makes_the_nat_table_and_no_other() -> None:
    with namespace("plain") as made:
        for settings, wanted in ((PLAIN, {"nat"}), (EVERYTHING, {table.value for table in Table})):
            rules.apply(settings, made.path)
            for names in ("ip_tables_names", "ip6_tables_names"):
                assert set(made.run("cat", f"/proc/net/{names}").stdout.split()) == wanted
            rules.remove(made.path)


def test_what_prepares_comes_first_and_what_refuses_last(app: Namespace) -> None:
    coming = steps_of(install(Backend.LEGACY), app)
    assert [step for step in coming if step.startswith("4")] == [
        "4 raw 1",
        "4 routing 1",
        "4 routing 2",
        "4 mangle 1",
        "4 nat 1",
        "4 filter 1",
    ]
    going = steps_of(uninstall, app)
    assert [step.rpartition(" ")[0] for step in going if step.startswith("4")] == [
        "4 filter",
        "4 nat",
        "4 mangle",
        "4 routing",
        "4 routing",
        "4 raw",
    ]
