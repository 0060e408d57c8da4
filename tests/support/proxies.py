"""A proxy in a process of its own, seen from the test: its records, its memory, its descriptors."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parents[2]


class ProxyProcess:
    """Runs ``tests.support.proxy_process``; ``command`` puts it elsewhere, under another uid."""

    def __init__(
        self, given: Mapping[str, object], command: Callable[..., list[str]] = lambda *argv: list(argv)
    ) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the process)
        self.process = subprocess.Popen(
            command(sys.executable, "-m", "tests.support.proxy_process", json.dumps(given)),
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=ROOT,
        )
        # Read at once: a proxy whose output nobody takes would stand still.
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        ready = self.record()["ready"]
        assert isinstance(ready, dict)
        self.ports: dict[str, int] = ready

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                self._lines.put(line)
        self._lines.put("")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self._reader.join(10)
        self._errors.close()

    def record(self) -> dict[str, object]:
        """The next flow that ended."""
        line = self._lines.get(timeout=30)
        assert line, f"the proxy died: {self.log()}"
        record = json.loads(line)
        assert isinstance(record, dict)
        return record

    def stop(self) -> dict[str, object]:
        """Drain; what the proxy counted, after the last flow's record."""
        self.process.terminate()
        while "faults" not in (record := self.record()):
            pass
        assert self.process.wait(30) == 0
        return record

    def log(self) -> list[str]:
        """What the program log says so far."""
        self._errors.seek(0)
        return self._errors.read().splitlines()

    def resident(self) -> int:
        """Resident memory in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))
