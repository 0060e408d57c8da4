"""Asks the process that judges configuration: starts it when there is something to judge, and ends it after a while."""

from __future__ import annotations

import os
import pickle
import subprocess  # noqa: TID251 (for the name of a pipe: trio starts the process)
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

import interceptor
from interceptor.discovery.verdict import LENGTH, Verdict, asked

if TYPE_CHECKING:
    from interceptor.discovery.verdict import Ask, Judged

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


class UnjudgedError(Exception):
    """There is no verdict, and why: a sentence."""


class Judge:
    """The process, whether it runs or not. To be asked by one task at a time."""

    def __init__(self, command: tuple[str, ...] = COMMAND) -> None:
        self._command = command
        self._process: trio.Process | None = None
        self._received = bytearray()
        self._used = 0.0

    async def ask(self, ask: Ask) -> tuple[Verdict, list[Judged]]:
        """A verdict with the documents not seen before. Raises UnjudgedError."""
        reason = f"it was not judged within {JUDGE_SECONDS:.0f} s; make it smaller"
        try:
            with trio.move_on_after(JUDGE_SECONDS):
                return await self._converse(ask)
        except (OSError, EOFError, trio.BrokenResourceError) as error:
            reason = f"the process that judges it failed: {str(error) or type(error).__name__}; the program log may say more"
        finally:
            self._used = trio.current_time()
        await self.end()
        raise UnjudgedError(reason)

    async def _converse(self, ask: Ask) -> tuple[Verdict, list[Judged]]:
        if self._process is None or self._process.poll() is not None:
            await self.end()
            self._process = await _started(self._command)
        assert self._process.stdin is not None
        for data in asked(ask):
            await self._process.stdin.send_all(data)
        documents: list[Judged] = []
        verdict = await self._piece()
        assert isinstance(verdict, Verdict)
        while piece := await self._piece():
            assert isinstance(piece, tuple)
            documents += piece
        return verdict, documents

    async def _piece(self) -> object:
        size = int.from_bytes(await self._take(LENGTH), "big")
        return pickle.loads(await self._take(size))  # noqa: S301 (from the process that this one started)

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
