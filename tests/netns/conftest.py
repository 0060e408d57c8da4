"""What most tests of the whole gateway stand on: two namespaces without rules at the end, and a directory for its files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.netns import Topology, topology
from tests.support.processes import run, sidecar_setup


@pytest.fixture
def bed() -> Iterator[Topology]:
    with topology() as made:
        yield made
        assert run(sidecar_setup("remove", "--netns", made.app.name)).returncode == 0


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Unlike pytest's own, a directory that the proxy's user may enter, whoever else runs tests here."""
    with tempfile.TemporaryDirectory(prefix="icp-") as made:
        Path(made).chmod(0o755)
        yield Path(made)
