"""``interceptor proxy``: what is asked is judged in a child process, and the proxy runs in this one.

Parser and models, typer and pydantic, are 15 MB that a running proxy has no use for: they end with the child.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from interceptor.cli import program
from interceptor.kernel import child

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import typer

    from interceptor.config.configuration import Configuration
    from interceptor.discovery.verdict import Start

NAME = "interceptor"


class Asked(NamedTuple):
    """The command line of ``interceptor proxy`` and the files it names, judged."""

    configuration: Configuration
    start: Start | None  # None: no files
    namespace: str | None
    proxy_uid: int
    log_format: Literal["text", "json"] | None
    log_level: str
    control_fd: int | None


def main(arguments: Sequence[str], parser: Callable[[], typer.Typer]) -> int:
    """Run the proxy; the exit status. The parser is loaded in the child."""
    outcome = program.guarded(NAME, arguments, lambda: child.call(None, _judge, arguments, parser))
    if not isinstance(outcome, Asked):
        return outcome
    return program.guarded(NAME, arguments, lambda: _run(outcome))


def _judge(arguments: Sequence[str], parser: Callable[[], typer.Typer]) -> Asked | int:
    """In the child: what is asked, or the status to leave with once everything has been said."""
    outcome = program.parsed(parser(), NAME, arguments)
    return outcome if isinstance(outcome, Asked) else 0


def _run(asked: Asked) -> int:
    from interceptor.runtime import run  # noqa: PLC0415 (not for the child)

    run.run_proxy(
        asked.configuration,
        start=asked.start,
        namespace=asked.namespace,
        proxy_uid=asked.proxy_uid,
        log_format=asked.log_format,
        log_level=asked.log_level,
        control_fd=asked.control_fd,
    )
    return 0
