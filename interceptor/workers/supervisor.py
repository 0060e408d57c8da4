"""Several workers as processes: started, handed each snapshot, asked, replaced when they die, drained.

The main process decides and answers; it serves no connection. A starter (``kernel.starter``) forks the workers, each with
a queue of its own on every port (SO_REUSEPORT), which the starter keeps open: so nothing that waits there is lost with
a worker. Two connections come to one worker or to two by the kernel's hash; no worker ever waits for another.
"""

from __future__ import annotations

import functools
import gc
import json
import logging
import os
import signal
import socket
from typing import TYPE_CHECKING, Final

import trio

from interceptor.kernel import starter
from interceptor.kernel.shared_memory import SharedMemory
from interceptor.policy import shared_buckets
from interceptor.policy.shared_buckets import SharedBuckets
from interceptor.proxy.share import PartialShare, Shares
from interceptor.state.health import Board
from interceptor.state.snapshot import take
from interceptor.state.store import Store
from interceptor.telemetry import logs, merge
from interceptor.telemetry.worker_metrics import WorkerMetrics
from interceptor.workers import restarts
from interceptor.workers.channel import Channel
from interceptor.workers.obey import obey
from interceptor.workers.remote import ANSWER_SECONDS, Remote
from interceptor.workers.worker import Worker, announce_versions, settle

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prometheus_client import Metric

    from interceptor.config.configuration import Configuration
    from interceptor.model.connection import Direction
    from interceptor.proxy.transport import Credentials
    from interceptor.telemetry.access_log import AccessLog
    from interceptor.telemetry.metrics import Metrics
    from interceptor.telemetry.plaintext import Peers
    from interceptor.workers.message import Kind

COLLECT_SECONDS: Final = 1.0  # what a worker counted in the last second is lost when it is killed
LOG_LOCK: Final = 1  # of the memory's locks; 0 is for the last seat
END_SECONDS: Final = 5.0  # from the reset of its last flow to a worker's end; 2 of them for its access log

TAKEN_SECONDS: Final = 5.0  # some tens of thousands of documents take a worker two

_log: Final = logging.getLogger(__name__)


class Supervisor:
    """The workers of one proxy. Made before trio runs: it forks."""

    def __init__(
        self,
        configuration: Configuration,
        listeners: Sequence[Sequence[tuple[Direction, socket.socket]]],  # by worker
        metrics: Metrics,
        access_log: AccessLog,
        forget: Iterable[socket.socket],  # what is the main process's alone
        credentials: Credentials | None = None,
    ) -> None:
        self.store = Store(take(configuration))
        self.health = Board()
        self._configuration = configuration  # what a worker is forked with
        self.failure: str | None = None
        self._metrics = metrics
        self._workers = len(listeners)
        memory = SharedMemory(Shares.cells(self._workers))
        buckets, secret = SharedMemory(shared_buckets.CELLS), os.urandom(16)
        self._shares = Shares(memory, self._workers, configuration.sidecar.spec.limits.connections)
        self._own_metrics = WorkerMetrics(
            self._workers, lambda slot: self._shares.seats[slot], lambda: len(self._ready())
        )
        self._remotes: dict[int, Remote] = {}  # by slot
        self._young_deaths = dict.fromkeys(range(self._workers), 0)
        self._served = False  # all of them, once
        self._draining = False
        self._gone = trio.Event()  # no worker is left, and none will be started
        self._past: list[Metric] = []  # what workers counted that are no more
        self._level: str | None = None
        self._agent = None if credentials is None else credentials.agent
        self._secrets = None if credentials is None else credentials.secrets

        def serve(slot: int, sock: socket.socket) -> None:
            for other, queues in enumerate(listeners):
                for _, queue in queues if other != slot else ():
                    queue.close()
            logs.name_process(f"worker {slot}")
            access_log.in_turn = functools.partial(memory.locked, LOG_LOCK)
            share = PartialShare(self._shares, slot)
            worker = Worker(
                configuration,
                listeners[slot],
                metrics,
                access_log,
                share,
                credentials,
                lambda limiter, _: SharedBuckets(buckets.cells, buckets.locked, secret, limiter),
            )
            trio.run(obey, worker, Channel(sock))

        queues = [queue for own in listeners for _, queue in own]
        gc.freeze()  # the collector would write to pages that are one as long as nobody does
        self._starter, self._control = starter.start(serve, queues, forget)
        for queue in queues:
            queue.close()
        if self._agent is not None:
            self._agent.pass_on = lambda svids: self._tell_all("svids", svids)
        if self._secrets is not None:
            self._secrets.pass_on = lambda files: self._tell_all("secrets", dict(files))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Supervise until every worker is drained, or none can be kept alive: ``failure`` says so then."""
        self._control.settimeout(0)
        try:
            async with trio.open_nursery() as self._nursery:
                with trio.socket.from_stdlib_socket(self._control) as control:
                    self._nursery.start_soon(self._listen, control)
                    self._nursery.start_soon(announce_versions, self.store, self._metrics)
                    for slot in range(self._workers):
                        self._start(slot)
                    for remote in tuple(self._remotes.values()):
                        await remote.ready.wait()
                    if len(self._ready()) < self._workers:
                        await self._gone.wait()  # one ended: the starter tells how
                    self._served = True
                    settle()
                    task_status.started()
                    self._nursery.start_soon(self._collect_often)
                    await self._gone.wait()
                self._nursery.cancel_scope.cancel()
        finally:
            starter.stop(self._starter, self._control)

    # Starting, and what the starter tells.

    def _start(self, slot: int) -> None:
        """Have a worker forked; its snapshot waits for it in its channel."""
        if self._draining or self.failure:
            return
        ours, theirs = socket.socketpair()
        remote = self._remotes[slot] = Remote(slot, Channel(ours), self._configuration)
        with theirs:
            socket.send_fds(self._control, [json.dumps({"start": slot}).encode()], [theirs.fileno()])
        if self._level is not None:
            remote.tell("log_level", self._level)
        if self._agent is not None and self._agent.said is not None:
            remote.tell("svids", self._agent.said)
        if self._secrets is not None and self._secrets.files:
            remote.tell("secrets", dict(self._secrets.files))
        self._nursery.start_soon(remote.run, self.store, self.health)

    async def _listen(self, control: trio.socket.SocketType) -> None:
        while data := await control.recv(starter.LARGEST):
            told = json.loads(data)
            if "pid" in told:
                self._remotes[told["slot"]].pid = told["pid"]
            elif "error" in told:
                self._fail(f"a worker cannot be started: {told['error']}; raise the limit on processes")
            else:
                self._ended(told["ended"], told["status"])
        if not self._gone.is_set():
            self._fail("the process that starts workers was killed, and the workers with it")

    def _ended(self, pid: int, status: int) -> None:
        """A worker is no more: keep what it counted, free what it had, and replace it unless it was told to end."""
        remote = next((each for each in self._remotes.values() if each.pid == pid), None)
        if remote is None:
            return  # everything ends already
        del self._remotes[remote.slot]
        remote.end()
        self._past = merge.merged((self._past, merge.kept(remote.series)))
        lost = self._shares.vacate(remote.slot)
        if status or not self._draining:
            self._own_metrics.died(status, lost)
            _log.error(
                "worker %d (process %d) %s; the %d connections it had were reset",
                *(remote.slot, remote.pid, _how(status), lost),
            )
        if not self._draining:
            self._replace(remote)
        elif not self._remotes:
            self._gone.set()

    def _replace(self, remote: Remote) -> None:
        slot = remote.slot
        lived = trio.current_time() - remote.started
        deaths = self._young_deaths[slot] = restarts.young_deaths(self._young_deaths[slot], lived)
        delay = restarts.delay(deaths)
        if not self._served:
            self._fail("a worker ended before it served; the program log says why")
        elif delay is None:
            self._fail(
                f"worker {slot} died {deaths} times in a row, each within {restarts.YOUNG:.0f} s of its start; nothing is "
                "served without it: the program log says how it ended"
            )
        else:
            self._nursery.start_soon(self._start_later, slot, delay)

    async def _start_later(self, slot: int, delay: float) -> None:
        await trio.sleep(delay)
        self._start(slot)

    def _fail(self, reason: str) -> None:
        """End everything: whoever waits for the end raises the reason."""
        self.failure = reason
        self._gone.set()
        for remote in self._remotes.values():
            remote.end()

    # What the gateway asks for.

    @property
    def pending(self) -> str | None:
        """Why this is not ready; None when every worker serves."""
        missing = set(range(self._workers)) - {remote.slot for remote in self._ready()}
        return f"starting: worker {min(missing)} of {self._workers} does not serve yet" if missing else None

    @property
    def active(self) -> int:
        """How many flows are live, in all workers together."""
        return sum(self._shares.seats)

    def processes(self) -> list[dict[str, object]]:
        """Which processes serve, and by which version of the configuration."""
        return [
            {
                "worker": remote.slot,
                "pid": remote.pid,
                "version": remote.version,
                "ready": remote.version is not None,
            }
            for remote in sorted(self._remotes.values(), key=lambda remote: remote.slot)
        ]

    async def connections(self) -> list[str]:
        """The live flows of all workers, each as JSON."""
        return [row for rows in await self._ask_all("connections") for row in rows]  # type: ignore[attr-defined]  # lists of text

    async def clusters(self) -> list[dict[str, object]]:
        """The clusters that are used, as each worker sees them."""
        return [each for rows in await self._ask_all("clusters") for each in rows]  # type: ignore[attr-defined]  # lists of mappings

    async def plaintext(self) -> Peers:
        """Which peers did without mutual TLS, by all workers that live."""
        found: Peers = {}
        for peers in await self._ask_all("plaintext"):
            for key, count in peers.items():  # type: ignore[attr-defined]  # what a worker answers to this
                found[key] = found.get(key, 0) + count
        return found

    async def collect(self) -> Iterable[Metric]:
        """The series of all workers, also of those that are no more, and of this process."""
        await self._ask_all("collect")
        series = (remote.series for remote in self._remotes.values())
        return merge.merged((self._metrics.collect(), self._own_metrics.collect(), self._past, *series))

    def set_level(self, level: str) -> None:
        """Of the program log of every process."""
        logs.set_level(level)
        self._level = level
        self._tell_all("log_level", level)

    def reopen_log(self) -> None:
        """The access log's file was rotated."""
        self._tell_all("reopen_log")

    def stop_accepting(self) -> None:
        """Accept what is already queued, then close the listeners; running flows go on."""
        self._draining = True
        self._control.send(json.dumps({"release": True}).encode())
        self._tell_all("drain")
        if not self._remotes:
            self._gone.set()

    async def wait_taken(self) -> None:
        """Wait until all that serve do so by what is in force; who is slow is not waited for long."""
        with trio.move_on_after(TAKEN_SECONDS):
            for remote in self._ready():
                await remote.wait_taken(self.store)

    async def wait_drained(self) -> None:
        """Wait until every worker has ended, with its access log written."""
        await self._gone.wait()

    def abort_all(self, reason: str) -> None:
        """Reset every flow; a worker that does not end then is killed."""
        if self._gone.is_set():
            return
        self._draining = True
        self._tell_all("abort", reason)
        self._nursery.start_soon(self._give_up_on_workers)

    async def _give_up_on_workers(self) -> None:
        await trio.sleep(END_SECONDS)
        for remote in self._remotes.values():
            _log.warning("worker %d (process %d) does not end and is killed", remote.slot, remote.pid)
        self._gone.set()

    def _ready(self) -> list[Remote]:
        return [remote for remote in self._remotes.values() if remote.version is not None]

    def _tell_all(self, kind: Kind, value: object = None) -> None:
        for remote in self._remotes.values():
            remote.tell(kind, value)

    async def _ask_all(self, kind: Kind) -> list[object]:
        """The answers of the workers that serve; one that does not answer in time is named in the log and left out."""
        answers: list[object] = []

        async def ask(remote: Remote) -> None:
            with trio.move_on_after(ANSWER_SECONDS):
                if (answer := await remote.ask(kind)) is not None:
                    answers.append(answer)
                return
            _log.warning("worker %d (process %d) does not answer in time", remote.slot, remote.pid)

        async with trio.open_nursery() as nursery:
            for remote in self._ready():
                nursery.start_soon(ask, remote)
        return answers

    async def _collect_often(self) -> None:
        while True:
            await trio.sleep(COLLECT_SECONDS)
            await self._ask_all("collect")


def _how(status: int) -> str:
    """How a process ended, by its shell status."""
    if status < 128:
        return f"ended with status {status}"
    return f"was killed by {signal.Signals(status - 128).name}"
