"""PURE. Resources that came before, found by their bytes: the state of the world repeats nearly all of them each time."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from interceptor.discovery.xds.messages import Resource

MOST: Final = 200_000  # resources; more are read anew


class Repeated:
    """The last of each name, as it was read: reading one costs a hundred times as much as finding it."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._said: dict[tuple[str, str], bytes] = {}  # by type and name
        self._read: dict[bytes, Resource] = {}

    def find(self, type_url: str, data: bytes) -> Resource | None:
        """What these bytes were read as."""
        return self._read.get(_digest(type_url, data))

    def keep(self, type_url: str, data: bytes, resource: Resource) -> None:
        """What these bytes are read as; what cannot be read is looked at again each time."""
        if resource.problem is not None:
            return
        if len(self._said) >= self._most:
            self._said.clear()
            self._read.clear()
        place = type_url, resource.name
        if (before := self._said.get(place)) is not None:
            self._read.pop(before, None)
        self._said[place] = said = _digest(type_url, data)
        self._read[said] = resource


def _digest(type_url: str, data: bytes) -> bytes:
    return blake2b(data, digest_size=16, person=type_url.encode()[-16:]).digest()
