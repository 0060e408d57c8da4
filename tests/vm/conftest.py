"""The machines, booted once for the whole run; scripts/test-vm says where from and how."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import machine
from tests.support.machine import Bench, Machine

_running: list[Machine] = []


@pytest.fixture(scope="session")
def bench(pytestconfig: pytest.Config) -> Bench:
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    began = time.monotonic()

    def say(sentence: str) -> None:
        with capture.global_and_fixture_disabled():
            sys.stdout.write(f"\n  {time.monotonic() - began:4.0f} s  {sentence}")
            sys.stdout.flush()

    return Bench(Path(os.environ["VM_BOX"]), Path(os.environ["VM_WORK"]), os.environ["VM_DRIVER"], say)


@pytest.fixture(scope="session")
def gateway(bench: Bench) -> Iterator[Machine]:
    """The machine with the app and its gateway, set up by vagrant/provision.sh."""
    with machine.booted(bench, "gateway") as booted:
        _running.append(booted)
        booted.run("/vagrant/vagrant/provision.sh")
        bench.say("gateway is provisioned")
        yield booted
        _running.remove(booted)


@pytest.fixture(scope="session")
def client(bench: Bench, gateway: Machine) -> Iterator[Machine]:
    """The other machine, with nothing of ours on it."""
    with machine.booted(bench, "client") as booted:
        _running.append(booted)
        yield booted
        _running.remove(booted)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Show what each machine said, where a test failed."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]  # pluggy's result of a wrapped hook
    if report.failed:
        for booted in _running:
            journal = booted.run("journalctl --no-pager -n 60 -o short-monotonic || true", check=False).stdout
            report.sections.append((f"console of {booted.name}", booted.console()))
            report.sections.append((f"journal of {booted.name}", journal))
