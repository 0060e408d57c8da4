"""Installing, changing and removing rules as a transaction: all or nothing, no gap, no trace, nothing foreign touched."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from interceptor.config.redirect import Backend, Ipv6Policy, Mode, PortRange, RedirectSettings
from interceptor.errors import KernelError
from interceptor.kernel import child, rules
from interceptor.kernel.driver import Step
from interceptor.kernel.iptables import ATTEMPTS
from interceptor.redirect.ipv6 import Ipv6
from interceptor.redirect.rules import FAMILIES, Family
from tests.support.netns import Namespace, Topology, namespace, topology
from tests.support.reporters import Attempt, connect, listening

pytestmark = pytest.mark.netns

DEFAULT = RedirectSettings()
OTHER = RedirectSettings(exclude_egress_ports=(PortRange(25, 25),), exclude_uids=(4242,))
FOREIGN = (
    "-t nat -N DOCKER",
    "-t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
    "-t nat -A OUTPUT -p tcp --dport 9999 -j DNAT --to-destination :9998",
    "-t nat -A OUTPUT -p tcp -m comment --comment 'kube-proxy portals' -j RETURN",
    "-t nat -A POSTROUTING -o eth9 -j MASQUERADE",
    "-t filter -A INPUT -p tcp --dport 1 -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT",
    "-t filter -A OUTPUT -m owner --uid-owner 7 -j LOG --log-prefix x",
    "-t filter -P FORWARD DROP",
)


@pytest.fixture
def app() -> Iterator[Namespace]:
    with namespace("tx") as made:
        yield made


def iptables(where: Namespace, family: Family, arguments: str, *, lock: str = "/run/xtables.lock") -> None:
    """iptables as another program would run it; with a lock of its own it goes on while we hold ours."""
    tool = "iptables-legacy" if family == 4 else "ip6tables-legacy"
    where.run("sh", "-c", f"XTABLES_LOCKFILE={lock} {tool} {arguments}")


def save(where: Namespace) -> dict[Family, str]:
    return {family: where.save(family) for family in FAMILIES}


def everything(where: Namespace) -> tuple[str, ...]:
    """All rules of both backends, with counters."""
    return (*save(where).values(), where.ruleset())


def with_foreign_rules(where: Namespace) -> dict[Family, str]:
    """Foreign rules with counters that are not zero, in both families."""
    for family in FAMILIES:
        for arguments in FOREIGN:
            iptables(where, family, arguments)
        iptables(where, family, "-t nat -A OUTPUT -c 12 3456 -p udp -j ACCEPT")
        iptables(where, family, "-t filter -A OUTPUT -c 78 9012 -p udp --dport 53 -j ACCEPT")
    return save(where)


def ours(text: str) -> list[str]:
    return [line for line in text.splitlines() if "INTERCEPTOR_" in line]


@pytest.mark.parametrize(
    "settings", [DEFAULT, RedirectSettings(ipv6=Ipv6Policy.BLOCK)], ids=["capture", "block"]
)
def test_install_and_remove_leave_foreign_rules_and_counters_byte_equal(
    app: Namespace, settings: RedirectSettings
) -> None:
    before = with_foreign_rules(app)
    assert rules.apply(settings, app.path).outcome == "installed"
    installed = save(app)
    for family in FAMILIES:
        assert ours(installed[family])
        foreign = [line for line in installed[family].splitlines() if "INTERCEPTOR_" not in line]
        assert foreign == before[family].splitlines()
    assert rules.apply(OTHER, app.path).outcome == "updated"
    assert rules.remove(app.path).outcome == "removed"
    assert save(app) == before


def test_apply_twice_is_unchanged_and_writes_nothing(backend: Backend) -> None:
    with topology() as bed, listening(bed.app, {"egress": [15001]}):
        rules.apply(DEFAULT, bed.app.path, backend=backend)
        for family in FAMILIES:
            connect(bed.app, [Attempt(bed.peer.address(family), 80)])
        before = everything(bed.app)
        again = rules.apply(DEFAULT, bed.app.path, backend=backend, before_commit=lambda step: os.abort())
        assert (again.outcome, again.changes) == ("unchanged", ())
        assert everything(bed.app) == before


def test_remove_is_content_when_run_twice(app: Namespace, backend: Backend) -> None:
    rules.apply(DEFAULT, app.path, backend=backend)
    assert rules.remove(app.path).outcome == "removed"
    before = everything(app)
    assert rules.remove(app.path) == rules.Removed("absent", ())
    assert everything(app) == before


def tables(where: Namespace) -> list[str]:
    names = where.run("cat", "/proc/net/ip_tables_names", "/proc/net/ip6_tables_names").stdout
    return names.split()


def test_looking_makes_no_table(app: Namespace, backend: Backend) -> None:
    rules.status(app.path)
    rules.remove(app.path)
    assert rules.apply(DEFAULT, app.path, dry_run=True).outcome == "installed"
    assert rules.apply(DEFAULT, app.path, backend=backend, dry_run=True).outcome == "installed"
    assert rules.apply(
        RedirectSettings(ipv6=Ipv6Policy.BLOCK), app.path, backend=backend, dry_run=True
    ).changes
    assert (tables(app), app.ruleset()) == ([], "")


def test_apply_makes_only_the_tables_it_needs(app: Namespace) -> None:
    rules.apply(DEFAULT, app.path)
    assert tables(app) == ["nat", "nat"]
    assert app.ruleset() == ""


def test_a_dry_run_tells_and_changes_nothing(app: Namespace, backend: Backend) -> None:
    rules.apply(DEFAULT, app.path, backend=backend)
    before = everything(app)
    assert rules.apply(DEFAULT, app.path, backend=backend, dry_run=True).outcome == "unchanged"
    applied = rules.apply(OTHER, app.path, backend=backend, dry_run=True)
    assert applied.outcome == "updated"
    assert [change.partition(":")[0] for change in applied.changes] == {
        Backend.LEGACY: ["IPv4 nat", "IPv6 nat"],
        Backend.NFT: ["nft table inet interceptor"],
    }[backend]
    assert everything(app) == before


def test_a_foreign_rule_that_came_before_ours_is_told_and_overtaken(app: Namespace) -> None:
    rules.apply(DEFAULT, app.path)
    for family in FAMILIES:
        iptables(
            app,
            family,
            "-t nat -I OUTPUT 1 -p tcp -m owner --uid-owner 5 -m comment --comment theirs -j ACCEPT",
        )
    warnings = list(rules.status(app.path).warnings())
    assert warnings == [
        f'in IPv{family} nat OUTPUT a foreign rule comes before ours: -p tcp -m owner -m comment --comment "theirs" -j ACCEPT'
        for family in FAMILIES
    ]
    assert rules.apply(DEFAULT, app.path).outcome == "updated"
    assert list(rules.status(app.path).warnings()) == []
    for family in FAMILIES:
        first = next(line for line in app.save(family).splitlines() if "-A OUTPUT" in line)
        assert "INTERCEPTOR_EGRESS" in first


def spoil_by_rule(where: Namespace, family: Family) -> None:
    iptables(where, family, "-t nat -I INTERCEPTOR_EGRESS 1 -j ACCEPT")


def spoil_by_order(where: Namespace, family: Family) -> None:
    line = ours(where.save(family))[-1].partition("] ")[2]
    iptables(where, family, f"-t nat -D {line.removeprefix('-A ')}")
    iptables(where, family, f"-t nat -I {line.removeprefix('-A ').replace(' ', ' 1 ', 1)}")


def spoil_by_hook(where: Namespace, family: Family) -> None:
    iptables(where, family, "-t nat -F OUTPUT")


def spoil_by_flush(where: Namespace, family: Family) -> None:
    iptables(where, family, "-t nat -F")


def spoil_by_second_hook(where: Namespace, family: Family) -> None:
    iptables(where, family, "-t nat -A OUTPUT -j INTERCEPTOR_EGRESS")
    if "THEIRS" not in where.save(family):
        iptables(where, family, "-t nat -N THEIRS")
    iptables(where, family, "-t nat -A THEIRS -j INTERCEPTOR_INGRESS")


@pytest.mark.parametrize(
    "spoil", [spoil_by_rule, spoil_by_order, spoil_by_hook, spoil_by_flush, spoil_by_second_hook]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_whatever_was_spoilt_apply_repairs_and_remove_cleans(
    app: Namespace, spoil: object, family: Family
) -> None:
    assert callable(spoil)
    rules.apply(DEFAULT, app.path)
    right = {each: ours(app.save(each)) for each in FAMILIES}
    spoil(app, family)
    assert rules.apply(DEFAULT, app.path).outcome == "updated"
    assert {each: ours(app.save(each)) for each in FAMILIES} == right
    spoil(app, family)
    rules.remove(app.path)
    assert {each: ours(app.save(each)) for each in FAMILIES} == {4: [], 6: []}


def test_a_concurrent_change_is_kept_and_ours_is_made_again(app: Namespace) -> None:
    attempts = Path("/run", f"attempts-{app.name}")

    def interfere(step: Step) -> None:
        with attempts.open("a") as log:
            log.write(f"{step.family}:{step.attempt} ")
        if step.attempt == 1:
            subprocess.run(
                [
                    "iptables-legacy" if step.family == 4 else "ip6tables-legacy",
                    "-t",
                    "nat",
                    "-A",
                    "OUTPUT",
                    "-j",
                    "LOG",
                ],
                check=True,
                env={**os.environ, "XTABLES_LOCKFILE": "/run/another.lock"},
            )

    rules.apply(DEFAULT, app.path, before_commit=interfere)
    assert attempts.read_text() == "4:1 4:2 6:1 6:2 "
    for family in FAMILIES:
        saved = app.save(family)
        assert saved.count("-A OUTPUT -j LOG") == 1
        assert len(ours(saved)) == 9
    assert list(rules.status(app.path).warnings()) == []


def test_a_change_that_never_ends_is_given_up_and_undone(app: Namespace) -> None:
    def interfere(step: Step) -> None:
        if step.family == 6:
            subprocess.run(
                ["ip6tables-legacy", "-t", "nat", "-A", "OUTPUT", "-j", "LOG"],
                check=True,
                env={**os.environ, "XTABLES_LOCKFILE": "/run/another.lock"},
            )

    with pytest.raises(
        KernelError, match=r"another program kept changing the IPv6 nat table.*nothing was changed"
    ):
        rules.apply(DEFAULT, app.path, before_commit=interfere)
    assert ours(app.save(4)) == ours(app.save(6)) == []
    assert app.save(6).count("-j LOG") == ATTEMPTS


def is_last(step: Step) -> bool:
    """Whether everything else is written: nft writes once, legacy each family."""
    return step.backend is Backend.NFT or step.family == 6


def refuse_the_last_commit(step: Step) -> None:
    if is_last(step):
        raise KernelError("the test refuses")


def die_in_the_last_commit(step: Step) -> None:
    if is_last(step):
        os._exit(9)


@pytest.mark.parametrize("fault", [refuse_the_last_commit, die_in_the_last_commit])
@pytest.mark.parametrize("first", [None, OTHER], ids=["fresh", "over another configuration"])
def test_a_failure_in_the_last_commit_undoes_all(
    app: Namespace, backend: Backend, fault: object, first: RedirectSettings | None
) -> None:
    assert callable(fault)
    with_foreign_rules(app)
    before = everything(app)
    if first is not None:
        rules.apply(first, app.path, backend=backend)
        before = everything(app)
    with pytest.raises(KernelError, match="nothing was changed"):
        rules.apply(DEFAULT, app.path, backend=backend, before_commit=fault)
    assert everything(app) == before


def test_a_failing_removal_leaves_everything_installed(app: Namespace, backend: Backend) -> None:
    rules.apply(DEFAULT, app.path, backend=backend)
    before = everything(app)
    with pytest.raises(KernelError, match="the test refuses; nothing was changed"):
        rules.remove(app.path, before_commit=refuse_the_last_commit)
    assert everything(app) == before


def apply_and_be_killed(where: Namespace, settings: RedirectSettings) -> None:
    """Run apply in a process that is killed -9 when one family is written and the other is not."""

    def kill(step: Step) -> None:
        if step.family == 6:
            os.kill(os.getppid(), signal.SIGKILL)
            os._exit(1)

    with pytest.raises(KernelError, match="signal 9"):
        child.call(None, rules.apply, settings, where.path, before_commit=kill)


@pytest.mark.parametrize("first", [None, OTHER], ids=["fresh", "over another configuration"])
def test_after_a_kill_the_next_apply_repairs(app: Namespace, first: RedirectSettings | None) -> None:
    if first is not None:
        rules.apply(first, app.path)
    apply_and_be_killed(app, DEFAULT)
    assert list(rules.status(app.path).warnings())
    assert rules.apply(DEFAULT, app.path).outcome == "updated"
    status = rules.status(app.path)
    assert (list(status.warnings()), status.hashes) == ([], (DEFAULT.hash,))


def test_after_a_kill_remove_cleans(app: Namespace) -> None:
    before = with_foreign_rules(app)
    apply_and_be_killed(app, DEFAULT)
    assert rules.remove(app.path).outcome == "removed"
    assert save(app) == before


@pytest.mark.parametrize("outcome", ["apply", "remove"])
@pytest.mark.parametrize("killed_before", ["4 mangle", "4 routing 2", "6 routing 1"])
def test_routing_that_a_kill_left_is_seen_by_a_plain_apply(
    app: Namespace, killed_before: str, outcome: str
) -> None:
    def routing() -> str:
        what = (("rule",), ("route", "show", "table", "all"))
        return "".join(app.run("ip", f"-{family}", *words).stdout for family in FAMILIES for words in what)

    def kill(step: Step) -> None:
        place = f"{step.family} {step.table.value}" if step.table else f"{step.family} routing {step.attempt}"
        if place == killed_before:
            os.kill(os.getppid(), signal.SIGKILL)
            os._exit(1)

    before = routing()
    with pytest.raises(KernelError, match="signal 9"):
        child.call(None, rules.apply, RedirectSettings(mode=Mode.TPROXY), app.path, before_commit=kill)
    assert routing() != before
    told = "bypass" if killed_before.startswith("6") else "policy routing of ours"
    assert any(told in warning for warning in rules.status(app.path).warnings())
    if outcome == "apply":
        assert "IPv4 routing: removed" in rules.apply(DEFAULT, app.path).changes
    else:
        assert rules.remove(app.path).outcome == "removed"
    assert routing() == before


def test_termination_waits_for_the_transaction(app: Namespace, backend: Backend) -> None:
    def interrupt(step: Step) -> None:
        os.kill(os.getppid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        rules.apply(DEFAULT, app.path, backend=backend, before_commit=interrupt)
    status = rules.status(app.path)
    assert (list(status.warnings()), status.hashes) == ([], (DEFAULT.hash,))


def test_a_lock_held_by_another_ends_the_wait_with_its_name(app: Namespace, backend: Backend) -> None:
    with Path("/run/xtables.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        started = time.monotonic()
        with pytest.raises(KernelError, match=rf"holds the xtables lock .*process {os.getpid()}, .*--wait"):
            rules.apply(DEFAULT, app.path, backend=backend, wait=0.2)
        assert 0.2 <= time.monotonic() - started < 5
        with pytest.raises(KernelError, match="holds the xtables lock"):
            rules.remove(app.path, wait=0)
    assert tables(app) == []
    assert rules.apply(DEFAULT, app.path, backend=backend, wait=0).outcome == "installed"


def test_a_lock_that_cannot_be_opened_is_told(app: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", "/proc/nowhere/lock")
    with pytest.raises(KernelError, match="cannot open the xtables lock /proc/nowhere/lock"):
        rules.apply(DEFAULT, app.path)


def test_iptables_waits_for_us(app: Namespace) -> None:
    """The lock is the one that iptables takes: while apply is at work, iptables gets nowhere."""

    def try_iptables(step: Step) -> None:
        if step.family == 4:
            command = ["iptables-legacy", "-w", "1", "-t", "nat", "-L"]
            refused = subprocess.run(command, capture_output=True, check=False, timeout=20)
            assert refused.returncode == 4  # RESOURCE_PROBLEM, iptables/xtables.h

    assert rules.apply(DEFAULT, app.path, before_commit=try_iptables).outcome == "installed"


def test_a_namespace_that_vanished_is_told(backend: Backend) -> None:
    with namespace("gone") as gone:
        pass
    with pytest.raises(KernelError, match="cannot open the network namespace"):
        rules.apply(DEFAULT, gone.path, backend=backend)


def test_between_blocking_and_capturing_ipv6_there_is_no_moment_with_neither(app: Namespace) -> None:
    def both(step: Step) -> None:
        """Before the last commit, which only removes, the new protection stands already."""
        if (step.family, step.table and step.table.value) == order[-1]:
            text = subprocess.run(
                ["ip6tables-legacy-save"], capture_output=True, text=True, check=True
            ).stdout
            assert text.count("INTERCEPTOR_EGRESS") > 4
            assert "*filter" in text
            assert "*nat" in text

    blocking = RedirectSettings(ipv6=Ipv6Policy.BLOCK)
    rules.apply(DEFAULT, app.path)
    order = [(4, "nat"), (6, "filter"), (6, "nat")]
    assert rules.apply(blocking, app.path, before_commit=both).outcome == "updated"
    order = [(4, "nat"), (6, "nat"), (6, "filter")]
    assert rules.apply(DEFAULT, app.path, before_commit=both).outcome == "updated"
    assert "INTERCEPTOR" not in app.run("ip6tables-legacy-save", "-t", "filter").stdout


def test_a_kernel_without_ipv6_nat_is_refused_where_there_are_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rules, "_kernel_has_ipv6_nat", lambda *_, **__: False)  # this machine's kernel has it
    with topology() as bed:
        with pytest.raises(KernelError, match=r"fd09::2 on eth0.*--ipv6 block"):
            rules.apply(DEFAULT, bed.app.path)
        assert tables(bed.app) == []
        assert rules.apply(RedirectSettings(ipv6=Ipv6Policy.BLOCK), bed.app.path).outcome == "installed"


def test_a_kernel_without_ipv6_nat_and_no_address_is_ipv4_only(
    app: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "_kernel_has_ipv6_nat", lambda *_, **__: False)
    assert rules.apply(DEFAULT, app.path).ipv6 is Ipv6.LEAVE
    assert tables(app) == ["nat"]


CONNECT_LOOP = """
import json, os, socket, sys
host, port = sys.argv[1], 80
os.setgid(1000); os.setuid(1000)
counts = {}
while not os.path.exists(sys.argv[2]):
    try:
        with socket.create_connection((host, port), timeout=5) as connection:
            what = json.loads(connection.recv(4096))[0]
    except OSError as error:
        what = type(error).__name__
    counts[what] = counts.get(what, 0) + 1
print(json.dumps(counts))
"""


@pytest.mark.parametrize("family", FAMILIES)
def test_moving_between_backends_opens_no_gap(family: Family) -> None:
    with topology() as bed:
        with listening(bed.app, {"egress": [15001]}), listening(bed.peer, {"direct": [80]}):
            changes_without_a_gap(bed, family, [Backend.NFT, Backend.LEGACY])


@pytest.mark.parametrize("family", FAMILIES)
def test_changing_rules_opens_no_gap(family: Family, backend: Backend) -> None:
    with topology() as bed:
        with listening(bed.app, {"egress": [15001]}), listening(bed.peer, {"direct": [80]}):
            changes_without_a_gap(bed, family, [backend])


def changes_without_a_gap(bed: Topology, family: Family, backends: list[Backend]) -> None:
    """Connect all the time while rules change back and forth, here and there: each connection is captured."""
    rules.apply(DEFAULT, bed.app.path)
    stop = Path("/run", f"stop-{bed.app.name}")
    loop = bed.app.popen(
        sys.executable, "-c", CONNECT_LOOP, bed.peer.address(family), str(stop), stdout=subprocess.PIPE
    )
    try:
        for changed in range(20):
            asked = OTHER if changed % 2 == 0 else DEFAULT
            applied = rules.apply(asked, bed.app.path, backend=backends[changed % len(backends)])
            assert applied.outcome == "updated"
        stop.touch()
        output, _ = loop.communicate(timeout=30)
    finally:
        loop.kill()
        loop.wait()
    counts = json.loads(output)
    assert set(counts) == {"egress"}
    assert counts["egress"] > 20
