"""The shared flags of ``sidecar-setup``: how a command gets them, and what was meant by all of them together.

They come from one table (config.redirect.FLAGS), so that command line, environment and file cannot differ.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from interceptor.cli import program
from interceptor.config.redirect import (
    ENVIRONMENT_PREFIX,
    FLAGS,
    Flag,
    Invocation,
    Names,
    Source,
    from_command_line,
    from_environment,
)
from interceptor.errors import ConfigError

Texts = dict[str, list[str]]  # what was given, by flag

PLACE_FLAGS: Final = ("netns", "wait")  # all that a command needs which does not decide about rules
MAX_FILE: Final = 1 << 20  # bytes of a file of flags
LOG_FORMAT_VARIABLE: Final = program.log_format_variable("sidecar-setup")
CONFIG_VARIABLE: Final = ENVIRONMENT_PREFIX + "CONFIG"


class LogFormat(StrEnum):
    """How errors are written."""

    TEXT = "text"
    JSON = "json"


def with_flags(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the shared flags of these names; it receives the texts that were given as ``flags``."""
    shared = [flag for flag in FLAGS if flag.name in names]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def wrapper(**options: object) -> None:
            options.pop("log_format")
            flags = {flag.name: _texts(options.pop(_identifier(flag))) for flag in shared}
            command(flags={name: texts for name, texts in flags.items() if texts is not None}, **options)

        own = inspect.signature(command, eval_str=True).parameters.values()
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


ALL_FLAGS: Final = tuple(flag.name for flag in FLAGS)
ConfigOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A YAML file of these flags.", show_default=False)
]


def read_invocation(flags: Texts, config: Path | None) -> Invocation:
    """All that was asked, from the file, the environment and the command line; the later wins."""
    from interceptor.config.redirect_flags import parse  # noqa: PLC0415 (not for --help)
    from interceptor.kernel.users import NAMES  # noqa: PLC0415

    named = os.environ.get(CONFIG_VARIABLE)
    path = config or (Path(named) if named else None)
    ignored = frozenset({CONFIG_VARIABLE, LOG_FORMAT_VARIABLE})
    sources = [from_environment(os.environ, ignored), from_command_line(flags)]
    return parse([_file(path), *sources] if path else sources, NAMES)


def read_place(flags: Texts) -> Invocation:
    """Where to work and how long to wait; the flags that decide about rules are not looked at, be they wrong."""
    from interceptor.config.redirect_flags import parse  # noqa: PLC0415 (not for --help)

    environment = from_environment(os.environ).given
    relevant = Source({name: environment[name] for name in PLACE_FLAGS if name in environment})
    return parse([relevant, from_command_line(flags)], Names(lambda _: None, lambda _: None))


def _file(path: Path) -> Source:
    from interceptor.config.redirect_file import from_yaml  # noqa: PLC0415 (costs the YAML parser)

    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE + 1)
        text = content.decode()
    except OSError as error:
        raise ConfigError(f"--config: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--config: {path} is not a text file in UTF-8") from error
    if len(content) > MAX_FILE:
        raise ConfigError(f"--config: {path} is larger than {MAX_FILE} bytes, which no file of flags is")
    return from_yaml(text, str(path))


def find_namespace(invocation: Invocation) -> Path | None:
    """The namespace that was asked for; None for this one."""
    from interceptor.kernel.netns import resolve  # noqa: PLC0415 (not for --help)

    return None if invocation.netns is None else resolve(invocation.netns)
