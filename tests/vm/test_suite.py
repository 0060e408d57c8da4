"""What runs anywhere with Debian 12, on Debian's own kernel: the kernel tests, none of them skipped, and the demo."""

from __future__ import annotations

import re

import pytest

from tests.support.machine import Bench, Machine

pytestmark = [pytest.mark.vm, pytest.mark.slow]

HOUR = 3600.0
# All of them take many hours on an emulated machine. These ask the kernel for every rule, match and target there is, in both
# families and backends, and carry connections through the proxy by REDIRECT and TPROXY: half an hour.
EMULATED = "proxy rules_selection rules_tproxy rules_dns rules_guard gateway_tproxy"


def test_the_demo_runs(gateway: Machine) -> None:
    assert "equal to before" in gateway.run("interceptor-demo", timeout=HOUR).stdout


def test_the_kernel_tests_pass(gateway: Machine, bench: Bench) -> None:
    emulated = bench.driver == "qemu"
    chosen = ""
    if emulated:
        chosen = "-o faulthandler_timeout=0 "  # seconds of a real machine
        chosen += " ".join(f"tests/netns/test_{name}.py" for name in EMULATED.split())
        bench.say(f"of the kernel tests only {EMULATED}: the others take hours on an emulated machine")
    # The log stays on the machine while it is written, so that a long run can be looked at.
    gateway.run(
        f"cd /vagrant && INTERCEPTOR_PATIENCE={10 if emulated else 1} scripts/test-netns {chosen} "
        "> /var/log/kernel-tests 2>&1 || true",
        timeout=2 * HOUR,
    )
    said = gateway.run("cat /var/log/kernel-tests").stdout
    summaries = re.findall(r"^=+ (.*) in [0-9.]+s.*=+$", said, re.MULTILINE)
    bench.say(f"kernel tests: {'; '.join(summaries)}")
    assert len(summaries) == (1 if emulated else 2), said[-8000:]  # halves
    for summary in summaries:
        assert " passed" in summary
        assert not re.search("failed|error", summary), said[-8000:]
    skipped = re.findall(r"^SKIPPED \[\d+\] (.*)$", said, re.MULTILINE)
    assert all("needs the real Envoy" in each for each in skipped), skipped  # the machine reaches no index
