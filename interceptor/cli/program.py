"""What both programs share: errors as sentences, exit statuses, ``--log-format``."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final, TypeVar

from interceptor.errors import ConfigError, InterceptorError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import typer
    from typer.exceptions import TyperException

T = TypeVar("T")

TYPER_INTERRUPTED: Final = 130  # what typer makes of a KeyboardInterrupt


def run(app: typer.Typer, name: str, arguments: Sequence[str]) -> int:
    """Do what the command line asks and return the exit status; every failure is a sentence on stderr.

    0 done; 1 the kernel or a peer refused; 2 bad input or usage; 3 checked and found different.
    """
    outcome = guarded(name, arguments, lambda: parsed(app, name, arguments))
    return outcome if isinstance(outcome, int) else 0


def parsed(app: typer.Typer, name: str, arguments: Sequence[str]) -> object:
    """What the command returns, or the status it leaves with. Raises ConfigError where the usage is wrong."""
    from typer.exceptions import TyperException  # noqa: PLC0415 (the proxy itself lives without typer)

    try:
        # Outside standalone mode typer returns the status of typer.Exit instead of leaving.
        outcome: object = app(args=list(arguments), prog_name=name, standalone_mode=False)
    except TyperException as error:
        raise ConfigError(*_usage(name, error)) from error
    if outcome == TYPER_INTERRUPTED:
        raise KeyboardInterrupt
    return outcome


def guarded(name: str, arguments: Sequence[str], work: Callable[[], T]) -> T | int:
    """What the work returns; where it fails, the exit status, after sentences on stderr."""
    try:
        outcome = work()
        sys.stdout.flush()
    except ConfigError as error:
        return _fail(name, arguments, error.problems, error.exit_code)
    except InterceptorError as error:
        return _fail(name, arguments, str(error).splitlines(), error.exit_code)
    except KeyboardInterrupt:
        return _fail(name, arguments, ("interrupted; nothing half-done is left",), 1)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left unwritten must not fail again at exit
        # Whoever reads no further, such as head, wants to hear nothing more.
        said = () if isinstance(error, BrokenPipeError) else (f"cannot write the output: {error.strerror}",)
        return _fail(name, arguments, said, 1)
    return outcome


def log_format_variable(name: str) -> str:
    """The environment variable that gives ``--log-format`` to a program."""
    return name.upper().replace("-", "_") + "_LOG_FORMAT"


def _usage(name: str, error: TyperException) -> tuple[str, ...]:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else name
    sentence = error.format_message().replace("Value error, ", "").strip().rstrip(".")
    return (f"{sentence}; '{command} --help' shows the usage",)


def _fail(name: str, arguments: Sequence[str], sentences: Sequence[str], status: int) -> int:
    import json  # noqa: PLC0415 (not where nothing fails)

    as_json = _wants_json(name, arguments)
    for sentence in sentences:
        line = json.dumps({"level": "error", "message": sentence}) if as_json else f"{name}: {sentence}"
        print(line, file=sys.stderr)
    return status


def _wants_json(name: str, arguments: Sequence[str]) -> bool:
    """Looked up without the parser, whose own complaints must come in this format too."""
    asked = [os.environ.get(log_format_variable(name), "")]
    for position, argument in enumerate(arguments):
        if argument == "--":
            break  # what follows is another program's
        flag, equals, value = argument.partition("=")
        if flag == "--log-format":
            asked.append(value if equals else "".join(arguments[position + 1 : position + 2]))
    return asked[-1] == "json"
