"""Asks the process that judges configuration: starts it when there is something to judge, and ends it after a while."""

from __future__ import annotations

import itertools
import os
import pickle
import subprocess  # noqa: TID251 (for the name of a pipe: trio starts the process)
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

import interceptor
from interceptor.discovery.conversation import (
    LENGTH,
    Answer,
    Held,
    Parts,
    Question,
    difference,
    pieces,
    told,
    verdict_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from interceptor.discovery.conversation import Kind
    from interceptor.discovery.verdict import Judged, Seen, Verdict

# Not the one of a virtual environment, which may be root's alone: it finds the modules where this program did.
COMMAND: Final = (os.path.realpath(sys.executable), "-P", "-m", "interceptor.discovery.judge")
JUDGE_SECONDS: Final = 60.0  # some four times what 50 000 endpoints take that were never seen before
LINGER: Final = 30.0  # seconds: changes come in bursts, and the process takes half a second to start
_CHUNK: Final = 1 << 20


_held: Final[list[int]] = []


def hold_modules() -> None:
    """Keep the directories of modules open, for when they are below one that this user may not enter any more."""
    for path in filter(os.path.isdir, _directories()):
        _held.append(os.open(path, os.O_PATH | os.O_DIRECTORY))


def _directories() -> list[str]:
    """Where modules are found; of an editable installation that is not in ``sys.path``."""
    package = Path(interceptor.__file__).parent.parent
    return list(filter(None, dict.fromkeys((str(package), *sys.path))))


class Change(NamedTuple):
    """What came in: files to read, or a push by its content type and body, or a control plane's documents."""

    paths: tuple[str, ...] | None = None  # None: the files are as they were
    stdin: bytes | None = None
    push: tuple[str, bytes] | None = None
    supplied: dict[str, str] | None = None  # None: as before
    keys: dict[str, str] | None = None  # key sets that were fetched, by their URL; None: as before


class UnjudgedError(Exception):
    """There is no verdict, and why: a sentence."""


class Judge:
    """The process, whether it runs or not. To be asked by one task at a time."""

    def __init__(self, command: tuple[str, ...] = COMMAND) -> None:
        self._command = command
        self._process: trio.Process | None = None
        self._received = bytearray()
        self._used = 0.0
        self._numbers = itertools.count(1)
        self._holds: frozenset[int] = (
            frozenset()
        )  # the questions of which the process knows what came of them

    async def ask(
        self, change: Change, base: Held, number: int, seen: Callable[[], Mapping[bytes, Seen]]
    ) -> tuple[int, Verdict, list[Judged]]:
        """A verdict, its number, and the documents not seen before. Raises UnjudgedError.

        ``base`` is in force by the verdict of that number, or of 0, and ``seen`` says what a process that holds nothing
        has to know besides.
        """
        reason = f"it was not judged within {JUDGE_SECONDS:.0f} s; make it smaller"
        try:
            with trio.move_on_after(JUDGE_SECONDS):
                return await self._converse(change, base, number, seen)
        except trio.Cancelled:
            await self.end()  # its answer is nobody's any more
            raise
        except (OSError, EOFError, trio.BrokenResourceError) as error:
            reason = f"the process that judges it failed: {str(error) or type(error).__name__}; the program log may say more"
        finally:
            self._used = trio.current_time()
        await self.end()
        raise UnjudgedError(reason)

    async def _converse(
        self, change: Change, base: Held, number: int, seen: Callable[[], Mapping[bytes, Seen]]
    ) -> tuple[int, Verdict, list[Judged]]:
        if self._process is None or self._process.poll() is not None:
            await self.end()
            self._process = await _started(self._command)
        assert self._process.stdin is not None
        asked, whole = next(self._numbers), number not in self._holds
        supplied = base.supplied if change.supplied is None else change.supplied
        changed, rest = difference(base.supplied, supplied)
        keys = base.keys if change.keys is None else change.keys
        question = Question(asked, number, whole, change.paths, change.stdin, change.push, rest, keys)
        everything = told(base, seen()) if whole else ()
        for data in pieces((*everything, ("changed", changed.items()), question)):
            await self._process.stdin.send_all(data)
        parts = Parts()
        while not isinstance(piece := await self._piece(), Answer):
            parts.take(*piece)
        self._holds = frozenset({number} if piece.problems else {number, asked})
        return asked, verdict_of(base, piece, parts), parts.documents

    async def _piece(self) -> Answer | tuple[Kind, list[object]]:
        size = int.from_bytes(await self._take(LENGTH), "big")
        piece: Answer | tuple[Kind, list[object]] = pickle.loads(await self._take(size))  # noqa: S301 (from the process that this one started)
        await trio.lowlevel.checkpoint()  # several may have come at once
        return piece

    async def _take(self, size: int) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        while len(self._received) < size:
            chunk = await self._process.stdout.receive_some(_CHUNK)
            if not chunk:
                raise EOFError(f"it ended with status {await self._process.wait()}")
            self._received += chunk
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken

    async def rest(self) -> None:
        """End the process when it had nothing to do for a while."""
        if self._process is not None and trio.current_time() - self._used > LINGER:
            await self.end()

    async def end(self) -> None:
        """End the process, whatever it does."""
        process, self._process = self._process, None
        self._holds = frozenset()
        self._received.clear()
        if process is None:
            return
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                await pipe.aclose()


async def _started(command: tuple[str, ...]) -> trio.Process:
    # With the modules that this program found, and out of reach of a terminal's Ctrl-C.
    modules = [f"/proc/self/fd/{each}" for each in _held] or _directories()
    return await trio.lowlevel.open_process(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        process_group=0,
        pass_fds=_held,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(modules)},
    )
