"""What other programs do to rules of ours."""

from __future__ import annotations

from interceptor.config.redirect import Backend
from interceptor.redirect.rules import Family
from tests.support.netns import Namespace


def flush(where: Namespace, backend: Backend, family: Family, table: str = "nat") -> None:
    """Let nothing lead to our rules in a table any more; in nftables, to those of either family."""
    if backend is Backend.LEGACY:
        where.run("iptables-legacy" if family == 4 else "ip6tables-legacy", "-t", table, "-F")
        return
    for hook in ("PREROUTING", "OUTPUT"):
        where.run("nft", "flush", "chain", "inet", "interceptor", f"{table}_{hook}", check=hook == "OUTPUT")
