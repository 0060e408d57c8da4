"""What a command reads without pydantic is what typer reads with it."""

from __future__ import annotations

import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.core import TyperCommand, TyperGroup

from interceptor.cli.command import Command, Group


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


def read(arguments: list[str], *, plainly: bool) -> Any:
    """The values that the command gets, or the sentence that refuses them."""
    app = typer.Typer(cls=Group if plainly else TyperGroup, add_completion=False)
    seen: list[object] = []

    @app.command(cls=Command if plainly else TyperCommand)
    def paint(
        file: Path | None = None,
        colour: Colour = Colour.RED,
        coats: Annotated[float, typer.Option(min=0, max=9)] = 1,
        on: list[str] | None = None,
        dry: bool | None = None,
    ) -> None:
        seen.append((file, colour, coats, on, dry))

    @app.command()
    def other() -> None:
        """With one command only there would be no group."""

    try:
        app(["paint", *arguments], standalone_mode=False)
    except typer.exceptions.TyperException as error:
        return error.format_message()
    return seen


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--file", "a/b", "--colour", "blue", "--coats", "2.5", "--on", "wall", "--on", "a,b", "--dry"],
        ["--no-dry", "--on", ""],
        ["--colour", "green"],
        ["--colour", "RED"],
        ["--coats", "10"],
        ["--coats", "many"],
    ],
    ids=str,
)
def test_the_same_is_read_and_refused_as_typer_does(arguments: list[str]) -> None:
    assert read(arguments, plainly=True) == read(arguments, plainly=False)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["plan", "--help"], ["plan", "--exclude-uids", "5", "--output", "json"]]
)
def test_sidecar_setup_starts_without_pydantic(arguments: list[str]) -> None:
    script = (
        "import sys; from interceptor.cli.sidecar_setup import run; status = run(sys.argv[1:]); "
        "sys.exit(status or sum(name in sys.modules for name in ('pydantic', 'pydantic_core', 'yaml', 'iptc', 'pyroute2')))"
    )
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, capture_output=True)
