"""PURE. What documents say about hosts, found by hash, of a wildcard by its longest suffix."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class ByHost(Generic[T]):
    """Values by host: of an exact one, else of the longest ``*.`` that it ends in, else of ``*``."""

    def __init__(self) -> None:
        self._exact: dict[bytes, T] = {}
        self._suffixes: dict[bytes, T] = {}

    def add(self, host: str, value: T) -> bool:
        """Say something about a host; False where something is said about it already, which stays."""
        return self.setdefault(host, value) is value

    def setdefault(self, host: str, value: T) -> T:
        """What is said about a host: the first that was."""
        table, key = (self._suffixes, host[1:]) if host.startswith("*") else (self._exact, host)
        return table.setdefault(key.encode(), value)

    def find(self, host: bytes) -> T | None:
        """What is said about a host in lower case."""
        found = self._exact.get(host)
        if found is not None or not self._suffixes:
            return found
        at = host.find(b".")
        while at >= 0:
            found = self._suffixes.get(host[at:])
            if found is not None:
                return found
            at = host.find(b".", at + 1)
        return self._suffixes.get(b"")

    def __bool__(self) -> bool:
        """Whether anything is said about any host."""
        return bool(self._exact or self._suffixes)
