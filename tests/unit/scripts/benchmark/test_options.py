from __future__ import annotations

from pathlib import Path

import pytest

from scripts.benchmark.measures import DIRECTIONS, MEASURES, NAMES, ROUTES_MEASURE
from scripts.benchmark.options import DEFAULT_OUTPUT, ROUTES_SECONDS, Options, parse


def test_without_options_everything_is_measured_in_both_directions() -> None:
    assert parse([]) == Options(
        NAMES, MEASURES, DIRECTIONS, 3, 4, 5000, 1, DEFAULT_OUTPUT, profile=False, rules=True
    )


def test_quick_is_one_short_round_of_ingress_in_less_than_three_minutes() -> None:
    options = parse(["--quick"])
    measures = tuple(each for each in MEASURES if each != ROUTES_MEASURE)
    assert options == Options(
        NAMES, measures, ("ingress",), 1, 1, 1000, 1, DEFAULT_OUTPUT, profile=False, rules=False
    )
    assert options.estimated_seconds() < 180


def test_what_is_said_wins_over_quick() -> None:
    options = parse(["--quick", "--rounds", "2", "--seconds", "3", "--idle", "10", "--direction", "both"])
    assert (options.rounds, options.seconds, options.idle, options.directions) == (2, 3, 10, DIRECTIONS)


def test_a_subset_keeps_the_known_order() -> None:
    options = parse(
        ["--only", "interceptor,envoy", "--measures", "bulk,requests", "--output", "x", "--workers", "2"]
    )
    assert options.names == ("envoy", "interceptor")
    assert options.measures == ("requests", "bulk")
    assert (options.output, options.workers) == (Path("x"), 2)


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--only", "envoy,traefik"], "'traefik' is not one of"),
        (["--measures", ""], "'' is not one of"),
        (["--rounds", "0"], "'0' is not a number from 1 to 20"),
        (["--seconds", "61"], "'61' is not a number from 1 to 60"),
        (["--idle", "many"], "'many' is not a number from 1 to 5000"),
        (["--workers", "3"], "invalid choice"),
    ],
)
def test_bad_usage_ends_with_status_2_and_says_what_is_wrong(
    argv: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(argv)
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


def test_each_round_starts_with_another_contestant_and_all_have_their_turn() -> None:
    options = parse(["--only", "none,envoy,interceptor", "--rounds", "4", "--direction", "egress"])
    visits = list(options.visits())
    assert [name for number, _, name in visits if number == 1] == ["envoy", "interceptor", "none"]
    assert [name for _, _, name in visits[::3]] == ["none", "envoy", "interceptor", "none"]
    assert len(set(visits)) == len(visits) == 12


def test_each_direction_is_visited_in_each_round() -> None:
    visits = list(parse(["--only", "envoy", "--rounds", "2"]).visits())
    assert visits == [
        (0, "ingress", "envoy"),
        (0, "egress", "envoy"),
        (1, "ingress", "envoy"),
        (1, "egress", "envoy"),
    ]


def test_the_estimate_grows_with_what_is_asked() -> None:
    def estimate(*argv: str) -> float:
        return parse(["--only", "envoy", "--rules", "no", *argv]).estimated_seconds()

    assert estimate("--rounds", "6") == pytest.approx(2 * estimate())
    assert estimate("--seconds", "8") > estimate()
    assert estimate("--measures", "requests") < estimate()
    assert estimate("--measures", "memory", "--idle", "10") < estimate("--measures", "memory")
    assert estimate("--profile") > estimate()
    assert estimate("--rules", "yes") > estimate() > estimate("--rules", "only") > 0


def test_the_rules_can_be_timed_alone() -> None:
    options = parse(["--rules", "only"])
    assert (list(options.visits()), options.rules) == ([], True)
    assert not parse(["--rules", "no"]).rules


def test_routes_are_measured_where_they_are_asked_for_or_there_is_time() -> None:
    assert ROUTES_MEASURE in parse([]).measures
    assert ROUTES_MEASURE not in parse(["--quick"]).measures
    asked = parse(["--quick", "--measures", "routes", "--only", "interceptor"])
    assert asked.measures == (ROUTES_MEASURE,)
    assert asked.estimated_seconds() == ROUTES_SECONDS
