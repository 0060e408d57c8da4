"""Read the usual command lines of ``sidecar-setup`` without typer, which takes longer to load than ``plan`` to run.

Only what cannot be misread is read here, and only where all of it can be; everything else is typer's: help, complaints,
the other commands. Both read the same (tests/unit/cli/test_quick.py).
"""

from __future__ import annotations

import functools
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from interceptor.cli import rule_commands
from interceptor.cli.flags import ALL_FLAGS, LOG_FORMATS, PLACE_FLAGS, STATUS_FLAGS
from interceptor.config.redirect import FLAGS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from interceptor.cli.flags import Texts

Kind = type[StrEnum] | type[Path] | type[bool]

_SWITCHES: Final = {
    f"--{prefix}{flag.name}": (flag.name, text)
    for flag in FLAGS
    if flag.switch
    for prefix, text in (("", "yes"), ("no-", "no"))
}
# Of each command: the shared flags, and of its own options those that are read here.
_COMMANDS: Final[Mapping[str, tuple[Callable[..., None], Sequence[str], Mapping[str, Kind]]]] = {
    "plan": (rule_commands.plan, ALL_FLAGS, {"--config": Path, "--output": rule_commands.PlanOutput}),
    "apply": (
        rule_commands.apply,
        ALL_FLAGS,
        {"--config": Path, "--dry-run": bool, "--existing": rule_commands.Existing},
    ),
    "remove": (rule_commands.remove, PLACE_FLAGS, {}),
    "status": (rule_commands.status, STATUS_FLAGS, {"--output": rule_commands.StatusOutput}),
}


def read(arguments: Sequence[str]) -> Callable[[], object] | None:
    """What a command line asks to be called; None where typer has to look at it."""
    if not arguments or arguments[0] not in _COMMANDS:
        return None
    command, shared, own = _COMMANDS[arguments[0]]
    flags: Texts = {}
    options: dict[str, object] = {}
    words = iter(arguments[1:])
    for word in words:
        option, equals, text = word.partition("=")
        switched, on = _SWITCHES.get(option, ("", ""))
        if not equals and switched in shared:
            flags[switched] = [on]
        elif not equals and own.get(option) is bool:
            options[_parameter(option)] = True
        else:
            text = text if equals else next(words, "-")
            kind = own.get(option)
            if (not equals and text.startswith("-")) or switched:
                return None  # a value is missing, or looks like an option, or there should be none
            if option.startswith("--") and option[2:] in shared:
                flags.setdefault(option[2:], []).append(text)
            elif kind is Path or (kind and issubclass(kind, StrEnum) and text in set(kind)):
                options[_parameter(option)] = kind(text)
            elif option != "--log-format" or text not in LOG_FORMATS:  # which is for program.guarded
                return None
    return functools.partial(command, flags, **options)


def _parameter(option: str) -> str:
    return option[2:].replace("-", "_")
