from __future__ import annotations

import json

import pytest
from rich.console import Console

from scripts.benchmark import report
from scripts.benchmark.options import parse
from scripts.benchmark.results import Discarded, Results, Sample, Timing

MACHINE = report.Machine(2, "A | B", 24.6, "6.18", "cubic", 0.5, {"envoy": "1.40", "interceptor": "0.1"})


def measured() -> Results:
    return Results(
        [
            Sample(0, "ingress", "envoy", "requests@50", 20_000.0),
            Sample(0, "ingress", "interceptor", "requests@50", 30_000.0),
            Sample(0, "ingress", "interceptor", "idle", 5.25),
            Sample(0, "egress", "envoy", "requests@50", 10_000.0),
            Sample(0, "egress", "interceptor", "requests@50", 5_000.0),
        ],
        [Discarded(1, "egress", "envoy", "connections", "7 connections could not be made")],
    )


def test_a_row_has_medians_ratios_and_on_ingress_the_bar() -> None:
    header, rows = report.table(measured(), "ingress", 2)
    assert header == ["", "unit", "envoy", "interceptor", "bar, 2 against 2"]
    assert rows == [
        [
            "requests, 50 conns",
            "1/s",
            "20 000 (1.50)",
            "30 000",
            ">= 1.3 x envoy: reached; >= 1 x haproxy: not measured",
        ],
        ["memory per 1 000 idle conns", "MB", "-", "5.25", "<= 1 x envoy: not measured"],
    ]


def test_egress_has_no_bar() -> None:
    header, rows = report.table(measured(), "egress", 1)
    assert header == ["", "unit", "envoy", "interceptor"]
    assert rows == [["requests, 50 conns", "1/s", "10 000 (0.50)", "5 000"]]


def test_without_us_or_envoy_there_is_no_bar() -> None:
    for name in ("envoy", "interceptor"):
        header, _ = report.table(Results([Sample(0, "ingress", name, "idle", 1.0)]), "ingress", 1)
        assert header == ["", "unit", name]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.12345, "0.123"),
        (1.5, "1.5"),
        (999.4, "999"),
        (1234.5, "1 234"),
        (1234567.0, "1 234 567"),
    ],
)
def test_three_digits_that_matter(value: float, text: str) -> None:
    assert report.number(value) == text


def test_markdown_shows_machine_tables_features_and_discarded_runs() -> None:
    page = report.markdown(measured(), parse(["--rounds", "2"]), MACHINE)
    assert "- 2 CPUs (A | B), 25 GB, Linux 6.18, TCP cubic" in page
    assert "- 50% busy with other things before the first run" in page
    assert "- envoy: 1.40" in page
    assert "- 2 round(s) of 4 s runs, 1 worker(s), up to 5000 idle connections" in page
    assert page.index("## ingress") < page.index("## egress")
    assert "| requests, 50 conns | 1/s | 10 000 (0.50) | 5 000 |" in page
    assert "- envoy: original_dst + tcp_proxy" in page
    assert "- discarded: envoy, egress, round 2, connections: 7 connections could not be made" in page


def test_a_pipe_in_a_cell_does_not_break_the_table() -> None:
    assert report._row(["a|b", "c"]) == "| a\\|b | c |"


def test_json_is_read_back() -> None:
    said = json.loads(report.as_json(measured(), parse(["--quick"]), MACHINE))
    assert said["machine"]["versions"]["envoy"] == "1.40"
    assert said["options"]["rounds"] == 1
    assert said["options"]["output"] == "build/bench"
    assert said["results"]["egress"]["requests@50"]["ratio_us_to"]["envoy"] == 0.5


def test_the_terminal_shows_the_cells_of_a_direction() -> None:
    console = Console(width=200)
    with console.capture() as shown:
        console.print(report.terminal(measured(), "ingress", 1))
    assert "20 000 (1.50)" in shown.get()
    assert "10 000 (0.50)" not in shown.get()


def test_what_was_timed_beside_the_contestants_is_in_every_form() -> None:
    results = Results(rules=[Timing("apply, nft", 304.4)])
    assert report.timings(results) == ["apply, nft: 304 ms"]
    assert "## Redirect rules\n\n- apply, nft: 304 ms" in report.markdown(results, parse([]), MACHINE)
    assert json.loads(report.as_json(results, parse([]), MACHINE))["rules"] == [
        {"title": "apply, nft", "milliseconds": 304.4}
    ]
    assert "Redirect rules" not in report.markdown(measured(), parse([]), MACHINE)


def test_what_was_on_is_said_of_relaying_and_of_serving() -> None:
    serving = Results([Sample(0, "ingress", "envoy", "http@50", 1.0)])
    assert [note.partition(":")[0] for note in report.notes(serving)] == ["envoy, serving HTTP"]
    both = Results([*serving.samples, Sample(0, "ingress", "envoy", "rest", 1.0)])
    assert [note.partition(":")[0] for note in report.notes(both)] == ["envoy", "envoy, serving HTTP"]
