"""Rules and what goes with them: the state file, live flows that are drained, connections older than the rules."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from interceptor.errors import KernelError
from interceptor.kernel import child, rules, state_file
from interceptor.model.record import Record
from interceptor.redirect.rules import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from interceptor.config.redirect import Backend, Mark, RedirectSettings
    from interceptor.model.connection import Direction
    from interceptor.redirect.rules import Ruleset

POLL_SECONDS: Final = 0.2  # between two looks at the flows that are left


class Drained(Record):
    """How the drain went."""

    left: int  # flows that the removal cuts off
    interrupted: bool = False

    @property
    def remark(self) -> str:
        """What an operator must know of it, if anything."""
        if not self.left:
            return ""
        why = "the wait was interrupted" if self.interrupted else "the time is over"
        return f"{why}; redirected connections cut off: {self.left}"


def install(
    settings: RedirectSettings, namespace: Path | None, *, backend: Backend | None = None, wait: float
) -> tuple[rules.Applied, str]:
    """Apply, and tell the proxy; the second value is a sentence where that could not be told."""
    applied = rules.apply(settings, namespace, backend=backend, wait=wait)
    assert applied.place is not None
    return applied, state_file.write(settings, applied.place, applied.choice.backend.value)


def uninstall(namespace: Path | None, *, wait: float) -> rules.Removed:
    """Remove, and forget."""
    removed = rules.remove(namespace, wait=wait)
    state_file.delete(namespace)
    return removed


def older(settings: RedirectSettings, ruleset: Ruleset, namespace: Path | None, *, reset: bool) -> str:
    """A sentence about connections that bypass the rules because they are older; ``reset`` ends them."""
    from interceptor.kernel import connections  # noqa: PLC0415 (only where there are open ones)
    from interceptor.redirect.existing import describe  # noqa: PLC0415

    ports = {settings.ingress_port, settings.egress_port}
    try:
        found, ended = connections.existing(namespace, ruleset, ports, reset=reset)
    except KernelError as error:
        return f"whether connections older than the rules bypass them is unknown: {error}"
    return describe(found, ended) if found else ""


def live_flows(namespace: Path | None) -> tuple[dict[Direction, int], str]:
    """How many live connections our rules lead, by direction, whatever the configuration was; or why that is unknown."""
    from interceptor.kernel import conntrack  # noqa: PLC0415 (not for apply, as below)
    from interceptor.model.connection import Direction  # noqa: PLC0415

    leads_to, taken = child.call(namespace, _leads_to)
    try:
        found = conntrack.live(namespace, frozenset().union(*leads_to.values()), taken)
    except KernelError as error:
        return {}, f"live connections are not counted: {error}"
    flows = {
        direction: sum(found.redirected[port] for port in ports) for direction, ports in leads_to.items()
    }
    flows[Direction.INGRESS] += found.taken
    return flows, ""


def _leads_to() -> tuple[dict[Direction, frozenset[int]], Mark | None]:
    """In a child: the ports our rules lead to, and the mark of what TPROXY takes."""
    from interceptor.kernel import readback  # noqa: PLC0415
    from interceptor.redirect import listing  # noqa: PLC0415

    texts = [text for family in FAMILIES for text in readback.legacy(family).values()]
    texts.append(readback.nft())
    return listing.ports(texts), listing.taken(texts)


def drain(
    namespace: Path | None, seconds: float, *, wait: float, progress: Callable[[int, float], None]
) -> Drained:
    """Unhook, so that nothing new is captured, and wait until no redirected connection lives, or the time is over.

    ``progress`` gets the number of flows left and the seconds left, whenever the number changes. Ctrl-C ends the waiting.
    """
    from interceptor.kernel import conntrack  # noqa: PLC0415
    from interceptor.kernel.unhook import unhook  # noqa: PLC0415

    leads_to, taken = child.call(namespace, _leads_to)  # before: what is unhooked may be listed otherwise
    ports = frozenset().union(*leads_to.values())
    unhook(namespace, wait=wait)
    deadline, told = time.monotonic() + seconds, -1
    try:
        while True:
            left = conntrack.live(namespace, ports, taken).total
            remaining = deadline - time.monotonic()
            if left != told:
                progress(left, max(remaining, 0.0))
                told = left
            if left == 0 or remaining <= 0:
                return Drained(left)
            time.sleep(min(POLL_SECONDS, remaining))
    except KeyboardInterrupt:
        return Drained(told, interrupted=True)
