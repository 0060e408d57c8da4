"""A typer command that starts in an instant: pydantic is loaded for a value that needs it, and not to look at none.

Typer builds a pydantic model for every option there is, which takes longer than all that ``plan`` does.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from typer.core import TyperCommand, TyperGroup

_TEXTS: Final = list[str]


class Command(TyperCommand):
    """For ``app.command(cls=...)``."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Every parameter, with a reader of its own."""
        return [_read_plainly(each) for each in super().get_params(ctx)]


class Group(TyperGroup):
    """For ``typer.Typer(cls=...)``."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Every parameter, with a reader of its own."""
        return [_read_plainly(each) for each in super().get_params(ctx)]


def _read_plainly(parameter: Any) -> Any:
    """In typer's own place for the reader, filled when first asked for; a typer without such a place is only slower."""
    if not isinstance(getattr(parameter, "_runtime_param", None), _Value):
        setattr(parameter, "_runtime_param", _Value())  # noqa: B010 (see above)
    return parameter


class _Value:
    """Reads the value of an option: what is plain at once, all else as typer does."""

    def __init__(self) -> None:
        self._built: Any = None

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """What typer's own ``RuntimeParam.coerce`` returns or raises."""
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        wanted = param.type_descriptor.annotation
        if wanted == _TEXTS and isinstance(value, tuple | list):
            return list(value)
        if wanted is Path:
            return Path(value)
        if isinstance(wanted, type) and issubclass(wanted, StrEnum) and value in set(wanted):
            return wanted(value)
        if self._built is None:
            from typer._coercion import build_runtime_param  # noqa: PLC0415 (see above)

            self._built = build_runtime_param(param.type_descriptor)
        return self._built.coerce(value, param=param, ctx=ctx)
