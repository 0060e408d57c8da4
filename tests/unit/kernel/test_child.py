"""Work in forked processes: one for a single thing, or helpers that stay."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path
from typing import cast

import pytest

from interceptor.errors import ConfigError, KernelError
from interceptor.kernel.child import Helpers, call
from interceptor.redirect.rules import Family

_NOWHERE = Path("/nowhere/net")


def refuse(sentence: str) -> None:
    raise ConfigError(sentence)


def fail() -> None:
    raise ZeroDivisionError("odd")


def die_of(number: int) -> None:
    os.kill(os.getpid(), number)


def meet(reader: int, writer: int) -> int:
    os.write(writer, b"x")
    os.read(reader, 1)
    return os.getpid()


def refuse_if(so: bool) -> None:
    if so:
        refuse("not so")


def its_name(function: object) -> str:
    return getattr(function, "__name__", "")


def large() -> bytes:
    return bytes(1 << 20)


def test_a_single_thing_is_done_elsewhere() -> None:
    assert call(None, os.getpid) != os.getpid()
    with pytest.raises(KernelError, match=r"'_exit' died \(exit status 3\); run the command again"):
        call(None, os._exit, 3)


def test_a_helper_stays_and_families_have_their_own() -> None:
    with Helpers(None) as helpers:
        four, six = helpers.call(4, os.getpid), helpers.call(6, os.getpid)
        assert len({four, six, os.getpid()}) == 3
        assert (helpers.call(4, os.getpid), helpers.call(6, os.getpid)) == (four, six)
        assert helpers.call(4, large) == large()
    for ended in (four, six):
        with pytest.raises(ProcessLookupError):
            os.kill(ended, 0)


def test_what_fails_is_raised_here_and_the_helper_goes_on() -> None:
    with Helpers(None) as helpers:
        before = helpers.call(4, os.getpid)
        with pytest.raises(ConfigError, match="not so"):
            helpers.call(4, refuse, "not so")
        with pytest.raises(KernelError, match="unexpected ZeroDivisionError: odd"):
            helpers.call(4, fail)
        assert helpers.call(4, os.getpid) == before


def test_both_families_work_at_once_and_a_failure_of_one_waits_for_the_other() -> None:
    """Each waits until the other has come."""
    reader, writer = os.pipe()
    back, forth = os.pipe()
    with Helpers(None) as helpers:
        met = helpers.each(meet, {4: (reader, forth), 6: (back, writer)})
        assert sorted(met) == sorted(helpers.call(family, os.getpid) for family in (4, 6))
        for work in cast(
            "list[dict[Family, tuple[bool]]]", [{4: (True,), 6: (False,)}, {4: (False,), 6: (True,)}]
        ):
            with pytest.raises(ConfigError, match="not so"):
                helpers.each(refuse_if, work)
            assert helpers.call(6, os.getpid) in met
        with pytest.raises(KernelError, match=r"'die_of' died \(signal 9\)"):
            helpers.each(die_of, {4: (signal.SIGKILL,), 6: (0,)})
        assert (helpers.call(4, os.getpid) in met, helpers.call(6, os.getpid) in met) == (False, True)
    for end in (reader, writer, back, forth):
        os.close(end)


@pytest.mark.parametrize("family", [4, 6])
def test_after_a_death_there_is_a_new_one(family: Family) -> None:
    with Helpers(None) as helpers:
        first = {each: helpers.call(each, os.getpid) for each in (4, 6)}
        with pytest.raises(KernelError, match=r"'die_of' died \(signal 9\)"):
            helpers.call(family, die_of, signal.SIGKILL)
        with pytest.raises(KernelError, match=r"'_exit' died \(exit status 0\)"):
            helpers.call(family, os._exit, 0)
        assert helpers.call(family, os.getpid) != first[family]


def test_an_idle_helper_that_was_killed_is_told() -> None:
    with Helpers(None) as helpers:
        pid = helpers.call(4, os.getpid)
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(KernelError, match="died"):
            helpers.call(4, os.getpid)


def test_what_is_shared_needs_no_pickling() -> None:
    def local() -> None: ...

    with Helpers(None, local) as helpers:
        assert helpers.call(4, its_name, local) == "local"


def test_a_namespace_that_is_not_there() -> None:
    with Helpers(_NOWHERE) as helpers, pytest.raises(KernelError, match="cannot open the network namespace"):
        helpers.call(4, os.getpid)


def test_helpers_end_with_whoever_forked_them() -> None:
    """Also when that was killed: nobody else holds the other end of what they read."""

    def orphaned() -> None:
        helpers = Helpers(None)
        pids = [helpers.call(4, os.getpid), helpers.call(6, os.getpid)]
        with pytest.raises(KernelError):
            helpers.call(4, os._exit, 1)
        pids.append(helpers.call(4, os.getpid))  # forked when the other was there
        os.write(writer, " ".join(map(str, pids[1:])).encode())
        os.kill(os.getpid(), signal.SIGKILL)

    reader, writer = os.pipe()
    with pytest.raises(KernelError, match="signal 9"):
        call(None, orphaned)
    for pid in map(int, os.read(reader, 100).split()):
        wait_gone(pid)
    os.close(reader)
    os.close(writer)


def wait_gone(pid: int) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    assert select.select([descriptor], [], [], 10)[0], "the helper lives on"
    os.close(descriptor)
