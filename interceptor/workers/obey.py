"""A worker as one of several processes: it does what the main process asks over a channel."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from interceptor.config.configuration import PLACES
from interceptor.errors import ConfigError
from interceptor.state.aside import in_turns, uncollected
from interceptor.state.snapshot import letting_go, taking
from interceptor.workers.message import Handover, Message, changed

if TYPE_CHECKING:
    from interceptor.config.configuration import Configuration
    from interceptor.proxy.transport import Credentials
    from interceptor.workers.channel import Channel
    from interceptor.workers.worker import Worker

_log: Final = logging.getLogger(__name__)


async def obey(worker: Worker, channel: Channel) -> None:
    """Serve from the first snapshot that is handed over until drained, or until left alone."""
    while (message := await channel.receive()) is not None and message.kind != "publish":
        _do(worker, message)
    if message is None:
        return
    await _publish(worker, message)
    async with trio.open_nursery() as nursery:
        if worker.credentials is not None:
            nursery.start_soon(worker.credentials.watch)
        async with trio.open_nursery() as sending:
            sending.start_soon(channel.run)
            async with trio.open_nursery() as serving:
                await serving.start(worker.run)
                channel.post(Message("publish"))  # ready
                nursery.start_soon(_listen, worker, channel, nursery.cancel_scope)
            channel.post(Message("collect", await worker.collect()))  # what counts stays
            channel.finish()
        nursery.cancel_scope.cancel()


async def _listen(worker: Worker, channel: Channel, scope: trio.CancelScope) -> None:
    while (message := await channel.receive()) is not None:
        match message.kind:
            case "publish":
                await _publish(worker, message)
                channel.post(Message("publish"))
            case "health":
                worker.health.publish(message.value)  # type: ignore[arg-type]  # what the main process's board has
                channel.post(Message("health"))
            case "collect" | "connections" | "clusters" | "plaintext" as kind:
                channel.post(Message(kind, await getattr(worker, kind)()))
            case _:
                _do(worker, message)
    scope.cancel()  # whoever supervises is gone


def _do(worker: Worker, message: Message) -> None:
    """What needs no answer."""
    match message.kind:
        case "drain":
            worker.stop_accepting()
        case "abort":
            worker.abort_all(str(message.value))
        case "log_level":
            worker.set_level(str(message.value))
        case "reopen_log":
            worker.reopen_log()
        case "svids":
            assert worker.credentials is not None
            assert message.value is None or isinstance(message.value, bytes)
            worker.credentials.take(message.value)
        case "secrets":
            assert worker.credentials is not None
            assert isinstance(message.value, dict)
            worker.credentials.give(message.value)
        case kind:
            raise AssertionError(f"{kind} needs an answer")


def _admit(credentials: Credentials, configuration: Configuration) -> None:
    """Read the certificates that it names; the main process could."""
    try:
        credentials.admit(configuration)
    except ConfigError as error:
        _log.error("upstreams that need new certificates are not spoken to: %s", error)


async def _publish(worker: Worker, message: Message) -> None:
    assert isinstance(message.value, Handover)
    configuration = worker.store.current.configuration
    if message.value.configuration is not None:
        configuration = changed(configuration, message.value.configuration)
        if worker.credentials is not None:
            _admit(worker.credentials, configuration)
    given = message.value
    with uncollected(sum(len(getattr(configuration, place)) for place in PLACES.values())):
        before = worker.store.current
        work = taking(
            *(configuration, given.resolved), former=given.former, places=given.places, before=before
        )
        worker.store.publish(await in_turns(work))
        leaving = letting_go(before)
        del before, work
        await in_turns(leaving)
