"""The quick reader reads what typer reads, or leaves it to typer."""

from __future__ import annotations

import functools
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from interceptor.cli import flags, program, quick, rule_app, rule_commands
from interceptor.config.redirect import FLAGS
from interceptor.errors import ConfigError

COMMANDS = ("plan", "apply", "remove", "status")
Call = tuple[str, dict[str, object]]


def by_typer(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Call | None:
    """The command that typer calls and with what; None where it complains."""
    called: list[Call] = []
    for name in COMMANDS:
        own = getattr(rule_commands, name)

        @functools.wraps(own)
        def note(*, name: str = name, **given: object) -> None:
            called.append((name, given))

        monkeypatch.setitem(rule_app._COMMANDS, name, (note, rule_app._COMMANDS[name][1]))
    try:
        program.parsed(rule_app.app(arguments), "sidecar-setup", arguments)
    except ConfigError:
        return None
    return called[0] if called else None


def by_hand(arguments: list[str]) -> Call | None:
    work = quick.read(arguments)
    if work is None:
        return None
    assert isinstance(work, functools.partial)
    bound = inspect.signature(work.func).bind(*work.args, **work.keywords)
    bound.apply_defaults()
    return work.func.__name__, bound.arguments


@pytest.mark.parametrize(
    "arguments",
    [
        "plan",
        "plan --output=mermaid --output json --config a --config=b/c",
        "apply --netns x --exclude-uids 1,2 --exclude-uids= --strict --no-strict --dry-run --existing reset",
        "apply --no-supplementary-groups --log-format json --log-format=text --proxy-uid=-5",
        "remove --netns=7 --wait 3",
        "status --output json --netns /proc/1/ns/net",
    ],
)
def test_usual_command_lines_are_read_without_typer(arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read = by_hand(arguments.split())
    assert read is not None
    assert read == by_typer(arguments.split(), monkeypatch)


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "--help",
        "explain --to 192.0.2.1:80",
        "plan --help",
        "plan extra",
        "plan --",
        "plan --output",
        "plan --output xml",
        "plan --outpu json",
        "plan -netns x",
        "plan --strict=yes",
        "plan --dry-run",
        "plan --netns --strict",
        "plan --proxy-uid -5",
        "plan --exclude_uids 5",
        "plan --log-format xml",
        "apply --dry-run=1",
        "remove --drain 5",
        "remove --exclude-uids 5",
        "remove --strict",
        "status --wait 5",
    ],
)
def test_all_else_is_left_to_typer(arguments: str) -> None:
    assert by_hand(arguments.split()) is None


WORDS = st.sampled_from(
    [
        *(f"--{flag.name}" for flag in FLAGS[:4]), "--strict", "--no-strict", "--output", "--output=json", "--existing=keep",
        "--existing", "--dry-run", "--config", "--drain", "--log-format", "--wait", "json", "reset", "keep", "5", "-5",
        "", "-", "--", "--netns=", "--help", "--nets", "text",
    ]
)  # fmt: skip


@settings(max_examples=150)
@given(st.sampled_from(COMMANDS), st.lists(WORDS, max_size=6))
def test_what_is_read_is_what_typer_reads(command: str, words: list[str]) -> None:
    read = by_hand([command, *words])
    if read is not None:
        with pytest.MonkeyPatch.context() as monkeypatch:
            assert read == by_typer([command, *words], monkeypatch)


def test_every_command_has_the_flags_that_typer_gives_it() -> None:
    for name, (command, shared, own) in quick._COMMANDS.items():
        function, given_by_typer = rule_app._COMMANDS[name]
        assert (command, shared) == (function, given_by_typer)
        assert {option[2:].replace("-", "_") for option in own} <= inspect.signature(
            command
        ).parameters.keys()
    assert flags.LOG_FORMATS == ("text", "json")


def test_a_usual_command_line_starts_without_typer_and_dataclasses(tmp_path: Path) -> None:
    script = (
        "import sys; from interceptor.cli.sidecar_setup import run; status = run(sys.argv[1:]); "
        "sys.exit(status or sum(name in sys.modules for name in ('typer', 'dataclasses', 'inspect', 'iptc', 'json')))"
    )
    command = [sys.executable, "-c", script, "plan", "--exclude-uids", "5"]
    # Coverage, where it watches child processes too, would load them itself.
    environment = {name: text for name, text in os.environ.items() if not name.startswith("COVERAGE")}
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path, env=environment)
