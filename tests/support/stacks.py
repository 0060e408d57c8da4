"""Middleware stacks from documents, for tests."""

from __future__ import annotations

import time

from interceptor.middleware.build import Means, Stack, build
from tests.support.documents import sidecar
from tests.support.exchanges import Observed


def stack(items: str, observed: Observed | None = None, chance: float = 0.5) -> Stack:
    """A stack of items in flow style."""
    made = build(
        sidecar(f"{{middleware: [{items}]}}").spec.middleware,
        Means(time.monotonic, lambda: chance, observed or Observed(), time.time),
    )
    assert made is not None
    return made
