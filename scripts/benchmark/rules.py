"""How long the redirect rules take: sidecar-setup beside iptables-restore of the same rules, each in a fresh namespace."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from pathlib import Path
from typing import Final

from scripts.benchmark.results import Timing
from scripts.benchmark.stage import WORK, StageError, run

NAMESPACE: Final = "rules"
CIDRS: Final = 1000
_PROGRAMS: Final = Path(".venv/bin")
_START: Final = "bare interpreter: start"
_PLAN: Final = "sidecar-setup plan"
_RESTORE: Final = "iptables-legacy-restore, both families"
_SLOWER: Final = frozenset(("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"))  # no operator has them

_Command = tuple[list[str], str]  # with what it reads


def measure(rounds: int) -> list[Timing]:
    """Medians, one run of each after the other in every round: a machine that is slow for a while is slow for all.

    The modules are compiled, as an installed package's are; the first round is not counted.
    """
    setup, python = str(_PROGRAMS / "sidecar-setup"), str(_PROGRAMS / "python")
    text = run(setup, "plan", "--output", "iptables")
    v4, _, v6 = text.partition("# IPv6")
    enter = ["nsenter", f"--net=/run/netns/{NAMESPACE}"]
    many = ",".join(f"10.{number // 250}.{number % 250}.0/25" for number in range(CIDRS))
    apply = [*enter, setup, "apply", "--backend"]
    cidrs = ["--exclude-egress-cidrs", many]
    commands: dict[str, list[_Command]] = {
        _START: [([python, "-c", "pass"], "")],
        _PLAN: [([setup, "plan"], "")],
        _RESTORE: [
            ([*enter, "iptables-legacy-restore", "--noflush"], v4),
            ([*enter, "ip6tables-legacy-restore", "--noflush"], v6.partition("\n")[2]),
        ],
        "apply, legacy": [([*apply, "legacy"], "")],
        "apply, nft": [([*apply, "nft"], "")],
        f"apply of {CIDRS} CIDRs, legacy": [([*apply, "legacy", *cidrs], "")],
        f"apply of {CIDRS} CIDRs, nft": [([*apply, "nft", *cidrs], "")],
    }
    took: dict[str, list[float]] = {title: [] for title in commands}
    for _ in range(rounds + 1):
        for title, several in commands.items():
            took[title].append(_time(title, several))
    median = {title: statistics.median(times[1:]) for title, times in took.items()}
    return [
        *(Timing(title, median[title]) for title in (_START, _PLAN, _RESTORE)),
        Timing("restore plus bare interpreter", median[_RESTORE] + median[_START]),
        Timing("restore plus sidecar-setup plan", median[_RESTORE] + median[_PLAN]),
        *(Timing(title, median[title]) for title in commands if title.startswith("apply")),
    ]


def _time(title: str, commands: list[_Command]) -> float:
    """Milliseconds of all commands together, in a namespace where no rule is."""
    environment = {name: text for name, text in os.environ.items() if name not in _SLOWER}
    environment["PYTHONPYCACHEPREFIX"] = str(WORK / "compiled")
    run("ip", "netns", "add", NAMESPACE)
    try:
        began = time.perf_counter()
        for argv, text in commands:
            done = subprocess.run(
                argv, input=text, text=True, capture_output=True, check=False, timeout=60, env=environment
            )
            if done.returncode:
                raise StageError(f"{title}: {done.stderr.strip()}")
        return (time.perf_counter() - began) * 1000
    finally:
        run("ip", "netns", "del", NAMESPACE)
