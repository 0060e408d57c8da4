"""Frozen records that cost next to nothing to define.

What ``dataclasses`` makes of a class takes half a millisecond of compiling for each, and eight for the module itself: a
third of the life of ``sidecar-setup``. For programs that live long enough dataclasses are the better choice: a record is
slower to make, and its fields are in a dictionary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, dataclass_transform

if TYPE_CHECKING:
    from dataclasses import replace  # the type checker knows the fields by it

__all__ = ("Record", "replace")


@dataclass_transform(frozen_default=True)
class Record:
    """Fields are what a subclass annotates, defaults what it assigns. Equal by type and fields, hashable, never changed."""

    _fields: tuple[str, ...] = ()
    _places: tuple[str, ...] = ()  # the fields that may be given by place
    _needed: frozenset[str] = frozenset()

    def __init_subclass__(cls, *, kw_only: bool = False) -> None:
        """``kw_only``: no field may be given by its place alone."""
        own = cls.__dict__.get("__annotations__", {})  # noqa: RUF063 (inspect is what makes dataclasses slow)
        cls._fields = (*cls._fields, *own)
        cls._needed = cls._needed | {name for name in own if name not in cls.__dict__}
        cls._places = () if kw_only else cls._fields
        setattr(cls, "__match_args__", cls._places)  # noqa: B010 (the type checker makes its own)

    def __init__(self, *args: object, **given: object) -> None:
        if args:
            given = dict(zip(self._places, args, strict=False)) | given
        if len(args) > len(self._places) or not self._needed <= given.keys() <= {*self._fields}:
            raise TypeError(f"{type(self).__name__} is made of ({', '.join(self._fields)}), not of {given!r}")
        self.__dict__.update(given)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: '{name}' cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: '{name}' cannot be deleted")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Record) or type(self) is not type(other):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._fields)
        return f"{type(self).__qualname__}({fields})"

    def _values(self) -> tuple[object, ...]:
        return tuple([getattr(self, name) for name in self._fields])


if not TYPE_CHECKING:

    def replace(record: Record, /, **changes: object) -> Record:
        """The same record with some fields changed: ``dataclasses.replace`` for records."""
        return type(record)(**{**vars(record), **changes})
