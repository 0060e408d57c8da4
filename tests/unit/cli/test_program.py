from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import typer

from interceptor.cli import program
from interceptor.errors import ConfigError, KernelError


def application(work: Callable[[], None]) -> typer.Typer:
    app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)

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


def outcome(capsys: pytest.CaptureFixture[str], app: typer.Typer, *argv: str) -> tuple[object, list[str]]:
    with pytest.raises(SystemExit) as left:
        program.run(app, argv)
    return left.value.code, capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("error", "status", "lines"),
    [
        (ConfigError("one is wrong", "two is wrong"), 2, ["error: one is wrong", "error: two is wrong"]),
        (KernelError("the kernel refused"), 1, ["error: the kernel refused"]),
        (typer.Exit(7), 7, []),
        (typer.Abort(), 130, []),
        (KeyboardInterrupt(), 130, []),
        (typer.BadParameter("it is odd"), 2, ["error: Invalid value: it is odd; --help shows what there is"]),
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
        ["error: No such command 'bogus'; --help shows what there is"],
    )


def test_no_words_at_all_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        program.run(application(lambda: None), ())
    assert left.value.code == 2
    assert "Usage" in capsys.readouterr().out
