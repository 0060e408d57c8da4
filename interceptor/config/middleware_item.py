"""What every entry of ``spec.middleware`` says, whatever it uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from interceptor.config.base import Fault, Name, Strict
from interceptor.config.middleware_fields import PortRange, first_and_last

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.config.tree import Location


class Item(Strict):
    """What every entry of the list says."""

    name: Name  # in logs and metrics
    direction: Literal["ingress", "egress"] | None = None  # none: both
    ports: tuple[PortRange, ...] = Field(default=(), strict=False)  # of the original destination; none: all

    @property
    def port_ranges(self) -> tuple[tuple[int, int], ...]:
        """The ports as first and last."""
        return tuple(map(first_and_last, self.ports))

    def faults(self, at: Location) -> Iterator[Fault]:  # noqa: ARG002 (of those that have any)
        """What is wrong between its fields."""
        yield from ()
