"""A marked test skips on a machine that cannot run it, but fails where its marker is in $INTERCEPTOR_REQUIRE."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says what else the machine does, and nothing about us.
settings.register_profile("interceptor", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("interceptor")

KERNEL_MARKERS = ("netns", "bpf", "vm")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    required = set(filter(None, os.environ.get("INTERCEPTOR_REQUIRE", "").split(",")))
    for item in items:
        for marker in KERNEL_MARKERS:
            if item.get_closest_marker(marker) and not _can_run(marker):
                if marker in required:
                    raise pytest.UsageError(
                        f"{marker} tests are required here and cannot run: use scripts/test-netns as root"
                    )
                item.add_marker(pytest.mark.skip(reason=f"needs {marker}: run scripts/test-netns as root"))


def _can_run(marker: str) -> bool:
    return os.environ.get(f"INTERCEPTOR_{'NETNS' if marker == 'bpf' else marker.upper()}") == "1"
