"""What runs anywhere with Debian 12, on Debian's own kernel: the kernel tests, none of them skipped, and the demo."""

from __future__ import annotations

import re

import pytest

from tests.support.machine import Bench, Machine

pytestmark = [pytest.mark.vm, pytest.mark.slow]

HOUR = 3600.0
HALVES = 2  # that scripts/test-netns runs at once


def test_the_demo_runs(gateway: Machine) -> None:
    assert "equal to before" in gateway.run("interceptor-demo", timeout=HOUR).stdout


def test_the_kernel_tests_pass(gateway: Machine, bench: Bench) -> None:
    patience = 10 if bench.driver == "qemu" else 1
    # The log stays on the machine while it is written, so that a run of hours can be looked at.
    gateway.run(
        f"cd /vagrant && INTERCEPTOR_PATIENCE={patience} scripts/test-netns > /var/log/kernel-tests 2>&1 || true",
        timeout=4 * HOUR,
    )
    said = gateway.run("cat /var/log/kernel-tests").stdout
    summaries = re.findall(r"^=+ (.*) in [0-9.]+s.*=+$", said, re.MULTILINE)
    bench.say(f"kernel tests: {'; '.join(summaries)}")
    assert len(summaries) == HALVES, said[-8000:]
    for summary in summaries:
        assert " passed" in summary
        assert "failed" not in summary, said[-8000:]
        assert "error" not in summary, said[-8000:]
        assert "skipped" not in summary
