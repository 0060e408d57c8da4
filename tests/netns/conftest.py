"""What most tests of the whole gateway stand on: two namespaces without rules at the end, and a directory for its files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from interceptor.config.redirect import Backend
from interceptor.kernel import rules
from interceptor.redirect.rules import FAMILIES, Family
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


@pytest.fixture(scope="module", params=Backend, ids=lambda backend: backend.value)
def backend(request: pytest.FixtureRequest) -> Backend:
    found: Backend = request.param
    return found


@pytest.fixture(params=FAMILIES, ids=["v4", "v6"])
def family(request: pytest.FixtureRequest) -> Family:
    found: Family = request.param
    return found


@pytest.fixture
def clean(bed: Topology) -> Iterator[None]:
    """No rules of ours after a test in a bed that many tests share."""
    yield
    rules.remove(bed.app.path)
