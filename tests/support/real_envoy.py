"""The real Envoy, which scripts/peers installs, for tests that ask it as well."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

INSTALLED = Path(__file__).parents[2] / ".venv-bench"


def copied_to(directory: Path) -> Path:
    """The program where any user may start it. Without one the test is skipped."""
    binary = next(INSTALLED.glob("lib/python3*/site-packages/envoy/_bin/envoy"), None)
    if binary is None:
        pytest.skip("needs the real Envoy: scripts/peers installs it in .venv-bench")
    return Path(shutil.copy(binary, directory / "envoy"))
