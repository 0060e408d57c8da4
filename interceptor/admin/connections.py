"""The live flows as ``/connections`` shows them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Iterable

    from interceptor.model.address import SocketAddress
    from interceptor.model.connection import Flow

FLOWS_PER_TURN: Final = 200  # some 2 ms of work between two turns of the data path


async def rows(flows: Iterable[Flow], now: float, worker: int) -> list[str]:
    """Each flow as JSON; the data path gets its turns while thousands are written."""
    written: list[str] = []
    for flow in tuple(flows):
        written.append(json.dumps(_row(flow, now, worker)))
        if len(written) % FLOWS_PER_TURN == 0:
            await trio.lowlevel.checkpoint()
    return written


def _row(flow: Flow, now: float, worker: int) -> dict[str, object]:
    return {
        "id": flow.id,
        "worker": worker,  # the id of its process
        "direction": flow.direction.value,
        "peer": str(flow.peer),
        "original_dst": _address(flow.original_dst),
        "upstream": _address(flow.upstream),
        "service": flow.destination_service,
        "policy": flow.policy,
        "security": flow.security,
        "peer_identity": None if flow.peer_identity is None else str(flow.peer_identity),
        "relay": flow.relay,
        "age": round(now - flow.opened, 3),
        "bytes_received": flow.bytes_received,
        "bytes_sent": flow.bytes_sent,
    }


def _address(address: SocketAddress | None) -> str | None:
    return None if address is None else str(address)
