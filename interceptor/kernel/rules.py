"""Install, read and remove the redirect rules: all tables, families and backends, or none.

The transaction: hold the xtables lock, look at what there is, decide what is wanted, write piece by piece (each write is
atomic in the kernel), and when one fails put back what was there in those before it. Signals wait until it is over; a
kill -9 in the middle leaves whole tables only, which the next apply or remove completes.
"""

from __future__ import annotations

import contextlib
import os
import signal
from ipaddress import IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from interceptor.config.redirect import DEFAULT_WAIT, Backend, Ipv6Policy
from interceptor.errors import InterceptorError, KernelError
from interceptor.kernel import child, netns, tables, xtables_lock
from interceptor.kernel.driver import undisturbed
from interceptor.kernel.listeners import any_open
from interceptor.kernel.state_file import here
from interceptor.model.record import Record
from interceptor.redirect.foreign import Choice, Presence, choose, conflicts
from interceptor.redirect.ipv6 import Ipv6, decide
from interceptor.redirect.plan import plan
from interceptor.redirect.rules import Ruleset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from interceptor.config.redirect import RedirectSettings
    from interceptor.kernel.driver import Change, Driver, Step
    from interceptor.kernel.iproute import RoutingChange
    from interceptor.redirect.rules import Detour
    from interceptor.redirect.state_file import Place
    from interceptor.redirect.status import Status

_SIGNALS: Final = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})
# What a backend holds where it has no table; one of nftables is for both families.
_EMPTY: Final = {each: Presence(ours=False, foreign=(), ipv6_nat=each is Backend.NFT) for each in Backend}


class Applied(Record):
    """What ``apply`` did, or with ``dry_run`` would have done."""

    outcome: Literal["installed", "updated", "unchanged"]
    ruleset: Ruleset
    ipv6: Ipv6
    changes: tuple[str, ...]
    choice: Choice
    warnings: tuple[str, ...]
    place: Place | None = None  # where, unless it was only asked what would be done
    busy: bool = False  # there are open connections, which may be older than the rules


class Removed(Record):
    """What ``remove`` did."""

    outcome: Literal["removed", "absent"]
    changes: tuple[str, ...]


def apply(
    settings: RedirectSettings,
    namespace: Path | None,
    *,
    backend: Backend | None = None,
    wait: float = DEFAULT_WAIT,
    dry_run: bool = False,
    before_commit: Callable[[Step], None] = undisturbed,
) -> Applied:
    """Install the rules, or change what is installed into them. KernelError: nothing was changed.

    Without ``backend`` one is chosen; rules of ours in the other are removed when the new ones stand.
    """
    _need_root()
    place, busy = None, False
    with contextlib.ExitStack() as stack:
        if not dry_run:
            stack.enter_context(xtables_lock.held(wait))
            stack.enter_context(_signals_wait())
        standing = _standing(namespace)
        _prepare(backend, standing)
        helpers = stack.enter_context(child.Helpers(namespace, before_commit))
        found = {
            each: _driver(each).look(helpers) if standing.has(each) else _EMPTY[each] for each in Backend
        }
        choice = Choice(backend, "--backend asks for it") if backend else _choose(found, helpers)
        ipv6 = _decide_ipv6(settings.ipv6, found[choice.backend], helpers, dry_run=dry_run)
        ruleset = plan(settings, ipv6)
        wanted = {each: Ruleset("", ()) for each, presence in found.items() if presence.ours}
        # Policy routing of ours stands only with rules of ours in the mangle table, or where an apply was killed.
        marks = ruleset.detour is not None or any(presence.mangle for presence in found.values())
        changes = [
            *(_routing(helpers, ruleset.detour) if marks or standing.route else ()),
            *_changes(helpers, {**wanted, choice.backend: ruleset}),
        ]
        pending = [change for change in changes if change.needed]
        if not dry_run:
            _write(helpers, pending, before_commit)
            place, busy = helpers.call(4, _around)
    fresh = all(change.installs for change in changes)
    outcome: Literal["installed", "updated", "unchanged"] = "installed" if fresh else "updated"
    return Applied(
        outcome if pending else "unchanged",
        ruleset,
        ipv6,
        tuple(change.phrase for change in pending),
        choice,
        tuple(
            sentence
            for presence in found.values()
            for sentence in conflicts(choice.backend, presence.foreign)
        ),
        place,
        busy,
    )


def remove(
    namespace: Path | None,
    *,
    wait: float = DEFAULT_WAIT,
    before_commit: Callable[[Step], None] = undisturbed,
) -> Removed:
    """Remove all that is ours, whoever installed it with whatever flags. KernelError: nothing was changed."""
    _need_root()
    nothing = dict.fromkeys(Backend, Ruleset("", ()))
    with xtables_lock.held(wait), _signals_wait(), child.Helpers(namespace, before_commit) as helpers:
        changes = (*_routing(helpers, None), *_changes(helpers, nothing))
        pending = [change for change in changes if change.needed]
        _write(helpers, pending, before_commit)
    return Removed("removed" if pending else "absent", tuple(change.phrase for change in pending))


def status(namespace: Path | None) -> Status:
    """What is installed. Reads only; makes no table."""
    from interceptor.redirect.status import Status  # noqa: PLC0415 (not for apply)

    _need_root()
    with child.Helpers(namespace) as helpers:
        found = [_driver(each).look(helpers) for each in Backend]
        marks = any(presence.mangle for presence in found) or helpers.call(4, tables.standing).route
        return Status(
            tuple(chain for each in Backend for chain in _driver(each).installed(helpers)),
            tuple(chain for presence in found for chain in presence.foreign),
            {each.family: each.whole for each in _routing(helpers, None) if each.needed} if marks else {},
        )


def _standing(namespace: Path | None) -> tables.Standing:
    return tables.standing() if namespace is None else netns.call_inside(namespace, tables.standing)


def _prepare(backend: Backend | None, standing: tables.Standing) -> None:
    """Load before the helpers are forked what more than one of them will need; ask what takes long to answer."""
    chosen_by_kernel = backend is None and not standing.has(Backend.NFT)
    if backend is Backend.LEGACY or standing.has(Backend.LEGACY) or chosen_by_kernel:
        from interceptor.kernel import legacy  # noqa: PLC0415 (see _driver)

        legacy.prepare()
    if backend is Backend.NFT or (
        backend is None and not standing.has(Backend.LEGACY) and not chosen_by_kernel
    ):
        from interceptor.kernel import nftables  # noqa: PLC0415 (see _driver)

        nftables.prepare()


def _driver(backend: Backend) -> Driver:
    """Loaded for what there is, or shall be: each takes as long to load as a plan to be made."""
    if backend is Backend.LEGACY:
        from interceptor.kernel import legacy  # noqa: PLC0415 (see above)

        return legacy
    from interceptor.kernel import nftables  # noqa: PLC0415

    return nftables


def _routing(helpers: child.Helpers, detour: Detour | None) -> Sequence[RoutingChange]:
    """What policy routing needs, or leaves."""
    from interceptor.kernel import iproute  # noqa: PLC0415 (seldom needed)

    return iproute.changes(helpers, detour)


def _choose(found: Mapping[Backend, Presence], helpers: child.Helpers) -> Choice:
    choice = choose(found[Backend.LEGACY], found[Backend.NFT])
    if choice is not None:
        return choice
    from interceptor.kernel import legacy  # noqa: PLC0415 (see _driver)

    if legacy.available(helpers):
        return Choice(Backend.LEGACY, "the kernel has it, and no nat rules say otherwise")
    return Choice(Backend.NFT, "iptables' legacy tables cannot be had here")


def _decide_ipv6(policy: Ipv6Policy, there: Presence, helpers: child.Helpers, *, dry_run: bool) -> Ipv6:
    """Ask for no more than the decision needs."""
    capture = policy in {Ipv6Policy.AUTO, Ipv6Policy.ON}
    nat = capture and (there.ipv6_nat or _kernel_has_ipv6_nat(helpers, dry_run=dry_run))
    addresses = helpers.call(4, _ipv6_addresses) if capture and not nat else ()
    return decide(policy, nat=nat, addresses=addresses)


def _changes(helpers: child.Helpers, wanted: Mapping[Backend, Ruleset]) -> list[Change]:
    """All places in these backends that hold or shall hold something of ours."""
    return [
        change for backend, ruleset in wanted.items() for change in _driver(backend).changes(helpers, ruleset)
    ]


def _order(change: Change) -> tuple[bool, int, int]:
    """What only goes comes last and in the opposite order: there is no moment with less than before or after.

    So between blocking IPv6 and capturing it, or between two backends, is no moment with neither. Where both backends
    capture a connection, the second finds it redirected already and leaves it alone.
    """
    family, place = change.rank
    return (True, -family, -place) if change.removes else (False, family, place)


def _write(helpers: child.Helpers, changes: Sequence[Change], before_commit: Callable[[Step], None]) -> None:
    """Make each change; when one fails, put the earlier ones back."""
    begun: list[Change] = []
    try:
        for change in sorted(changes, key=_order):
            begun.append(change)  # before: a child that died may have committed
            helpers.call(change.helper, change.make, before_commit)
    except (InterceptorError, OSError) as error:
        failures = list(_restore(helpers, begun))
        if failures:
            raise KernelError(
                f"{error}; and what had been changed could not be undone ({'; '.join(failures)}): "
                "run 'sidecar-setup remove', then apply again"
            ) from error
        raise KernelError(f"{error}; nothing was changed") from error


def _restore(helpers: child.Helpers, changes: Sequence[Change]) -> Iterator[str]:
    """Put back what was there, last change first; yields what could not be put back."""
    for change in reversed(changes):
        try:
            helpers.call(change.helper, change.undo, undisturbed)
        except (InterceptorError, OSError) as error:
            yield str(error)


def _around() -> tuple[Place, bool]:
    """In a helper: what to say of this namespace when the rules stand."""
    return here(), any_open()


def _ipv6_addresses() -> tuple[str, ...]:
    """In a helper: the IPv6 addresses that are not loopback's."""
    try:
        lines = Path("/proc/net/if_inet6").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:  # a kernel without IPv6
        lines = []
    found = [(IPv6Address(int(fields[0], 16)), fields[5]) for fields in map(str.split, lines)]
    return tuple(f"{address} on {interface}" for address, interface in found if not address.is_loopback)


def _kernel_has_ipv6_nat(helpers: child.Helpers, *, dry_run: bool) -> bool:
    """For the legacy backend only: a table of nftables is for both families."""
    from interceptor.kernel import legacy  # noqa: PLC0415 (see _driver)

    return legacy.can_nat(helpers, 6, elsewhere=dry_run)


def _need_root() -> None:
    if os.geteuid() != 0:
        raise KernelError("reading and changing redirect rules needs root; run the command with sudo")


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Ctrl-C and termination are delivered when the transaction is over."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
