"""Do one thing in a forked child, perhaps in another namespace, and bring its result back.

python-iptables keeps per-process state (one address family a process, tables cached by name), so each piece of work on
a table has a process of its own. Fork is used from programs with one thread only.
"""

from __future__ import annotations

import os
import pickle
import signal
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

from interceptor.errors import InterceptorError, KernelError
from interceptor.kernel import netns

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

P = ParamSpec("P")
T = TypeVar("T")


def call(namespace: Path | None, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a child process that first entered ``namespace`` (None: stay); return what it returns.

    The result and any InterceptorError must be picklable. A child that dies without an answer is a KernelError. The
    child ignores SIGINT, so that Ctrl-C never cuts a transaction in half: the caller decides what follows.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _answer(writer, namespace, lambda: function(*args, **kwargs))
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as stream:
            answer = stream.read()
    finally:
        _, status = os.waitpid(child, 0)
    if not answer:
        died = (
            f"signal {os.WTERMSIG(status)}"
            if os.WIFSIGNALED(status)
            else f"exit status {os.WEXITSTATUS(status)}"
        )
        raise KernelError(
            f"the helper process for '{function.__name__}' died ({died}); run the command again"
        )
    outcome = pickle.loads(answer)  # noqa: S301 (written by our own child)
    if isinstance(outcome, BaseException):
        raise outcome
    return cast("T", outcome)


def _answer(writer: int, namespace: Path | None, function: Callable[[], T]) -> None:
    """In the child: do the work, write the pickled outcome, leave without the parent's clean-up handlers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    outcome: T | BaseException
    try:
        if namespace is not None:
            netns.enter(namespace)
        outcome = function()
    except InterceptorError as error:
        outcome = error
    except BaseException as error:  # noqa: BLE001 (crosses the process border as a sentence)
        outcome = KernelError(f"unexpected {type(error).__name__}: {error}")
    try:
        with os.fdopen(writer, "wb") as stream:
            stream.write(pickle.dumps(outcome))
    finally:
        os._exit(0)
