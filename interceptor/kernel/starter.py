"""Starts workers: a small process of one thread that forks, for one that cannot.

A process with threads must not fork itself: a lock that another thread holds would stay locked for ever in the child. And
nothing could be started as a program of its own, since root has been given up and the program's files may be root's alone. So this
process is forked early, when all is imported and bound, and keeps the listeners: what waits in the queue of a worker
that died waits for its replacement. It ends with the main process, and the workers with it, however that ends.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
from typing import TYPE_CHECKING, Final

from interceptor.kernel import process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LARGEST: Final = 1024  # bytes of a message

_log: Final = logging.getLogger(__name__)


def start(
    serve: Callable[[int, socket.socket], None],
    keep: Iterable[socket.socket],
    forget: Iterable[socket.socket],
) -> tuple[int, socket.socket]:
    """Fork the starter; its process id and a socket to talk to it. Sockets to forget are closed in it.

    ``{"start": slot}`` with a socket calls ``serve(slot, socket)`` in a process of its own; the answer is
    ``{"slot": slot, "pid": pid}`` or ``{"slot": slot, "error": sentence}``, and at its end ``{"ended": pid, "status": shell
    status}``. ``{"release": true}`` closes the sockets that it keeps. It ends when the other end of its socket is closed.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parent = os.getpid()
    pid = os.fork()
    if pid:
        theirs.close()
        return pid, ours
    try:
        process.die_with_parent(parent)
        ours.close()
        for sock in forget:
            sock.close()
        # Who stops us is the main process: a terminal and a service manager tell every process of the group.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        _Starter(theirs, serve, list(keep)).run()
    except BaseException:
        _log.exception("the process that starts workers failed")
        raise
    finally:
        os._exit(0)


def stop(pid: int, control: socket.socket) -> None:
    """End the starter, and with it every worker that is left, and wait for that."""
    control.close()
    os.waitpid(pid, 0)


class _Starter:
    def __init__(
        self, control: socket.socket, serve: Callable[[int, socket.socket], None], kept: list[socket.socket]
    ) -> None:
        self._control = control
        self._serve = serve
        self._kept = kept
        self._events = process.SignalEvents((signal.SIGCHLD,))

    def run(self) -> None:
        """Obey until the main process closes its end."""
        waiting = select.poll()
        waiting.register(self._control, select.POLLIN)
        waiting.register(self._events, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in waiting.poll()}
            if self._events.fileno() in ready:
                while self._events.read():
                    pass
                process.reap(lambda pid, status: self._tell({"ended": pid, "status": status}))
            if self._control.fileno() in ready and not self._obey():
                return

    def _obey(self) -> bool:
        """Do what the next message asks; whether there was one."""
        data, descriptors, _, _ = socket.recv_fds(self._control, LARGEST, 1)
        if not data:
            return False
        asked = json.loads(data)
        if "release" in asked:
            for sock in self._kept:
                sock.close()
            return True
        with socket.socket(fileno=descriptors[0]) as channel:
            self._start(asked["start"], channel)
        return True

    def _start(self, slot: int, channel: socket.socket) -> None:
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._tell({"slot": slot, "error": error.strerror})
            return
        if pid:
            self._tell({"slot": slot, "pid": pid})
            return
        status = 1
        try:
            process.die_with_parent(parent)
            self._control.close()
            self._events.close()
            self._serve(slot, channel)
            status = 0
        except BaseException:  # noqa: BLE001 (a forked child must never return into the caller)
            _log.exception("a worker failed")
        finally:
            os._exit(status)

    def _tell(self, message: dict[str, object]) -> None:
        self._control.send(json.dumps(message).encode())
