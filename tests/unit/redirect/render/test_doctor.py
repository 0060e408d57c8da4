"""What ``doctor`` prints."""

from __future__ import annotations

import json

from interceptor.redirect.doctor import Finding
from interceptor.redirect.render.doctor import as_json, text

FOUND = (Finding("problem", "it burns", "water"), Finding("remark", "it is warm", "nothing"))


def test_text() -> None:
    assert text(FOUND, ["the cellar"]).splitlines() == [
        "problem: it burns.",
        "    remedy: water.",
        "remark: it is warm.",
        "    remedy: nothing.",
        "not seen: the cellar.",
        "1 problem found.",
    ]
    assert text((), ()) == "No problems found.\n"


def test_json() -> None:
    form = json.loads(as_json(FOUND, ["the cellar"]))
    assert form["findings"][0] == {"severity": "problem", "what": "it burns", "remedy": "water"}
    assert (form["ok"], form["unseen"]) == (False, ["the cellar"])
    assert json.loads(as_json(FOUND[1:], []))["ok"] is True
