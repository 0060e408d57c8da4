"""What a machine without KVM, a full disk, a build that is ended and a stale snapshot come to: a sentence, and nothing left.

No machine is booted here: what would build and boot one is told to by programs of the test's own, first in the PATH.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.machine import ROOT, Bench, MachineError, booted, snapshot_of, wait_for

pytestmark = pytest.mark.vm

SECONDS = 30.0  # what is ended ends at once


class Site:
    """A place of its own to build in, and programs that stand in for real ones."""

    def __init__(self, directory: Path) -> None:
        self.cache = directory / "cache"
        self.boxes = self.cache / "interceptor-box"
        self.started = directory / "started"
        self.programs = directory / "programs"
        self.programs.mkdir()
        self.environment = {
            **os.environ,
            "XDG_CACHE_HOME": str(self.cache),
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "INTERCEPTOR_MIRROR": "deb http://mirror.invalid/debian bookworm main",
        }

    def stand_in(self, name: str, script: str) -> None:
        program = self.programs / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    def start(self, *argv: str) -> subprocess.Popen[str]:
        # Whoever is started in a shell's background ignores SIGINT, and would hand that down.
        return subprocess.Popen(
            ["env", "--default-signal=INT", *argv],
            cwd=ROOT,
            env=self.environment,
            text=True,
            start_new_session=True,
            stderr=subprocess.PIPE,
        )

    def run(self, *argv: str) -> tuple[int, str]:
        with self.start(*argv) as process:
            _, said = process.communicate(timeout=SECONDS)
        return process.returncode, said

    def nothing_runs(self) -> bool:
        """No process of it is alive, and no loop device holds an image of it."""
        mark = f"XDG_CACHE_HOME={self.cache}".encode()
        used = subprocess.run(
            ["losetup", "--list", "--noheadings", "--output", "BACK-FILE"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return str(self.cache) not in used and not any(
            mark in environment(each) for each in Path("/proc").iterdir() if each.name.isdigit()
        )


def environment(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:  # it ended meanwhile
        return b""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def building(site: Site) -> Iterator[subprocess.Popen[str]]:
    """A build that has its image mounted and goes on for ever."""
    site.stand_in("mmdebstrap", f"touch {site.started}; exec sleep infinity")
    with site.start("vagrant/build-box") as process:
        try:
            wait_for(site.started.exists, SECONDS, "the build did not begin")
            assert not site.nothing_runs()
            yield process
        finally:
            with suppress(ProcessLookupError):  # all of it has ended, as it should
                os.killpg(process.pid, signal.SIGKILL)


def test_without_kvm_it_says_so_and_emulates_nothing(site: Site) -> None:
    site.stand_in("qemu-system-x86_64", "echo 'no KVM for you' >&2; exit 1")
    site.stand_in("vagrant", f"touch {site.started}")
    status, said = site.run("scripts/test-vm", "--smoke", "--driver", "kvm")
    assert status == 1
    assert "--driver qemu runs the machines emulated, about ten times slower" in said
    assert not site.started.exists()
    assert not site.cache.exists()


def test_a_full_disk_is_told_before_anything_is_written(site: Site) -> None:
    site.stand_in("df", "echo Avail; echo 100")
    status, said = site.run("vagrant/build-box")
    assert status == 1
    assert f"MiB are free in {site.boxes}: free some, or set XDG_CACHE_HOME" in said
    assert [each.name for each in site.boxes.iterdir()] == ["lock"]


def test_a_build_that_fails_shows_why_and_leaves_nothing(site: Site) -> None:
    site.stand_in("mmdebstrap", "echo 'E: there is no such mirror'; exit 25")
    status, said = site.run("vagrant/build-box")
    assert status == 1
    assert "E: there is no such mirror" in said
    assert "the bare system could not be made" in said
    assert [each.name for each in site.boxes.iterdir()] == ["lock"]
    wait_for(site.nothing_runs, SECONDS, "something was left")


@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGTERM])
def test_a_build_that_is_ended_leaves_nothing(
    site: Site, building: subprocess.Popen[str], ended_by: signal.Signals
) -> None:
    if ended_by is signal.SIGINT:
        os.killpg(building.pid, ended_by)  # as a terminal does
    else:
        building.send_signal(ended_by)
    assert building.wait(SECONDS) == 130
    assert [each.name for each in site.boxes.iterdir()] == ["lock"]
    wait_for(site.nothing_runs, SECONDS, "something was left")


def test_a_build_that_is_killed_is_cleared_away_by_the_next(
    site: Site, building: subprocess.Popen[str]
) -> None:
    building.kill()
    building.wait(SECONDS)
    wait_for(site.nothing_runs, SECONDS, "something was left")
    assert {each.name for each in site.boxes.iterdir()} == {"lock", "building"}
    site.stand_in("df", "echo Avail; echo 100")
    assert site.run("vagrant/build-box")[0] == 1
    assert [each.name for each in site.boxes.iterdir()] == ["lock"]


def test_a_snapshot_that_cannot_be_used_is_removed(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.stand_in("qemu-system-x86_64", "[ $1 = --version ] || { echo 'wrong snapshot' >&2; exit 1; }")
    monkeypatch.setenv("PATH", site.environment["PATH"])
    (tmp_path / "disk.raw").touch()
    said: list[str] = []
    bench = Bench(tmp_path, tmp_path, "qemu", None, said.append)
    with pytest.raises(MachineError, match="QEMU ended: wrong snapshot"), booted(bench, "gateway"):
        pass
    assert said == ["gateway is booting, emulated"]  # there was no snapshot, and the machine did not boot

    stale = snapshot_of(bench)
    stale.touch()
    with pytest.raises(MachineError, match="QEMU ended"), booted(bench, "gateway"):
        pass
    assert "the snapshot cannot be used and is removed" in said[1]
    assert not stale.exists()
