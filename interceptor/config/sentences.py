"""What pydantic found, said to an operator: the field as it is written in the document, and a sentence."""

from __future__ import annotations

import difflib
import inspect
from typing import TYPE_CHECKING, Any, Final, get_args

from pydantic import Tag

from interceptor.config.base import Strict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

    from interceptor.config.tree import Location

_WANTED: Final = {
    "string_type": "must be text, not {got}{quote}",
    "int_type": "must be a whole number, not {got}",
    "int_from_float": "must be a whole number, not {got}",
    "model_type": "must be a mapping with fields of its own, not {got}",
    "dict_type": "must be a mapping with fields of its own, not {got}",
    "tuple_type": "must be a list, not {got}",
    "missing": "is required; add it",
    "bool_type": "must be true or false, not {got}",
    "float_type": "must be a number, not {got}",
    "string_too_short": "must not be empty",
    "string_too_long": "is longer than {max_length} characters",
    "greater_than_equal": "{value} is out of bounds; it must be at least {ge}",
    "less_than_equal": "{value} is out of bounds; it must be at most {le}",
    "greater_than": "{value} is out of bounds; it must be more than {gt}",
}


def dotted(location: Location) -> str:
    """A location as an operator writes it: ``spec.ports[0].number``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'policy'?`` where one of the known words is close, else what is known."""
    words = sorted(known)
    lower = {name.lower(): name for name in words}
    close = difflib.get_close_matches(word.lower(), lower, n=1)
    return f"; did you mean '{lower[close[0]]}'?" if close else f"; known are: {', '.join(words)}"


def sentence(model: type[Strict], error: ErrorDetails) -> tuple[Location, str]:
    """One of pydantic's errors as a location in the document and a sentence."""
    tagged = [part for part in error["loc"] if part != "[key]"]
    location = [part for part in tagged if not _is_tag(part)]
    name = str(location[-1]) if location else ""
    owner = _model_at(model, tagged[:-1])
    context = error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            return location, _unknown_field(name, owner)
        case "literal_error":
            return location, _unknown_value(name, owner, error["input"], context["expected"])
        case "value_error":
            return location, str(context["error"])
        case kind if kind in _WANTED:
            value = error["input"]
            quote = "; put it in quotes" if isinstance(value, int | float) else ""
            return location, _WANTED[kind].format(got=described(value), quote=quote, value=value, **context)
        case _:  # a type of error that no field of today can give: pydantic's own words beat none
            return location, error["msg"]


def described(value: object) -> str:
    """A value in a sentence: short, and with its kind where that is what is wrong."""
    match value:
        case None:
            return "nothing (give a value, or leave the field out)"
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case str():
            return f"the text '{value if len(value) <= 40 else value[:37] + '...'}'"
        case dict():
            return "a mapping"
        case _:
            return "a list"


def _unknown_field(name: str, owner: type[Strict]) -> str:
    if name in owner.unsupported:
        return "is not supported by this version; remove it"
    if name in owner.refused:
        return f"is not supported by this version; {owner.refused[name]}"
    return f"there is no such field{did_you_mean(name, _fields(owner))}"


def _unknown_value(name: str, owner: type[Strict], value: object, expected: str) -> str:
    known = [word.strip("' ") for word in expected.replace(" or ", ",").split(",")]
    if isinstance(value, str) and value in owner.unsupported_values.get(name, ()):
        return f"'{value}' is not supported by this version; use {' or '.join(known)}"
    hint = did_you_mean(value, known) if isinstance(value, str) else f"; use {' or '.join(known)}"
    return f"{described(value).removeprefix('the text ')} is not a value of this field{hint}"


def _is_tag(part: str | int) -> bool:
    """Whether pydantic names by it the member of a union that an entry was judged by."""
    return isinstance(part, str) and part.startswith("use=")


def _model_at(model: type[Strict], location: Location) -> type[Strict]:
    """The model that holds the field at a location; the nearest around it where that is no model's."""
    annotation: Any = None
    for part in location:
        field = _fields(model).get(str(part))
        if _is_tag(part):
            model = _model_in(_member(annotation, str(part))) or model
        elif field is not None:
            annotation = field.annotation
            model = _model_in(annotation) or model
    return model


def _fields(model: type[Strict]) -> dict[str, FieldInfo]:
    """The fields by the names they are written with: one is a word of Python's."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _model_in(annotation: Any) -> type[Strict] | None:
    if inspect.isclass(annotation) and issubclass(annotation, Strict):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def _member(annotation: Any, tag: str) -> Any:
    """The member of a union that has a tag."""
    if Tag(tag) in get_args(annotation):
        return annotation
    return next(filter(None, (_member(each, tag) for each in get_args(annotation))), None)
