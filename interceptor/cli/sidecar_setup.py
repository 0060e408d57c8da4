"""The ``sidecar-setup`` command: the redirect rules. Its commands are in ``rule_commands`` and ``inspection``."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def main() -> None:
    """Entry point. A third of such a short life would go into looking for garbage and taking everything apart at the end."""
    gc.disable()  # before anything large is imported
    status = run(sys.argv[1:])
    sys.stderr.flush()
    os._exit(status)  # standard output was written out, or its failure told


def run(arguments: Sequence[str]) -> int:
    """Do what the command line asks and return the exit status."""
    from interceptor.cli import program, quick  # noqa: PLC0415 (see above)

    called = quick.read(arguments)
    outcome = program.guarded("sidecar-setup", arguments, called or (lambda: _by_typer(arguments)))
    return outcome if isinstance(outcome, int) else 0


def _by_typer(arguments: Sequence[str]) -> object:
    from interceptor.cli import program  # noqa: PLC0415
    from interceptor.cli.rule_app import app  # noqa: PLC0415

    return program.parsed(app(arguments), "sidecar-setup", arguments)
