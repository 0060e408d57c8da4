from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import typer

from interceptor.cli import program
from interceptor.errors import ConfigError, KernelError


def application(work: Callable[[], None]) -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def go(log_format: str = "text") -> None:
        work()

    @app.callback()
    def root() -> None:
        """A group, so that the command has a name."""

    return app


def fail(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def outcome(capsys: pytest.CaptureFixture[str], app: typer.Typer, *argv: str) -> tuple[int, list[str]]:
    status = program.run(app, "some-tool", argv)
    return status, capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("error", "status", "lines"),
    [
        (
            ConfigError("one is wrong", "two is wrong"),
            2,
            ["some-tool: one is wrong", "some-tool: two is wrong"],
        ),
        (KernelError("the kernel refused"), 1, ["some-tool: the kernel refused"]),
        (typer.Exit(7), 7, []),
        (KeyboardInterrupt(), 1, ["some-tool: interrupted; nothing half-done is left"]),
        (
            typer.BadParameter("it is odd"),
            2,
            ["some-tool: Invalid value: it is odd; 'some-tool go --help' shows the usage"],
        ),
    ],
)
def test_a_failure_is_sentences_and_an_exit_status(
    capsys: pytest.CaptureFixture[str], error: BaseException, status: int, lines: list[str]
) -> None:
    assert outcome(capsys, application(fail(error)), "go") == (status, lines)


def test_success_is_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(capsys, application(lambda: None), "go") == (0, [])


@pytest.mark.parametrize("flag", [("--log-format", "json"), ("--log-format=json",)])
def test_errors_can_be_json(capsys: pytest.CaptureFixture[str], flag: tuple[str, ...]) -> None:
    status, lines = outcome(capsys, application(fail(KernelError("no"))), "go", *flag)
    assert (status, [json.loads(line) for line in lines]) == (1, [{"level": "error", "message": "no"}])


def test_unknown_words_are_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(capsys, application(lambda: None), "bogus") == (
        2,
        ["some-tool: No such command 'bogus'; 'some-tool --help' shows the usage"],
    )


def test_no_words_at_all_are_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(capsys, application(lambda: None)) == (
        2,
        ["some-tool: Missing command; 'some-tool --help' shows the usage"],
    )


def test_what_follows_two_dashes_is_another_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(capsys, application(lambda: None), "bogus", "--", "--log-format=json")[1][0].startswith(
        "some-tool: "
    )


def test_the_environment_can_ask_for_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(program.log_format_variable("some-tool"), "json")
    assert outcome(capsys, application(fail(KernelError("no"))), "go")[1][0].startswith("{")
