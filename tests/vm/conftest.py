"""The machines, booted once for the whole run; scripts/test-vm says where from and how."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import stage
from tests.support.machine import Bench, Machine, booted

_running: list[Machine] = []


@pytest.fixture(scope="session")
def bench(pytestconfig: pytest.Config) -> Bench:
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    began = time.monotonic()

    def say(sentence: str) -> None:
        with capture.global_and_fixture_disabled():
            sys.stdout.write(f"\n  {time.monotonic() - began:4.0f} s  {sentence}\n")
            sys.stdout.flush()

    by_vagrant = os.environ.get("VM_SSH_CONFIG")
    return Bench(
        Path(os.environ["VM_BOX"]),
        Path(os.environ["VM_WORK"]),
        os.environ["VM_DRIVER"],
        None if by_vagrant is None else Path(by_vagrant),
        say,
    )


@pytest.fixture(scope="session")
def gateway(bench: Bench) -> Iterator[Machine]:
    """The machine with the app, ``app.service``, and its gateway, set up by vagrant/provision.sh; nothing is started."""
    with booted(bench, "gateway") as machine:
        _running.append(machine)
        machine.run("/vagrant/vagrant/provision.sh" + stage.APP)
        bench.say("gateway is provisioned")
        yield machine
        _running.remove(machine)


@pytest.fixture(scope="module")
def client(bench: Bench, gateway: Machine) -> Iterator[Machine]:
    """The other machine, with nothing of ours on it but a server, ``outside.service``."""
    with booted(bench, "client") as machine:
        _running.append(machine)
        machine.run(stage.server("outside", 80) + "systemctl start outside")
        yield machine
        _running.remove(machine)


@pytest.fixture
def app(gateway: Machine) -> Iterator[Machine]:
    """The gateway with its app running behind it."""
    gateway.run("systemctl start app")
    yield gateway
    stage.stop(gateway)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Show what each machine said, where a test failed."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]  # pluggy's result of a wrapped hook
    if report.failed:
        for machine in _running:
            journal = machine.run("journalctl --no-pager -n 60 -o short-monotonic", check=False).stdout
            report.sections.append((f"console of {machine.name}", machine.console()))
            report.sections.append((f"journal of {machine.name}", journal))
