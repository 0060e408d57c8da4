"""Who still speaks to the app without mutual TLS: what would be refused if its mode were STRICT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from interceptor.model.connection import Direction

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from interceptor.model.connection import Flow

MAX_PORTS: Final = 64  # with a label of their own; a peer that scans ports cannot make more of them
MAX_PEERS: Final = 1000  # told by name; further ones are counted only
OTHER: Final = "other"

Peers = dict[tuple[int, str], int]  # port and peer -> connections


class Plaintext(Collector):
    """Counts the connections of peers that ended and were not mutual TLS, by the app's port."""

    def __init__(self) -> None:
        self._ports: dict[int | str, int] = {}
        self._peers: Peers = {}

    def ended(self, flow: Flow) -> None:
        """A flow ended."""
        key = _key(flow)
        if key is None:
            return
        label: int | str = key[0]
        if label not in self._ports and len(self._ports) >= MAX_PORTS:
            label = OTHER
        self._ports[label] = self._ports.get(label, 0) + 1
        if key in self._peers or len(self._peers) < MAX_PEERS:
            self._peers[key] = self._peers.get(key, 0) + 1

    def peers(self, live: Iterable[Flow]) -> Peers:
        """Who it was, with the flows that are live."""
        found = dict(self._peers)
        for flow in live:
            key = _key(flow)
            if key is not None and (key in found or len(found) < MAX_PEERS):
                found[key] = found.get(key, 0) + 1
        return found

    def collect(self) -> Iterator[CounterMetricFamily]:
        """For the registry."""
        family = CounterMetricFamily(
            "interceptor_plaintext_connections",
            "Connections of peers that ended and were not mutual TLS, by the app's port.",
            labels=("port",),
        )
        for port, count in self._ports.items():
            family.add_metric((str(port),), count)
        yield family


def _key(flow: Flow) -> tuple[int, str] | None:
    """None of what says nothing: the app's own connections, mutual TLS, what was refused."""
    if flow.direction is not Direction.INGRESS or flow.security == "mutual_tls" or flow.denied is not None:
        return None
    return None if flow.original_dst is None else (flow.original_dst.port, flow.peer.host)


def report(peers: Peers) -> list[dict[str, object]]:
    """By port, for ``/explain?readiness``."""
    ports: dict[int, dict[str, int]] = {}
    for (port, peer), count in sorted(peers.items()):
        ports.setdefault(port, {})[peer] = count
    return [{"port": port, "connections": sum(of.values()), "peers": of} for port, of in ports.items()]
