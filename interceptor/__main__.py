"""The ``interceptor`` command, also as ``python -m interceptor``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer


def main() -> None:
    """Entry point: the proxy's own process does without what the other commands, and its own start, need."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["proxy"]:
        from interceptor.cli import proxy  # noqa: PLC0415

        raise SystemExit(proxy.main(arguments, _parser))
    from interceptor.cli import gateway  # noqa: PLC0415

    raise SystemExit(gateway.main(arguments))


def _parser() -> typer.Typer:
    from interceptor.cli import gateway  # noqa: PLC0415

    return gateway.app


if __name__ == "__main__":
    main()
