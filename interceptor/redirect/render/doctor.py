"""What ``doctor`` found, for a person and for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from interceptor.redirect.doctor import Finding


def text(findings: Sequence[Finding], unseen: Sequence[str]) -> str:
    """A paragraph for each finding with its remedy, and what could not be looked at."""
    return "\n".join(_lines(findings, unseen)) + "\n"


def _lines(findings: Sequence[Finding], unseen: Sequence[str]) -> Iterator[str]:
    for finding in findings:
        yield f"{finding.severity}: {finding.what}."
        yield f"    remedy: {finding.remedy}."
    yield from (f"not seen: {sentence}." for sentence in unseen)
    problems = sum(finding.severity == "problem" for finding in findings)
    yield f"{problems or 'No'} problem{'s' * (problems != 1)} found."


def as_json(findings: Sequence[Finding], unseen: Sequence[str]) -> str:
    """The same as one indented JSON object."""
    form = {
        "ok": not any(finding.severity == "problem" for finding in findings),
        "findings": [finding._asdict() for finding in findings],
        "unseen": list(unseen),
    }
    return json.dumps(form, indent=2) + "\n"
