"""What a backend of the kernel can do for us: look, compare what is there with what is wanted, write in one piece."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from interceptor.model.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from interceptor.config.redirect import Backend
    from interceptor.kernel.child import Helpers
    from interceptor.redirect.foreign import Presence
    from interceptor.redirect.rules import Family, Ruleset, Table
    from interceptor.redirect.status import InstalledChain


class Step(Record):
    """A commit that is about to be made: the seam where a test interferes. nft writes everything in one.

    Without a backend it is a request about policy routing, and ``attempt`` counts the requests.
    """

    backend: Backend | None
    attempt: int
    family: Family | None = None
    table: Table | None = None


def undisturbed(_step: Step) -> None:
    """What happens before a commit when nobody interferes: nothing."""


class Change(Protocol):
    """One atomic write: what is ours in one place, as it is and as it is wanted."""

    @property
    def needed(self) -> bool:
        """Whether the two differ."""

    @property
    def installs(self) -> bool:
        """Whether nothing of ours is there yet."""

    @property
    def removes(self) -> bool:
        """Whether nothing of ours is to be left."""

    @property
    def rank(self) -> tuple[int, int]:
        """When to make it among others that install: by family (0: both), then by place."""

    @property
    def helper(self) -> Family:
        """Whose helper process makes it."""

    @property
    def phrase(self) -> str:
        """The change for the operator: 'IPv4 nat: 14 rules in ...', 'IPv6 filter: removed'."""

    def make(self, before_commit: Callable[[Step], None]) -> None:
        """Write what is wanted. In a helper."""

    def undo(self, before_commit: Callable[[Step], None]) -> None:
        """Write what was there. In a helper."""


class Driver(Protocol):
    """A backend, which works in helpers. Raises KernelError with the remedy."""

    def look(self, helpers: Helpers) -> Presence:
        """What there is of ours and of others; makes nothing."""

    def changes(self, helpers: Helpers, ruleset: Ruleset) -> Sequence[Change]:
        """Every place that holds or shall hold something of ours."""

    def installed(self, helpers: Helpers) -> Sequence[InstalledChain]:
        """Our chains with their counters."""
