"""What a worker may use of what all workers have together: seats for connections, flow ids, source ports.

Workers write cells of their own and read those of the others, so nothing is ever locked but for the last seat, and the
cells of a worker that was killed are right: whoever replaces it goes on counting where it stopped.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.kernel.shared_memory import SharedMemory

# Below what any system gives its own connections: Linux begins at 32768, others at 49152 (RFC 6335).
FIRST_SOURCE_PORT: Final = 1024
PORTS: Final = 32768  # one more than the last of them


class Share:
    """The share of a worker that is alone: everything."""

    def __init__(self, limit: int) -> None:
        self.limit = limit  # on connections
        self.ids: Iterator[int] = itertools.count(1)
        self.source_ports: Iterator[int] = itertools.cycle(range(FIRST_SOURCE_PORT, PORTS))
        self._seats = 0

    def take_seat(self, port: int) -> bool:  # noqa: ARG002 (what others need to know)
        """Whether one more connection, from this port of its peer's, is within the limit; it has a seat then."""
        if self._seats >= self.limit:
            return False
        self._seats += 1
        return True

    def give_back_seat(self, port: int) -> None:  # noqa: ARG002 (as above)
        """A connection that had a seat has ended."""
        self._seats -= 1

    def elsewhere(self, port: int) -> bool:  # noqa: ARG002 (there is no other worker)
        """Whether some peer has a connection from this port to another worker."""
        return False


class Shares:
    """The shares of several workers, in memory that they have together; to be made before they are forked."""

    def __init__(self, memory: SharedMemory, workers: int, limit: int) -> None:
        self.memory = memory
        self.workers = workers
        self.limit = limit
        self.seats = memory.cells[:workers]  # taken, by worker
        self.issued = memory.cells[workers : 2 * workers]  # flow ids, by worker
        # Connections of each worker by the port of their peers; no page of it is used before a peer has so low a port.
        self.ports = tuple(
            memory.cells[2 * workers + slot * PORTS : 2 * workers + (slot + 1) * PORTS]
            for slot in range(workers)
        )

    @staticmethod
    def cells(workers: int) -> int:
        """How much memory so many workers need."""
        return workers * (2 + PORTS)

    def vacate(self, slot: int) -> int:
        """The worker in a slot is gone, and its connections with it; how many they were."""
        lost = self.seats[slot]
        self.seats[slot] = 0
        for port, connections in enumerate(self.ports[slot]):
            if connections:
                self.ports[slot][port] = 0
        return lost


class PartialShare(Share):
    """The share of one of several workers: seats as long as all of them together are within the limit."""

    def __init__(self, shares: Shares, slot: int) -> None:
        super().__init__(shares.limit)
        self._shares = shares
        self._slot = slot
        self.ids = self._numbers()
        # Each worker chooses from ports of its own.
        self.source_ports = itertools.cycle(range(FIRST_SOURCE_PORT + slot, PORTS, shares.workers))
        self._ports = shares.ports[slot]
        self._others = tuple(ports for at, ports in enumerate(shares.ports) if at != slot)

    def take_seat(self, port: int) -> bool:
        """Take it first and look then: of two workers that want the last seat at least one sees the other.

        Without the lock both might give up; within it one of them is the last to look, and stays.
        """
        seats = self._shares.seats
        seats[self._slot] += 1
        if sum(seats) > self.limit:
            with self._shares.memory.locked():
                if sum(seats) > self.limit:
                    seats[self._slot] -= 1
                    return False
        if port < PORTS:
            self._ports[port] += 1
        return True

    def give_back_seat(self, port: int) -> None:
        self._shares.seats[self._slot] -= 1
        if port < PORTS:
            self._ports[port] -= 1

    def elsewhere(self, port: int) -> bool:
        return any(ports[port] for ports in self._others)

    def _numbers(self) -> Iterator[int]:
        """Ids of no other worker, nor of one that was here before."""
        issued, slot, workers = self._shares.issued, self._slot, self._shares.workers
        while True:
            number = issued[slot]
            issued[slot] = number + 1
            yield number * workers + slot + 1
