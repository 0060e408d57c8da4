"""The program log: sentences on stderr for people, or JSON lines for machines.

Nothing that a peer sent can forge a line: control characters are escaped, and a traceback is indented.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import TYPE_CHECKING, Final, Literal, TextIO

from interceptor.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

LEVELS: Final = ("debug", "info", "warning", "error")

# C0, DEL, C1 and the two Unicode line separators: what moves a terminal's cursor or ends a line in some reader.
_CONTROL: Final = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)
}
_CONTROL_IN_TRACE: Final = {code: text for code, text in _CONTROL.items() if code != 0x0A}
_COLOURS: Final = {"DEBUG": "\x1b[2m", "WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[31m"}
_RESET: Final = "\x1b[0m"
_process: Final[list[str]] = []  # its name, where there are several


def setup(format: Literal["text", "json"], level: str, stream: TextIO | None = None) -> None:  # noqa: A002 (the flag's name)
    """Send the program log to ``stream`` (stderr), in place of whatever was set up before."""
    stream = stream or sys.stderr
    handler = _Handler(stream)
    handler.setFormatter(_Json() if format == "json" else _Text(colour=stream.isatty()))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    set_level(level)


def set_level(level: str) -> None:
    """Log from this level up; ConfigError when there is no such level."""
    if level not in LEVELS:
        raise ConfigError(f"there is no log level '{printable(level)}'; use one of {', '.join(LEVELS)}")
    logging.getLogger().setLevel(level.upper())


def name_process(name: str) -> None:
    """Say in each line from here on which of several processes wrote it."""
    _process.append(name)


def printable(text: str) -> str:
    """The text with every control character escaped: it stays on its line."""
    return text.translate(_CONTROL)


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to stderr; when nobody reads stderr any more there is nobody to tell, and the proxy goes on."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (stdlib's name)
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


class _Base(logging.Formatter):
    converter: Callable[[float | None], time.struct_time] = time.gmtime  # UTC, as in the access log

    def time(self, record: logging.LogRecord) -> str:
        return f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z"

    def trace(self, record: logging.LogRecord) -> str:
        return self.formatException(record.exc_info) if record.exc_info else ""


class _Text(_Base):
    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname:<7}"
        if self._colour and record.levelname in _COLOURS:
            level = f"{_COLOURS[record.levelname]}{level}{_RESET}"
        who = "".join(f"{name}: " for name in _process)
        lines = [f"{self.time(record)} {level} {who}{printable(record.getMessage())}"]
        lines += self.trace(record).translate(_CONTROL_IN_TRACE).split("\n") if record.exc_info else []
        return "\n    ".join(lines)


class _Json(_Base):
    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": self.time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            **({"process": _process[-1]} if _process else {}),
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.trace(record)
        return json.dumps(fields)
