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


def measure(rounds: int) -> list[Timing]:
    """Medians. The modules are compiled, as an installed package's are; the first call of each kind is not counted."""
    setup, python = str(_PROGRAMS / "sidecar-setup"), str(_PROGRAMS / "python")
    text = run(setup, "plan", "--output", "iptables")
    v4, _, v6 = text.partition("# IPv6")
    enter = ["nsenter", f"--net=/run/netns/{NAMESPACE}"]
    restore = [
        ([*enter, "iptables-legacy-restore", "--noflush"], v4),
        ([*enter, "ip6tables-legacy-restore", "--noflush"], v6.partition("\n")[2]),
    ]
    many = ",".join(f"10.{number // 250}.{number % 250}.0/25" for number in range(CIDRS))
    apply = [setup, "apply", "--netns", NAMESPACE, "--backend"]
    cidrs = ["--exclude-egress-cidrs", many]
    start = _timed("bare interpreter: start", [([python, "-c", "pass"], "")], rounds)
    command = _timed("sidecar-setup plan", [([setup, "plan"], "")], rounds)
    restored = _timed("iptables-legacy-restore, both families", restore, rounds)
    return [
        start,
        command,
        restored,
        Timing("restore plus bare interpreter", restored.milliseconds + start.milliseconds),
        Timing("restore plus sidecar-setup plan", restored.milliseconds + command.milliseconds),
        _timed("apply, legacy", [([*apply, "legacy"], "")], rounds),
        _timed("apply, nft", [([*apply, "nft"], "")], rounds),
        _timed(f"apply of {CIDRS} CIDRs, legacy", [([*apply, "legacy", *cidrs], "")], rounds),
        _timed(f"apply of {CIDRS} CIDRs, nft", [([*apply, "nft", *cidrs], "")], rounds),
    ]


def _timed(title: str, commands: list[tuple[list[str], str]], rounds: int) -> Timing:
    """The median of all commands together, each time in a namespace where no rule is."""
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(WORK / "compiled")
    took = []
    for number in range(rounds + 1):
        run("ip", "netns", "add", NAMESPACE)
        try:
            began = time.perf_counter()
            for argv, text in commands:
                done = subprocess.run(
                    argv, input=text, text=True, capture_output=True, check=False, timeout=60, env=environment
                )
                if done.returncode:
                    raise StageError(f"{title}: {done.stderr.strip()}")
            if number:
                took.append((time.perf_counter() - began) * 1000)
        finally:
            run("ip", "netns", "del", NAMESPACE)
    return Timing(title, statistics.median(took))
