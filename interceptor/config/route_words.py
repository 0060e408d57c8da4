"""The texts that routes are made of: names of headers, hosts and subsets, expressions, statuses."""

from __future__ import annotations

import re
from typing import Annotated, Final, TypeVar

from pydantic import AfterValidator, Field

from interceptor.config.addresses import host_name

T = TypeVar("T")

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_LABEL_NAME: Final = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?")
# Headers that frame a message or route it: their own fields (rewrite, authority) are for those.
_FRAMING: Final = frozenset(("connection", "content-length", "host", "te", "transfer-encoding", "upgrade"))


def some(value: tuple[T, ...]) -> tuple[T, ...]:
    """Raise ValueError where there is none."""
    if not value:
        raise ValueError("must name at least one")
    return value


def _header(value: str) -> str:
    if not _TOKEN.fullmatch(value):
        raise ValueError(f"'{value}' is not a header's name")
    return value.lower()


def _word(value: str) -> str:
    if not _TOKEN.fullmatch(value):
        raise ValueError(f"'{value}' is not a method, nor the name of a header")
    return value


def _settable(value: str) -> str:
    if _header(value) in _FRAMING:
        raise ValueError(
            f"'{value}' frames or routes the message and cannot be changed as a header; use rewrite"
        )
    return value.lower()


def _text(value: str) -> str:
    if re.search(r"[\r\n\0]", value):
        raise ValueError("must not have a line break or a NUL in it")
    return value


def _service(value: str) -> str:
    """A host of the registry. A short name of Kubernetes has no meaning here: it would depend on the document's namespace.

    With a dot at its end, as in DNS, a name of one label is a whole one.
    """
    if value == "*":
        return value
    name = host_name(value)
    if "." not in value and ":" not in name:
        raise ValueError(
            f"'{value}' is a short name; write the whole one, as in {value}.default.svc.cluster.local, or '{value}.' if it has no more labels"
        )
    return name


def _subset(value: str) -> str:
    if not _LABEL_NAME.fullmatch(value):
        raise ValueError(f"'{value}' is not a subset's name; use lower-case letters, digits and '-'")
    return value


def _regex(value: str) -> str:
    import re2  # noqa: PLC0415 (only who writes an expression pays for the library)

    try:
        re2.compile(value)
    except re2.error as error:
        raise ValueError(f"'{value}' is not an expression of RE2: {error}") from None
    return value


HeaderName = Annotated[str, AfterValidator(_header)]
SettableHeader = Annotated[str, AfterValidator(_settable)]
HeaderToken = Annotated[str, AfterValidator(_word)]
HeaderText = Annotated[str, AfterValidator(_text)]
ServiceHost = Annotated[str, AfterValidator(_service)]
SubsetName = Annotated[str, AfterValidator(_subset)]
Status = Annotated[int, Field(ge=200, le=599)]
Percent = Annotated[float, Field(ge=0, le=100, strict=False)]
Expression = Annotated[str, AfterValidator(_regex)]
