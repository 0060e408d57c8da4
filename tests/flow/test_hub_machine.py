"""A relayed connection behaves as a direct one, whatever both ends do: send, read, pause, shut down, reset."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass, field

import trio
import trio.lowlevel
from hypothesis import example, given, settings, strategies as st

from interceptor.model.connection import RelayChoice
from interceptor.proxy.hub import Hub
from tests.support.flows import flow_between, reset, tcp_pair

# Each place in what one end sends is unlike any other, and unlike what the other end sends.
STREAMS = [b"".join((number + i).to_bytes(4, "big") for number in range(300_000)) for i in (0, 1 << 24)]


@dataclass
class Tip:
    """One end of a connection, and what happened to it."""

    sock: socket.socket
    stream: bytes
    sent: int = 0
    received: bytearray = field(default_factory=bytearray)
    end: str = "open"
    shut: bool = False

    def send(self, size: int) -> None:
        if self.shut or self.end == "gone":
            return
        try:
            self.sent += self.sock.send(self.stream[self.sent : self.sent + size])
        except ConnectionResetError:
            self.end = "reset"
        except (BlockingIOError, BrokenPipeError):
            pass

    def read(self, size: int) -> None:
        if self.end != "open":
            return
        with contextlib.suppress(BlockingIOError):
            try:
                data = self.sock.recv(size)
            except ConnectionResetError:
                self.end = "reset"
                return
            self.received += data
            if not data:
                self.end = "fin"

    def shutdown(self, _size: int) -> None:
        if self.end != "gone" and not self.shut:
            self.shut = True
            with contextlib.suppress(OSError):  # it was reset meanwhile
                self.sock.shutdown(socket.SHUT_WR)

    def reset(self, _size: int) -> None:
        if self.end != "gone":
            self.end = "gone"
            reset(self.sock)

    def pause(self, _size: int) -> None:
        """Let the hub work before the next action."""


@dataclass
class Connection:
    """Both ends: of one direct connection, or of a relayed one."""

    peer: Tip
    app: Tip

    def do(self, action: str, *, peer: bool, size: int) -> None:
        getattr(self.peer if peer else self.app, action)(size)

    def read_on(self) -> None:
        for tip in (self.peer, self.app):
            while tip.end == "open":
                before = len(tip.received)
                tip.read(1 << 20)
                if len(tip.received) == before:
                    break

    def close(self) -> None:
        self.peer.sock.close()
        self.app.sock.close()


ACTIONS = st.tuples(
    st.sampled_from(["send", "send", "read", "read", "pause", "shutdown", "reset"]),
    st.booleans(),
    st.sampled_from([1, 2, 1000, 70_000, 262_144, 600_000]),
)

CHOICES: list[RelayChoice] = ["auto", "splice", "copy"]
Buffers = tuple[int | None, int | None]
BUFFERS: list[Buffers] = [
    (None, None),
    (None, 4096),
    (4096, None),
    (4096, 4096),
]  # of the peer's leg, of the app's


def connect(buffers: int | None) -> tuple[socket.socket, socket.socket]:
    near, far = tcp_pair(buffers)
    near.setblocking(False)
    far.setblocking(False)
    return near, far


@settings(max_examples=300, deadline=None)
@example([("shutdown", False, 1), ("shutdown", True, 1), ("reset", False, 1)], (None, None), "auto")
@given(st.lists(ACTIONS, max_size=20), st.sampled_from(BUFFERS), st.sampled_from(CHOICES))
def test_a_relayed_connection_behaves_as_a_direct_one(
    actions: list[tuple[str, bool, int]], buffers: Buffers, choice: RelayChoice
) -> None:
    trio.run(compare, actions, buffers, choice)


async def compare(actions: list[tuple[str, bool, int]], buffers: Buffers, choice: RelayChoice) -> None:
    direct = Connection(*map(Tip, connect(None), STREAMS))
    (peer, downstream), (upstream, app) = connect(buffers[0]), connect(buffers[1])
    relayed = Connection(*map(Tip, (peer, app), STREAMS))
    hub = Hub(idle=60, linger=60, relay=choice)
    flow = flow_between(downstream)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hub.run)
        nursery.start_soon(hub.relay, flow, downstream, upstream)
        for action, by_peer, size in actions:
            direct.do(action, peer=by_peer, size=size)
            relayed.do(action, peer=by_peer, size=size)
            if action == "pause":
                await trio.lowlevel.checkpoint()
        direct.read_on()
        with trio.fail_after(5):
            while not settled(relayed, direct):
                relayed.read_on()
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert flow.bytes_sent >= len(relayed.peer.received)
    direct.close()
    relayed.close()


def settled(relayed: Connection, direct: Connection) -> bool:
    """Whether the relayed connection has come to where the direct one is; what arrived is a prefix of what was sent.

    A reset cuts off whatever had not yet left its sender, also its FIN: that is chance in a direct connection too. So
    there the end may be either; but an orderly one only if its sender had finished, and all of it arrived.
    """
    done = True
    for source, sink, expected in (
        (relayed.peer, relayed.app, direct.app.end),
        (relayed.app, relayed.peer, direct.peer.end),
    ):
        assert sink.received == source.stream[: len(sink.received)]
        assert len(sink.received) <= source.sent
        if sink.end == "fin":
            assert source.shut
            assert len(sink.received) == source.sent
        if source.end == "gone":
            done &= sink.end != "open"
        else:
            done &= sink.end == expected
            done &= sink.end in {"gone", "reset"} or len(sink.received) == source.sent
    return done
