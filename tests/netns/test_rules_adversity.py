"""Where the machine lacks something, or takes something away in the middle: refused or carried, never half-done."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from interceptor.config.redirect import Backend, Mode, PortRange, RedirectSettings
from interceptor.errors import KernelError
from interceptor.kernel import child, iptables, nftables, rules, tables
from interceptor.kernel.driver import Step
from interceptor.redirect.rules import FAMILIES, Family, Table
from tests.support.netns import Namespace, namespace

pytestmark = pytest.mark.netns

MAIN = "from interceptor.cli.sidecar_setup import main; main()"
DEFAULT = RedirectSettings()
OTHER = RedirectSettings(exclude_egress_ports=(PortRange(25, 25),))
STRICT = RedirectSettings(mode=Mode.TPROXY, strict=True)  # rules in all tables but raw, and routing
HANDLE = re.compile(r" # handle \d+$", re.MULTILINE)


@pytest.fixture
def app() -> Iterator[Namespace]:
    """With a rule in every table: one that did not exist could not be taken away again."""
    with namespace("adverse") as made:
        for tool in ("iptables-legacy", "ip6tables-legacy"):
            for table in Table:
                made.run(tool, "-t", table.value, "-A", "OUTPUT", "-p", "udp", "-j", "ACCEPT")
        yield made


def everything(where: Namespace) -> str:
    """All rules and policy routing of both families."""
    return "".join(
        where.save(family) + where.run("ip", f"-{family}", *what).stdout
        for family in FAMILIES
        for what in (("rule",), ("route", "show", "table", "all"))
    ) + HANDLE.sub("", where.ruleset())


def here() -> str:
    """The rules of the namespace that the tests themselves run in."""
    tools = ("iptables-legacy-save", "ip6tables-legacy-save")
    listed = [[tool] for tool in tools] + [["nft", "list", "ruleset"]]
    return "".join(
        line
        for argv in listed
        for line in subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines(True)
        if not line.startswith("#")
    )


def sidecar_setup(*arguments: str, **environment: str) -> tuple[int, str, str]:
    ended = subprocess.run(
        [sys.executable, "-c", MAIN, *arguments],
        capture_output=True, text=True, check=False, timeout=120, env={**os.environ, **environment},
    )  # fmt: skip
    return ended.returncode, ended.stdout, ended.stderr


# A namespace that vanishes.


@pytest.mark.parametrize("last", [False, True], ids=["at the first write", "at the last"])
def test_a_namespace_that_loses_its_name_is_finished(backend: Backend, last: bool) -> None:
    """It lives as long as our helpers are in it: no write goes astray, least of all into the caller's own namespace."""
    before = here()
    with namespace("gone") as gone:
        lost = Path("/run", f"lost-{gone.name}")

        def lose(step: Step) -> None:
            if not lost.exists() and (not last or step.backend is Backend.NFT or step.table is Table.FILTER):
                subprocess.run(["umount", str(gone.path)], check=True)
                lost.touch()

        applied = rules.apply(STRICT, gone.path, backend=backend, before_commit=lose)
        assert (applied.outcome, lost.exists()) == ("installed", True)
        with pytest.raises(KernelError, match=r"cannot (open|enter) the network namespace"):
            rules.status(gone.path)
    assert here() == before


def test_a_namespace_that_is_gone_when_all_shall_be_undone(backend: Backend) -> None:
    before = here()
    with namespace("gone") as gone:

        def lose(step: Step) -> None:
            if step.backend is Backend.NFT or (step.family, step.table) == (6, Table.FILTER):
                subprocess.run(["umount", str(gone.path)], check=True)
                os._exit(9)  # and the helper, which was in it, dies

        with pytest.raises(KernelError, match=r"died \(exit status 9\).*could not be undone.*namespace"):
            rules.apply(STRICT, gone.path, backend=backend, before_commit=lose)
    assert here() == before


def test_a_process_that_ends_takes_its_namespace_along() -> None:
    sleeper = subprocess.Popen(["unshare", "--net", "sleep", "60"])
    sleeper.kill()
    sleeper.wait()
    status, output, errors = sidecar_setup("apply", "--netns", str(sleeper.pid))
    assert (status, output) == (2, "")
    assert "no process has this id" in errors


# Modules that the kernel has not, faked where the driver asks the kernel.


@pytest.mark.parametrize("missing", [Table.MANGLE, Table.NAT, Table.FILTER], ids=lambda table: table.value)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_table_that_the_kernel_has_not(
    app: Namespace, monkeypatch: pytest.MonkeyPatch, family: Family, missing: Table
) -> None:
    before = everything(app)
    write = iptables.write

    def refuse(of: Family, table: Table, wanted: iptables.Layout, told: Callable[[Step], None]) -> None:
        if (of, table) == (family, missing):
            raise iptables.MissingTableError(
                f"cannot open the IPv{of} {table.value} table of iptables: Table does not exist (do you need to insmod?); "
                f"load it with 'modprobe ip{'6' if of == 6 else ''}table_{table.value}'"
            )
        write(of, table, wanted, told)

    monkeypatch.setattr(iptables, "write", refuse)
    with pytest.raises(
        KernelError, match=rf"IPv{family} {missing.value}.*modprobe ip.*; nothing was changed"
    ):
        rules.apply(STRICT, app.path, backend=Backend.LEGACY)
    monkeypatch.undo()
    assert everything(app) == before


def test_a_match_that_the_kernel_has_not(app: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    before = everything(app)
    library = iptables.load()

    def refuse(_table: object) -> None:
        raise library.IPTCError("can't commit: b'No chain/target/match by that name'")

    monkeypatch.setattr(library.Table6, "commit", refuse)
    with pytest.raises(
        KernelError, match=r"refused our rules in the IPv6 nat table \(No chain.*modprobe -a xt_owner"
    ):
        rules.apply(DEFAULT, app.path, backend=Backend.LEGACY)
    monkeypatch.undo()
    assert everything(app) == before


def test_no_legacy_tables_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a kernel without ip_tables: then it is nftables', for both families."""
    nowhere = dict.fromkeys(FAMILIES, Path("/proc/net/no_such_names"))
    monkeypatch.setattr(tables, "_NAMES", nowhere)

    def refuse(family: Family, table: Table) -> None:
        raise iptables.MissingTableError(f"no {table} {family}")

    monkeypatch.setattr(iptables, "_open", refuse)
    with namespace("modern") as app:
        applied = rules.apply(DEFAULT, app.path)
        assert (applied.outcome, applied.choice.backend) == ("installed", Backend.NFT)
        with pytest.raises(KernelError, match="nothing was changed"):
            rules.apply(DEFAULT, app.path, backend=Backend.LEGACY)
        assert rules.status(app.path).hashes == (DEFAULT.hash,)
        assert rules.remove(app.path).outcome == "removed"


@pytest.mark.parametrize("first", [None, OTHER], ids=["fresh", "over another configuration"])
def test_an_expression_that_nftables_has_not(
    app: Namespace, monkeypatch: pytest.MonkeyPatch, first: RedirectSettings | None
) -> None:
    if first is not None:
        rules.apply(first, app.path, backend=Backend.NFT)
    before = everything(app)
    run = nftables._run

    def refuse(*arguments: str, text: str = "") -> nftables.Ended:
        if "-f" in arguments:
            error = "internal:0:0-0: Error: Could not process rule: No such file or directory\n"
            return nftables.Ended(1, "", error)
        return run(*arguments, text=text)

    monkeypatch.setattr(nftables, "_run", refuse)
    with pytest.raises(
        KernelError, match=r"Could not process rule.*modprobe -a nf_tables.*nothing was changed"
    ):
        rules.apply(DEFAULT, app.path, backend=Backend.NFT)
    monkeypatch.undo()
    assert everything(app) == before


# Programs and libraries that are too old.


def test_iptables_without_an_extension(app: Namespace, tmp_path: Path) -> None:
    """An iptables that cannot say what a rule needs: its directory of extensions has no 'owner'."""
    before = everything(app)
    (real,) = Path("/usr/lib").glob("*/xtables")
    for extension in real.iterdir():
        if "owner" not in extension.name:
            (tmp_path / extension.name).symlink_to(extension)
    status, output, errors = sidecar_setup(
        "apply", "--netns", app.name, "--backend", "legacy", XTABLES_LIBDIR=str(tmp_path)
    )
    assert (status, output) == (1, "")
    assert re.search(r"iptables on this machine cannot express rule \S+: .*owner.*; update iptables", errors)
    assert everything(app) == before


def test_iptables_of_another_version(app: Namespace, tmp_path: Path) -> None:
    """Its extensions were built for another libxtables than the one that is loaded."""
    before = everything(app)
    (real,) = Path("/usr/lib").glob("*/xtables")
    for extension in real.iterdir():
        if "owner" in extension.name:
            data = extension.read_bytes().replace(b"libxtables.so.12", b"libxtables.so.10")
            (tmp_path / extension.name).write_bytes(data)
        else:
            (tmp_path / extension.name).symlink_to(extension)
    status, output, errors = sidecar_setup(
        "apply", "--netns", app.name, "--backend", "legacy", XTABLES_LIBDIR=str(tmp_path)
    )
    assert (status, output) == (1, "")
    assert "sidecar-setup: " in errors
    assert "Traceback" not in errors
    assert everything(app) == before


@pytest.mark.parametrize("version", ["nftables v0.9.8 (E.D.S.)", "nftables v1.0.1 (Fearless Fosdick #3)"])
def test_nft_that_is_too_old(app: Namespace, tmp_path: Path, version: str) -> None:
    before = everything(app)
    old = tmp_path / "nft"
    old.write_text(f"#!/bin/sh\n[ $1 = --version ] && echo '{version}' && exit\nexec /usr/sbin/nft \"$@\"\n")
    old.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    status, output, errors = sidecar_setup("apply", "--netns", app.name, "--backend", "nft", PATH=path)
    assert (status, output) == (1, "")
    assert "too old or not nftables'" in errors
    assert "1.0.2 is needed: update nftables, or give --backend legacy" in errors
    assert everything(app) == before


# Very long lists.

MANY = {
    "exclude-egress-ports": ",".join(str(1001 + 2 * number) for number in range(5000)),
    "exclude-egress-cidrs": ",".join(f"10.{number // 250}.{number % 250}.0/25" for number in range(3000)),
    "exclude-uids": ",".join(str(100_000 + 2 * number) for number in range(3000)),
}


@pytest.mark.parametrize("flag", MANY)
def test_a_very_long_list_is_carried_whole(
    app: Namespace, tmp_path: Path, backend: Backend, flag: str
) -> None:
    before = everything(app)
    config = tmp_path / "many.yaml"
    config.write_text(f"{flag}: [{MANY[flag]}]\n")
    asked = ("apply", "--netns", app.name, "--backend", backend.value, "--config", str(config))
    status, output, errors = sidecar_setup(*asked)
    assert (status, errors, output.partition(":")[0]) == (0, "", "installed")
    assert sidecar_setup(*asked)[1].partition(":")[0] == "unchanged"
    installed = app.ruleset() if backend is Backend.NFT else app.save(4)
    last = MANY[flag].rpartition(",")[2].partition("/")[0]
    assert last in installed
    assert sidecar_setup("remove", "--netns", app.name)[0] == 0
    assert everything(app) == before


def test_a_list_that_is_longer_than_any_file_of_flags(app: Namespace, tmp_path: Path) -> None:
    before = everything(app)
    config = tmp_path / "endless.yaml"
    config.write_text("exclude-uids: [" + ",".join(map(str, range(1000, 301_000))) + "]\n")
    status, output, errors = sidecar_setup("apply", "--netns", app.name, "--config", str(config))
    assert (status, output) == (2, "")
    assert "is larger than 1048576 bytes" in errors
    assert everything(app) == before


# Killed in the middle, in either backend and between them.


def apply_and_be_killed(
    where: Namespace,
    settings: RedirectSettings,
    backend: Backend,
    at: Callable[[Step], bool],
    *,
    finish: bool,
) -> None:
    """Killed -9 before a commit, which the helper makes nevertheless, or not."""

    def kill(step: Step) -> None:
        if at(step):
            os.kill(os.getppid(), signal.SIGKILL)
            if not finish:
                os._exit(1)

    with pytest.raises(KernelError, match="signal 9"):
        child.call(None, rules.apply, settings, where.path, backend=backend, before_commit=kill)


KILLED: dict[str, tuple[Backend, Callable[[Step], bool]]] = {
    "legacy, at the last table": (
        Backend.LEGACY,
        lambda step: (step.family, step.table) == (6, Table.FILTER),
    ),
    "legacy, at a route": (Backend.LEGACY, lambda step: step.table is None and step.family == 6),
    "nft, at its transaction": (Backend.NFT, lambda step: step.backend is Backend.NFT),
    "nft, at a route": (Backend.NFT, lambda step: step.backend is None and step.family == 6),
}


@pytest.mark.parametrize("finish", [False, True], ids=["cut", "finished by the helper"])
@pytest.mark.parametrize("killed", KILLED)
@pytest.mark.parametrize("after", ["apply", "remove"])
def test_after_a_kill_everything_is_repaired_or_removed(
    app: Namespace, killed: str, finish: bool, after: str
) -> None:
    backend, at = KILLED[killed]
    before = everything(app)
    apply_and_be_killed(app, STRICT, backend, at, finish=finish)
    if after == "apply":
        rules.apply(STRICT, app.path, backend=backend, wait=30)  # the helper holds the lock until it ends
        status = rules.status(app.path)
        assert (list(status.warnings()), status.hashes) == ([], (STRICT.hash,))
    rules.remove(app.path, wait=30)
    assert everything(app) == before


@pytest.mark.parametrize("finish", [False, True], ids=["cut", "finished by the helper"])
def test_after_a_kill_between_two_backends(app: Namespace, backend: Backend, finish: bool) -> None:
    """The new rules stand, and the old ones still: the next apply leaves one set, remove none."""
    other = Backend.NFT if backend is Backend.LEGACY else Backend.LEGACY
    before = everything(app)
    rules.apply(OTHER, app.path, backend=other)
    apply_and_be_killed(app, DEFAULT, backend, lambda step: step.backend is other, finish=finish)
    assert rules.apply(DEFAULT, app.path, backend=backend, wait=30).outcome in {"updated", "unchanged"}
    status = rules.status(app.path)
    assert (list(status.warnings()), status.hashes) == ([], (DEFAULT.hash,))
    assert {chain.backend for chain in status.chains} == {backend}
    rules.remove(app.path)
    assert everything(app) == before
