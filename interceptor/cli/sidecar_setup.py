"""The ``sidecar-setup`` command: the redirect rules. Its commands are in ``rule_commands``."""

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
    from interceptor.cli import program  # noqa: PLC0415 (see above)
    from interceptor.cli.rule_commands import app  # noqa: PLC0415

    return program.run(app(arguments), "sidecar-setup", arguments)
