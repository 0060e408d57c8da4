"""The shared flags of ``sidecar-setup``, and its other options, as typer wants them.

The commands name typer in their annotations only, which are looked at here: without a complaint or ``--help`` it is not loaded.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from interceptor.config.redirect import FLAGS, Flag

ConfigOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A YAML file of these flags.", show_default=False)
]
# What the annotations of the commands name.
_NAMES: Final = {"Annotated": Annotated, "typer": typer, "ConfigOption": ConfigOption}


class LogFormat(StrEnum):
    """How errors are written."""

    TEXT = "text"
    JSON = "json"


def with_flags(*names: str) -> Callable[[Callable[..., int | None]], Callable[..., int | None]]:
    """Give a command the shared flags of these names; it receives the texts that were given as ``flags``."""
    shared = [flag for flag in FLAGS if flag.name in names]

    def decorate(command: Callable[..., int | None]) -> Callable[..., int | None]:
        @functools.wraps(command)
        def wrapper(**options: object) -> int | None:
            options.pop("log_format")
            flags = {flag.name: _texts(options.pop(_identifier(flag))) for flag in shared}
            return command(
                flags={name: texts for name, texts in flags.items() if texts is not None}, **options
            )

        own = inspect.signature(command, locals=_NAMES, eval_str=True).parameters.values()
        log_format = typer.Option(help="How errors are written to stderr.")
        parameters = [
            *(parameter for parameter in own if parameter.name != "flags"),
            *(_parameter(flag) for flag in shared),
            inspect.Parameter(
                "log_format",
                inspect.Parameter.KEYWORD_ONLY,
                default=LogFormat.TEXT,
                annotation=Annotated[LogFormat, log_format],
            ),
        ]
        keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
        setattr(wrapper, "__signature__", inspect.Signature(keywords))  # noqa: B010 (mypy knows no such attribute)
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in keywords}
        return wrapper

    return decorate


def _identifier(flag: Flag) -> str:
    return flag.name.replace("-", "_")


def _texts(given: object) -> object:
    """A switch, which typer reads itself, as the text that stands for it elsewhere."""
    return [("no", "yes")[given]] if isinstance(given, bool) else given


def _parameter(flag: Flag) -> inspect.Parameter:
    name = f"--{flag.name}/--no-{flag.name}" if flag.switch else f"--{flag.name}"
    metavar = None if flag.switch else flag.metavar
    option = typer.Option(name, metavar=metavar, help=flag.help, show_default=False)
    kind = Annotated[bool | None, option] if flag.switch else Annotated[list[str] | None, option]
    return inspect.Parameter(_identifier(flag), inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
