"""The table of kernels: what was tried counts, else the version; and the documentation shows the same table."""

from __future__ import annotations

from pathlib import Path

import pytest

from interceptor.redirect.kernel_features import COOKIE, FEATURES, FILTER, SPLICE, judge, version_text

DOCUMENTATION = Path(__file__).parents[3] / "docs" / "vm.md"


@pytest.mark.parametrize(
    ("release", "cookie", "splice"),
    [
        ("6.1.0-56-cloud-amd64", "expected", "expected"),
        ("5.14", "expected", "expected"),
        ("5.13.19-arch1", "too old", "expected"),
        ("2.6.35-custom", "too old", "expected"),
        ("2.6.32-754.el6", "too old", "too old"),
        ("unknown", "too old", "too old"),
    ],
)
def test_by_version(release: str, cookie: str, splice: str) -> None:
    kernel = judge(release, {})
    has = {row.feature: row.has for row in kernel.rows}
    assert (kernel.release, has[COOKIE], has[SPLICE]) == (release, cookie, splice)
    assert tuple(has) == FEATURES


def test_what_was_tried_counts() -> None:
    rows = {
        row.feature: row for row in judge("2.6.32-backported", {SPLICE: "", COOKIE: "no such option"}).rows
    }
    assert (rows[SPLICE].has, rows[SPLICE].said) == ("works", "")
    assert (rows[COOKIE].has, rows[COOKIE].said) == ("refused", "no such option")
    assert rows[FILTER].has == "too old"


def test_the_documentation_has_the_same_table() -> None:
    lines = DOCUMENTATION.read_text(encoding="utf-8").splitlines()
    shown = [tuple(cell.strip() for cell in line.split("|")[1:3]) for line in lines if line.startswith("| ")]
    wanted = [(feature.name, version_text(feature.since)) for feature in FEATURES]
    assert [row for row in shown if row in wanted] == wanted
