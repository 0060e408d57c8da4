"""What an operator reads when something is wrong: one sentence each, with the remedy.

The exit status is part of the contract: 1 the kernel or a peer refused, 2 bad input or usage.
"""

from __future__ import annotations

from typing import ClassVar


class InterceptorError(Exception):
    """A failure whose text is a sentence for an operator: what happened, to what, what to do."""

    exit_code: ClassVar[int] = 1


class ConfigError(InterceptorError):
    """Bad input; carries every problem found, one sentence each, and changes nothing."""

    exit_code: ClassVar[int] = 2

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, ...]]:
        return type(self), self.problems  # from another process each problem comes by itself


class KernelError(InterceptorError):
    """The kernel refused; nothing half-done is left."""


class PeerError(InterceptorError):
    """The other end of a connection refused, reset or said nothing in time."""
