"""Do things in a forked child, perhaps in another namespace, and bring the results back.

python-iptables keeps per-process state (one address family a process), so the work on each family's tables has a process
of its own: kept for all of a transaction, because a fork takes longer than the work. Fork is used from programs with one
thread only.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
from enum import Enum
from typing import IO, TYPE_CHECKING, Final, NoReturn, ParamSpec, Self, TypeVar, cast

from interceptor.errors import InterceptorError, KernelError
from interceptor.kernel import netns
from interceptor.model.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from interceptor.redirect.rules import Family

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
        raise _died(function.__name__, status)
    return cast("T", _result(pickle.loads(answer)))  # noqa: S301 (written by our own child)


class _Helper(Record):
    pid: int
    requests: IO[bytes]
    answers: IO[bytes]

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # it died, with a request unread
            self.requests.close()
        self.answers.close()

    def wait(self) -> int:
        return os.waitpid(self.pid, 0)[1]


class Helpers:
    """The processes that work in one namespace (None: stay) until the end, one for each family.

    ``shared`` is what functions may be given that cannot be pickled: the helpers have it from before they were forked.
    """

    def __init__(self, namespace: Path | None, shared: object = None) -> None:
        self._namespace = namespace
        self._shared = shared
        self._helpers: dict[Family, _Helper] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        ending = list(self._helpers.values())
        self._helpers.clear()
        for helper in ending:
            helper.close()
        for helper in ending:
            helper.wait()

    def call(self, family: Family, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What ``call`` does, in the helper of a family. After one has died the next call has a new one."""
        self._ask(family, function, args, kwargs)
        return cast("T", _result(self._answer(family, function)))

    def each(self, function: Callable[..., T], work: Mapping[Family, Sequence[object]]) -> list[T]:
        """The same for several families at once, each with its arguments; a failure is raised when all are done."""
        for family, args in work.items():
            self._ask(family, function, args, {})
        outcomes = [self._answer(family, function) for family in work]
        return [cast("T", _result(outcome)) for outcome in outcomes]

    def _ask(
        self,
        family: Family,
        function: Callable[..., object],
        args: Sequence[object],
        kwargs: Mapping[str, object],
    ) -> None:
        passed = [_SHARED if argument is self._shared else argument for argument in args]
        if family not in self._helpers:
            self._helpers[family] = self._start()
        requests = self._helpers[family].requests
        with contextlib.suppress(BrokenPipeError):  # it died: there will be no answer
            pickle.dump((function, passed, kwargs), requests)
            requests.flush()

    def _answer(self, family: Family, function: Callable[..., object]) -> object:
        try:
            return pickle.load(self._helpers[family].answers)  # noqa: S301 (written by our own child)
        except (EOFError, pickle.UnpicklingError):  # truncated
            return _died(function.__name__, self._end(family))

    def _start(self) -> _Helper:
        reader, requests = os.pipe()
        answers, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            for end in (requests, answers, *(each.requests.fileno() for each in self._helpers.values())):
                os.close(end)  # else a helper would not see that we are gone
            self._work(reader, writer)
        os.close(reader)
        os.close(writer)
        return _Helper(pid, os.fdopen(requests, "wb"), os.fdopen(answers, "rb"))

    def _work(self, reader: int, writer: int) -> NoReturn:
        """In a helper, until the other end is closed."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        entered = False

        def work() -> object:
            nonlocal entered
            if self._namespace is not None and not entered:
                netns.enter(self._namespace)
            entered = True
            return function(
                *(self._shared if argument is _SHARED else argument for argument in passed), **kwargs
            )

        try:
            with os.fdopen(reader, "rb") as requests, os.fdopen(writer, "wb") as answers:
                while True:
                    function, passed, kwargs = pickle.load(requests)  # noqa: S301 (written by our own parent)
                    answers.write(pickle.dumps(_outcome(work)))
                    answers.flush()
        finally:  # also at the end of the requests: without the parent's clean-up handlers
            os._exit(0)

    def _end(self, family: Family) -> int:
        helper = self._helpers.pop(family)
        helper.close()
        return helper.wait()


class _Shared(Enum):
    SHARED = 1


_SHARED: Final = _Shared.SHARED  # stands for what was shared; an Enum's member is the same after pickling


def _died(what: str, status: int) -> KernelError:
    died = (
        f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit status {os.WEXITSTATUS(status)}"
    )
    return KernelError(f"the helper process for '{what}' died ({died}); run the command again")


def _result(outcome: object) -> object:
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _outcome(function: Callable[[], object]) -> object:
    try:
        return function()
    except InterceptorError as error:
        return error
    except BaseException as error:  # noqa: BLE001 (crosses the process border as a sentence)
        return KernelError(f"unexpected {type(error).__name__}: {error}")


def _answer(writer: int, namespace: Path | None, function: Callable[[], T]) -> NoReturn:
    """In the child: do the work, write the pickled outcome, leave without the parent's clean-up handlers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def work() -> T:
        if namespace is not None:
            netns.enter(namespace)
        return function()

    try:
        with os.fdopen(writer, "wb") as stream:
            stream.write(pickle.dumps(_outcome(work)))
    finally:
        os._exit(0)
