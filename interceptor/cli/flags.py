"""The shared flags of ``sidecar-setup``: what was meant by all that was given of them.

They come from one table (config.redirect.FLAGS), so that command line, environment and file cannot differ.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from interceptor.cli import program
from interceptor.config.redirect import (
    ENVIRONMENT_PREFIX,
    FLAGS,
    Invocation,
    Names,
    Source,
    from_command_line,
    from_environment,
)
from interceptor.errors import ConfigError

Texts = dict[str, list[str]]  # what was given, by flag

LOG_FORMATS: Final = ("text", "json")
STATUS_FLAGS: Final = ("netns",)
PLACE_FLAGS: Final = ("netns", "wait")  # all that a command needs which does not decide about rules
MAX_FILE: Final = 1 << 20  # bytes of a file of flags
LOG_FORMAT_VARIABLE: Final = program.log_format_variable("sidecar-setup")
CONFIG_VARIABLE: Final = ENVIRONMENT_PREFIX + "CONFIG"


ALL_FLAGS: Final = tuple(flag.name for flag in FLAGS)


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
