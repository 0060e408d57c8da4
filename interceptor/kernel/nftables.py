"""The nft driver: our table of nftables, read and written through the ``nft`` program, one transaction for everything.

nft runs in a child process that entered the namespace. Our own table is listed by name; those of others are found by
their base chains, because nft up to 1.0.6 writes rubbish for the flags of a table when it lists all of them. Where netlink
shows that there is no table, nft is not asked.
"""

from __future__ import annotations

import functools
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from interceptor.config.redirect import Backend
from interceptor.errors import KernelError
from interceptor.kernel import child, tables as standing
from interceptor.kernel.driver import Step
from interceptor.model.record import Record
from interceptor.redirect import nft_layout, tproxy
from interceptor.redirect.foreign import ForeignChain, Presence
from interceptor.redirect.nft_foreign import base_tables, foreign_chains
from interceptor.redirect.nft_layout import NOTHING, Layout
from interceptor.redirect.nftables import FAMILY, TABLE, planned_name
from interceptor.redirect.rules import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from interceptor.kernel.child import Helpers
    from interceptor.redirect.nft_layout import Form
    from interceptor.redirect.rules import Family, Ruleset
    from interceptor.redirect.status import InstalledChain

OLDEST: Final = (1, 0, 2)  # counters in the elements of a set, by JSON; Ubuntu 22.04's. Tried with 1.0.6
ATTEMPTS: Final = 10
_PATH: Final = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin"  # an operator's PATH often has no sbin
_VERSION: Final = re.compile(r"v(\d+)\.(\d+)(?:\.(\d+))?")
_NO_SUPPORT: Final = ("Protocol not supported", "Operation not supported", "Address family not supported")
_NFPROTO_INET: Final = 1  # include/uapi/linux/netfilter.h
_BOTH_FAMILIES: Final = 10  # after the policy routing of each: its marks are in here
_NO_PERMISSION: Final = "Operation not permitted"


class Ended(NamedTuple):
    """How nft ended, and what it printed."""

    status: int
    stdout: str
    stderr: str


class _Started(NamedTuple):
    """A run of nft, and the files that it reads and writes."""

    pid: int
    files: list[int]


class TableChange(Record):
    """Our table as it is and as it is wanted."""

    before: Layout
    wanted: Layout

    @property
    def needed(self) -> bool:
        return self.before != self.wanted

    @property
    def installs(self) -> bool:
        return self.before == NOTHING

    @property
    def removes(self) -> bool:
        return self.wanted == NOTHING

    @property
    def rank(self) -> tuple[int, int]:
        return _BOTH_FAMILIES, 0

    @property
    def helper(self) -> Family:
        return 4  # for both

    @property
    def phrase(self) -> str:
        if self.removes:
            return f"nft table {FAMILY} {TABLE}: removed"
        return f"nft table {FAMILY} {TABLE}: {self.wanted.size} rules"

    def make(self, before_commit: Callable[[Step], None]) -> None:
        _write(self.wanted, before_commit)

    def undo(self, before_commit: Callable[[Step], None]) -> None:
        _write(self.before, before_commit)


def prepare() -> None:
    """Ask nft for its version, which ``changes`` wants to know; it answers meanwhile."""
    program = _program()
    if program is not None:
        _asked(program, os.getpid())


def look(helpers: Helpers) -> Presence:
    """Whether our table is there, and the redirecting chains of others."""
    return helpers.call(4, _look)


def changes(helpers: Helpers, ruleset: Ruleset) -> Sequence[TableChange]:
    """Our table, when there is one or shall be one."""
    if ruleset.chains:
        _need_recent_program()
    change = helpers.call(4, _compare, ruleset)
    return [change] if change.before != NOTHING or change.wanted != NOTHING else []


def installed(helpers: Helpers) -> Sequence[InstalledChain]:
    """Our chains in our table."""
    return nft_layout.installed(helpers.call(4, _list_ours))


def unhook(namespace: Path | None, tables: frozenset[Table]) -> None:
    """Empty our base chains of these tables, so that nothing leads to our chains any more. Raises KernelError."""
    child.call(namespace, _unhook, tables)


def _unhook(tables: frozenset[Table]) -> None:
    objects = _list_ours()
    found = nft_layout.listed(objects)
    ours = {"family": FAMILY, "table": TABLE}
    commands: list[object] = [
        {"flush": {"chain": {**ours, "name": name}}}
        for name in found.rules
        if found.base(name) and _table(name) in tables
    ]
    commands += [
        {"delete": {"rule": {**ours, "chain": rule["chain"], "handle": rule["handle"]}}}
        for rule in (cast("Form", form["rule"]) for form in objects if "rule" in form)
        if _table(str(rule["chain"])) is Table.MANGLE and tproxy.opens(str(rule.get("comment", "")))
    ]
    if not commands:
        return
    ended = _run("-j", "-f", "-", text=json.dumps({"nftables": commands}))
    if ended.status != 0:
        raise KernelError(f"the kernel would not let go of our rules in nftables ({_reason(ended)})")


def _table(chain: str) -> Table | None:
    planned = planned_name(chain)
    return planned and planned[0]


def _look() -> Presence:
    tables = standing.nft()
    if _program() is None:
        _refuse_when_blind(tables)
        tables = frozenset()
    if tables is not None and not tables:
        return Presence(ours=False, foreign=(), ipv6_nat=True)
    chains = _listing("list", "chains")
    foreign: list[ForeignChain] = []
    for family, table in base_tables(chains):
        foreign += foreign_chains(family, table, _listing("list", "table", family, table))
    ours = nft_layout.listed(_list_ours())
    mangle = any(_table(chain) is Table.MANGLE for chain in ours.rules)
    return Presence(ours=ours != NOTHING, foreign=tuple(foreign), ipv6_nat=True, mangle=mangle)


def _compare(ruleset: Ruleset) -> TableChange:
    return TableChange(nft_layout.listed(_list_ours()), nft_layout.wanted(ruleset))


def _write(wanted: Layout, before_commit: Callable[[Step], None]) -> None:
    """Make our table be ``wanted``; again when somebody changed it meanwhile."""
    for attempt in range(1, ATTEMPTS + 1):
        current = nft_layout.listed(_list_ours())
        if current == wanted:
            return  # put back already: what is right keeps its counters
        commands = nft_layout.commands(current, wanted)
        before_commit(Step(Backend.NFT, attempt))
        ended = _run("-j", "-f", "-", text=json.dumps({"nftables": commands}))
        if ended.status == 0:
            return
        if nft_layout.listed(_list_ours()) == current:
            raise KernelError(
                f"the kernel refused our rules in nftables ({_reason(ended)}); something may be missing: 'modprobe -a "
                "nf_tables nft_chain_nat nft_redir nft_ct nft_fib_inet nft_reject_inet nft_tproxy'"
            )
    raise KernelError(
        f"another program kept changing nftables' table {FAMILY} {TABLE} during {ATTEMPTS} attempts; "
        "stop it, then run the command again"
    )


def _list_ours() -> list[Form]:
    """Our table's objects; none when there is no such table."""
    tables = standing.nft()
    if tables is not None and (_NFPROTO_INET, TABLE) not in tables:
        return []
    if _program() is None:
        _refuse_when_blind(tables)
        return []
    return _listing("list", "table", FAMILY, TABLE, or_nothing="No such file or directory")


def _listing(*arguments: str, or_nothing: str | None = None) -> list[Form]:
    """What nft lists; nothing where the kernel has no nftables, or for the failure that says so."""
    ended = _run("-j", *arguments)
    if ended.status != 0:
        if any(said in ended.stderr for said in (*_NO_SUPPORT, *([or_nothing] if or_nothing else []))):
            return []
        raise KernelError(f"cannot list the rules of nftables ({_reason(ended)}){_remedy(ended)}")
    try:
        return cast("list[Form]", json.loads(ended.stdout, strict=False)["nftables"])
    except (ValueError, KeyError) as error:
        raise KernelError(
            f"'nft -j {' '.join(arguments)}' printed what is no JSON ({error}); "
            "update nftables, or look at that table with 'nft list ruleset'"
        ) from error


def _remedy(ended: Ended) -> str:
    if _NO_PERMISSION in ended.stderr:
        return "; give this process CAP_NET_ADMIN and CAP_NET_RAW"
    return "; 'nft list ruleset' shows whether nft works here at all"


def _reason(ended: Ended) -> str:
    """Nft's first words of what was wrong."""
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    return lines[0].partition("Error: ")[2] or lines[0] if lines else f"exit status {ended.status}"


def _run(*arguments: str, text: str = "") -> Ended:
    return _end(_start(*arguments, text=text))


def _start(*arguments: str, text: str = "") -> _Started:
    """Files instead of pipes: there is nothing to wait for but the end. subprocess takes as long to load as nft to run."""
    program = _program()
    if program is None:
        raise KernelError(
            "the program 'nft' is missing; install it with 'apt install nftables', or give --backend legacy"
        )
    files = [os.memfd_create("interceptor") for _ in range(3)]
    with open(files[0], "w", encoding="utf-8", closefd=False) as given:
        given.write(text)
    os.lseek(files[0], 0, os.SEEK_SET)
    ends = [(os.POSIX_SPAWN_DUP2, file, number) for number, file in enumerate(files)]
    pid = os.posix_spawn(program, [program, *arguments], {"PATH": _PATH, "LC_ALL": "C"}, file_actions=ends)
    return _Started(pid, files)


def _end(started: _Started) -> Ended:
    status = os.waitstatus_to_exitcode(os.waitpid(started.pid, 0)[1])
    said = []
    for file in started.files[1:]:
        os.lseek(file, 0, os.SEEK_SET)
        with open(file, encoding="utf-8", errors="replace", closefd=False) as stream:
            said.append(stream.read())
    for file in started.files:
        os.close(file)
    return Ended(status, *said)


def _program() -> str | None:
    places = f"{os.environ.get('PATH', '')}:{_PATH}".split(":")
    found = (Path(place, "nft") for place in places if place)
    return next((str(path) for path in found if path.is_file() and os.access(path, os.X_OK)), None)


def _need_recent_program() -> None:
    printed = _version(_program())
    found = _VERSION.search(printed)
    version = tuple(int(part or 0) for part in found.groups()) if found else ()
    if version < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise KernelError(
            f"the program 'nft' is too old or not nftables' ({printed.strip() or 'no version'}); "
            f"{oldest} is needed: update nftables, or give --backend legacy"
        )


@functools.cache
def _asked(_program: str | None, _process: int) -> _Started:
    """Once in each process: the answer is for whoever asked."""
    return _start("--version")


@functools.cache
def _version(program: str | None) -> str:
    return _end(_asked(program, os.getpid())).stdout


def _refuse_when_blind(tables: frozenset[tuple[int, str]] | None) -> None:
    """Without nft no table of ours must be overlooked."""
    if tables and (_NFPROTO_INET, TABLE) in tables:
        raise KernelError(
            f"rules of ours are in nftables' table {FAMILY} {TABLE}, and the program 'nft' is missing; "
            "install it with 'apt install nftables'"
        )
