"""The client of a control plane: gRPC in threads of its own, one ADS stream at a time, over servers in order.

A thread speaks the protocol and translates; what comes of it is handed to trio's thread, newest first, and put into
force there. The last documents stay when every server is gone, and are kept in a file for the next start.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import random  # noqa: TID251 (spreads reconnects; nobody gains by guessing it)
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import grpc
import trio

from interceptor.discovery.xds.ads import Ads
from interceptor.discovery.xds.codec import decode, encode
from interceptor.discovery.xds.messages import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET
from interceptor.discovery.xds.repeated import Repeated
from interceptor.discovery.xds.status import Status, short
from interceptor.errors import PeerError
from interceptor.model.chance import backoff
from interceptor.tls.certificates import own_authorities

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from interceptor.config.xds import Xds, XdsServer
    from interceptor.discovery.xds.messages import Body, Request
    from interceptor.discovery.xds.translate import Translation, Translator
    from interceptor.tls.rotation import Keeper

    Deliver = Callable[[Mapping[str, bytes]], None]
    Supply = Callable[[Mapping[str, str]], Awaitable[Sequence[str]]]  # put into force; every problem

_SERVICE: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService/"
_METHODS: Final = {True: "DeltaAggregatedResources", False: "StreamAggregatedResources"}
LARGEST: Final = 64 << 20  # bytes of one message: some 500 000 endpoints
SILENCE: Final = 30.0  # seconds until a server that never answered on a stream is left for the next one
QUEUED: Final = 16  # messages read ahead; after that the server has to wait
PATIENT: Final = 10  # rejected responses in a row that are answered at once
PAUSE: Final = 1.0  # seconds before the next is read, after those: a server that loops is not helped in it
MAX_CACHE: Final = 256 << 20
# Seconds for which a thread of this module keeps the interpreter when the data path wants it. Python's own 5 ms would be
# waited for after each system call, several times a request, while thousands of resources are translated.
TURN: Final = 0.00005
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", LARGEST),
    ("grpc.keepalive_time_ms", 30_000),  # a peer that is silently gone is noticed
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
)

_log: Final = logging.getLogger(__name__)


def _keep_nothing(_files: Mapping[str, bytes]) -> None:
    """Where nobody is spoken to by what a control plane gives."""


class Metrics(Protocol):
    """What is counted."""

    def connected(self, value: bool) -> None: ...  # noqa: FBT001

    def updated(self, kind: str, result: str) -> None: ...


class Client:
    """Follows a control plane until cancelled."""

    def __init__(  # noqa: PLR0913, PLR0917 (what it is given, once)
        self,
        settings: Xds,
        who: Mapping[str, object],
        translator: Translator,
        supply: Supply,
        metrics: Metrics,
        deliver: Deliver = _keep_nothing,
        own: Keeper | None = None,
    ) -> None:
        """``supply`` puts documents into force, ``deliver`` the files in memory that they name.

        ``own`` is who we are to the servers whose TLS names no files.
        """
        self._servers = settings.servers
        self._delta = settings.protocol == "delta"
        self._cache = None if settings.cacheFile is None else Path(settings.cacheFile)
        self._who = who
        self._translator = translator
        self._supply = supply
        self._metrics = metrics
        self._deliver = deliver
        self._own = own
        roots = () if translator.own is None else tuple((SECRET, each) for each in translator.own)
        self._ads = Ads(translator.judge, delta=self._delta, roots=roots)
        self._known = Repeated()
        self._told: int | None = None  # the revision that was handed over last
        self._nacks = 0
        self._stopping = False
        self._call: grpc.Call | None = None
        self._ended: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._left_out: Mapping[str, str] = {}
        self._made: Translation | None = None
        self._in_force: Mapping[str, str] | None = None  # of the documents, what was accepted last
        self._given: Mapping[str, bytes] = {}  # the files that those name
        self._refused: tuple[str, ...] = ()  # why the last documents did not come into force
        self._stale = False  # what is in force is the cache file's
        self._changed = trio.Event()
        self.status = Status()
        self.pending: str | None = "xDS: no control plane has told its clusters and listeners yet"

    # In trio's thread.

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Begin with what the cache file has, and follow; started once that is in force."""
        self._token = trio.lowlevel.current_trio_token()
        await self._begin()
        sys.setswitchinterval(TURN)
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._put_into_force)
            try:
                await trio.to_thread.run_sync(
                    self._follow, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
                )
            finally:
                self._stop()

    def _stop(self) -> None:
        self._stopping = True
        self._ended.put(None)
        if self._call is not None:
            self._call.cancel()

    async def _begin(self) -> None:
        if self._cache is None:
            return
        try:
            documents = _read(self._cache)
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            _log.warning("xDS: the cache %s cannot be used and is left out: %s", self._cache, error)
            return
        if problems := await self._supply(documents):
            _log.warning("xDS: the cache %s is refused and left out: %s", self._cache, problems[0])
            return
        self.pending = None
        self._stale = True
        _log.info("xDS: %d documents from the cache %s are in force", len(documents), self._cache)

    @property
    def remark(self) -> str | None:
        """What an operator should know though the proxy is ready; None when all is well."""
        status = self.status
        if status.connected is None:
            kept = f"what the cache {self._cache} has" if self._stale else "the last configuration"
            return f"xDS: not connected: {status.reason}; {kept} stays in force"
        wrong = {
            **{f"{short(of)} {name}": why for (of, name), why in status.rejected.items()},
            **status.left_out,
        }
        if not wrong:
            return None
        name, why = next(iter(wrong.items()))
        return f"xDS: {len(wrong)} resources are not honoured, the first is {name}: {why}"

    def dump(self) -> dict[str, object]:
        """For ``/config_dump``."""
        return {**self.status.dump(), "refused": list(self._refused), "fromCache": self._stale}

    def _hand_over(self, made: Translation | None, status: Status) -> None:
        self.status = status
        self._metrics.connected(status.connected is not None)
        if made is not None:
            self._made = made
            self._changed.set()

    async def _put_into_force(self) -> None:
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            made = self._made
            assert made is not None
            documents = made.documents
            self._deliver(
                {**self._given, **made.files}
            )  # first: the documents name them, and those before named others
            if documents == self._in_force and not self._refused:
                self._given = made.files
                continue
            self._refused = tuple(await self._supply(documents))
            if self._refused:
                _log.error("xDS: the documents are refused, those before stay in force: %s", self._refused[0])
                if self.pending is not None:
                    self.pending = f"xDS: what the control plane told first is refused: {self._refused[0]}"
                continue
            self.pending = None
            self._stale = False
            self._in_force = documents
            self._given = made.files
            self._deliver(made.files)
            if self._cache is not None:
                await trio.to_thread.run_sync(self._write, self._cache, documents)

    def _write(self, path: Path, documents: Mapping[str, str]) -> None:
        made = path.with_name(f"{path.name}.new")
        try:
            made.unlink(missing_ok=True)  # what a killed write left, whoever may read it
            descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump({"documents": documents}, file)
            os.replace(made, path)  # noqa: PTH105 (atomic: a reader finds the one or the other)
        except OSError as error:
            _log.warning("xDS: the cache %s cannot be written: %s", path, error.strerror)

    # In a thread of its own.

    def _follow(self) -> None:
        failures = index = 0
        while True:
            server = self._servers[index % len(self._servers)]
            answered, reason = self._stream(server)
            self._ads.disconnect()
            if self._stopping:
                return
            failures = 1 if answered else failures + 1
            index += not answered
            self._tell(None, f"{server.address}: {reason}")
            _log.log(
                logging.WARNING if failures <= len(self._servers) else logging.DEBUG,
                "xDS: the control plane %s is gone: %s; the last configuration stays in force",
                server.address,
                reason,
            )
            self._wait(backoff(failures, random.random()))  # noqa: S311 (as above)

    def _wait(self, seconds: float) -> None:
        with contextlib.suppress(queue.Empty):
            self._ended.get(timeout=seconds)

    def _stream(self, server: XdsServer) -> tuple[bool, str]:
        """One stream to its end: whether anything was answered, and why it ended."""
        outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        inbox: queue.Queue[bytes | str] = queue.Queue(QUEUED)
        try:
            channel = self._channel(server)
        except OSError as error:
            return False, f"{error.filename} cannot be read: {error.strerror}"
        except PeerError as error:
            return False, str(error)
        with channel, ThreadPoolExecutor(1, "xds-reader") as pool:
            method = channel.stream_stream(_SERVICE + _METHODS[self._delta])
            self._call = call = method(iter(outgoing.get, None), wait_for_ready=False)
            reading = pool.submit(_read_stream, call, inbox)
            try:
                return self._converse(server.address, outgoing, inbox)
            finally:
                call.cancel()
                outgoing.put(None)
                while not reading.done():
                    with contextlib.suppress(queue.Empty):
                        inbox.get(timeout=0.1)

    def _channel(self, server: XdsServer) -> grpc.Channel:
        """By the certificates of now: others are in use for the next stream. Raises OSError, and PeerError without any."""
        if server.tls is None:
            return grpc.insecure_channel(server.address, _OPTIONS)
        if server.tls.of_workload:
            assert self._own is not None  # the Sidecar was refused without
            if (refused := self._own.refusal()) is not None:
                raise PeerError(str(refused))
            material = self._own.current.material
            pair = material.pair_pem
            credentials = grpc.ssl_channel_credentials(own_authorities(material), pair, pair)
        else:
            files = (server.tls.trustBundle, server.tls.privateKey, server.tls.certificate)
            read = [None if path is None else Path(path).read_bytes() for path in files]
            credentials = grpc.ssl_channel_credentials(*read)
        return grpc.secure_channel(server.address, credentials, _OPTIONS)

    def _converse(
        self, address: str, outgoing: queue.SimpleQueue[bytes | None], inbox: queue.Queue[bytes | str]
    ) -> tuple[bool, str]:
        answered = False

        def send(requests: Sequence[Request]) -> None:
            for request in requests:
                outgoing.put(encode(request, self._who, delta=self._delta))

        began = time.monotonic()
        send(self._ads.connect(began))
        while not self._stopping:
            for data in self._wait_for(inbox, None if answered else began + SILENCE):
                if isinstance(data, str):
                    return answered, data
                try:
                    send(self._receive(data))
                except ValueError as error:
                    return False, str(error)
                answered = True
            if not answered and time.monotonic() >= began + SILENCE:
                return False, f"it did not answer within {SILENCE:.0f} s"
            send(self._ads.settle(time.monotonic()))
            self._tell(address if answered else None, f"{address}: it has not answered yet")
            if self._nacks > PATIENT:
                self._wait(PAUSE)
        return answered, "the proxy ends"

    def _wait_for(self, inbox: queue.Queue[bytes | str], silent: float | None) -> list[bytes | str]:
        """What comes until something is due, all at once: what it means together is found once."""
        due = [at for at in (self._ads.deadline, silent) if at is not None]
        came: list[bytes | str] = []
        with contextlib.suppress(queue.Empty):
            came.append(inbox.get(timeout=max(0.0, min(due) - time.monotonic()) if due else None))
            while len(came) < QUEUED:
                came.append(inbox.get_nowait())
        return came

    def _receive(self, data: bytes) -> list[Request]:
        response = decode(data, delta=self._delta, known=self._known)
        answer = self._ads.receive(response, time.monotonic())
        if answer is None:
            self._counted("unknown", "ignored")
            return []
        rejected = answer.error is not None
        self._nacks = self._nacks + 1 if rejected else 0
        self._counted(short(response.type_url), "rejected" if rejected else "accepted")
        if rejected and self._nacks <= PATIENT:
            _log.error("xDS: a response of %s is rejected: %s", short(response.type_url), answer.error)
        return [answer]

    def _counted(self, kind: str, result: str) -> None:
        self._in_trio(lambda: self._metrics.updated(kind, result))

    def _tell(self, connected: str | None, reason: str) -> None:
        """Hand over what is in use, where that changed, once the first state is complete."""
        ads = self._ads
        made: Translation | None = None
        if ads.revision != self._told and (self._told is not None or ads.complete):
            self._told = ads.revision
            made = self._translator.documents(
                *(self._bodies(each) for each in (CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET))
            )
            self._left_out = made.left_out
        status = Status(connected, reason, ads.versions(), ads.rejected(), self._left_out, ads.waiting)
        self._in_trio(lambda: self._hand_over(made, status))

    def _bodies(self, type_url: str) -> dict[str, Body]:
        return {name: held.body for name, held in self._ads.active(type_url).items()}

    def _in_trio(self, call: Callable[[], None]) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(call)


def _read_stream(call: grpc.Call, inbox: queue.Queue[bytes | str]) -> None:
    try:
        for data in call:
            inbox.put(data)
    except grpc.RpcError:
        inbox.put(f"{call.code().name}: {call.details()}")
    else:
        inbox.put("it ended the stream")


def _read(path: Path) -> dict[str, str]:
    """The documents of a cache file; raises OSError and ValueError."""
    if path.stat().st_size > MAX_CACHE:
        raise ValueError("it is too large")
    found = json.loads(path.read_bytes())
    documents = found.get("documents") if isinstance(found, dict) else None
    if not isinstance(documents, dict) or not all(isinstance(each, str) for each in documents.values()):
        raise ValueError("it holds no documents")
    return documents
