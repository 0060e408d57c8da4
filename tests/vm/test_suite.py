"""What runs anywhere with Debian 12, on Debian's own kernel: the kernel tests, none of them skipped, and the demo."""

from __future__ import annotations

import pytest

from tests.support.machine import Bench, Machine

pytestmark = [pytest.mark.vm, pytest.mark.slow]

HOUR = 3600.0


def test_the_demo_runs(gateway: Machine) -> None:
    assert "equal to before" in gateway.run("interceptor-demo", timeout=HOUR).stdout


def test_the_kernel_tests_pass(gateway: Machine, bench: Bench) -> None:
    said = gateway.run("cd /vagrant && scripts/test-netns -q tests/netns", timeout=HOUR).stdout
    summary = said.strip().splitlines()[-1]
    bench.say(f"kernel tests: {summary}")
    assert " passed" in summary
    assert "skipped" not in summary
