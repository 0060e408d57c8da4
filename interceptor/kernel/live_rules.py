"""Asks the rules in the kernel, in both backends, what they do with a connection."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from interceptor.errors import KernelError
from interceptor.kernel import child, readback
from interceptor.model.connection import Direction
from interceptor.redirect import listing, live, live_iptables, live_nft, probes
from interceptor.redirect.rules import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from interceptor.config.redirect import RedirectSettings
    from interceptor.kernel.probe import Outcome
    from interceptor.redirect.rules import Family
    from interceptor.redirect.simulate import Connection, Explanation


_NFT: Final[dict[Family, str]] = {4: "ip", 6: "ip6"}


def explain(
    namespace: Path | None, connections: Sequence[Connection], settings: RedirectSettings
) -> list[Explanation]:
    """The kernel's verdict for each connection, as far as its rules can be read. Needs root."""
    if os.geteuid() != 0:
        raise KernelError(
            "reading the kernel's rules needs root; run the command with sudo, or leave out --live"
        )
    return child.call(namespace, _explain, connections, settings)


def causes(namespace: Path | None, outcomes: Sequence[Outcome], settings: RedirectSettings) -> list[str]:
    """Why each of these probes did not go as expected, by the rules in the kernel. Needs root."""
    return child.call(namespace, _causes, outcomes, settings) if outcomes else []


def _causes(outcomes: Sequence[Outcome], settings: RedirectSettings) -> list[str]:
    bases, ports = _read(settings)
    dropping = {family: live.dropping(bases, family) for family in FAMILIES}
    return [
        probes.cause(
            each.probe,
            each.result,
            live.explain(bases, probes.connection(each.probe), ports),
            dropping[each.probe.family],
        )
        for each in outcomes
    ]


def _explain(connections: Sequence[Connection], settings: RedirectSettings) -> list[Explanation]:
    bases, ports = _read(settings)
    return [live.explain(bases, connection, ports) for connection in connections]


def _read(settings: RedirectSettings) -> tuple[list[live.Base], dict[int, Direction]]:
    """All chains that the kernel calls, and which of the ports that rules lead to are the proxy's."""
    saved = {(family, "legacy"): "\n".join(readback.legacy(family).values()) for family in FAMILIES}
    listed = readback.nft("-j", "-a")
    by_iptables = live_nft.of_iptables(listed)
    for family in FAMILIES:
        if any(table.startswith(f"{_NFT[family]} ") for table in by_iptables):
            saved[family, "nft"] = readback.output(f"{_NFT[family]}tables-nft-save")
    bases = [
        base
        for (family, backend), text in saved.items()
        for base in live_iptables.tables(text, family, backend)
        if backend == "legacy" or f"{_NFT[family]} {base.table.name.split()[-1]}" in by_iptables
    ]
    bases += live_nft.tables(listed, by_iptables)
    ports = {settings.ingress_port: Direction.INGRESS, settings.egress_port: Direction.EGRESS}
    own = listing.ports([*saved.values(), readback.nft()])
    ports |= {port: direction for direction, numbers in own.items() for port in numbers}
    return bases, ports
