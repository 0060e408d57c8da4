"""The commands of ``sidecar-setup`` as a typer program: for ``--help``, for complaints, and for all that ``quick`` leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import typer

from interceptor.cli import inspection, rule_commands
from interceptor.cli.command import Command, Group
from interceptor.cli.flags import ALL_FLAGS, PLACE_FLAGS, STATUS_FLAGS
from interceptor.cli.options import with_flags

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_COMMANDS: Final[dict[str, tuple[Callable[..., int | None], Sequence[str]]]] = {
    "plan": (rule_commands.plan, ALL_FLAGS),
    "apply": (rule_commands.apply, ALL_FLAGS),
    "remove": (rule_commands.remove, PLACE_FLAGS),
    "status": (rule_commands.status, STATUS_FLAGS),
    "diff": (inspection.diff, ALL_FLAGS),
    "verify": (inspection.verify, ALL_FLAGS),
    "doctor": (inspection.doctor, ALL_FLAGS),
    "explain": (inspection.explain, ALL_FLAGS),
}


def app(arguments: Sequence[str]) -> typer.Typer:
    """The program; only with the command that is asked for, where one is: typer takes longer over all than one runs."""
    made = typer.Typer(
        name="sidecar-setup",
        cls=Group,
        help="Redirect rules that bring an app's connections to its sidecar proxy, and take themselves away again.",
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    made.callback(cls=Group)(_group)  # else a single command would be the whole program
    asked = arguments[:1] if arguments and arguments[0] in _COMMANDS else _COMMANDS
    for name in asked:
        function, flags = _COMMANDS[name]
        made.command(name, cls=Command)(with_flags(*flags)(function))
    return made


def _group() -> None:
    pass
