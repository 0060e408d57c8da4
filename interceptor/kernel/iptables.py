"""The legacy backend: our chains in one x_tables table, read and written by python-iptables.

Every function here runs in a child process of its own that entered the namespace (python-iptables keeps one address
family and one namespace per process). What is ours in a table is a ``Layout``, plain bytes; writing one is one commit,
which the kernel takes whole or refuses.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from interceptor.config.redirect import Backend
from interceptor.errors import KernelError
from interceptor.kernel import x_entry
from interceptor.kernel.driver import Step
from interceptor.kernel.iptc_import import import_iptc
from interceptor.model.record import Record, replace
from interceptor.redirect.foreign import DNAT, REDIRECT, TPROXY, ForeignRule
from interceptor.redirect.rules import CHAIN_PREFIX, Jump, Table
from interceptor.redirect.xtables import Entry, Extension, entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import ModuleType

    from interceptor.kernel.x_entry import Counters
    from interceptor.redirect.rules import Family, Rule, Ruleset

ATTEMPTS: Final = 10  # commits that met a concurrent change before we give up
_DOES: Final = {"REDIRECT": REDIRECT, "DNAT": DNAT, "NETMAP": DNAT, "TPROXY": TPROXY}
_INTERFACE_SIZE: Final = 16  # IFNAMSIZ
_MORE_TARGETS: Final = frozenset(("CONNMARK", "CT", "TPROXY"))
_SUPPLEMENTARY_SINCE: Final = (5, 3)  # XT_OWNER_SUPPL_GROUPS; an older kernel does not look at the bit


class Hooking(NamedTuple):
    """A jump to one of our chains: where it stands, from 0, and its bytes."""

    chain: str
    position: int
    entry: bytes


class MissingTableError(KernelError):
    """The kernel has no such table."""


class Layout(Record):
    """What is ours in one table: our chains' rules in order, and the jumps to them, as normal bytes."""

    chains: dict[str, tuple[bytes, ...]]
    jumps: tuple[Hooking, ...]


NOTHING: Final = Layout({}, ())


class Installed(Record):
    """What is ours in a table with how often it was hit, and the foreign rules that a packet meets first."""

    layout: Layout
    counters: dict[str, tuple[Counters, ...]]
    before_ours: dict[str, tuple[str, ...]]  # per built-in chain that leads to one of ours


def load() -> ModuleType:
    """Import python-iptables. In the parent, once for all children."""
    try:
        module = import_iptc()
    except ModuleNotFoundError as error:
        raise KernelError(
            f"the Python library '{error.name}' is missing; install it with 'pip install python-iptables'"
        ) from error
    except Exception as error:  # whatever ctypes makes of a missing or foreign library
        raise KernelError(
            "python-iptables cannot find the iptables libraries (libip4tc, libip6tc, libxtables): "
            f"install iptables ('apt install iptables') [{type(error).__name__}: {error}]"
        ) from error
    # Of a target it does not know, python-iptables opens, and so creates, every table to look for a chain of that name.
    known: list[str] = module.Target.STANDARD_TARGETS
    known += sorted(_MORE_TARGETS.difference(known))
    return module


def without_names() -> None:
    """In a helper, for good: iptables' owner match looks for a user of the name '1337' before it takes it for a number.

    That is in vain, since ours are numbers; and it may ask a directory server, in a namespace from which there is no way to it.
    """
    with contextlib.suppress(AttributeError):  # musl has no such services
        for database in (b"passwd", b"group"):
            ctypes.CDLL(None).__getattr__("__nss_configure_lookup")(database, b"files")


def has_table(family: Family, table: Table) -> bool:
    """Whether the kernel can make this table; makes it. KernelError: we may not ask."""
    try:
        _open(family, table)
    except MissingTableError:
        return False
    return True


def read(family: Family, table: Table) -> Layout:
    """What is ours in a table that exists."""
    return _layout(_open(family, table), family)


def read_with_counters(family: Family, table: Table) -> Installed:
    """The same for ``status``."""
    opened = _open(family, table)
    layout = _layout(opened, family)
    counters = {
        name: tuple(x_entry.counters(data, family) for data, _ in _entries(opened, family, name))
        for name in layout.chains
    }
    before_ours = {
        jump.chain: tuple(
            x_entry.describe(x_entry.normal(data, family, target), family)
            for data, target in list(_entries(opened, family, jump.chain))[: jump.position]
        )
        for jump in layout.jumps
    }
    return Installed(layout, counters, before_ours)


def foreign_rules(family: Family, table: Table) -> dict[str, tuple[ForeignRule, ...]]:
    """The chains of others in a table that exists."""
    opened = _open(family, table)
    names = [chain.name for chain in opened.chains if not chain.name.startswith(CHAIN_PREFIX)]
    return {
        name: tuple(
            ForeignRule(
                x_entry.describe(x_entry.normal(data, family, target), family),
                _DOES.get(target, ""),
                (target,),
            )
            for data, target in _entries(opened, family, name)
            if not target.startswith(CHAIN_PREFIX)
        )
        for name in names
    }


def build(ruleset: Ruleset, family: Family, table: Table) -> Layout:
    """What a ruleset wants in a table."""
    chains = ruleset.chains_in(family, table)
    return Layout(
        {chain.name: tuple(_each_bytes(ruleset, chain.rules_for(family), family)) for chain in chains},
        tuple(sorted(Hooking(chain.hook.value, 0, _bytes(ruleset, chain.jump, family)) for chain in chains)),
    )


def write(family: Family, table: Table, wanted: Layout, before_commit: Callable[[Step], None]) -> None:
    """Make what is ours in a table be ``wanted``, in one commit; again when another program was quicker."""
    opened = _open(family, table)
    for attempt in range(1, ATTEMPTS + 1):
        _change(opened, _layout(opened, family), wanted)
        _keep_policy_counters(opened)
        before_commit(Step(Backend.LEGACY, attempt, family, table))
        try:
            opened.commit()
        except load().IPTCError as error:
            if os.strerror(errno.EAGAIN) not in str(error):
                raise KernelError(
                    f"the kernel refused our rules in the IPv{family} {table.value} table ({_reason(error)}); a match "
                    "may be missing: 'modprobe -a xt_owner xt_mark xt_multiport xt_comment xt_addrtype "
                    "xt_conntrack xt_connmark xt_REDIRECT xt_TPROXY xt_CT ipt_REJECT ip6t_REJECT'"
                ) from error
            opened.refresh()
        else:
            return
    raise KernelError(
        f"another program kept changing the IPv{family} {table.value} table during {ATTEMPTS} attempts; "
        "stop it, then run the command again"
    )


def _change(table: Any, current: Layout, wanted: Layout) -> None:
    """Stage the changes; what is right already is not touched and keeps its counters."""
    moves = current.jumps != wanted.jumps
    differing = {name: rules for name, rules in wanted.chains.items() if current.chains.get(name) != rules}
    unwanted = current.chains.keys() - wanted.chains.keys()
    for jump in sorted(current.jumps, reverse=True) if moves else ():  # from the end: positions stay true
        _delete(table, jump)
    for name in differing.keys() - current.chains.keys():
        table.create_chain(name)
    for name in differing.keys() | unwanted:
        table.flush_entries(name)
    for name in unwanted:
        table.delete_chain(name)
    for name, rule in ((name, rule) for name, rules in differing.items() for rule in rules):
        table.append_entry(name, ctypes.create_string_buffer(rule, len(rule)))
    for jump in sorted(wanted.jumps) if moves else ():
        staged = ctypes.create_string_buffer(jump.entry, len(jump.entry))
        table.insert_entry(jump.chain, staged, min(jump.position, _count(table, jump.chain)))


def _keep_policy_counters(table: Any) -> None:
    """A commit sets those of the built-in chains to zero (iptables-legacy's own as well), unless they are set."""
    for name in (chain.name for chain in table.chains if table.builtin_chain(chain.name)):
        policy, counters = table.get_policy(name)
        table.set_policy(name, policy, counters)


def _delete(table: Any, jump: Hooking) -> None:
    """By position: python-iptables wraps only the deletion by content, which takes the first of equal rules."""
    library = table._iptc  # noqa: SLF001 (see above)
    if library.iptc_delete_num_entry(jump.chain.encode(), jump.position, table._handle) != 1:  # noqa: SLF001
        raise KernelError(f"cannot unhook rule {jump.position + 1} of {jump.chain}: {table.strerror()}")


def _layout(table: Any, family: Family) -> Layout:
    names = [chain.name for chain in table.chains]
    ours = [name for name in names if name.startswith(CHAIN_PREFIX)]
    return Layout(
        {
            name: tuple(
                x_entry.normal(data, family, target) for data, target in _entries(table, family, name)
            )
            for name in ours
        },
        tuple(
            Hooking(name, position, x_entry.normal(data, family, target))
            for name in sorted(set(names) - set(ours))
            for position, (data, target) in enumerate(_entries(table, family, name))
            if target in ours
        ),
    )


def _entries(table: Any, family: Family, chain: str) -> Iterator[tuple[bytes, str]]:
    """Each rule's bytes and the name of its target."""
    current = table.first_rule(chain)
    while current:
        address = ctypes.addressof(current)
        size = x_entry.length(ctypes.string_at(address, x_entry.head_size(family)), family)
        yield ctypes.string_at(address, size), table.get_target(current).decode()
        current = table.next_rule(current)


def _count(table: Any, chain: str) -> int:
    count, current = 0, table.first_rule(chain)
    while current:
        count, current = count + 1, table.next_rule(current)
    return count


def _each_bytes(ruleset: Ruleset, rules: Iterable[Rule], family: Family) -> Iterator[bytes]:
    """The same of several. Of those that follow each other and differ in their addresses only the first one is built.

    python-iptables takes a third of a millisecond for a rule, and an operator may exclude thousands of networks.
    """
    like, built = None, b""
    for rule in rules:
        match = rule.match
        kind = (
            replace(match, source=None, destination=None),
            match.source is None,
            match.destination is None,
            rule.verdict,
        )
        if kind == like:
            built = x_entry.readdressed(built, family, match.source, match.destination, ruleset.comment(rule))
        else:
            like, built = kind, _bytes(ruleset, rule, family)
        yield built


def _bytes(ruleset: Ruleset, rule: Rule, family: Family) -> bytes:
    """A planned rule as the kernel will have it."""
    if rule.match.supplementary and _kernel() < _SUPPLEMENTARY_SINCE:
        raise KernelError(
            f"this kernel ({os.uname().release}) cannot look at supplementary groups, and would ignore that they were asked "
            "for; leave --supplementary-groups out, or use Linux 5.3 or later"
        )
    form = entry(ruleset, rule, family)
    try:
        # A jump is built as RETURN and renamed: python-iptables would open, and so create, every table to look for the chain.
        built = _rule(form, family, "RETURN" if isinstance(rule.verdict, Jump) else form.target.name)
    except (load().XTablesError, AttributeError, ValueError) as error:
        raise KernelError(
            f"iptables on this machine cannot express rule {rule.id}: {error}; update iptables"
        ) from error
    return x_entry.normal(bytes(built.rule), family, form.target.name)


def _kernel() -> tuple[int, ...]:
    """The kernel's version, as far as it is numbers."""
    return tuple(int(part) for part in re.findall(r"[0-9]+", os.uname().release)[:2])


def _rule(form: Entry, family: Family, target: str) -> Any:
    library = load()
    rule = library.Rule() if family == 4 else library.Rule6()
    protocol = "icmpv6" if form.protocol == "ipv6-icmp" else form.protocol  # python-iptables' name for it
    for name, value in (("src", form.source), ("dst", form.destination), ("protocol", protocol)):
        if value is not None:
            setattr(rule, name, value)
    for name, value in (("in", form.in_interface), ("out", form.out_interface)):
        if value is not None:
            _set_interface(rule.get_ip(), name, value)
    for extension in form.matches:
        _set_parameters(rule.create_match(extension.name), extension)
    _set_parameters(rule.create_target(target), form.target)
    return rule


def _set_parameters(made: Any, extension: Extension) -> None:
    for parameter, value in extension.parameters:
        words = value.split(" ")
        if parameter.startswith("!"):
            words.insert(0, "!")
        made.set_parameter(parameter.removeprefix("!"), words)
    # The extension's own check, which also completes it. The public final_check() would first print and parse it again,
    # through file descriptor 1.
    made._final_check()  # noqa: SLF001


def _set_interface(address: Any, direction: str, name: str) -> None:
    """Name and mask; python-iptables' IPv6 mask has one bit a byte, so that 'lo' would match 'bond0' as well."""
    significant = (
        len(name) - 1 if name.endswith("+") else len(name) + 1
    )  # with its NUL, unless any ending will do
    setattr(address, f"{direction}iface", name.removesuffix("+").encode())
    setattr(address, f"{direction}iface_mask", b"\xff" * min(significant, _INTERFACE_SIZE))


def _open(family: Family, table: Table) -> Any:
    library = load()
    kind = library.Table if family == 4 else library.Table6
    try:
        opened = kind(table.value, autocommit=False)
    except library.IPTCError as error:
        what = f"cannot open the IPv{family} {table.value} table of iptables: {_reason(error)}"
        if os.strerror(errno.EPERM) in str(error) or "Permission denied" in str(error):
            raise KernelError(f"{what}; give this process CAP_NET_ADMIN and CAP_NET_RAW") from error
        module = f"ip{'6' if family == 6 else ''}table_{table.value}"
        raise MissingTableError(f"{what}; load it with 'modprobe {module}'") from error
    opened.refresh()  # python-iptables caches tables by name; a child inherits the cache
    return opened


def _reason(error: Exception) -> str:
    """The kernel's words out of python-iptables' message, which prints them as bytes."""
    return str(error).rpartition(": ")[2].removeprefix("b").strip("'\"")
