"""The patterns of policies: a text as it is, ``x*``, ``*x``, ``*``; what would never match is refused (ValueError).

A pattern that cannot match is harmless in an ALLOW rule and a hole in a DENY rule, so none is taken in silence.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, TypeVar

from pydantic import AfterValidator, Field

from interceptor.config.addresses import ip_address_or_network
from interceptor.config.base import Name, Strict

T = TypeVar("T")

_OPERATOR: Final = re.compile(r"\{[^/{}]*\}")
_NOT_IN_PATHS: Final = re.compile(r"[\x00-\x20\x7f#\\]")
_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_ACCOUNT: Final = re.compile(r"[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?(?:/[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?)?")


def some(value: tuple[T, ...]) -> tuple[T, ...]:
    """At least one: an empty list reads like 'nothing', and in Istio's schema it means 'anything'."""
    if not value:
        raise ValueError("must name at least one; leave the field out where anything may match")
    return value


def pattern(value: str) -> str:
    """A text that matches as it is, by its beginning (``x*``), by its end (``*x``), or whatever is present (``*``)."""
    if not value:
        raise ValueError("must not be empty; write '*' for any value that is present")
    if "*" in value[1:-1] or (len(value) > 1 and value[0] == value[-1] == "*"):
        raise ValueError(f"'{value}' has a '*' that is not its only one at the first or the last place")
    return value


def principal(value: str) -> str:
    """A principal as policies write it: without the scheme."""
    if value.startswith("spiffe://"):
        raise ValueError(f"'{value}' would never match; write it without 'spiffe://': '{value[9:]}'")
    return pattern(value)


def service_account(value: str) -> str:
    """``account`` of the policy's own namespace, or ``namespace/account``."""
    if not _ACCOUNT.fullmatch(value):
        raise ValueError(
            f"'{value}' is not a service account; write it like reader or shop/reader, without '*'"
        )
    return value


def path(value: str) -> str:
    """A path pattern, or a template: ``{*}`` is one segment, and ``{**}``, the last operator, any number of them."""
    if "?" in value:
        raise ValueError(f"'{value}' would never match: a path is compared without its query; leave that out")
    if not value.startswith(("/", "*")):
        raise ValueError(
            f"'{value}' would never match: a path begins with '/'; write '/{value}' or '*{value}'"
        )
    _in_one_form(value)
    if "{" not in value and "}" not in value:
        return pattern(value)
    operators = _OPERATOR.findall(value)
    literal = _OPERATOR.sub("", value)
    segments = value.split("/")
    whole = all("{" not in segment or _OPERATOR.fullmatch(segment) for segment in segments)
    rest_is_last = "{**}" not in operators[:-1]
    if (
        any(each not in {"{*}", "{**}"} for each in operators)
        or set(literal) & set("{}*")
        or not (whole and rest_is_last)
    ):
        raise ValueError(
            f"'{value}' is not a path template; '{{*}}' stands for a whole segment, '{{**}}', which comes last of them, "
            "for any number, as in /users/{*}/files/{**}"
        )
    return value


def _in_one_form(value: str) -> None:
    """Refuse what no path holds once it was put into its one form (``policy.paths``)."""
    text, open_end = value.removesuffix("*"), value.endswith("*")
    segments = text.split("/")
    whole = segments[:-1] if open_end else segments
    why = None
    if _NOT_IN_PATHS.search(text):
        why = "no path that is let through holds a space, a control character, '#' or a backslash"
    elif any(segment in {".", ".."} for segment in whole):
        why = "the segments '.' and '..' are taken out of paths before they are compared"
    elif any(chr(int(digits, 16)) in _UNRESERVED for digits in _ESCAPE.findall(text)):
        why = "escapes of letters, digits and -._~ are decoded before paths are compared"
    if why is not None:
        raise ValueError(f"{value!r} would never match: {why}")


def port(value: str) -> str:
    """A port, which Istio's schema has as text."""
    if not re.fullmatch(r"[1-9][0-9]{0,4}", value, re.ASCII) or int(value) > 65535:
        raise ValueError(f"'{value}' is not a port; write a number from 1 to 65535, in quotes")
    return value


Patterns = Annotated[tuple[Annotated[str, AfterValidator(pattern)], ...], AfterValidator(some)]
Principals = Annotated[tuple[Annotated[str, AfterValidator(principal)], ...], AfterValidator(some)]
ServiceAccounts = Annotated[tuple[Annotated[str, AfterValidator(service_account)], ...], AfterValidator(some)]
Paths = Annotated[tuple[Annotated[str, AfterValidator(path)], ...], AfterValidator(some)]
Ports = Annotated[tuple[Annotated[str, AfterValidator(port)], ...], AfterValidator(some)]
IpBlocks = Annotated[tuple[Annotated[str, AfterValidator(ip_address_or_network)], ...], AfterValidator(some)]


class Selector(Strict):
    """The workloads a policy is about, by their labels; without labels it is about all of them."""

    matchLabels: dict[Name, str] = Field(default_factory=dict)  # noqa: N815 (the document's spelling)
