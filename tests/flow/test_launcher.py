"""What a proxy tells the program that launched it, over a real socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import trio

from interceptor.kernel import control
from interceptor.kernel.control import READY, TRUST, Told
from interceptor.runtime import launcher
from interceptor.runtime.certificates import Trusted


class Certificates:
    """Of which there is always another version."""

    def __init__(self, bundle: bytes) -> None:
        self._now = Trusted(bundle, trio.Event())

    def renew(self, bundle: bytes) -> None:
        before, self._now = self._now, Trusted(bundle, trio.Event())
        before.over.set()

    def trusted(self) -> Trusted:
        return self._now


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def heard(ours: socket.socket) -> Told:
    await trio.lowlevel.wait_readable(ours)
    return control.receive(ours)


async def test_whom_the_app_may_believe_is_told_before_it_starts_and_whenever_it_changes() -> None:
    large = os.urandom(1 << 20)  # more than a socket takes
    ours, theirs = control.pair()
    certificates = Certificates(b"first")
    with ours, theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(launcher.tell, theirs, certificates.trusted)
            assert [await heard(ours), await heard(ours)] == [Told(TRUST, b"first"), Told(READY)]
            certificates.renew(large)
            assert await heard(ours) == Told(TRUST, large)
            certificates.renew(b"third")
            assert await heard(ours) == Told(TRUST, b"third")
            nursery.cancel_scope.cancel()


async def test_a_launcher_that_does_not_listen_hears_the_newest_in_the_end() -> None:
    ours, theirs = control.pair()
    certificates = Certificates(b"0")
    with ours, theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(launcher.tell, theirs, certificates.trusted)
            for number in range(1, 1000):  # the kernel holds a few
                certificates.renew(b"%d" % number)
                await trio.testing.wait_all_tasks_blocked()
            said = b""
            while said != b"999":
                said = (await heard(ours)).bundle
            nursery.cancel_scope.cancel()


async def test_without_certificates_it_is_ready_and_says_no_more_and_a_launcher_that_is_gone_is_no_fault() -> (
    None
):
    ours, theirs = control.pair()
    with ours, theirs:
        await launcher.tell(theirs, lambda: None)
        assert control.receive(ours) == Told(READY)
        ours.close()
        await launcher.tell(theirs, lambda: None)
        certificates = Certificates(b"x")
        await launcher.tell(theirs, certificates.trusted)


def test_the_end_and_what_makes_no_sense_are_no_word() -> None:
    ours, theirs = control.pair()
    with ours:
        with theirs:
            theirs.send(TRUST)  # without anything beside it
            assert control.receive(ours) == Told(b"")
            with Path(__file__).open("rb") as file:
                socket.send_fds(theirs, [TRUST], [file.fileno()])
                assert control.receive(ours) == Told(b"")
            unsealed = os.memfd_create("open")
            try:
                os.write(unsealed, b"could change")
                before = descriptors()
                socket.send_fds(
                    theirs,
                    [
                        TRUST,
                    ],
                    [unsealed],
                )
                assert control.receive(ours) == Told(b"")
                assert descriptors() == before
            finally:
                os.close(unsealed)
            control.tell_trust(theirs, bytes(control.LARGEST + 1))
            assert control.receive(ours) == Told(b"")
        assert control.receive(ours) == Told(b"")


@pytest.mark.parametrize("size", [0, 1, control.LARGEST])
def test_a_bundle_arrives_as_it_was_sent(size: int) -> None:
    ours, theirs = control.pair()
    with ours, theirs:
        control.tell_trust(theirs, bytes(size))
        assert control.receive(ours) == Told(TRUST, bytes(size))
