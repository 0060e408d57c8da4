"""The rules of both backends as their own programs list them, foreign ones included. Makes no table.

For a child that is in the namespace.
"""

from __future__ import annotations

import shutil
import subprocess  # noqa: TID251 (kernel/ may start processes: these list their own tables)
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from interceptor.redirect.rules import Family

PROGRAM_SECONDS: Final = 10.0
TOOLS: Final[dict[Family, str]] = {4: "iptables-legacy", 6: "ip6tables-legacy"}


def legacy(family: Family) -> dict[str, str]:
    """What ``iptables-legacy-save`` prints of each table there is; looking into another would make it."""
    names = Path("/proc/net", "ip_tables_names" if family == 4 else "ip6_tables_names")
    try:
        tables = names.read_text(encoding="ascii").split()
    except OSError:  # no such tables, or not for us to see
        return {}
    return {table: output(f"{TOOLS[family]}-save", "-t", table) for table in sorted(tables)}


def nft(*options: str) -> str:
    """What ``nft list ruleset`` prints; nothing where that program is not installed."""
    return output("nft", *options, "list", "ruleset")


def output(program: str, *arguments: str) -> str:
    """What a program prints; nothing where there is no such program, or it fails."""
    path = shutil.which(program)
    if path is None:
        return ""
    done = subprocess.run(  # noqa: S603 (fixed commands)
        [path, *arguments], check=False, capture_output=True, text=True, timeout=PROGRAM_SECONDS
    )
    return done.stdout if done.returncode == 0 else ""
