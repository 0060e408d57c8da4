from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given, settings, strategies as st

from interceptor.errors import ConfigError
from interceptor.telemetry import logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


@pytest.fixture(autouse=True)
def root() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def raise_error(text: str) -> None:
    raise RuntimeError(text)


def fail(text: str) -> None:
    try:
        raise_error(text)
    except RuntimeError:
        logging.getLogger("interceptor.proxy").exception("it broke")


def test_text_is_time_level_sentence() -> None:
    stream = io.StringIO()
    logs.setup("text", "info", stream)
    logging.getLogger("interceptor.proxy").info("listening on %s", "[::]:15006")
    logging.getLogger("interceptor.proxy").debug("not shown")
    line = stream.getvalue()
    assert line.endswith("Z INFO    listening on [::]:15006\n")
    assert line.count("\n") == 1
    assert len(line.split()[0]) == len("2026-09-21T14:13:20.123Z")


def test_colour_only_on_a_terminal() -> None:
    terminal = Terminal()
    logs.setup("text", "debug", terminal)
    logging.getLogger("a").warning("careful")
    logging.getLogger("a").info("plain")
    coloured, plain = terminal.getvalue().splitlines()
    assert "\x1b[33mWARNING\x1b[0m careful" in coloured
    assert "\x1b" not in plain


def test_json_has_every_field() -> None:
    stream = io.StringIO()
    logs.setup("json", "warning", stream)
    logging.getLogger("interceptor.proxy").warning("a\nb")
    fail("bad\x1b[2J")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["level"], first["logger"], first["message"]) == ("warning", "interceptor.proxy", "a\nb")
    assert first["time"].endswith("Z")
    assert "exception" not in first
    assert "RuntimeError: bad" in second["exception"]
    assert "\x1b" not in stream.getvalue()


def test_a_traceback_cannot_forge_a_line() -> None:
    stream = io.StringIO()
    logs.setup("text", "info", stream)
    fail("x\n2026-01-01T00:00:00.000Z INFO    forged\x1b[2J")
    first, *rest = stream.getvalue().splitlines()
    assert first.endswith("ERROR   it broke")
    assert rest
    assert all(line.startswith("    ") for line in rest)
    assert "\x1b" not in stream.getvalue()


@settings(deadline=None)  # a shared machine may pause for long
@given(st.text())
def test_printable_keeps_any_text_on_its_line(text: str) -> None:
    assert len(f"{logs.printable(text)}.".splitlines()) == 1
    assert "\x1b" not in logs.printable(text)
    assert text.isprintable() <= (logs.printable(text) == text)


def test_a_broken_stderr_is_silent_but_a_fault_of_ours_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("text", "info", Broken(BrokenPipeError()))
    logging.getLogger("a").info("nobody reads this")
    assert capsys.readouterr().err == ""
    logs.setup("text", "info", Broken(ValueError("closed")))
    logging.getLogger("a").info("nobody reads this")
    assert "ValueError: closed" in capsys.readouterr().err


def test_setup_replaces_what_was_there_and_defaults_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    old = io.StringIO()
    logs.setup("text", "info", old)
    logs.setup("text", "info")
    logging.getLogger("a").info("here")
    assert old.getvalue() == ""
    assert "here" in capsys.readouterr().err
    assert len([h for h in logging.getLogger().handlers if getattr(h, "stream", None) is sys.stderr]) == 1


@pytest.mark.parametrize("level", logs.LEVELS)
def test_every_level_can_be_set(level: str) -> None:
    logs.set_level(level)
    assert logging.getLogger().level == getattr(logging, level.upper())


@pytest.mark.parametrize("level", ["", "trace", "INFO", "info\n"])
def test_unknown_levels_are_refused_and_change_nothing(level: str) -> None:
    logs.set_level("warning")
    with pytest.raises(ConfigError, match="use one of debug, info, warning, error"):
        logs.set_level(level)
    assert logging.getLogger().level == logging.WARNING
