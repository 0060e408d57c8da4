"""What ``doctor`` prints."""

from __future__ import annotations

import json

from interceptor.redirect.doctor import Finding
from interceptor.redirect.kernel_features import Feature, Kernel, Row
from interceptor.redirect.render.doctor import as_json, text

KERNEL = Kernel(
    "6.1.0-56",
    (
        Row(Feature("pipes", (2, 6), "water"), "works"),
        Row(Feature("taps", (5, 14), "baths"), "refused", "they drip"),
        Row(Feature("rain", (6, 1), "gardens"), "expected"),
        Row(Feature("rockets", (7, 0), "journeys"), "too old"),
    ),
)
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


def test_the_kernel_comes_first() -> None:
    assert text((), (), KERNEL).splitlines() == [
        "kernel 6.1.0-56, asked for what the gateway needs:",
        "  works     pipes (Linux 2.6)",
        "  refused   taps (Linux 5.14): they drip; without it there is no baths",
        "  expected  rain (Linux 6.1; not tried)",
        "  too old   rockets (Linux 7.0; not tried); without it there is no journeys",
        "No problems found.",
    ]


def test_json() -> None:
    form = json.loads(as_json(FOUND, ["the cellar"]))
    assert form["findings"][0] == {"severity": "problem", "what": "it burns", "remedy": "water"}
    assert (form["ok"], form["unseen"]) == (False, ["the cellar"])
    assert json.loads(as_json(FOUND[1:], []))["ok"] is True
    assert "kernel" not in form


def test_the_kernel_in_json() -> None:
    kernel = json.loads(as_json((), (), KERNEL))["kernel"]
    assert kernel["release"] == "6.1.0-56"
    assert kernel["features"][1] == {
        "name": "taps",
        "since": "5.14",
        "has": "refused",
        "said": "they drip",
        "without": "baths",
    }
