"""What ``doctor`` found, for a person and for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from interceptor.redirect.kernel_features import version_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from interceptor.redirect.doctor import Finding
    from interceptor.redirect.kernel_features import Kernel, Row


def text(findings: Sequence[Finding], unseen: Sequence[str], kernel: Kernel | None = None) -> str:
    """The kernel's features, a paragraph for each finding with its remedy, and what could not be looked at."""
    return "\n".join((*_features(kernel), *_lines(findings, unseen))) + "\n"


def _features(kernel: Kernel | None) -> Iterator[str]:
    if kernel is not None:
        yield f"kernel {kernel.release}, asked for what the gateway needs:"
        yield from (f"  {row.has:8}  {row.feature.name} ({_since(row)}){_loss(row)}" for row in kernel.rows)


def _since(row: Row) -> str:
    since = f"Linux {version_text(row.feature.since)}"
    return f"{since}; not tried" if row.has in {"expected", "too old"} else since


def _loss(row: Row) -> str:
    if row.has in {"works", "expected"}:
        return ""
    return f"{row.said and f': {row.said}'}; without it there is no {row.feature.without}"


def _lines(findings: Sequence[Finding], unseen: Sequence[str]) -> Iterator[str]:
    for finding in findings:
        yield f"{finding.severity}: {finding.what}."
        yield f"    remedy: {finding.remedy}."
    yield from (f"not seen: {sentence}." for sentence in unseen)
    problems = sum(finding.severity == "problem" for finding in findings)
    yield f"{problems or 'No'} problem{'s' * (problems != 1)} found."


def as_json(findings: Sequence[Finding], unseen: Sequence[str], kernel: Kernel | None = None) -> str:
    """The same as one indented JSON object."""
    form: dict[str, object] = {
        "ok": not any(finding.severity == "problem" for finding in findings),
        "findings": [finding._asdict() for finding in findings],
        "unseen": list(unseen),
    }
    if kernel is not None:
        features = [
            {
                "name": row.feature.name,
                "since": version_text(row.feature.since),
                "has": row.has,
                "said": row.said,
                "without": row.feature.without,
            }
            for row in kernel.rows
        ]
        form["kernel"] = {"release": kernel.release, "features": features}
    return json.dumps(form, indent=2) + "\n"
