"""The access log: one line per flow, built in microseconds, written by a thread that may stall alone.

Lines go to a bounded queue. When the reader of the log is slow the queue fills, further lines are dropped and
counted, and the data path never waits.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import select
import stat
import time
from collections import deque
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quoted
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import trio

from interceptor.errors import ConfigError
from interceptor.model.connection import ResponseFlag

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from interceptor.model.address import SocketAddress
    from interceptor.model.connection import Flow

T = TypeVar("T")

QUEUE_LINES: Final = 4096  # of about 1 KB: 4 MB at most, and as much again in the hands of the thread
FLUSH_SECONDS: Final = 2.0  # at the end; within the 5 s that Kubernetes and Istio leave for a drain
COALESCE_SECONDS: Final = 0.02  # a hand-over to the thread costs some 100 us, so at most 50 of them a second

_STDOUT: Final = "-"
_FILE_WRITE: Final = 256 * 1024
_GONE: Final = frozenset((errno.EPIPE, errno.EBADF))
_PLAIN: Final = re.compile(r"[!#-\[\]-~]+").fullmatch  # printable ASCII without space, quote and backslash

_log = logging.getLogger(__name__)


def json_line(flow: Flow) -> bytes:
    """Istio's 24 keys as Envoy fills them for TCP (what belongs to a request is null), then ours."""
    termination, transport = _details(flow)
    return (
        f'{{"start_time":"{start_time(flow.started_at)}","method":null,"path":null,"protocol":null,'
        f'"response_code":0,"response_flags":"{flow.flag.value}","response_code_details":null,'
        f'"connection_termination_details":{text_or_null(termination)},"bytes_received":{flow.bytes_received},'
        f'"bytes_sent":{flow.bytes_sent},"duration":{_milliseconds(flow)},"upstream_service_time":null,'
        '"x_forwarded_for":null,"user_agent":null,"request_id":null,"authority":null,'
        f'"upstream_host":{address_text(flow.upstream)},"upstream_cluster":{text_or_null(_cluster(flow))},'
        f'"upstream_local_address":{address_text(flow.upstream_local)},'
        f'"downstream_local_address":{address_text(_downstream_local(flow))},'
        f'"downstream_remote_address":{(peer := address_text(flow.peer))},"requested_server_name":{text_or_null(flow.server_name or "-")},'
        f'"route_name":null,"upstream_transport_failure_reason":{text_or_null(transport)},'
        f'"direction":"{flow.direction.value}","original_dst":{address_text(flow.original_dst)},"peer":{peer},'
        f'"peer_identity":{text_or_null(_identity(flow))},"policy":{text_or_null(flow.policy)},"relay":{text_or_null(flow.relay)}}}\n'
    ).encode("ascii")


def text_line(flow: Flow) -> bytes:
    """The same in the order of Istio's text format, ours behind it by name; ``-`` is what is absent."""
    termination, transport = _details(flow)
    peer = word(str(flow.peer))
    original_dst = "-" if flow.original_dst is None else word(str(flow.original_dst))
    return (
        f'[{start_time(flow.started_at)}] "- - -" 0 {flow.flag.value} - {word(termination)} {quoted(transport)} '
        f'{flow.bytes_received} {flow.bytes_sent} {_milliseconds(flow)} - "-" "-" "-" "-" '
        f"{quoted(str(flow.upstream or '-'))} {word(_cluster(flow))} {word(str(flow.upstream_local or '-'))} "
        f"{word(str(_downstream_local(flow) or '-'))} {peer} - - "
        f"direction={flow.direction.value} original_dst={original_dst} peer={peer} peer_identity={_identity(flow)} "
        f"policy={word(flow.policy)} relay={word(flow.relay)}\n"
    ).encode("ascii")


def _details(flow: Flow) -> tuple[str, str]:
    """Why the connection ended, and the same where Envoy tells what went wrong towards the upstream."""
    upstream = flow.flag in (ResponseFlag.UPSTREAM_FAILURE, ResponseFlag.UPSTREAM_RESET)
    return flow.details, flow.details if upstream else "-"


def _downstream_local(flow: Flow) -> SocketAddress | None:
    """Envoy's listener restores the original destination as the local address, so that is what Istio logs."""
    return flow.downstream_local if flow.original_dst is None else flow.original_dst


def _identity(flow: Flow) -> str:
    """ASCII without space or quote: the certificate's URI was parsed strictly."""
    return "-" if flow.peer_identity is None else str(flow.peer_identity)


def _cluster(flow: Flow) -> str:
    return "-" if flow.upstream_cluster == "unknown" else flow.upstream_cluster


def _milliseconds(flow: Flow) -> int:
    return 0 if flow.closed is None else int((flow.closed - flow.opened) * 1000)


def start_time(unix: float) -> str:
    """Unix time as Istio writes it."""
    return _millisecond(int(unix * 1000))


@lru_cache(maxsize=64)  # requests come in batches
def _millisecond(unix: int) -> str:
    whole, milliseconds = divmod(unix, 1000)
    return f"{_second(whole)}.{milliseconds:03d}Z"


@lru_cache(
    maxsize=16
)  # flows that end together mostly began together; formatting costs more than all the rest
def _second(unix: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(unix))


def text_or_null(value: str) -> str:
    """A JSON string, ASCII only, so that no control character or line separator gets through; ``-`` is null."""
    return "null" if value == "-" else quoted(value)


def address_text(address: SocketAddress | None) -> str:
    """A JSON string, or null."""
    return "null" if address is None else quoted(str(address))


def word(value: str) -> str:
    """One word of a text line: as it is when that is safe, else as a JSON string."""
    return value if _PLAIN(value) else quoted(value)


class AccessLog:
    """Takes a line per flow without ever waiting; ``run`` brings the lines to the descriptor."""

    def __init__(
        self,
        path: str,
        format: Literal["json", "text"],  # noqa: A002 (the document's word)
        dropped: Callable[[int], None],
    ) -> None:
        self._path = path
        self._line = json_line if format == "json" else text_line
        self.format = format
        self._dropped = dropped  # told how many lines were lost
        self._fd = _open(path)
        self._lines: deque[bytes] = deque()
        self._writing = 0  # lines in the hands of the thread
        self._wake = trio.Event()
        self._gone = False  # nobody reads any more
        self._warned = False
        self._reopen = False
        self._ending = False
        self._limiter = trio.CapacityLimiter(1)
        # Several processes with one log write in turn: a line longer than PIPE_BUF is no single write.
        self.in_turn: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext

    def write(self, flow: Flow) -> None:
        """Queue the line of a flow that ended, or drop and count it when the queue is full."""
        self.write_line(self._line, flow)

    def write_line(self, line: Callable[[T], bytes], item: T) -> None:
        """Queue a line that is made only where it is wanted, or drop and count it when the queue is full."""
        if self._path == os.devnull:  # nobody can read it: not worth the 10 us of a line
            return
        if self._gone or len(self._lines) >= QUEUE_LINES:
            self._dropped(1)
            return
        if not self._lines:
            self._wake.set()
        self._lines.append(line(item))

    def reopen(self) -> None:
        """Open the file again by its name, after it was rotated (SIGHUP); lines are written again if they were not."""
        self._reopen = True
        self._gone = False
        self._wake.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write lines until cancelled, then for at most FLUSH_SECONDS what is still queued."""
        scope = trio.CancelScope(shield=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_lines, scope)
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._ending = True
                self._wake.set()
                scope.deadline = trio.current_time() + FLUSH_SECONDS

    async def _write_lines(self, scope: trio.CancelScope) -> None:
        with scope:
            while not self._ending or self._lines:
                await self._wake.wait()
                self._wake = trio.Event()
                if self._reopen:
                    self._reopen = False
                    self._swap()
                if self._lines:
                    await self._write_batch()
                if not self._ending:
                    await trio.sleep(COALESCE_SECONDS)
        lost = len(self._lines) + self._writing
        if lost:
            self._dropped(lost)
            _log.warning("%d access log lines were lost at the end: nobody read '%s'", lost, self._path)
        elif self._path != _STDOUT:
            os.close(self._fd)

    async def _write_batch(self) -> None:
        """Hand everything queued to the thread. When the flush deadline passes a stalled thread is left behind."""
        lines = list(self._lines)
        self._lines.clear()
        self._writing = len(lines)
        written, error = await trio.to_thread.run_sync(
            _write, self._fd, lines, self.in_turn, abandon_on_cancel=True, limiter=self._limiter
        )
        self._writing = 0
        if error is None:
            self._warned = False
            return
        self._dropped(len(lines) - written)
        self._gone = error.errno in _GONE
        if not self._warned:
            self._warned = True
            remedy = "start a reader and send SIGHUP" if self._gone else "the next lines are tried again"
            _log.warning(
                "the access log '%s' cannot be written (%s): lines are dropped and counted; %s",
                *(self._path, error.strerror, remedy),
            )

    def _swap(self) -> None:
        """Between two batches, so that the thread never writes to a closed descriptor."""
        if self._path == _STDOUT:
            return
        try:
            fd = _open(self._path)
        except ConfigError as error:
            _log.warning("%s; the log goes on in the file that was open", error)
        else:
            os.close(self._fd)
            self._fd = fd


def _open(path: str) -> int:
    if path == _STDOUT:
        return 1
    try:
        # O_NONBLOCK: a FIFO that nobody reads is an error now, not a stall of the whole program.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        return os.open(path, flags, 0o640)
    except OSError as error:
        raise ConfigError(
            f"the access log '{path}' cannot be opened ({error.strerror}); "
            "name a file that this user may write in spec.accessLog.path"
        ) from error


def _write(
    fd: int, lines: list[bytes], in_turn: Callable[[], AbstractContextManager[None]]
) -> tuple[int, OSError | None]:
    """In the thread: how many lines were written, and what stopped it.

    Whole lines, to a pipe at most PIPE_BUF at a time: such a write is atomic (pipe(7)), so the app beside us that writes to
    the same pipe never lands in the middle of a line.
    """
    # Each write is a hand-over of Python's lock to the loop and back, so where nobody else writes there are few.
    most = _FILE_WRITE if stat.S_ISREG(os.fstat(fd).st_mode) else select.PIPE_BUF
    done = 0
    while done < len(lines):
        end, size = done + 1, len(lines[done])
        while end < len(lines) and size + len(lines[end]) <= most:
            size += len(lines[end])
            end += 1
        try:
            with in_turn():
                _write_all(fd, b"".join(lines[done:end]))
        except OSError as error:
            return done, error
        done = end
    return done, None


def _write_all(fd: int, data: bytes) -> None:
    """Wait as long as it takes, also where somebody made the descriptor non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()
