"""Install, read and remove the redirect rules: all tables and families, or none.

The transaction: hold the xtables lock, look at what there is, decide what is wanted, write table by table (each write is
atomic in the kernel), and when one fails put back what was there in those before it. Signals wait until it is over; a
kill -9 in the middle leaves whole tables only, which the next apply or remove completes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from interceptor.config.redirect import DEFAULT_WAIT, Ipv6Policy
from interceptor.errors import InterceptorError, KernelError
from interceptor.kernel import child, iproute, iptables, x_entry, xtables_lock
from interceptor.kernel.iproute import Policy, Routing
from interceptor.redirect.ipv6 import Ipv6, decide
from interceptor.redirect.plan import plan
from interceptor.redirect.rules import FAMILIES, Family, Ruleset, Table, read_comment
from interceptor.redirect.status import Hits, InstalledChain, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from interceptor.config.redirect import RedirectSettings
    from interceptor.kernel.iproute import Step
    from interceptor.kernel.iptables import Layout

_SIGNALS: Final = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})
_PLACES: Final = (Table.RAW, Policy.ROUTING, Table.MANGLE, Table.NAT, Table.FILTER)
_CLONE_NEWNET: Final = 0x40000000  # include/uapi/linux/sched.h


class Change(NamedTuple):
    """What is ours in one table, or our policy routing, as it is and as it is wanted."""

    family: Family
    place: Table | Policy
    before: Layout | Routing
    wanted: Layout | Routing

    @property
    def fresh(self) -> bool:
        """Whether there was nothing of ours."""
        return self.before in (iptables.NOTHING, iproute.NOTHING)

    @property
    def order(self) -> tuple[bool, int, int]:
        """What only goes comes last and in the opposite order: there is no moment with less than before or after."""
        goes = self.wanted in (iptables.NOTHING, iproute.NOTHING)
        position = (self.family, _PLACES.index(self.place))
        return goes, *((-number for number in position) if goes else position)


@dataclass(frozen=True, slots=True)
class Applied:
    """What ``apply`` did, or with ``dry_run`` would have done."""

    outcome: Literal["installed", "updated", "unchanged"]
    ruleset: Ruleset
    ipv6: Ipv6
    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Removed:
    """What ``remove`` did."""

    outcome: Literal["removed", "absent"]
    changes: tuple[str, ...]


def apply(
    settings: RedirectSettings,
    namespace: Path | None,
    *,
    wait: float = DEFAULT_WAIT,
    dry_run: bool = False,
    before_commit: Callable[[Step], None] = iptables.undisturbed,
) -> Applied:
    """Install the rules, or change what is installed into them. KernelError: nothing was changed."""
    _prepare()
    with contextlib.ExitStack() as stack:
        if not dry_run:
            stack.enter_context(xtables_lock.held(wait))
            stack.enter_context(_signals_wait())
        existing, addresses = child.call(namespace, _survey)
        nat = settings.ipv6 in {Ipv6Policy.AUTO, Ipv6Policy.ON} and (
            Table.NAT in existing[6] or _kernel_has_ipv6_nat()
        )
        ipv6 = decide(settings.ipv6, nat=nat, addresses=addresses)
        ruleset = plan(settings, ipv6)
        changes = _changes(namespace, existing, ruleset)
        pending = [change for change in changes if change.before != change.wanted]
        if not dry_run:
            _write(namespace, pending, before_commit)
    fresh = all(change.fresh for change in changes)
    outcome: Literal["installed", "updated", "unchanged"] = "installed" if fresh else "updated"
    return Applied(outcome if pending else "unchanged", ruleset, ipv6, tuple(map(_describe, pending)))


def remove(
    namespace: Path | None,
    *,
    wait: float = DEFAULT_WAIT,
    before_commit: Callable[[Step], None] = iptables.undisturbed,
) -> Removed:
    """Remove all that is ours, whoever installed it with whatever flags. KernelError: nothing was changed."""
    _prepare()
    with xtables_lock.held(wait), _signals_wait():
        existing, _ = child.call(namespace, _survey)
        changes = _changes(namespace, existing, Ruleset("", ()), routing=True)
        pending = [change for change in changes if change.before != change.wanted]
        _write(namespace, pending, before_commit)
    return Removed("removed" if pending else "absent", tuple(map(_describe, pending)))


def status(namespace: Path | None) -> Status:
    """What is installed. Reads only; makes no table."""
    _prepare()
    existing, _ = child.call(namespace, _survey)
    return Status(
        tuple(
            chain
            for family in FAMILIES
            if existing[family]
            for chain in child.call(namespace, _installed_chains, family, existing[family])
        )
    )


def _installed_chains(family: Family, tables: frozenset[Table]) -> list[InstalledChain]:
    """In a child: our chains in the tables that exist."""
    chains: list[InstalledChain] = []
    for table in (table for table in Table if table in tables):
        found = iptables.read_with_counters(family, table)
        for name, rules in found.layout.chains.items():
            tags = [read_comment(x_entry.comment(rule, family)) for rule in rules]
            jumps = [jump for jump in found.layout.jumps if x_entry.target(jump.entry, family) == name]
            chains.append(
                InstalledChain(
                    family,
                    table,
                    name,
                    tuple(Hits(tag, *hits) for tag, hits in zip(tags, found.counters[name], strict=True)),
                    jumps[0].chain if jumps else None,
                    found.before_ours[jumps[0].chain] if jumps else (),
                )
            )
    return chains


def _changes(
    namespace: Path | None,
    existing: dict[Family, frozenset[Table]],
    ruleset: Ruleset,
    *,
    routing: bool = False,
) -> list[Change]:
    """Every table that holds or shall hold something of ours, and the policy routing; one child for each family.

    Policy routing is looked at where there may be any, or ``routing`` asks: it stands with rules in the mangle table.
    """
    planned = set(ruleset.tables())
    changes: list[Change] = []
    for family in FAMILIES:
        tables = [table for table in Table if table in existing[family] or (family, table) in planned]
        if tables:
            changes += child.call(namespace, _compare, family, tables, existing[family], ruleset)
        routing = routing or Table.MANGLE in tables
    if routing:
        iproute.load()
        changes += child.call(namespace, _compare_routing, ruleset)
    return changes


def _compare(
    family: Family, tables: Sequence[Table], existing: frozenset[Table], ruleset: Ruleset
) -> list[Change]:
    """In a child: what there is and what is wanted. A table that does not exist is not looked into."""
    return [
        Change(
            family,
            table,
            iptables.read(family, table) if table in existing else iptables.NOTHING,
            iptables.build(ruleset, family, table),
        )
        for table in tables
    ]


def _compare_routing(ruleset: Ruleset) -> list[Change]:
    """In a child: our policy routing, as it is and as it is wanted."""
    return [
        Change(family, Policy.ROUTING, iproute.read(family), iproute.build(ruleset.detour, family))
        for family in FAMILIES
    ]


def _write(namespace: Path | None, changes: Sequence[Change], before_commit: Callable[[Step], None]) -> None:
    """Make each change; when one fails, put the earlier ones back."""
    begun: list[Change] = []
    try:
        for change in sorted(changes, key=lambda change: change.order):
            begun.append(change)  # before: a child that died may have committed
            child.call(namespace, _put, change.family, change.place, change.wanted, before_commit)
    except (InterceptorError, OSError) as error:
        failures = list(_restore(namespace, begun))
        if failures:
            raise KernelError(
                f"{error}; and what had been changed could not be undone ({'; '.join(failures)}): "
                "run 'sidecar-setup remove', then apply again"
            ) from error
        raise KernelError(f"{error}; nothing was changed") from error


def _put(
    family: Family,
    place: Table | Policy,
    wanted: Layout | Routing,
    before_commit: Callable[[Step], None],
) -> None:
    """In a child: make one change."""
    if isinstance(wanted, Routing):
        iproute.write(family, wanted, before_commit)
    elif isinstance(place, Table):
        iptables.write(family, place, wanted, before_commit)


def _restore(namespace: Path | None, changes: Sequence[Change]) -> Iterator[str]:
    """Put back what was there, last change first; yields what could not be put back."""
    for change in reversed(changes):
        try:
            child.call(namespace, _put, change.family, change.place, change.before, iptables.undisturbed)
        except (InterceptorError, OSError) as error:
            yield str(error)


def _describe(change: Change) -> str:
    """A change as a phrase: 'IPv4 nat: 14 rules' or 'IPv6 filter: removed'."""
    where = f"IPv{change.family} {change.place.value}"
    if isinstance(change.wanted, Routing):
        marks = ", ".join(map(str, change.wanted.marks))
        return f"{where}: what is marked {marks} is delivered here" if marks else f"{where}: removed"
    rules = sum(map(len, change.wanted.chains.values()))
    return (
        f"{where}: {rules} rules in {', '.join(sorted(change.wanted.chains))}"
        if rules
        else f"{where}: removed"
    )


def _survey() -> tuple[dict[Family, frozenset[Table]], tuple[str, ...]]:
    """In a child: the tables of each family, and the IPv6 addresses that are not loopback's."""
    try:
        lines = Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines()
    except FileNotFoundError:  # a kernel without IPv6
        lines = []
    found = [(IPv6Address(int(fields[0], 16)), fields[5]) for fields in map(str.split, lines)]
    return (
        {family: iptables.existing_tables(family) for family in FAMILIES},
        tuple(f"{address} on {interface}" for address, interface in found if not address.is_loopback),
    )


def _kernel_has_ipv6_nat() -> bool:
    """Asked in a namespace made for the question where that is allowed, because asking makes the table."""
    return child.call(None, _try_ipv6_nat)


def _try_ipv6_nat() -> bool:
    ctypes.CDLL(None).unshare(
        _CLONE_NEWNET
    )  # refused without CAP_SYS_ADMIN: then the table is made here, empty
    return iptables.has_table(6, Table.NAT)


def _prepare() -> None:
    if os.geteuid() != 0:
        raise KernelError("reading and changing redirect rules needs root; run the command with sudo")
    iptables.load()


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Ctrl-C and termination are delivered when the transaction is over."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
