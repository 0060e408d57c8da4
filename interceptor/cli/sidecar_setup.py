"""The ``sidecar-setup`` command: the redirect rules.

The shared flags come from one table (config.redirect.FLAGS), so that command line, environment and file cannot differ.
What touches the kernel is imported by the command that needs it: ``plan`` and ``--help`` start without.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

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

if TYPE_CHECKING:
    from collections.abc import Sequence

Texts = dict[str, list[str]]  # what was given, by flag

PLACE_FLAGS: Final = ("netns", "wait")  # all that a command needs which does not decide about rules
MAX_FILE: Final = 1 << 20  # bytes of a file of flags
LOG_FORMAT_VARIABLE: Final = program.log_format_variable("sidecar-setup")
CONFIG_VARIABLE: Final = ENVIRONMENT_PREFIX + "CONFIG"

app = typer.Typer(
    name="sidecar-setup",
    help="Redirect rules that bring an app's connections to its sidecar proxy, and take themselves away again.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class PlanOutput(StrEnum):
    """How ``plan`` prints."""

    TEXT = "text"
    JSON = "json"
    IPTABLES = "iptables"
    NFT = "nft"


class StatusOutput(StrEnum):
    """How ``status`` prints."""

    TEXT = "text"
    JSON = "json"


class LogFormat(StrEnum):
    """How errors are written."""

    TEXT = "text"
    JSON = "json"


def main() -> None:
    """Entry point."""
    raise SystemExit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Do what the command line asks and return the exit status."""
    return program.run(app, "sidecar-setup", arguments)


def _with_flags(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
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


@app.command()
@_with_flags(*ALL_FLAGS)
def plan(
    flags: Texts,
    config: ConfigOption = None,
    output: Annotated[PlanOutput, typer.Option(help="How to print it.")] = PlanOutput.TEXT,
) -> None:
    """Print the rules that would be installed; needs neither root nor iptables."""
    from interceptor.redirect.ipv6 import assume, describe  # noqa: PLC0415 (not for --help)
    from interceptor.redirect.plan import plan as make_plan  # noqa: PLC0415
    from interceptor.redirect.render import iptables, json as as_json, nft, text  # noqa: PLC0415

    settings = _invocation(flags, config).settings
    ipv6 = assume(settings.ipv6)
    ruleset = make_plan(settings, ipv6)
    match output:
        case PlanOutput.TEXT:
            print(text.render(ruleset))
            print(f"{describe(settings.ipv6, ipv6)}.")
        case PlanOutput.JSON:
            print(as_json.render(ruleset), end="")
        case PlanOutput.IPTABLES:
            print(iptables.render(ruleset), end="")
        case PlanOutput.NFT:
            print(nft.render(ruleset), end="")


@app.command()
@_with_flags(*ALL_FLAGS)
def apply(
    flags: Texts,
    config: ConfigOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would change; change nothing.")
    ] = False,
) -> None:
    """Install the rules, or change those installed into these; all or nothing."""
    from interceptor.kernel import rules  # noqa: PLC0415 (not for --help)
    from interceptor.redirect.ipv6 import describe  # noqa: PLC0415

    invocation = _invocation(flags, config)
    namespace = _namespace(invocation)
    applied = rules.apply(
        invocation.settings, namespace, backend=invocation.backend, wait=invocation.wait, dry_run=dry_run
    )
    would = "would be " if dry_run else ""
    print(f"{would}{applied.outcome}: configuration {applied.ruleset.hash}")
    for change in applied.changes:
        print(f"  {change}")
    print(f"{describe(invocation.settings.ipv6, applied.ipv6)}.")
    print(f"The backend is {applied.choice.backend.value}: {applied.choice.because}.")
    for warning in applied.warnings:
        print(f"Warning: {warning}.")


@app.command()
@_with_flags(*PLACE_FLAGS)
def remove(flags: Texts) -> None:
    """Remove all of our rules, whoever installed them with whatever flags."""
    from interceptor.kernel import rules  # noqa: PLC0415 (not for --help)

    invocation = _place(flags)
    removed = rules.remove(_namespace(invocation), wait=invocation.wait)
    if removed.outcome == "absent":
        print("nothing was installed")
    else:
        print(removed.outcome)
    for change in removed.changes:
        print(f"  {change}")


@app.command()
@_with_flags("netns")
def status(
    flags: Texts,
    output: Annotated[StatusOutput, typer.Option(help="How to print it.")] = StatusOutput.TEXT,
) -> None:
    """Show what is installed, how often each rule was hit, and what stands in its way."""
    from interceptor.kernel import rules  # noqa: PLC0415 (not for --help)
    from interceptor.redirect.render import status as render  # noqa: PLC0415

    found = rules.status(_namespace(_place(flags)))
    print(render.text(found) if output is StatusOutput.TEXT else render.as_json(found), end="")


def _invocation(flags: Texts, config: Path | None) -> Invocation:
    """All that was asked, from the file, the environment and the command line; the later wins."""
    from interceptor.config.redirect_flags import parse  # noqa: PLC0415 (not for --help)
    from interceptor.kernel.users import NAMES  # noqa: PLC0415

    named = os.environ.get(CONFIG_VARIABLE)
    path = config or (Path(named) if named else None)
    ignored = frozenset({CONFIG_VARIABLE, LOG_FORMAT_VARIABLE})
    sources = [from_environment(os.environ, ignored), from_command_line(flags)]
    return parse([_file(path), *sources] if path else sources, NAMES)


def _place(flags: Texts) -> Invocation:
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


def _namespace(invocation: Invocation) -> Path | None:
    from interceptor.kernel.netns import resolve  # noqa: PLC0415 (not for --help)

    return None if invocation.netns is None else resolve(invocation.netns)
