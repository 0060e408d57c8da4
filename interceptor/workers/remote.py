"""A worker's process, as the main process knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from interceptor.workers.message import Handover, Kind, Message, change

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prometheus_client import Metric

    from interceptor.config.configuration import Configuration
    from interceptor.state.health import Board
    from interceptor.state.store import Store
    from interceptor.workers.channel import Channel

ANSWER_SECONDS: Final = 2.0  # a worker answers between two batches of its connections, within milliseconds


class Remote:
    """One process, from its start to its end."""

    def __init__(self, slot: int, channel: Channel, configuration: Configuration) -> None:
        self.slot = slot
        self.pid = 0  # until it is forked
        self.started = trio.current_time()
        self.version: str | None = None  # of the configuration that it serves by; None before it serves
        self.ready = trio.Event()  # or ended
        self._took = trio.Event()  # the next snapshot, or ended
        self.series: Sequence[Metric] = ()  # as they were last told
        self._channel = channel
        self._configuration = configuration  # that it has
        self._scope = trio.CancelScope()
        self._over = False
        self._asked: dict[Kind, trio.Event] = {}
        self._answers: dict[Kind, object] = {}

    def tell(self, kind: Kind, value: object = None) -> None:
        """Have it do something that it does not answer."""
        self._channel.post(Message(kind, value))

    async def ask(self, kind: Kind, value: object = None) -> object:
        """Its answer; None where it ends instead. While one of a kind is under way no other is sent."""
        answered = self._asked.get(kind)
        if self._over:
            return None
        if answered is None:
            answered = self._asked[kind] = trio.Event()
            self._answers.pop(kind, None)
            self.tell(kind, value)
        await answered.wait()
        return self._answers.get(kind)

    async def run(self, store: Store, board: Board) -> None:
        """Talk to it until ``end``."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._channel.run)
                    nursery.start_soon(self._hand_over, store)
                    nursery.start_soon(self._tell_health, board)
                    while (message := await self._channel.receive()) is not None:
                        self._answered(message)
                    nursery.cancel_scope.cancel()
        finally:
            self._channel.close()
            self._release()

    def _answered(self, message: Message) -> None:
        if message.kind == "collect":
            self.series = message.value  # type: ignore[assignment]  # what a worker answers to this
        self._answers[message.kind] = message.value
        if (answered := self._asked.pop(message.kind, None)) is not None:
            answered.set()

    def end(self) -> None:
        """It has ended: nothing more will come."""
        self._scope.cancel()
        self._release()

    def _release(self) -> None:
        """Nobody waits for what will not come."""
        self._over = True
        for answered in self._asked.values():
            answered.set()
        self._asked.clear()
        self.ready.set()
        self._took.set()

    async def wait_taken(self, store: Store) -> None:
        """Wait until it serves by what is in force, or has ended."""
        while not self._over and self.version != store.current.version:
            await self._took.wait()

    async def _tell_health(self, board: Board) -> None:
        """Which endpoints are unhealthy; a state that is no more by then is skipped for the last one."""
        await self.ready.wait()
        known = board.current
        while True:
            await self.ask("health", known)
            known = await board.wait_changed(known)

    async def _hand_over(self, store: Store) -> None:
        """Each snapshot that comes into force, one at a time: what is published meanwhile is skipped for the last one."""
        current = store.current
        while True:
            known, self._configuration = self._configuration, current.configuration
            made = None if known is current.configuration else change(known, current.configuration)
            await self.ask("publish", Handover(made, current.resolved, current.former, current.places))
            if not self.ready.is_set() and current.version != store.current.version:
                current = store.current  # it is not ready by what is over already
                continue
            self.version = current.version
            self.ready.set()
            self._took.set()
            self._took = trio.Event()
            current = await store.wait_changed(current.version)
