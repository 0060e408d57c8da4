"""What ``verify`` prints, and its exit status."""

from __future__ import annotations

import json

import pytest

from interceptor.config.redirect import RedirectSettings
from interceptor.redirect.plan import plan
from interceptor.redirect.probes import Result, matrix
from interceptor.redirect.render.verify import Installed, Report, Tried, as_json, text

EGRESS, PROXY = matrix(plan(RedirectSettings()), RedirectSettings()).probes[1:3]


def report(*tried: Tried, installed: Installed = "exactly this", untried: tuple[str, ...] = ()) -> Report:
    return Report("abc", installed, tried, untried)


@pytest.mark.parametrize(
    ("results", "status"),
    [
        ([], 0),
        (["captured", "direct"], 0),
        (["captured", "untried"], 1),
        (["direct", "direct"], 3),
        (["lost", "untried"], 3),
    ],
)
def test_the_exit_status(results: list[Result], status: int) -> None:
    tried = [Tried(probe, result) for probe, result in zip((EGRESS, PROXY), results, strict=False)]
    assert report(*tried, untried=("what no probe can try",)).status == status


def test_the_text_says_what_was_expected_and_what_was() -> None:
    lines = text(
        report(
            Tried(EGRESS, "captured", "by the proxy"),
            Tried(PROXY, "captured", "by the proxy", "the kernel's rules make it egress"),
            Tried(PROXY, "untried", "not allowed"),
            Tried(PROXY, "direct"),
            untried=("docker0",),
        )
    ).splitlines()
    assert lines == [
        "Configuration abc, from the flags given, tried with real connections.",
        "Exactly this configuration is installed.",
        "  ok         IPv4 egress   egress          captured: by the proxy",
        "  FAILED     IPv4 egress   proxy uid 1337  must be direct by egress-proxy-uid-1337, and is captured: by the proxy",
        "             the kernel's rules make it egress",
        "  not tried  IPv4 egress   proxy uid 1337  not allowed",
        "  ok         IPv4 egress   proxy uid 1337  direct",
        "  not tried  docker0",
        "2 as planned, 1 failed, 2 not tried.",
    ]


@pytest.mark.parametrize(
    ("installed", "says"), [("something else", "are others"), ("nothing", "no rules are installed")]
)
def test_other_rules_than_those_asked_for_are_told(installed: Installed, says: str) -> None:
    assert says in text(report(installed=installed))


def test_json_for_programs() -> None:
    form = json.loads(as_json(report(Tried(EGRESS, "lost", "timed out", "ufw"), untried=("docker0",))))
    assert (form["ok"], form["installed"], form["untried"]) == (False, "exactly this", ["docker0"])
    assert form["paths"] == [
        {
            "path": "egress",
            "direction": "egress",
            "family": 4,
            "from": "192.0.2.1",
            "to": "192.0.2.2",
            "port": 4,
            "uid": 65534,
            "expected": "captured",
            "rule": "egress-everything",
            "result": "lost",
            "ok": False,
            "note": "timed out",
            "cause": "ufw",
        }
    ]
