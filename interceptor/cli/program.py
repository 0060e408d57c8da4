"""What both programs share: errors as sentences, exit statuses, ``--log-format``."""

from __future__ import annotations

import itertools
import json
import sys
from typing import TYPE_CHECKING, Final, NoReturn, Protocol, cast

import typer

from interceptor.errors import ConfigError, InterceptorError

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Usage(Protocol):
    def format_message(self) -> str: ...


# typer carries its own copy of click and exports BadParameter only: what that derives from is click's UsageError.
_USAGE_ERRORS: Final = cast("tuple[type[Exception], ...]", typer.BadParameter.__bases__)


def run(app: typer.Typer, argv: Sequence[str]) -> NoReturn:
    """Run a program and leave with the contract's exit status: 0 done, 1 refused, 2 bad input, 3 found different.

    Every failure is one sentence a line on stderr, or one JSON object a line with ``--log-format json``.
    """
    try:
        # Outside standalone mode click returns the status of typer.Exit instead of leaving.
        status = app(args=list(argv), standalone_mode=False)
    except _USAGE_ERRORS as error:
        words = cast("_Usage", error).format_message().strip().rstrip(".")
        # No arguments at all: the help was printed, there is nothing to add.
        _fail(argv, (f"{words}; --help shows what there is",) if words else (), 2)
    except ConfigError as error:
        _fail(argv, error.problems, error.exit_code)
    except InterceptorError as error:
        _fail(argv, (str(error),), error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output went away: `sidecar-setup plan | head`
        sys.stderr.close()
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(argv: Sequence[str], problems: Sequence[str], status: int) -> NoReturn:
    as_json = "--log-format=json" in argv or ("--log-format", "json") in itertools.pairwise(argv)
    for problem in problems:
        print(
            json.dumps({"level": "error", "message": problem}) if as_json else f"error: {problem}",
            file=sys.stderr,
        )
    sys.exit(status)
