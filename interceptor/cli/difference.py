"""``interceptor diff``: reads two configurations and what was recorded; prints what would be decided otherwise."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from interceptor.discovery import file
from interceptor.errors import ConfigError
from interceptor.state.difference import changes, question, resolved, strangers
from interceptor.state.snapshot import take

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Literal

    from interceptor.state.difference import Asked, Change

MAX_LINE: Final = 64 * 1024  # characters; an entry of the access log has some thousand
MAX_DIFFERENT: Final = (
    100_000  # connections and requests that differ in what decisions see; equal ones are counted
)


def differences(old: Sequence[str], new: Sequence[str], recorded: str) -> list[Change]:
    """What two configurations decide differently about what a file of JSON lines holds. Raises ConfigError."""
    asked: dict[Asked, int] = {}
    names: dict[str, list[str]] = {}
    routes: dict[Asked, str] = {}
    for number, record in _records(recorded):
        try:
            each = question(record)
        except (ConfigError, ValueError) as error:
            raise ConfigError(f"{recorded}:{number}: {error}") from None
        asked[each] = asked.get(each, 0) + 1
        if isinstance(route := record.get("route_name"), str):
            routes[each] = route
        if len(asked) > MAX_DIFFERENT:
            raise ConfigError(f"{recorded}: more than {MAX_DIFFERENT} different ones; give a part of it")
        for host, addresses in resolved((record,)).items():
            names[host] = list(dict.fromkeys((*names.get(host, ()), *addresses)))
    before, after = (take(file.load(paths), names) for paths in (old, new))
    if unlike := strangers(before, routes):
        print(
            f"{len(unlike)} of what was recorded cannot be told: a match looks at headers that the log does not have, or another "
            f"configuration was in force; describe it with its headers. {unlike[0]}",
            file=sys.stderr,
        )
    return changes(before, after, asked)


def rendered(found: Sequence[Change], output: Literal["text", "json"]) -> str:
    """For a terminal, or for a program."""
    if output == "json":
        return json.dumps([each._asdict() for each in found], indent=2)
    return "\n".join(map(str, found)) if found else "nothing recorded would be decided otherwise"


def _records(path: str) -> Iterator[tuple[int, dict[str, object]]]:
    try:
        with sys.stdin if path == "-" else Path(path).open(encoding="utf-8") as lines:
            for number, line in enumerate(_bounded(lines), 1):
                if line.strip():
                    yield number, _record(line, f"{path}:{number}")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; give a file of JSON lines") from None


def _bounded(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        yield line if len(line) <= MAX_LINE else "the line is too long"


def _record(line: str, place: str) -> dict[str, object]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise ConfigError(
            f"{place}: this is no line of the access log in JSON, and no description; see --help"
        )
    return record
