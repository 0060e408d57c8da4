from __future__ import annotations

import os

from interceptor.kernel import process


def test_processors_are_those_that_this_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    assert 1 <= process.processors() <= len(allowed)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert process.processors() == 1
    finally:
        os.sched_setaffinity(0, allowed)
