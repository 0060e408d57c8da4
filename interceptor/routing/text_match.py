"""PURE. Istio's StringMatch over bytes: equal, begins so, or matches an RE2 expression whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.config.virtual_service import StringMatch


@dataclass(frozen=True, slots=True)
class TextMatch:
    """A test of one text, and how an operator would say it."""

    said: str  # "begins with '/v1'"
    test: Callable[[bytes], bool]
    prefix: bytes | None = None  # what was asked of the beginning, for a rewrite

    @property
    def is_exact(self) -> bool:
        """Whether only one text passes."""
        return self.said.startswith("is ")


def text_match(asked: StringMatch, *, ignore_case: bool = False) -> TextMatch:
    """The test that a document asks for; without any condition the text only has to be there."""
    if asked.exact is not None:
        exact = asked.exact.encode()
        folded = exact.lower()
        said = f"is '{asked.exact}'"
        return TextMatch(said, (lambda text: text.lower() == folded) if ignore_case else exact.__eq__)
    if asked.prefix is not None:
        prefix = asked.prefix.encode()
        lower = prefix.lower()
        said = f"begins with '{asked.prefix}'"
        if ignore_case:
            return TextMatch(said, lambda text: text.lower().startswith(lower), prefix)
        return TextMatch(said, lambda text: text.startswith(prefix), prefix)
    if asked.regex is not None:
        return TextMatch(f"matches '{asked.regex}'", expression(asked.regex))
    return TextMatch("is there", lambda _text: True)


def expression(pattern: str) -> Callable[[bytes], bool]:
    """Whether a text matches an expression as a whole, in linear time."""
    import re2  # noqa: PLC0415 (only who writes an expression pays for the library)

    fullmatch = re2.compile(pattern.encode()).fullmatch
    return lambda text: fullmatch(text) is not None
