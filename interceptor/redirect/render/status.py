"""What is installed, for a person and for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from interceptor.config.redirect import Backend
from interceptor.redirect.nftables import FAMILY, TABLE
from interceptor.redirect.rules import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from interceptor.model.connection import Direction
    from interceptor.redirect.status import Hits, InstalledChain, Status


_BACKENDS: Final = {
    Backend.LEGACY: "iptables' legacy tables",
    Backend.NFT: f"nftables' table {FAMILY} {TABLE}",
}


def text(status: Status, flows: Mapping[Direction, int] | None = None) -> str:
    """Per family: which configuration, each rule with its hits, and what is wrong; and the live flows."""
    return "\n".join(_lines(status, flows or {})) + "\n"


def _lines(status: Status, flows: Mapping[Direction, int]) -> Iterator[str]:
    if not status.chains:
        yield "Not installed."
        yield from (f"Warning: {warning}." for warning in status.warnings())
        return
    backends = " and ".join(_BACKENDS[backend] for backend in status.backends)
    yield f"Installed: configuration {', '.join(status.hashes) or 'unknown'}, in {backends}."
    for families in dict.fromkeys(chain.families for chain in status.chains):
        yield f"{' and '.join(f'IPv{family}' for family in families)}:"
        for chain in (chain for chain in status.chains if chain.families == families):
            yield f"  {chain.table.value} {chain.name}, {_hooking(chain)}"
            yield from (f"    {hits.packets:>10} hits  {_name(hits)}" for hits in chain.rules)
    for family in FAMILIES:
        if not status.of(family):
            yield f"IPv{family}: nothing installed"
    if flows:
        counts = ", ".join(f"{number} {direction.value}" for direction, number in flows.items())
        yield f"Live redirected connections: {counts}."
    for warning in status.warnings():
        yield f"Warning: {warning}."


def _hooking(chain: InstalledChain) -> str:
    if chain.hook is None:
        return "not hooked in"
    before = len(chain.before_ours)
    return f"from {chain.hook}" + (f" after {before} foreign rule{'s' * (before > 1)}" if before else "")


def _name(hits: Hits) -> str:
    return hits.tag.rule if hits.tag else "(not ours)"


def as_json(status: Status, flows: Mapping[Direction, int] | None = None) -> str:
    """The same as one indented JSON object."""
    form = {
        "installed": bool(status.chains),
        "hash": status.hashes[0] if len(status.hashes) == 1 else None,
        "backends": [backend.value for backend in status.backends],
        "families": {
            str(family): {
                "installed": bool(status.of(family)),
                "chains": [_chain(chain) for chain in status.of(family)],
            }
            for family in FAMILIES
        },
        "live": {direction.value: number for direction, number in (flows or {}).items()},
        "warnings": list(status.warnings()),
    }
    return json.dumps(form, indent=2) + "\n"


def _chain(chain: InstalledChain) -> dict[str, object]:
    return {
        "backend": chain.backend.value,
        "counted_families": list(chain.families),
        "table": chain.table.value,
        "name": chain.name,
        "hook": chain.hook,
        "foreign_rules_before": list(chain.before_ours),
        "rules": [
            {
                "id": hits.tag.rule if hits.tag else None,
                "hash": hits.tag.hash if hits.tag else None,
                "packets": hits.packets,
                "bytes": hits.bytes,
            }
            for hits in chain.rules
        ],
    }
